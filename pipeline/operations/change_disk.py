"""Disks of their own: enlarged, exported, deleted."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.base import qemu_img
from pipeline.base.disk_format import VHD
from pipeline.base.errors import UsageError
from pipeline.disk import transfer
from pipeline.disk.mapping import chain_extents
from pipeline.instances.disk_records import DiskRecord, lease_error
from pipeline.instances.disks import release_master
from pipeline.instances.fleet import Fleet
from pipeline.operations.create_disk import Progress, check_size, refuse_excess
from pipeline.operations.find_disks import ListedDisk, find_disk, refuse_leased_file


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
        check_size(name, size, disk.size)
        with fleet.instances.hold_budget():
            refuse_excess(fleet, name, size - disk.size)
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
