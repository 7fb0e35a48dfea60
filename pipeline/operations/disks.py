"""Disks of their own: made, listed, enlarged, exported, deleted."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.base import qemu_img
from pipeline.base.disk_format import QCOW2, VHD, DiskFormat
from pipeline.base.errors import GoldsmithError, NotFound, UsageError
from pipeline.base.file_locks import is_locked
from pipeline.base.files import RecordDamaged, disk_bytes, remove_tree
from pipeline.base.runs import now
from pipeline.cache.layers import Image
from pipeline.definition.units import LARGEST_DISK, MIB
from pipeline.disk import transfer
from pipeline.disk.mapping import chain_extents
from pipeline.gallery import Version
from pipeline.gallery.retention import lease_to_instance
from pipeline.guest.disks import create_overlay
from pipeline.instances.budget import Demand
from pipeline.instances.disk_records import DiskRecord, check_disk_name, lease_error
from pipeline.instances.disks import os_disk_name, os_disk_size, release_master
from pipeline.instances.fleet import Fleet
from pipeline.instances.record import Record, new_id
from pipeline.operations.create import choose_master
from pipeline.vhd.extents import ExtentSource

#: The formats of disks, and how `transfer` calls what it writes for them.
FORMATS = {QCOW2.name: "qcow2", VHD.name: "fixed"}
#: What separates a master's reference from a LUN.
_LUN = ":"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ListedDisk:
    """A disk of the store: of its own, or made for a VM from its master. Sizes in bytes."""

    name: str
    id: str | None
    size: int
    allocated: int
    format: str
    create_option: str
    source: str | None
    created: str
    image: Image
    lease: dict[str, Any]
    vm: str | None = None
    lun: int | None = None
    caching: str | None = None
    #: Whether it is a disk of its own.
    owned: bool = True

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "id": self.id,
            "size": self.size,
            "allocated": self.allocated,
            "format": self.format,
            "source": self.source,
            "createOption": self.create_option,
            "created": self.created,
            "vm": self.vm,
            "lun": self.lun,
            "caching": self.caching,
            "lease": self.lease,
            "path": str(self.image.path),
        }


# ---- looking -----------------------------------------------------------------------------------------------------


def list_disks(fleet: Fleet) -> list[ListedDisk]:
    """Every disk, by name; leases that an interrupted command left are ended before."""
    for disk in fleet.disks.all():
        end_dead_lease(fleet, disk.name)
    return sorted(recorded_disks(fleet), key=lambda disk: disk.name)


def recorded_disks(fleet: Fleet) -> list[ListedDisk]:
    """Every disk as the records have it. Asks neither libvirt nor the fabric."""
    vms = fleet.instances.all()
    by_id = {record.id: record for record in vms}
    found = [_describe_own(disk, by_id) for disk in fleet.disks.all()]
    for record in vms:
        found += _disks_of_vm(fleet, record)
    return found


def find_disk(fleet: Fleet, name: str) -> ListedDisk:
    """A disk by its name. Raises NotFound (disk-unknown)."""
    end_dead_lease(fleet, name)
    disk = fleet.disks.find(name)
    if disk is not None:
        return _describe_own(disk, {record.id: record for record in fleet.instances.all()})
    vm = name.partition("_")[0]
    record = fleet.instances.find(vm) if "_" in name else None
    for listed in _disks_of_vm(fleet, record) if record is not None else ():
        if listed.name == name:
            return listed
    return _describe_own(fleet.disks.get(name), {})  # raises


def _describe_own(disk: DiskRecord, vms: dict[str, Record]) -> ListedDisk:
    vm = vms.get(disk.owner or "")
    attachment = next((each for each in vm.data_disks if each.disk == disk.name), None) if vm is not None else None
    return ListedDisk(
        name=disk.name,
        id=disk.id,
        size=disk.size,
        allocated=disk_bytes(disk.image_of_disk.path),
        format=disk.format,
        create_option=disk.create_option,
        source=disk.source,
        created=disk.created,
        image=disk.image_of_disk,
        lease=disk.lease,
        vm=disk.owner_name,
        lun=attachment.lun if attachment is not None else None,
        caching=attachment.caching if attachment is not None else None,
    )


def _disks_of_vm(fleet: Fleet, record: Record) -> list[ListedDisk]:
    """The disks that were made with a VM from its master: they are leased by it as long as it exists."""
    if record.disk is None:
        return []
    try:
        version = fleet.gallery.get(record.reference)
    except GoldsmithError:
        version = None  # the sizes are not known; what is wrong with the master is said by the verbs that need it
    described = {disk.lun: disk for disk in version.data_disks} if version is not None else {}
    os_size = os_disk_size(version, record.os_disk_size) if version is not None else record.os_disk_size
    image = record.image_of_disk
    rows: list[tuple[str, Image, int, int | None, str]] = [
        (os_disk_name(record), image, os_size, None, record.os_caching)
    ]
    for lun, disk in image.data:
        known = described.get(lun)
        size, caching = (known.size, str(known.caching)) if known is not None else (0, "None")
        rows.append((f"{record.name}_DataDisk_{lun}", disk, size, lun, caching))
    lease = {"status": "locked", "state": "leased", "duration": "infinite"}
    owner = {"vm": record.name, "vmId": record.id}
    return [
        ListedDisk(
            name=name,
            id=None,
            size=size,
            allocated=disk_bytes(disk.path),
            format=disk.format.name,
            create_option="FromImage",
            source=record.reference,
            created=record.created,
            image=replace(disk, data=()),
            lease={**lease, "owner": owner},
            vm=record.name,
            lun=lun,
            caching=caching,
            owned=False,
        )
        for name, disk, size, lun, caching in rows
    ]


# ---- making ------------------------------------------------------------------------------------------------------


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
            size = _check_size(wishes.name, wishes.size or _whole_mib(disk.size), disk.size)
            return _make(fleet, wishes, size, "Import", lambda path: _write(wishes, disk, size, path, progress))
    if source is not None:
        return _create_from_master(fleet, wishes, source, progress)
    if wishes.size is None:
        raise UsageError(
            f"the size of {wishes.name} is missing",
            name="bad-size",
            hint="use --size '60 GiB', or --source for a copy of a disk",
        )
    size = _check_size(wishes.name, wishes.size, 0)
    empty = transfer.empty(size)
    return _make(fleet, wishes, size, "Empty", lambda path: _write(wishes, empty, size, path, progress))


def _create_from_master(fleet: Fleet, wishes: DiskWishes, source: str, progress: Progress | None) -> DiskRecord:
    version, below, least = _find_below(fleet, source)
    size = _check_size(wishes.name, wishes.size or _whole_mib(least), least)
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
            _refuse_excess(fleet, wishes.name, size)
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


def _check_size(name: str, size: int, least: int) -> int:
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


def _refuse_excess(fleet: Fleet, name: str, size: int) -> None:
    """Raise HostError (vm-no-room) where a disk could not grow to this size. The caller holds the budget."""
    budget = fleet.measure_budget(fleet.instances.all())
    budget.refuse_excess(f"the disk {name}", Demand(0, 0, size), disk_only=True)


# ---- changing ----------------------------------------------------------------------------------------------------


def end_dead_lease(fleet: Fleet, name: str) -> None:
    """End the lease of a disk whose VM does not have it: the command that attached or detached it was interrupted.

    Does nothing while another command holds the VM.
    """
    disk = fleet.disks.find(name)
    if disk is None or disk.owner is None or disk.owner_name is None:
        return
    try:
        record = fleet.instances.find(disk.owner_name)
    except RecordDamaged:
        return  # it may have the disk
    if record is not None and record.id == disk.owner:
        if not any(each.disk == name for each in record.data_disks):
            fleet.refresh(record)
        return
    with fleet.instances.hold_now(disk.owner_name) as ours:
        record = fleet.instances.find(disk.owner_name) if ours else record
        if ours and (record is None or record.id != disk.owner):
            fleet.disks.release(name, disk.owner)


@contextlib.contextmanager
def hold_at_rest(fleet: Fleet, name: str, what: str) -> Iterator[DiskRecord]:
    """Lock a disk that no running VM has; with the disk its VM is locked, so that it stays off.

    `what` says what is not possible. Raises UsageError (disk-leased, disk-of-vm), NotFound (disk-unknown).
    """
    listed = find_disk(fleet, name)
    if not listed.owned:
        raise _part_of_vm(listed)
    owner = fleet.disks.get(name).owner_name
    with contextlib.ExitStack() as stack:
        if owner is not None:
            record = stack.enter_context(fleet.hold(owner))
            if fleet.is_on(record):
                raise lease_error(name, owner, f"{what} while its VM runs")
        stack.enter_context(fleet.disks.hold(name))
        disk = fleet.disks.get(name)
        if disk.owner_name != owner and disk.owner is not None:
            raise lease_error(name, disk.owner_name or disk.owner, what)
        yield disk


def _part_of_vm(listed: ListedDisk) -> UsageError:
    return UsageError(
        f"the disk {listed.name} is part of the VM {listed.vm}",
        name="disk-of-vm",
        hint=f"it is deleted with its VM: goldsmith vm delete {listed.vm}",
    )


def resize_disk(fleet: Fleet, name: str, size: int) -> DiskRecord:
    """Enlarge a disk to `size` bytes; what is inside is not changed.

    Raises UsageError (disk-leased, disk-of-vm, disk-shrink, bad-size), HostError (vm-no-room).
    """
    with hold_at_rest(fleet, name, "it cannot be resized") as disk:
        _check_size(name, size, disk.size)
        with fleet.instances.hold_budget():
            _refuse_excess(fleet, name, size - disk.size)
            image = disk.image_of_disk
            if image.format is VHD:
                transfer.grow(image.path, size, timestamp=int(time.time()), own=True)
                image = replace(image, size=size)
            else:
                qemu_img.resize(image.path, image.format.driver, size)
            return fleet.disks.save(replace(disk, size=size, image=image.to_json()))


def export_disk(
    fleet: Fleet, name: str, target: Path, kind: str, *, force: bool = False, progress: Progress | None = None
) -> transfer.Made:
    """Write a disk as a file that stands alone. A disk made with a VM is exported while its VM is off.

    Raises UsageError (disk-leased, target-exists), NotFound (disk-unknown).
    """
    refuse_leased_file(fleet, target)
    listed = find_disk(fleet, name)
    with contextlib.ExitStack() as stack:
        if listed.owned:
            image = stack.enter_context(hold_at_rest(fleet, name, "it cannot be exported")).image_of_disk
        else:
            assert listed.vm is not None
            record = stack.enter_context(fleet.hold(listed.vm))
            if fleet.is_on(record):
                raise lease_error(name, listed.vm, "it cannot be exported while its VM runs")
            image = find_disk(fleet, name).image
        disk = stack.enter_context(chain_extents(image.path, image.format.key, within=fleet.store.root))
        return transfer.convert(disk, target, kind, timestamp=int(time.time()), force=force, progress=progress)


def refuse_delete(fleet: Fleet, name: str) -> None:
    """Raise UsageError (disk-leased, disk-of-vm) for a disk that cannot be deleted, NotFound (disk-unknown)."""
    listed = find_disk(fleet, name)
    if not listed.owned:
        raise _part_of_vm(listed)
    if listed.lease["owner"] is not None:
        raise lease_error(name, str(listed.vm), "it cannot be deleted")


def delete_disk(fleet: Fleet, name: str) -> None:
    """Delete a disk with its data. Raises as `refuse_delete` does."""
    refuse_delete(fleet, name)
    with fleet.disks.hold(name):
        disk = fleet.disks.get(name)
        if disk.owner is not None:
            raise lease_error(name, disk.owner_name or disk.owner, "it cannot be deleted")
        fleet.disks.remove(name, lambda gone: release_master(fleet.gallery, gone))


def find_leased_file(fleet: Fleet, path: Path) -> ListedDisk | None:
    """The leased disk of the store whose file this is, by any of the file's names; None where it is none.

    A hard link or a symbolic link is another name of the same file.
    """
    try:
        status = path.stat()
    except OSError:
        return None  # there is no such file, or it cannot be reached
    for disk in recorded_disks(fleet):
        with contextlib.suppress(OSError):
            if os.path.samestat(disk.image.path.stat(), status) and disk.lease["owner"] is not None:
                return disk
    return None


def refuse_leased_file(fleet: Fleet, path: Path) -> None:
    """Raise UsageError (disk-leased) for a file that is a leased disk of the store."""
    disk = find_leased_file(fleet, path)
    if disk is not None:
        raise lease_error(disk.name, str(disk.vm), f"{path} is its file, and cannot be replaced or changed")


def refuse_running_source(fleet: Fleet, path: Path) -> None:
    """Raise UsageError (disk-leased) for the file of a disk whose VM runs: a copy would hold half of its writes."""
    disk = find_leased_file(fleet, path)
    if disk is not None and is_locked(path):
        raise lease_error(disk.name, str(disk.vm), f"{path} is its file, and cannot be read while its VM runs")
