"""Attach a disk to a VM and detach it, while the VM runs or is off.

A disk is leased first, then it is in the VM's record, then in the machine; it leaves in the order record, machine,
lease. After an interruption the next command makes machine and lease follow the record (`Fleet.hold`).
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

from pipeline.base.errors import GoldsmithError, UsageError
from pipeline.hypervisor import hotplug
from pipeline.hypervisor.persistent import find_domain
from pipeline.instances.disks import CACHE_MODES, choose_lun, find_attachment
from pipeline.instances.fleet import Fleet
from pipeline.instances.record import Attachment, Record
from pipeline.operations.change_disk import delete_disk
from pipeline.operations.create_disk import DiskWishes, create_disk
from pipeline.operations.find_disks import end_dead_lease


def attach(
    fleet: Fleet, vm: str, disk: str, *, lun: int | None = None, caching: str = "None", create_option: str = "Attach"
) -> Attachment:
    """Attach a disk of its own to a VM, at once where it runs. `lun` None: the lowest that is free.

    Raises UsageError (disk-leased, lun-taken, lun-invalid, caching-unknown, vm-incomplete, disk-no-controller),
    NotFound (vm-unknown, disk-unknown), BuildError (vm-busy, libvirt-failed).
    """
    if caching not in CACHE_MODES:
        raise UsageError(
            f"{caching!r} is not a cache mode", name="caching-unknown", hint=f"one of {', '.join(CACHE_MODES)}"
        )
    end_dead_lease(fleet, disk)
    with fleet.operate(vm, "attach-disk") as record:
        record.image_of_disk  # noqa: B018  raises where its creation was interrupted
        attachment = Attachment(disk, fleet.disks.get(disk).id, choose_lun(record, lun), caching, create_option)
        fleet.disks.lease(disk, record.id, record.name)
        try:
            changed = fleet.instances.save(replace(record, data_disks=(*record.data_disks, attachment)))
            _plug(fleet, changed, disk)
        except BaseException:
            fleet.instances.save(record)
            fleet.disks.release(disk, record.id)
            raise
        _update_fabric(fleet, changed)
        return attachment


def attach_new(
    fleet: Fleet, vm: str, wishes: DiskWishes, *, lun: int | None = None, caching: str = "None"
) -> Attachment:
    """Make an empty disk and attach it. Raises as `create_disk` and `attach` do; then no disk is left."""
    # What this VM cannot do is refused before a disk is made: its error must not depend on the room of the host.
    fleet.instances.get(vm).image_of_disk  # noqa: B018  raises where its creation was interrupted
    create_disk(fleet, wishes)
    try:
        return attach(fleet, vm, wishes.name, lun=lun, caching=caching, create_option="Empty")
    except GoldsmithError:
        with contextlib.suppress(GoldsmithError):
            delete_disk(fleet, wishes.name)
        raise


def detach(fleet: Fleet, vm: str, disk: str) -> None:
    """Detach a disk of its own from a VM, at once where it runs; its data stay.

    Raises UsageError (disk-not-attached, disk-of-vm), BuildError (disk-not-detached, vm-busy, libvirt-failed).
    """
    with fleet.operate(vm, "detach-disk") as record:
        attachment = find_attachment(record, disk)
        left = tuple(each for each in record.data_disks if each != attachment)
        changed = fleet.instances.save(replace(record, data_disks=left))
        domain = find_domain(fleet.connection, record.id) if fleet.is_on(record) else None
        if domain is not None:
            try:
                hotplug.unplug(domain, fleet.disks.get(disk).image_of_disk.path, disk)
            except GoldsmithError:
                fleet.instances.save(record)
                raise
        fleet.disks.release(disk, record.id)
        _update_fabric(fleet, changed)


def free_name(fleet: Fleet, vm: str) -> str:
    """A name for a new disk of a VM: the first of VM-data-0, VM-data-1, ... that no disk has."""
    taken = set(fleet.disks.names())
    number = 0
    while (name := f"{vm}-data-{number}") in taken:
        number += 1
    return name


def _plug(fleet: Fleet, record: Record, disk: str) -> None:
    domain = find_domain(fleet.connection, record.id) if fleet.is_on(record) else None
    if domain is not None:
        fleet.plug(domain, record, disk)


def _update_fabric(fleet: Fleet, record: Record) -> None:
    """The metadata service lists the disks of a VM. A VM that is deallocated is registered at its next start."""
    if record.allocated:
        fleet.attach(record)
