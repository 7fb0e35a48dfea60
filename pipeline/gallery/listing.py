"""The list of all masters, at the price of a look at each folder: what was read of a manifest is remembered.

A manifest has some 40 KiB, and checking a thousand of them takes seconds. The index in the gallery's folder holds,
for each version, what the list shows of its manifest, and which file that was: inode, size, times. It is a cache, and
nothing but the list believes it. A manifest that is not the very file is read again; without an index, or with a
damaged one, all are. Channels and the sizes of disks are not in it, because they change without the manifest.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from pipeline import __version__
from pipeline.base.files import RecordDamaged, Shape, read_json, skip, write_json
from pipeline.gallery import CHANNEL_NAME, Gallery, channels_in, disks_of
from pipeline.gallery.manifest import MANIFEST
from pipeline.gallery.versions import parse

#: The name of the index in the gallery's folder: no image can be called so.
INDEX = ".list-index.json"
#: Of what `facts_of` returns, and of what a manifest must hold to be shown. Raise it when either changes.
FORMAT = 2
#: Seconds. A file that changed as recently could change again within the same tick of the file system's clock, which
#: is two seconds at the coarsest (FAT); it is read again the next time.
UNSETTLED = 2.0
#: Versions in the index; what is more is read each time. An index of so many stays below the bounds of `read_json`.
MOST = 20_000

#: Numbers of checks by their names, from a manifest's list of results.
Counter = Callable[[object], Mapping[str, Any]]
_Number = Annotated[int, Field(ge=0)]


class _DiskRow(Shape):
    file: Annotated[str, Field(pattern=r"^(disk|data-[0-9]{1,2})\.[a-z0-9]{1,16}$")]
    lun: int | None
    caching: str


class _VerdictRow(Shape):
    passed: _Number
    failed: _Number
    skipped: _Number
    unchecked: _Number
    warnings: _Number
    waived: _Number
    waived_checks: list[str]


class _FactsShape(Shape):
    state: str
    generations: list[int]
    created: str
    signed_by: str | None
    disks: Annotated[list[_DiskRow], Field(min_length=1)]
    verdict: _VerdictRow
    ready_seconds: float | None
    build_seconds: float | None


class _Remembered(Shape):
    """One version: the file that its facts were read from, and the facts."""

    file: str
    facts: _FactsShape


class _IndexShape(Shape):
    format: int
    goldsmith: str
    versions: dict[str, _Remembered]


@dataclass(frozen=True)
class Row:
    """One version as the list shows it: `summary` is the promise of `--json`, `verdict` the numbers of its checks.

    `ready_seconds` is the time to Ready of its slowest clone, `build_seconds` the work of its build.
    """

    summary: Mapping[str, Any]
    verdict: Mapping[str, Any]
    ready_seconds: float | None = None
    build_seconds: float | None = None


@dataclass
class Listing:
    """The versions that can be read, oldest first in each image, and a sentence for each thing that is damaged."""

    rows: list[Row] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def facts_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a summary takes from a manifest; the OS disk is the first of the disks."""
    return {
        "state": manifest.get("state", "captured"),
        "generations": manifest.get("generations", []),
        "created": manifest.get("created"),
        "signed_by": manifest.get("signed_by"),
        "disks": [
            {"file": name, "lun": disk.get("lun"), "caching": disk.get("caching", "ReadWrite")}
            for name, disk in disks_of(manifest).items()
        ],
        "ready_seconds": _longest(
            cell.get("seconds", {}).get("ready") for cell in manifest.get("prove", {}).values()
        ),
        "build_seconds": _sum(timing.get("seconds") for timing in manifest.get("timings", ())),
    }


def _longest(seconds: Iterable[float | None]) -> float | None:
    return max((float(each) for each in seconds if each is not None), default=None)


def _sum(seconds: Iterable[float | None]) -> float | None:
    known = [float(each) for each in seconds if each is not None]
    return round(sum(known), 2) if known else None


def summarize(
    name: str, version: str, folder: Path | str, channels: Sequence[str], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """A version in the form that `gallery list --json` promises. The sizes of its disks are looked up now."""
    return {
        "name": name,
        "version": version,
        "channels": list(channels),
        "state": facts["state"],
        "generations": facts["generations"],
        "disks": [
            {
                "role": "os" if disk["lun"] is None else "data",
                "lun": disk["lun"],
                "caching": disk["caching"],
                "path": f"{folder}/{disk['file']}",
                **_sizes(f"{folder}/{disk['file']}"),
            }
            for disk in facts["disks"]
        ],
        "created": facts["created"],
        "signed_by": facts["signed_by"],
        "path": f"{folder}/{facts['disks'][0]['file']}",
    }


def _sizes(path: str) -> dict[str, int | None]:
    """Bytes of a disk's file and on the disk below it; None for one that is not there."""
    try:
        status = os.lstat(path)
    except OSError:
        status = None
    if status is None or not stat.S_ISREG(status.st_mode):
        return {"size": None, "allocated": None}
    return {"size": status.st_size, "allocated": status.st_blocks * 512}


def list_versions(gallery: Gallery, names: Sequence[str], count: Counter) -> Listing:
    """All versions of these images. What is damaged is skipped by name, too."""
    return _Reader(gallery, count).read(names)


class _Reader:
    """One pass over the gallery: what the index had, what it will have."""

    def __init__(self, gallery: Gallery, count: Counter) -> None:
        self._gallery = gallery
        self._count = count
        self._known = _read_index(gallery.root / INDEX)
        self._seen: dict[str, Any] = {}
        self._damaged: list[str] = []
        self._missing: list[str] = []

    def read(self, names: Sequence[str]) -> Listing:
        rows = [row for name in names for row in self._image(name)]
        self._remember(set(names))
        return Listing(rows, self._damaged + self._missing)

    def _image(self, name: str) -> list[Row]:
        folder = str(self._gallery.root / name)
        try:
            with os.scandir(folder) as entries:
                found = sorted((n, e.name) for e in entries if (n := parse(e.name)) and not e.is_symlink())
            channels = channels_in(Path(folder))
        except FileNotFoundError:
            return []  # removed meanwhile
        rows = []
        for _, version in found:
            facts = self._facts(name, version, f"{folder}/{version}")
            if facts is not None:
                # a link that is not in its place yet has a name that no channel can have
                links = sorted(link for link in channels.get(version, ()) if CHANNEL_NAME.fullmatch(link))
                shown = summarize(name, version, f"{folder}/{version}", links, facts)
                missing = self._missing_disks(shown["disks"])
                if missing and not os.path.lexists(f"{folder}/{version}"):
                    continue  # deleted meanwhile
                self._missing += missing
                rows.append(Row(shown, facts["verdict"], facts["ready_seconds"], facts["build_seconds"]))
        return rows

    def _missing_disks(self, disks: Sequence[Mapping[str, Any]]) -> list[str]:
        gone = [disk["path"] for disk in disks if disk["size"] is None and not Path(disk["path"]).is_file()]
        return [f"{path}: it is missing" for path in gone]

    def _facts(self, name: str, version: str, folder: str) -> Mapping[str, Any] | None:
        """What the list shows of a version's manifest: remembered, or read now. None where there is no version."""
        before = file_id(f"{folder}/{MANIFEST}")
        known = self._known.get(f"{name}/{version}")
        if known is not None and before is not None and known["file"] == before:
            self._seen[f"{name}/{version}"] = known
            facts: Mapping[str, Any] = known["facts"]
            return facts
        try:
            manifest = self._gallery.read_manifest(name, Path(folder))
        except RecordDamaged as error:
            skip(error)
            self._damaged.append(f"{error.path}: {error.why}")
            return None
        if manifest is None:
            return None
        facts = {**facts_of(manifest), "verdict": self._count(manifest.get("checks"))}
        if before is not None and before == file_id(f"{folder}/{MANIFEST}", settled=True):
            self._seen[f"{name}/{version}"] = {"file": before, "facts": facts}
        return facts

    def _remember(self, names: set[str]) -> None:
        """Bring the index up to date, where that is allowed. Images that were not listed keep what is known."""
        others = {key.partition("/")[0] for key in self._known} - names
        there = {name for name in others if (self._gallery.root / name).is_dir()}
        kept = {key: known for key, known in self._known.items() if key.partition("/")[0] in there}
        versions = {**kept, **self._seen}
        if versions == self._known or len(versions) > MOST:
            return
        # anyone who may only read the gallery reads manifests each time; so does everybody on a full disk
        with contextlib.suppress(OSError):
            write_json(self._gallery.root / INDEX, {"format": FORMAT, "goldsmith": __version__, "versions": versions})


def _read_index(path: Path) -> dict[str, Any]:
    """What is remembered, by NAME/VERSION; nothing where the index is missing, damaged or of another goldsmith."""
    try:
        index = read_json(path, _IndexShape)
    except RecordDamaged:
        return {}  # no warning: nothing is lost, and the next index replaces it
    if index is None or (index["format"], index["goldsmith"]) != (FORMAT, __version__):
        return {}
    versions: dict[str, Any] = index["versions"]
    return versions


def file_id(path: str, *, settled: bool = False) -> str | None:
    """What tells a file's content from any other that has been at this path; None where that cannot be told.

    With `settled` it is None for a file that has changed just now.
    """
    try:
        status = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode) or (settled and time.time() - status.st_ctime < UNSETTLED):
        return None
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"
