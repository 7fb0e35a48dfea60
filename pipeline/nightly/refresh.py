"""The night: each image in the order of its parents, one after the other, and a summary that says what became of it.

What changed is found out as any build finds it out, by the keys of its layers; so an unchanged image costs a plan. A
failure of one image leaves the others, and yesterday's golden, alone. Two nights never run at once on one store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.base import locks
from pipeline.base.errors import BuildError, CheckFailed, GoldsmithError, Interrupted
from pipeline.base.file_errors import describe_os_error
from pipeline.base.runs import Stopwatch, now, write_json
from pipeline.base.store import Store
from pipeline.cache.layers import Layers
from pipeline.definition import Definition, MasterSource
from pipeline.engine import runner as builder
from pipeline.engine.plan import explain
from pipeline.gallery import Gallery, Version
from pipeline.maintenance import gc
from pipeline.maintenance.retention import prune_masters
from pipeline.nightly import patch, rebuild_check

#: The last night's summary, in the store.
SUMMARY = "refresh.json"
LOCK = "refresh.lock"
#: What an image may have come to.
UNCHANGED, PROMOTED, FAILED, SKIPPED = "unchanged", "promoted", "failed", "skipped"


@dataclass(frozen=True)
class Image:
    """What became of one image. `golden` is its golden version afterwards; `why` is what changed, or what failed."""

    name: str
    outcome: str
    golden: str | None
    before: str | None
    seconds: float
    why: str = ""
    run: str | None = None
    evidence: str | None = None
    exit_code: int = 0
    pruned: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        return self.outcome in (FAILED, SKIPPED)


@dataclass
class Night:
    """One refresh of several images. `path` is where its summary lies; `layers` says which went for their size."""

    path: Path
    began: str = field(default_factory=now)
    ended: str | None = None
    seconds: float = 0.0
    images: list[Image] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        told = asdict(self)
        return {**told, "path": str(self.path), "ok": not any(image.failed for image in self.images)}


def refresh(
    definitions: Sequence[Definition],
    store: Store,
    *,
    command: str,
    keep: int | None = None,
    listeners: Sequence[Any] = (),
    begin: Callable[[str], None] = lambda _name: None,
    failed: Callable[[GoldsmithError], None] = lambda _error: None,
) -> Night:
    """Refresh `definitions`, parents first. Raises CheckFailed (refresh-locked) where a night is under way.

    A failed image is told to `failed` and stands in the summary; only an interrupt ends the night. At its end layers
    and saved guests are let go, the longest unused first, down to `keep` bytes, where it is given.
    """
    lock = FileLock(store.tmp / LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        holder = locks.describe_holder(store.tmp / LOCK, store.runs)
        raise CheckFailed(
            f"another refresh is under way in this store: {holder}", name="refresh-locked", hint="goldsmith runs list"
        ) from None
    night, watch = Night(store.root / SUMMARY), Stopwatch()
    try:
        for definition in definitions:
            begin(definition.name)
            night.images.append(_one(definition, store, night, command, listeners, failed))
            night.seconds = round(watch.seconds, 2)
            # after each image: who looks in the middle of the night, or after a crash, sees how far it came
            write_json(night.path, night.to_json())
        if keep is not None:
            night.layers = [
                f"{each.bytes / 2**20:8.1f} MiB  {each.name}, {each.why}" for each in gc.prune(store, keep)
            ]
        night.seconds = round(watch.seconds, 2)
        night.ended = now()
        write_json(night.path, night.to_json())
    finally:
        lock.release()
    return night


def _one(
    definition: Definition,
    store: Store,
    night: Night,
    command: str,
    listeners: Sequence[Any],
    failed: Callable[[GoldsmithError], None],
) -> Image:
    gallery, watch = Gallery(store.gallery), Stopwatch()
    before = gallery.find(definition.name)
    had = before.version if before else None
    parent = _parent(definition)
    if any(image.name == parent and image.failed for image in night.images):
        return Image(definition.name, SKIPPED, had, had, 0.0, f"{parent} was not refreshed", exit_code=1)
    try:
        wanted, why, cold = _wanted(definition, before, store)
        if cold is None and rebuild_check.due(definition, gallery):
            rebuild_check.hold_to_it(definition, store, command=command, listeners=listeners)
        if before is not None and not why:
            gone = _prune(definition, store)
            return Image(definition.name, UNCHANGED, had, had, round(watch.seconds, 2), pruned=gone)
        outcome = builder.build(wanted, store, command=command, listeners=listeners, cold=cold)
        if cold is not None:
            rebuild_check.note(definition, gallery, outcome.run)
        after = gallery.find(definition.name)
        gone = _prune(definition, store)
    except Interrupted:
        raise
    except (GoldsmithError, OSError) as error:
        named = error if isinstance(error, GoldsmithError) else _named(error)
        failed(named)
        return _failure(definition.name, had, round(watch.seconds, 2), named)
    now_golden = after.version if after else None
    state = UNCHANGED if outcome.unchanged and now_golden == had else PROMOTED
    why = "" if outcome.unchanged else why
    return Image(definition.name, state, now_golden, had, round(watch.seconds, 2), why, outcome.run, pruned=gone)


def _named(error: OSError) -> BuildError:
    told = describe_os_error(error)
    return BuildError(told.message, name="host-file-error", hint=told.hint)


def _wanted(definition: Definition, golden: Version | None, store: Store) -> tuple[Definition, str, str | None]:
    """What is built tonight, why (nothing is, without a reason), and the word that sets a cold build apart."""
    if golden is not None and definition.refresh.mode == "patch":
        if rebuild_check.due(definition, Gallery(store.gallery)):
            return definition, f"built anew after {definition.refresh.cold_days} days", now()
        return *patch.due(definition, golden, store), None
    rows = explain(definition, store)
    if golden is not None and _is_current(rows, store, golden):
        return definition, "", None
    return definition, _reason(rows) or "golden is another version", None


def _failure(name: str, had: str | None, seconds: float, error: GoldsmithError) -> Image:
    where = error.evidence
    return Image(
        name,
        FAILED,
        had,
        had,
        seconds,
        f"{error.name}: {error.message}",
        run=where.name if where else None,
        evidence=str(where) if where else None,
        exit_code=error.exit_code,
    )


def _parent(definition: Definition) -> str | None:
    source = definition.source
    return source.image if isinstance(source, MasterSource) and source.is_channel else None


def _is_current(rows: Sequence[Mapping[str, str]], store: Store, golden: Version) -> bool:
    """Whether nothing has to run, and what was made last is golden: then a build would only look once more."""
    if not rows or any(row["action"] == "run" for row in rows):
        return False
    captured = Layers(store.layers).get(rows[-1]["key"])
    # without a layer it was golden's own record that said so
    return captured is None or captured.facts.get("version") == golden.version


def _reason(rows: Sequence[Mapping[str, str]]) -> str:
    """What the first unit that had to run said for itself."""
    row = next((row for row in rows if row["action"] == "run"), None)
    return f"{row['title']}: {row['why']}" if row else ""


def _prune(definition: Definition, store: Store) -> tuple[str, ...]:
    going = prune_masters(store, definition.name, definition.keep)
    return tuple(one.version.version for one in going if not one.held)
