"""The clean-rebuild check: an image that is built without any reused layer must equal the one built on layers.

Layers are reused by the digest of their inputs. If a digest missed an input, every refresh would report "unchanged"
and ship an image that should have been rebuilt. Therefore, a refresh sometimes reuses no layer and compares.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from pipeline.base.errors import CheckFailed
from pipeline.base.files import Shape, read_usable
from pipeline.base.runs import now, write_json
from pipeline.base.store import Store
from pipeline.cache.layers import Layers
from pipeline.definition import Definition
from pipeline.engine import runner
from pipeline.engine.stage import master_stage
from pipeline.gallery import Gallery
from pipeline.systems import registry
from pipeline.systems.questions import list_disk

#: The record of an image's last clean-rebuild check, in its folder of the gallery.
CHECK_RECORD = ".truth.json"
#: Of each path: kind, owner, group, mode, digest of the content or target of the link.
Tree = Mapping[str, Sequence[str]]
#: How many paths an error names.
SHOWN = 5


def tree(disk: Path, fmt: str) -> Tree:
    """Every path of a shipped disk's root; `fmt` is its format's key. Raises DiskError."""
    return {path: entry for path, *entry in list_disk(disk, fmt, what="tree")}


def differences(first: Tree, second: Tree, may_differ: Iterable[str]) -> list[str]:
    """The paths that differ, a line for each; those that the globs `may_differ` name are left out."""
    globs = tuple(may_differ)
    return [
        f"{path}: {' '.join(first.get(path, ['not there']))} | {' '.join(second.get(path, ['not there']))}"
        for path in sorted({*first, *second})
        if first.get(path) != second.get(path) and not any(fnmatch.fnmatch(path, glob) for glob in globs)
    ]


def _moment(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time without its zone")
    return text


class _Compared(Shape):
    """When an image was last built without any reused layer."""

    when: Annotated[str, AfterValidator(_moment)]

    @classmethod
    def advice(cls) -> str:
        return "delete the file; the clean rebuild then runs when the first version is old enough"


def check_is_due(definition: Definition, gallery: Gallery, today: datetime | None = None) -> bool:
    """Whether the last clean-rebuild check (or the image's first version) is older than `cold_days`.

    Never where no two builds make the same files: there is nothing to compare.
    """
    if not registry.for_definition(definition, None).reproducible:
        return False
    versions = gallery.versions(definition.name)
    if not definition.refresh.cold_days or not versions:
        return False
    began = str(versions[0].manifest["created"])
    record = read_usable(gallery.root / definition.name / CHECK_RECORD, _Compared)
    last = str(record["when"]) if record else began
    age = (today or datetime.now(UTC)) - datetime.fromisoformat(last)
    return age >= timedelta(days=definition.refresh.cold_days)


def record_check(definition: Definition, gallery: Gallery, run: str) -> None:
    """Record that an image was built without any reused layer, and passed."""
    write_json(gallery.root / definition.name / CHECK_RECORD, {"when": now(), "run": run})


def verify_reproducible(definition: Definition, store: Store, *, command: str, listeners: Sequence[Any]) -> None:
    """Build `definition` up to the shipped disk twice, with its layers and without any, and compare the disks.

    Raises CheckFailed: cold-differs, with all paths in a file of the cold build's run; cold-overtaken where the
    archive moved between the two builds, and they cannot be compared. The cold layers go either way.
    """
    master = master_stage().name
    layered = runner.build(definition, store, command=command, until=master, listeners=listeners)
    cold = runner.build(definition, store, command=command, until=master, listeners=listeners, cold=now())
    try:
        _compare(definition, store, layered.shipped, cold)
    finally:
        layers = Layers(store.layers)
        for key in cold.layers:
            layers.drop(key)
    record_check(definition, Gallery(store.gallery), cold.run)


def _compare(definition: Definition, store: Store, layered: Path | None, cold: runner.Outcome) -> None:
    assert layered is not None and cold.shipped is not None, "convert makes a disk"
    fmt = definition.output.key
    packages, rebuilt = list_disk(layered, fmt, what="packages"), list_disk(cold.shipped, fmt, what="packages")
    if packages != rebuilt:
        raise CheckFailed(
            f"{definition.name}: the archive changed between the two builds, so they cannot be compared",
            name="cold-overtaken",
            hint="the next refresh tries again",
        )
    may_differ = registry.for_definition(definition, None).may_differ
    found = differences(tree(layered, fmt), tree(cold.shipped, fmt), may_differ)
    if found:
        listing = store.runs / cold.run / "cold-differences.txt"
        listing.write_text("\n".join(found) + "\n")
        error = CheckFailed(
            f"{definition.name}: the clean rebuild differs in {len(found)} paths: "
            + "; ".join(line.partition(":")[0] for line in found[:SHOWN]),
            name="cold-differs",
            hint=f"a layer's key misses an input, or a step is not reproducible; all paths: {listing}",
        )
        error.evidence = listing.parent
        raise error
