"""A new disk of its own: empty, from a disk of a master, or from a file."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.base.disk_format import QCOW2, VHD, DiskFormat
from pipeline.base.errors import NotFound, UsageError
from pipeline.base.files import remove_tree
from pipeline.base.runs import now
from pipeline.cache.layers import Image
from pipeline.definition.units import LARGEST_DISK, MIB
from pipeline.disk import transfer
from pipeline.disk.mapping import chain_extents
from pipeline.gallery import Version
from pipeline.gallery.retention import lease_to_instance
from pipeline.guest.disks import create_overlay
from pipeline.instances.budget import Demand
from pipeline.instances.disk_records import DiskRecord, check_disk_name
from pipeline.instances.disks import release_master
from pipeline.instances.fleet import Fleet
from pipeline.instances.record import new_id
from pipeline.operations.create import choose_master
from pipeline.operations.find_disks import refuse_running_source
from pipeline.vhd.extents import ExtentSource

#: The formats of disks, and how `transfer` calls what it writes for them.
FORMATS = {QCOW2.name: "qcow2", VHD.name: "fixed"}
#: What separates a master's reference from a LUN.
_LUN = ":"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class DiskWishes:
    """The user's wishes for a new disk. `size` in bytes; None: that of the source. `source`: a master's reference,
    with `:LUN` for a data disk of it, or a file; None: an empty disk."""

    name: str
    size: int | None
    source: str | None = None
    format: DiskFormat = QCOW2


def create_disk(fleet: Fleet, wishes: DiskWishes, progress: Progress | None = None) -> DiskRecord:
    """Make a disk: empty, from a disk of a master, or from a file.

    Raises UsageError (disk-name-invalid, disk-exists, bad-size, disk-shrink, disk-leased), HostError (vm-no-room),
    NotFound (gallery-unknown, lun-unknown), DiskError for a file that cannot be read.
    """
    check_disk_name(wishes.name)
    source = wishes.source
    if source is not None and ("/" in source or Path(source).is_file()):
        refuse_running_source(fleet, Path(source))
        with transfer.open_source(Path(source)) as disk:
            size = check_size(wishes.name, wishes.size or _whole_mib(disk.size), disk.size)
            return _make(fleet, wishes, size, "Import", lambda path: _write(wishes, disk, size, path, progress))
    if source is not None:
        return _create_from_master(fleet, wishes, source, progress)
    if wishes.size is None:
        raise UsageError(
            f"the size of {wishes.name} is missing",
            name="bad-size",
            hint="use --size '60 GiB', or --source for a copy of a disk",
        )
    size = check_size(wishes.name, wishes.size, 0)
    empty = transfer.empty(size)
    return _make(fleet, wishes, size, "Empty", lambda path: _write(wishes, empty, size, path, progress))


def _create_from_master(fleet: Fleet, wishes: DiskWishes, source: str, progress: Progress | None) -> DiskRecord:
    version, below, least = _find_below(fleet, source)
    size = check_size(wishes.name, wishes.size or _whole_mib(least), least)
    if wishes.format is VHD:
        with chain_extents(below.path, below.format.key, within=fleet.store.root) as disk:
            return _make(fleet, wishes, size, "FromImage", lambda path: _write(wishes, disk, size, path, progress))
    return _make(
        fleet,
        wishes,
        size,
        "FromImage",
        lambda path: create_overlay(path, below, size),
        version=version,
        below=below,
    )


def _find_below(fleet: Fleet, source: str) -> tuple[Version, Image, int]:
    """The master that a reference names, one of its disks, and that disk's size in bytes."""
    reference, separator, lun = source.rpartition(_LUN)
    if not separator:
        version = choose_master(fleet.gallery, source)
        return version, replace(version.image, data=()), int(version.manifest["disk"]["virtual_size"])
    version = choose_master(fleet.gallery, reference)
    found = {str(number): image for number, image in version.image.data}.get(lun)
    if found is None:
        luns = ", ".join(str(number) for number, _ in version.image.data) or "none"
        raise NotFound(
            f"{version.name} {version.version} has no data disk at LUN {lun}",
            name="lun-unknown",
            hint=f"its LUNs: {luns}; without :LUN the OS disk is meant",
        )
    return version, found, next(disk.size for disk in version.data_disks if str(disk.lun) == lun)


def _make(
    fleet: Fleet,
    wishes: DiskWishes,
    size: int,
    create_option: str,
    write: Callable[[Path], object],
    *,
    version: Version | None = None,
    below: Image | None = None,
) -> DiskRecord:
    """Reserve room for a disk and write it. A disk that fails leaves nothing."""
    path = fleet.disks.folder(wishes.name) / f"disk{wishes.format.suffix}"
    image = Image(path, wishes.format, below, size if wishes.format.trailing else None)
    record = DiskRecord(
        id=new_id(),
        name=wishes.name,
        created=now(),
        host=socket.gethostname(),
        size=size,
        format=wishes.format.name,
        create_option=create_option,
        image=image.to_json(),
        source=wishes.source,
        master=f"{version.name}@{version.version}" if version is not None else None,
    )
    with fleet.disks.hold(wishes.name):
        with fleet.instances.hold_budget():
            refuse_excess(fleet, wishes.name, size)
            folder = fleet.disks.begin(record)
        try:
            if version is not None:
                lease_to_instance(fleet.gallery, version, record.id, f"the disk {wishes.name} stands on it")
            write(folder / path.name)
            return fleet.disks.finish(folder, record)
        except BaseException:
            release_master(fleet.gallery, record)
            remove_tree(folder)
            raise


def _write(wishes: DiskWishes, source: ExtentSource, size: int, path: Path, progress: Progress | None) -> None:
    wide = ExtentSource(size, source.extents)
    transfer.convert(wide, path, FORMATS[wishes.format.name], timestamp=int(time.time()), progress=progress)


def _whole_mib(size: int) -> int:
    return -(-size // MIB) * MIB


def check_size(name: str, size: int, least: int) -> int:
    """Raise UsageError (bad-size, disk-shrink) for a size in bytes that the disk cannot have."""
    if size % MIB or not 0 < size <= LARGEST_DISK:
        raise UsageError(
            f"{size} bytes are not a possible size of {name}",
            name="bad-size",
            hint=f"use a whole number of MiB, at most {LARGEST_DISK >> 30} GiB",
        )
    if size < least:
        raise UsageError(
            f"{name} cannot be {size >> 20} MiB: its data have {-(-least // MIB)} MiB",
            name="disk-shrink",
            hint="disks can only be made larger; leave --size out, or use a larger one",
        )
    return size


def refuse_excess(fleet: Fleet, name: str, size: int) -> None:
    """Raise HostError (vm-no-room) where a disk could not grow to this size. The caller holds the budget."""
    budget = fleet.measure_budget(fleet.instances.all())
    budget.refuse_excess(f"the disk {name}", Demand(0, 0, size), disk_only=True)
