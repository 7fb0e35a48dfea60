"""The disks of an instance: OS disk and its master's data disks in its folder, and attached disks of their own."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from pipeline.base.errors import UsageError
from pipeline.base.files import remove_tree
from pipeline.cache.layers import Image
from pipeline.definition import DataDisk
from pipeline.gallery import Gallery, Version
from pipeline.gallery.retention import release_instance
from pipeline.guest.disks import create_overlay
from pipeline.hypervisor.domain import Disk
from pipeline.instances.disk_records import DiskRecord, Disks
from pipeline.instances.record import Attachment, Record

#: QEMU's cache mode for each of Azure's. Without a write cache each write that the guest was told of is on the host's
#: disk, which is why file systems on such disks need no barriers; with ReadWrite what the guest has not flushed is
#: lost when the host fails (https://learn.microsoft.com/azure/virtual-machines/premium-storage-performance).
CACHE_MODES = {"None": "directsync", "ReadOnly": "writethrough", "ReadWrite": "writeback"}
#: What replaces the mode of None where QEMU cannot bypass the host's page cache: it promises the same.
_WITHOUT_DIRECT = "writethrough"
#: The LUNs of a VM (https://learn.microsoft.com/azure/virtual-machines/linux/azure-to-guest-disk-mapping).
LUNS = range(64)
READ_WRITE_WARNING = (
    "with ReadWrite, writes that the guest has not flushed (fsync) are lost when this host fails; ReadOnly and None "
    "lose none"
)


@dataclass(frozen=True)
class AttachedDisk:
    """A data disk of an instance. `size` in bytes. `owned`: whether it is a disk of its own."""

    lun: int
    name: str
    image: Image
    caching: str
    size: int
    create_option: str
    owned: bool

    @property
    def described(self) -> DataDisk:
        """The disk as the metadata service describes it."""
        caching = cast(Literal["None", "ReadOnly", "ReadWrite"], self.caching)
        return DataDisk(self.lun, self.size, caching)


def os_disk_size(version: Version, wanted: int) -> int:
    """Bytes of the OS disk of an instance of a master: `wanted`, or the master's where that is larger."""
    return max(wanted, int(version.manifest["disk"]["virtual_size"]))


def disk_size(version: Version, wanted: int = 0) -> int:
    """Bytes that the disks of an instance of a master can grow to together. `wanted`: bytes of a larger OS disk."""
    data = sum(int(disk["virtual_size"]) for disk in version.manifest.get("data_disks", ()))
    return os_disk_size(version, wanted) + data


def create_disks(folder: Path, version: Version, wanted: int = 0) -> Image:
    """An overlay for the OS disk, and one for each data disk of the master. `wanted`: bytes of a larger OS disk."""
    for old in folder.glob("disk*.qcow2"):
        old.unlink()
    return create_overlay(folder / "disk.qcow2", version.image, _grown(version, wanted))


def _grown(version: Version, wanted: int) -> int | None:
    """The size of an overlay that is larger than its master; None for one that has the master's size."""
    size = os_disk_size(version, wanted)
    return size if size > os_disk_size(version, 0) else None


def renew_os_disk(folder: Path, version: Version, old: Image, wanted: int = 0) -> Image:
    """A new overlay for the OS disk; the data disks are those of `old`, untouched. `wanted`: bytes of a larger one.

    It has a name of its own, so that the record names the old or the new one, and never one in the place of another.
    When the record has been written, `remove_old_os_disk` removes the old one.
    """
    path = folder / f"disk-{secrets.token_hex(4)}.qcow2"
    new = create_overlay(path, replace(version.image, data=()), _grown(version, wanted))
    return replace(new, data=old.data)


def remove_old_os_disk(folder: Path, current: Image) -> None:
    """Remove every overlay of an OS disk but the one that the record names."""
    kept = {current.path, *(image.path for _, image in current.data)}
    for path in folder.glob("disk*.qcow2"):
        if path not in kept:
            path.unlink()


def release_master(gallery: Gallery, disk: DiskRecord) -> None:
    """End the lease that a disk of its own has on the master that it stands on, if it stands on one."""
    if disk.master is not None:
        name, _, version = disk.master.partition("@")
        release_instance(gallery, name, version, disk.id)


# ---- data disks ---------------------------------------------------------------------------------------------------


def os_disk_name(record: Record) -> str:
    """The name of an instance's OS disk, which no disk of its own can have."""
    return f"{record.name}_OsDisk"


def attached_disks(disks: Disks, record: Record, version: Version | None = None) -> tuple[AttachedDisk, ...]:
    """Every data disk of an instance, by LUN. `version` is its master, which knows the caching of its own disks."""
    described = {disk.lun: disk for disk in version.data_disks} if version is not None else {}
    found = list(_own_disks(disks, record))
    for lun, image in record.image_of_disk.data if record.disk is not None else ():
        known = described.get(lun)
        caching, size = (known.caching, known.size) if known is not None else ("None", 0)
        found.append(AttachedDisk(lun, f"{record.name}_DataDisk_{lun}", image, caching, size, "FromImage", False))
    return tuple(sorted(found, key=lambda disk: disk.lun))


def _own_disks(disks: Disks, record: Record) -> Iterator[AttachedDisk]:
    for each in record.data_disks:
        disk = disks.get(each.disk)
        image = disk.image_of_disk
        yield AttachedDisk(each.lun, each.disk, image, each.caching, disk.size, each.create_option, True)


def whole_image(disks: Disks, record: Record) -> Image:
    """The OS disk of an instance with all its data disks, those of their own among them."""
    found = attached_disks(disks, record)
    return replace(record.image_of_disk, data=tuple((disk.lun, disk.image) for disk in found))


def find_attachment(record: Record, disk: str) -> Attachment:
    """The attachment of a disk of its own. Raises UsageError (disk-not-attached, disk-of-vm)."""
    for each in record.data_disks:
        if each.disk == disk:
            return each
    if disk.startswith(f"{record.name}_"):
        raise UsageError(
            f"{disk} is part of the VM {record.name}: it was made from its master",
            name="disk-of-vm",
            hint=f"it is deleted with its VM: goldsmith vm delete {record.name}",
        )
    raise UsageError(
        f"the disk {disk} is not attached to {record.name}",
        name="disk-not-attached",
        hint=f"goldsmith vm show {record.name} lists its disks; goldsmith disk show {disk} shows who leases it",
    )


def choose_lun(record: Record, wanted: int | None) -> int:
    """The LUN for another data disk: the wanted one, or the lowest that is free.

    Raises UsageError (lun-taken, lun-invalid, lun-none-free).
    """
    master = record.image_of_disk.data if record.disk is not None else ()
    taken = {lun for lun, _ in master} | {each.lun for each in record.data_disks}
    free = [lun for lun in LUNS if lun not in taken]
    if wanted is None:
        if not free:
            raise UsageError(
                f"{record.name} has {len(LUNS)} data disks, and no LUN is free",
                name="lun-none-free",
                hint=f"goldsmith vm disk detach {record.name} DISK makes one free",
            )
        return free[0]
    if wanted not in LUNS:
        raise UsageError(
            f"{wanted} is not a LUN", name="lun-invalid", hint=f"use {LUNS[0]} to {LUNS[-1]}, or leave --lun out"
        )
    if wanted in taken:
        raise UsageError(
            f"LUN {wanted} of {record.name} has a disk already",
            name="lun-taken",
            hint=f"leave --lun out, or use another one; free are {', '.join(map(str, free[:5])) or 'none'}",
        )
    return wanted


# ---- as the machine has them --------------------------------------------------------------------------------------


def cache_mode(caching: str, image: Image) -> str:
    """QEMU's cache mode for one of Azure's, on the file system of this disk."""
    mode = CACHE_MODES[caching]
    if mode != CACHE_MODES["None"]:
        return mode
    if image.format.trailing:
        return _WITHOUT_DIRECT  # a file with a footer is no multiple of the sectors that direct access writes
    try:
        os.close(os.open(image.path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC))
    except OSError:
        return _WITHOUT_DIRECT
    return mode


def machine_disk(disk: AttachedDisk, bus: str = "scsi") -> Disk:
    """A data disk as its machine has it."""
    return Disk(disk.image, bus, lun=disk.lun, cache=cache_mode(disk.caching, disk.image))


def remove_disks(folder: Path) -> None:
    """Remove the disks in an instance's folder; disks of their own stay."""
    for path in folder.glob("disk*.qcow2"):
        remove_tree(path)
