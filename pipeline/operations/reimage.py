"""Reimage a VM: its OS disk is a new one from its master or a newer one, and its guest is provisioned again.

The new OS disk has the size that the VM was created with, or that of a larger master. Data disks stay as they are,
bit for bit. The order makes a reimage that is interrupted harmless: until the record
names the new OS disk, the VM has its old one; from then on `vm start` provisions the new one.
"""

from __future__ import annotations

from dataclasses import replace

from pipeline.base.errors import UsageError
from pipeline.fabric import service
from pipeline.gallery import Version
from pipeline.gallery.retention import lease_to_instance
from pipeline.hypervisor.persistent import find_domain, undefine
from pipeline.instances.disks import os_disk_size, renew_os_disk
from pipeline.instances.fleet import Fleet
from pipeline.instances.power import switch_off
from pipeline.instances.record import Operation, Record
from pipeline.instances.resource_disk import drop_resource_disk
from pipeline.operations.create import Creation, choose_master, launch
from pipeline.operations.start import allocate
from pipeline.operations.stop import shutdown_deadline
from pipeline.systems import registry

#: Files in a VM's folder that belong to the machine that it was: its UEFI variables, its host keys.
_OLD_MACHINE = ("vars.fd", "known_hosts")


def begin(fleet: Fleet, name: str, *, to: str | None = None, force: bool = False) -> Creation:
    """Give the VM a new OS disk and power it on. Returns before its guest has reported anything; `wait_ready` of
    `create` waits for that.

    `to` is the reference of another master, by default the VM's own. A VM that runs is switched off first; `force`
    cuts its power.

    Raises UsageError (vm-incomplete, reimage-system, generation-unsupported), NotFound (gallery-unknown), CheckFailed
    (image-withdrawn), HostError (vm-no-room), GuestError (guest-shutdown-timeout), BuildError (vm-busy).
    """
    with fleet.hold(name) as record:
        fleet.refuse_busy(record)
        version = choose_master(fleet.gallery, to or record.reference)
        _refuse_other_machine(record, version)
        _ = record.image_of_disk
        current = fleet.instances.save(replace(record, operation=Operation.begin("reimage")))
        try:
            return _replace_machine(fleet, current, version, force)
        except BaseException:
            fleet.end_operation(name)
            raise


def _replace_machine(fleet: Fleet, record: Record, version: Version, force: bool) -> Creation:
    if fleet.is_on(record):
        switch_off(fleet, record, deadline=shutdown_deadline(fleet), force=force)
    current = allocate(fleet, record)
    fleet.attach(current)
    # what the old guest reported says nothing of the new one
    service.ensure(fleet.store).begin(current.id)
    new = renew(fleet, current, version)
    return Creation(new, launch(fleet, new))


def _refuse_other_machine(record: Record, version: Version) -> None:
    """Raise UsageError for a master that this VM's machine cannot have."""
    system = registry.get(str(version.manifest.get("os", "linux")))
    if system.name != record.system:
        raise UsageError(
            f"{version.name} {version.version} is a {system.name}, and {record.name} is a {record.system}",
            name="reimage-system",
            hint=f"goldsmith vm create makes a VM from {version.name}",
        )
    if record.generation not in version.manifest["generations"]:
        made_for = " and ".join(map(str, version.manifest["generations"]))
        raise UsageError(
            f"{version.name} {version.version} was made for generation {made_for}; {record.name} has generation "
            f"{record.generation}",
            name="generation-unsupported",
            hint=f"goldsmith vm create makes a VM from {version.name}",
        )


def renew(fleet: Fleet, record: Record, version: Version) -> Record:
    """Replace the OS disk of a VM that is off and whose name the caller holds. Returns the new record."""
    folder = fleet.folder(record)
    domain = find_domain(fleet.connection, record.id)
    if domain is not None:
        undefine(domain)  # with its TPM, which belongs to the old machine
    drop_resource_disk(folder)
    for file in _OLD_MACHINE:
        (folder / file).unlink(missing_ok=True)
    lease_to_instance(fleet.gallery, version, record.id, f"VM {record.name} runs from it")
    old = record.image_of_disk
    wanted = record.os_disk_size
    old_size = os_disk_size(fleet.gallery.get(record.reference), wanted)
    stays_on = record.data_master or record.reference
    new = replace(
        record,
        image=version.name,
        version=version.version,
        digest=version.digest,
        disk=renew_os_disk(folder, version, old, wanted).to_json(),
        disk_size=record.disk_size - old_size + os_disk_size(version, wanted),
        data_master=stays_on if old.data and stays_on != version_reference(version) else None,
        generalized=False,
        provisioned=None,
        failure=None,
    )
    fleet.instances.save(new)
    fleet.remove_old_disks(new)
    return new


def version_reference(version: Version) -> str:
    return f"{version.name}@{version.version}"
