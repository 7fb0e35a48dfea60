"""What a disk holds, as rows of text: its system, packages, units, files, volumes, a key of a Windows registry."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.base.errors import DiskError, UsageError
from pipeline.disk import inventory
from pipeline.disk.packages import packages
from pipeline.disk.questions import visible
from pipeline.disk.registry import Hive, Value
from pipeline.disk.root import Root
from pipeline.disk.units import services
from pipeline.disk.windows import CONFIG, read_hive

if TYPE_CHECKING:
    from pipeline.disk.disk import Disk
    from pipeline.disk.volumes import Volume

#: What can be listed, and its columns.
COLUMNS = {
    "os": ("FIELD", "VALUE"),
    "packages": ("PACKAGE", "VERSION", "ARCHITECTURE"),
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
        raise UsageError(f"no list of {what!r} ({', '.join(COLUMNS)})", name="unknown-list")
    if (what == "registry") != bool(key):
        raise UsageError("the registry is listed by a key", name="no-key", hint=r"--key 'SOFTWARE\Microsoft'")


def listing(disk: Disk, what: str, key: str = "") -> list[list[str]]:
    """The rows. Raises DiskError: no-linux-root, no-windows-root, no-such-key, fs-journal, list-too-long,
    no-os-release, no-package-database, no-services, and the readers' own."""
    rows, left = [], MAX_BYTES
    found = _LISTS[what](disk, key)
    if len(found) > MAX_ROWS:
        # a list that was cut would be taken for a whole one: by a bill of materials, by a comparison
        raise DiskError(f"the list of {what} has {len(found)} rows, more than {MAX_ROWS}", name="list-too-long")
    for row in found:
        rows.append([_cell(cell) for cell in row])
        left -= len(json.dumps(rows[-1]))
        if left < 0:
            raise DiskError(f"the list of {what} is too long to be shown", name="list-too-long")
    return rows


def _cell(text: str) -> str:
    return "".join(map(visible, text[:MAX_CELL]))[:MAX_CELL]


def _clean(disk: Disk) -> None:
    _at_rest(disk.root_volume)


def _at_rest(volume: Volume) -> None:
    if volume.facts is not None and volume.facts.needs_recovery:
        raise DiskError(
            "the root file system's journal is to be replayed first",
            name="fs-journal",
            hint="start the system and shut it down in order, or e2fsck -fy on a copy of the disk",
        )


def _windows(disk: Disk) -> Root | None:
    """The Windows of a disk without a Linux; None where there is a Linux."""
    try:
        _ = disk.root
    except DiskError as error:
        try:
            return disk.windows
        except DiskError as other:
            raise (error if other.name == "no-windows-root" else other) from None
    return None


def _software(disk: Disk) -> Hive | None:
    """The SOFTWARE hive of a disk with Windows on it and no Linux, else None."""
    return None if _windows(disk) is None else open_hive(disk, "SOFTWARE")


def _root(disk: Disk) -> Root:
    """The system on the disk: a Linux whose journal is at rest, else a Windows, else its only file system."""
    try:
        if (windows := _windows(disk)) is not None:
            return windows
    except DiskError as error:
        if error.name != "no-linux-root":
            raise
        root = disk.only_filesystem
        _at_rest(next(each for each in disk.filesystems if each.start == root.start))
        return root
    _clean(disk)
    return disk.root


def _os(disk: Disk, _: str) -> list[list[str]]:
    if (software := _software(disk)) is not None:
        return [[name, value] for name, value in inventory.system(software).items()]
    _clean(disk)
    text = disk.root.text("/etc/os-release") or disk.root.text("/usr/lib/os-release")
    fields = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    rows = [[name.strip(), value.strip().strip("\"'")] for name, _, value in fields]
    if not rows:
        raise DiskError(
            "the Linux root has no os-release that says what it is",
            name="no-os-release",
            hint="--list files shows what is there; /etc/os-release is every current distribution's",
        )
    return rows


def _packages(disk: Disk, _: str) -> list[list[str]]:
    if (software := _software(disk)) is not None:
        return [[each.name, each.version, each.architecture] for each in inventory.programs(software)]
    _clean(disk)
    found = packages(disk.root)
    if not found:
        raise DiskError(
            "the root has no record of installed packages that goldsmith knows (dpkg, rpm, apk, pacman, opkg)",
            name="no-package-database",
            hint="what is there without a package manager is in --list files",
        )
    return [[each.name, each.version, each.architecture] for each in found if each.installed]


def _units(disk: Disk, _: str) -> list[list[str]]:
    _clean(disk)
    return [[each.name, each.state, ", ".join(each.wanted_by), each.path] for each in services(disk.root)]


def _files(disk: Disk, _: str) -> list[list[str]]:
    root, rows = _root(disk), []
    for path, kind in root.walk():
        stat = root.stat(path, follow=False) if kind == "file" else None
        rows.append([path, kind, str(stat.size) if stat else ""])
    return rows


def _tree(disk: Disk, _: str) -> list[list[str]]:
    """Every path with all that makes it what it is: of a file the digest of its content, of a link its target."""
    root, rows = _root(disk), []
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


def _volumes(disk: Disk, _: str) -> list[list[str]]:
    """Every partition, or the whole disk as number 0; the state is known of ext file systems."""
    rows = []
    for each in disk.filesystems:
        state = ""
        if each.facts is not None:
            state = "clean" if each.facts.clean else "not clean"
        rows.append([str(each.number), each.kind, each.label, each.uuid, state])
    return rows


def _registry(disk: Disk, key: str) -> list[list[str]]:
    name, _, path = key.strip("\\").partition("\\")
    hive = open_hive(disk, name)
    values, keys = hive.values(path), hive.keys(path)
    if values is None or keys is None:
        raise DiskError(f"no key {key}", name="no-such-key")
    return [[f"{each}\\", ""] for each in keys] + [
        [each or "(default)", shown(value)] for each, value in values.items()
    ]


def open_hive(disk: Disk, name: str) -> Hive:
    """A hive of the Windows on a disk by its file's name, its logs replayed.

    Raises DiskError: no-windows-root, no-such-key, and as `read_hive`.
    """
    found = None if "/" in name else read_hive(disk.windows, f"{CONFIG}/{name}")
    if found is None:
        raise DiskError(f"no hive {name} in {CONFIG}", name="no-such-key", hint="SYSTEM, SOFTWARE, SAM, SECURITY")
    return found


def shown(value: Value) -> str:
    """A registry value as one line."""
    if isinstance(value, bytes):
        return f"hex:{value[: MAX_CELL // 2].hex()}"
    if isinstance(value, list):
        return "; ".join(value)
    return f"{value:#x} ({value})" if isinstance(value, int) else value


_LISTS: dict[str, Callable[[Disk, str], list[list[str]]]] = {
    "os": _os,
    "packages": _packages,
    "units": _units,
    "files": _files,
    "tree": _tree,
    "registry": _registry,
    "volumes": _volumes,
}
