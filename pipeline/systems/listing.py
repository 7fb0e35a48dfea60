"""What a disk holds, as rows of text: its system, packages, units, files, volumes, a key of a Windows registry."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pipeline.base.errors import DiskError, UsageError
from pipeline.disk.questions import visible
from pipeline.disk.registry import Value
from pipeline.disk.root import Root
from pipeline.disk.windows import open_hive
from pipeline.systems.inspection import Inspection, inspections
from pipeline.systems.installed import InstalledSystem, find_system

if TYPE_CHECKING:
    from pipeline.disk.disk import Disk

Systems = Sequence[Inspection]

#: What can be listed, and its columns.
COLUMNS = {
    "os": ("FIELD", "VALUE"),
    "packages": ("PACKAGE", "VERSION", "ARCHITECTURE"),
    "sources": ("PACKAGE", "ARCHITECTURE", "SOURCE", "SOURCE VERSION"),
    "units": ("UNIT", "STATE", "WANTED BY", "FILE"),
    "files": ("PATH", "TYPE", "SIZE"),
    "tree": ("PATH", "TYPE", "OWNER", "GROUP", "MODE", "CONTENT", "SIZE"),
    "registry": ("NAME", "VALUE"),
    "volumes": ("PARTITION", "TYPE", "LABEL", "UUID", "STATE"),
}
#: Rows, characters of one cell, and bytes in all that are shown.
MAX_ROWS, MAX_CELL, MAX_BYTES = 400_000, 2000, 48 << 20
#: Bytes of a file that its digest is of: the child that reads has room for no more at once.
LARGEST_FILE = 256 << 20


def prepare(what: str, key: str = "") -> None:
    """Raises UsageError: unknown-list, no-key."""
    if what not in COLUMNS:
        raise UsageError(f"there is no list {what!r} (lists: {', '.join(COLUMNS)})", name="unknown-list")
    if (what == "registry") != bool(key):
        raise UsageError("the list of the registry needs a key", name="no-key", hint=r"--key 'SOFTWARE\Microsoft'")


def listing(disk: Disk, what: str, key: str = "", systems: Systems | None = None) -> list[list[str]]:
    """The rows; `systems` are those that may be on the disk, by default all that are registered.

    Raises DiskError: no-linux-root, no-windows-root, no-such-key, fs-journal, list-too-long, no-os-release,
    no-package-database, no-services, and the readers' own.
    """
    rows, left = [], MAX_BYTES
    found = _LISTS[what](disk, key, inspections() if systems is None else systems)
    if len(found) > MAX_ROWS:
        # a list that was cut would be taken for a whole one: by a bill of materials, by a comparison
        raise DiskError(f"the list of {what} has {len(found)} rows, more than {MAX_ROWS}", name="list-too-long")
    for row in found:
        rows.append([_cell(cell) for cell in row])
        left -= len(json.dumps(rows[-1]))
        if left < 0:
            raise DiskError(f"the list of {what} is too long", name="list-too-long")
    return rows


def _cell(text: str) -> str:
    return "".join(map(visible, text[:MAX_CELL]))[:MAX_CELL]


def _at_rest(stale: str | None) -> None:
    if stale is not None:
        raise DiskError(
            stale,
            name="fs-journal",
            hint="start the system and shut it down, or run e2fsck -fy on a copy of the disk (XFS, btrfs: mount "
            "it once)",
        )


def _system(disk: Disk, systems: Systems) -> InstalledSystem:
    """The system on the disk, whose files are at rest."""
    _, system = find_system(disk, systems)
    _at_rest(system.stale)
    return system


def _root(disk: Disk, systems: Systems) -> Root:
    """The root of the system on the disk, whose journal is at rest; without a system the disk's only file system."""
    try:
        return _system(disk, systems).root
    except DiskError as error:
        if error.name != "no-linux-root":
            raise
        root = disk.only_filesystem
        facts = next(each for each in disk.filesystems if each.start == root.start).facts
        if facts is not None and facts.needs_recovery:
            _at_rest("the root file system's journal must be replayed first")
        return root


def _os(disk: Disk, _: str, systems: Systems) -> list[list[str]]:
    rows = [[name, value] for name, value in _system(disk, systems).release.items()]
    if not rows:
        raise DiskError(
            "the Linux root file system has no os-release file",
            name="no-os-release",
            hint="--list files shows what is there; every current distribution has /etc/os-release",
        )
    return rows


def _packages(disk: Disk, _: str, systems: Systems) -> list[list[str]]:
    system = _system(disk, systems)
    found = system.packages()
    if not found and system.consists_of_packages:
        raise DiskError(
            "the root file system has no package database that goldsmith can read (dpkg, rpm, apk, pacman, opkg)",
            name="no-package-database",
            hint="--list files shows the files",
        )
    return [[each.name, each.version, each.architecture] for each in found if each.installed]


def _sources(disk: Disk, _: str, systems: Systems) -> list[list[str]]:
    """The source package of each installed package that has another name or version than its own."""
    return [
        [each.name, each.architecture, each.source or each.name, each.source_version or each.version]
        for each in _system(disk, systems).packages()
        if each.installed and (each.source or each.source_version)
    ]


def _units(disk: Disk, _: str, systems: Systems) -> list[list[str]]:
    found = _system(disk, systems).services()
    return [[each.name, each.state, ", ".join(each.wanted_by), each.path] for each in found]


def _files(disk: Disk, _: str, systems: Systems) -> list[list[str]]:
    root, rows = _root(disk, systems), []
    for path, kind in root.walk():
        stat = root.stat(path, follow=False) if kind == "file" else None
        rows.append([path, kind, str(stat.size) if stat else ""])
    return rows


def _tree(disk: Disk, _: str, systems: Systems) -> list[list[str]]:
    """Every path with all that makes it what it is: of a file the digest of its content, of a link its target."""
    root, rows = _root(disk, systems), []
    for path, kind in root.walk():
        stat = root.stat(path, follow=False)
        if stat is None:
            raise DiskError(f"{path} cannot be read", name="fs-damaged")
        content = root.read_link(path) or "" if kind == "link" else ""
        if kind == "file":
            content = hashlib.blake2b(root.read(path, LARGEST_FILE) or b"", digest_size=16).hexdigest()
        size = str(stat.size) if kind == "file" else ""
        rows.append([path, kind, str(stat.uid), str(stat.gid), f"{stat.mode:o}", content, size])
    return rows


def _volumes(disk: Disk, _: str, _systems: Systems) -> list[list[str]]:
    """Every partition, or the whole disk as number 0, then logical volumes; the state where it is recorded."""
    rows = []
    for each in disk.filesystems:
        state = ""
        if each.facts is not None:
            state = "clean" if each.facts.clean else "not clean"
        rows.append([each.name or str(each.number), each.kind, each.label, each.uuid, state])
    return rows


def _registry(disk: Disk, key: str, _systems: Systems) -> list[list[str]]:
    name, _, path = key.strip("\\").partition("\\")
    hive = open_hive(disk, name)
    values, keys = hive.values(path), hive.keys(path)
    if values is None or keys is None:
        raise DiskError(f"the registry has no key {key}", name="no-such-key")
    return [[f"{each}\\", ""] for each in keys] + [
        [each or "(default)", shown(value)] for each, value in values.items()
    ]


def shown(value: Value) -> str:
    """A registry value as one line."""
    if isinstance(value, bytes):
        return f"hex:{value[: MAX_CELL // 2].hex()}"
    if isinstance(value, list):
        return "; ".join(value)
    return f"{value:#x} ({value})" if isinstance(value, int) else value


_LISTS: dict[str, Callable[[Disk, str, Systems], list[list[str]]]] = {
    "os": _os,
    "packages": _packages,
    "sources": _sources,
    "units": _units,
    "files": _files,
    "tree": _tree,
    "registry": _registry,
    "volumes": _volumes,
}
