"""Refreshes images: parents before children, several at once where asked, and a summary of what became of each.

What changed is found out as any build finds it out, by the keys of its layers; so an unchanged image costs a plan. A
failure of one image leaves the others, and its own golden version, alone. One store has one refresh at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.base import locks
from pipeline.base.errors import BuildError, CheckFailed, GoldsmithError, Interrupted
from pipeline.base.files import Shape, read_json
from pipeline.base.runs import Stopwatch, now, write_json
from pipeline.base.store import Store
from pipeline.cache.layers import Layers
from pipeline.definition import Definition
from pipeline.engine import runner
from pipeline.engine.executors import THIS_PROCESS, Executor, ImageJob, run_jobs
from pipeline.engine.plan import explain
from pipeline.engine.runner import host_file_error
from pipeline.gallery import Gallery, Version
from pipeline.maintenance import gc
from pipeline.maintenance.retention import prune_masters
from pipeline.nightly import patch, rebuild_check
from pipeline.nightly.publication import Publisher, publish_nothing
from pipeline.nightly.running_sets import SetResult, SetUpgrader, upgrade_no_set
from pipeline.publish.errors import PublishError

#: The summary of the last refresh, in the store.
SUMMARY = "refresh.json"
LOCK = "refresh.lock"
#: What may have become of an image.
UNCHANGED, PROMOTED, FAILED, SKIPPED = "unchanged", "promoted", "failed", "skipped"


@dataclass(frozen=True)
class ImageResult:
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
    #: Why its golden version is not on every target that its definition names, or nothing.
    unpublished: str = ""
    #: The other host that refreshed it; `run` and `evidence` are there.
    host: str | None = None

    @property
    def failed(self) -> bool:
        return self.outcome in (FAILED, SKIPPED)


class _ImageResultShape(Shape):
    """An `ImageResult` as another process leaves it."""

    name: str
    outcome: str
    golden: str | None
    before: str | None
    seconds: float
    why: str
    run: str | None
    evidence: str | None
    exit_code: int
    pruned: list[str]
    unpublished: str = ""
    host: str | None = None

    @classmethod
    def advice(cls) -> str:
        return "refresh the image again"


def write_result(path: Path, result: ImageResult) -> None:
    write_json(path, asdict(result))


def read_result(path: Path) -> ImageResult:
    """What `write_result` wrote. Raises BuildError (refresh-without-result), RecordDamaged."""
    record = read_json(path, _ImageResultShape)
    if record is None:
        raise BuildError(
            "the process that refreshed the image left no result",
            name="refresh-without-result",
            hint="goldsmith runs list shows its last run; refresh the image again",
        )
    return ImageResult(**{**record, "pruned": tuple(record["pruned"])})


@dataclass
class RefreshReport:
    """One refresh of several images, and of sets of VMs. `path` is where it is kept; `layers` says which were deleted
    for their size."""

    path: Path
    began: str = field(default_factory=now)
    ended: str | None = None
    seconds: float = 0.0
    images: list[ImageResult] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    sets: list[SetResult] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        fields = asdict(self)
        return {
            **fields,
            "path": str(self.path),
            "ok": not any(image.failed or image.unpublished for image in self.images)
            and not any(each.failed for each in self.sets),
        }


def refresh(
    definitions: Sequence[Definition],
    store: Store,
    *,
    command: str,
    executor: Executor = THIS_PROCESS,
    at_once: int = 1,
    options: Sequence[str] = (),
    keep: int | None = None,
    listeners: Sequence[Any] = (),
    on_begin: Callable[[str], None] = lambda _name: None,
    on_failure: Callable[[GoldsmithError], None] = lambda _error: None,
    publish: Publisher = publish_nothing,
    upgrade_sets: SetUpgrader = upgrade_no_set,
) -> RefreshReport:
    """Refresh `definitions`, parents first. Raises CheckFailed (refresh-locked) while another refresh runs.

    A failed image stands in the report; only an interrupt ends the refresh. At its end layers and memory snapshots
    are deleted, the longest unused first, down to `keep` bytes, where it is given. What runs in this process calls
    `on_begin` and `on_failure` and has `listeners`; what runs elsewhere gets `options` on its command line.
    `upgrade_sets` gets the names of all images, and of those that failed, once all have come.
    """

    def job_of(definition: Definition) -> ImageJob[ImageResult]:
        def run() -> ImageResult:
            on_begin(definition.name)
            return refresh_image(
                definition, store, command=command, listeners=listeners, on_failure=on_failure, publish=publish
            )

        def arguments(result: Path) -> list[str]:
            patch_words = ["--patch"] if definition.refresh.mode == "patch" else []
            return ["refresh", definition.name, *patch_words, *options, "--image-result", str(result)]

        had = golden_number(store, definition.name)

        def complete(result: ImageResult, host: str) -> ImageResult:
            mine = replace(result, before=had, golden=golden_number(store, definition.name), host=host, pruned=())
            if mine.failed:
                return mine
            state = UNCHANGED if mine.golden == had else PROMOTED
            return _publish(
                replace(mine, outcome=state, pruned=_prune(definition, store)), definition, publish, on_failure
            )

        return ImageJob(
            definition,
            run,
            arguments,
            read_result,
            is_unchanged=lambda: is_unchanged(definition, store),
            wants_golden=definition.refresh.mode == "patch",
            complete=complete,
        )

    with _only_refresh(store):
        report, watch, lock = RefreshReport(store.root / SUMMARY), Stopwatch(), threading.Lock()
        order = [definition.name for definition in definitions]

        def add(result: ImageResult) -> None:
            with lock:
                report.images.append(result)
                report.images.sort(key=lambda each: order.index(each.name))
                report.seconds = round(watch.seconds, 2)
                # after each image: anyone who looks meanwhile, or after a crash, sees how far it came
                write_json(report.path, report.to_json())

        def on_result(_name: str, result: ImageResult) -> None:
            add(result)
            if result.failed:
                raise CheckFailed(f"{result.name} was not refreshed", name="refresh-failed", hint=result.why)

        def on_skip(name: str, parent: str) -> None:
            had = golden_number(store, name)
            add(ImageResult(name, SKIPPED, had, had, 0.0, f"{parent} was not refreshed", exit_code=1))

        errors = run_jobs([job_of(each) for each in definitions], executor, at_once, on_result, on_skip)
        reported = {image.name for image in report.images}
        for name in [name for name in order if name in errors and name not in reported]:
            # its process ended without a result
            add(_failure(name, golden_number(store, name), 0.0, errors[name]))
        report.sets = upgrade_sets(order, {image.name for image in report.images if image.failed})
        if keep is not None:
            report.layers = [
                f"{each.bytes / 2**20:8.1f} MiB  {each.name}, {each.why}" for each in gc.prune(store, keep)
            ]
        report.seconds = round(watch.seconds, 2)
        report.ended = now()
        write_json(report.path, report.to_json())
    return report


@contextmanager
def _only_refresh(store: Store) -> Iterator[None]:
    lock = FileLock(store.tmp / LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        holder = locks.describe_holder(store.tmp / LOCK, store.runs)
        raise CheckFailed(
            f"another refresh is running on this store: {holder}", name="refresh-locked", hint="goldsmith runs list"
        ) from None
    try:
        yield
    finally:
        lock.release()


def golden_number(store: Store, name: str) -> str | None:
    golden = Gallery(store.gallery).find(name)
    return golden.version if golden else None


def refresh_image(
    definition: Definition,
    store: Store,
    *,
    command: str,
    listeners: Sequence[Any] = (),
    on_failure: Callable[[GoldsmithError], None] = lambda _error: None,
    publish: Publisher = publish_nothing,
) -> ImageResult:
    """Refresh one image, then publish it. A failure is called out to `on_failure` and stands in the result.

    An image that could not be published was refreshed all the same; the next refresh tries again. Raises Interrupted.
    """
    result = _refreshed(definition, store, command, listeners, on_failure)
    return result if result.failed else _publish(result, definition, publish, on_failure)


def is_unchanged(definition: Definition, store: Store) -> bool:
    """Whether a refresh of the image would build nothing, by the versions of this store. False if it would fail."""
    golden = Gallery(store.gallery).find(definition.name)
    try:
        return golden is not None and not _wanted(definition, golden, store)[1]
    except (GoldsmithError, OSError):
        return False  # the refresh itself reports it


def _publish(
    result: ImageResult,
    definition: Definition,
    publish: Publisher,
    on_failure: Callable[[GoldsmithError], None],
) -> ImageResult:
    """The result of a refreshed image, once its golden version is published."""
    try:
        publish(definition)
    except Interrupted:
        raise
    except (GoldsmithError, OSError) as error:
        named = error if isinstance(error, GoldsmithError) else host_file_error(error)
        on_failure(named)
        return replace(result, unpublished=f"{named.name}: {named.message}", exit_code=PublishError.exit_code)
    return result


def _refreshed(
    definition: Definition,
    store: Store,
    command: str,
    listeners: Sequence[Any],
    on_failure: Callable[[GoldsmithError], None],
) -> ImageResult:
    gallery, watch = Gallery(store.gallery), Stopwatch()
    before = gallery.find(definition.name)
    had = before.version if before else None
    try:
        wanted, why, cold = _wanted(definition, before, store)
        if cold is None and rebuild_check.check_is_due(definition, gallery):
            rebuild_check.verify_reproducible(definition, store, command=command, listeners=listeners)
        if before is not None and not why:
            gone = _prune(definition, store)
            return ImageResult(definition.name, UNCHANGED, had, had, round(watch.seconds, 2), pruned=gone)
        outcome = runner.build(wanted, store, command=command, listeners=listeners, cold=cold)
        if cold is not None:
            rebuild_check.record_check(definition, gallery, outcome.run)
        golden = golden_number(store, definition.name)
        gone = _prune(definition, store)
    except Interrupted:
        raise
    except (GoldsmithError, OSError) as error:
        named = error if isinstance(error, GoldsmithError) else host_file_error(error)
        on_failure(named)
        return _failure(definition.name, had, round(watch.seconds, 2), named)
    state = UNCHANGED if outcome.unchanged and golden == had else PROMOTED
    why = "" if outcome.unchanged else why
    return ImageResult(definition.name, state, golden, had, round(watch.seconds, 2), why, outcome.run, pruned=gone)


def _wanted(definition: Definition, golden: Version | None, store: Store) -> tuple[Definition, str, str | None]:
    """What is built, why (nothing is, without a reason), and the word that sets a cold build apart."""
    if golden is not None and definition.refresh.mode == "patch":
        if rebuild_check.check_is_due(definition, Gallery(store.gallery)):
            return definition, f"rebuilt after {definition.refresh.cold_days} days", now()
        return *patch.needs_patch(definition, golden, store), None
    rows = explain(definition, store)
    if golden is not None and _is_current(rows, store, golden):
        return definition, "", None
    return definition, _reason(rows) or "golden is a different version", None


def _failure(name: str, had: str | None, seconds: float, error: GoldsmithError) -> ImageResult:
    where = error.evidence
    return ImageResult(
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
    candidates = prune_masters(store, definition.name, definition.keep)
    return tuple(each.version.version for each in candidates if not each.held)
