"""The disks of the store: those of their own and those that were made with VMs; who has them."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.base.errors import GoldsmithError
from pipeline.base.file_locks import is_locked
from pipeline.base.files import RecordDamaged, disk_bytes
from pipeline.cache.layers import Image
from pipeline.instances.disk_records import DiskRecord, lease_error
from pipeline.instances.disks import os_disk_name, os_disk_size
from pipeline.instances.fleet import Fleet
from pipeline.instances.record import Record


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


def find_leased_file(fleet: Fleet, path: Path) -> ListedDisk | None:
    """The leased disk of the store whose file this is, by any of the file's names; None where it is none.

    A hard link or a symbolic link is another name of the same file.
    """
    try:
        status = path.stat()
    except OSError:
        return None  # the path names no file that this user can read
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
