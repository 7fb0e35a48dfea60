"""Start a VM that is stopped or deallocated."""

from __future__ import annotations

from dataclasses import replace

from pipeline.base.errors import UsageError
from pipeline.fabric import service
from pipeline.fabric.launch import write_medium
from pipeline.instances.budget import Demand
from pipeline.instances.fleet import Fleet, refuse_generalized
from pipeline.instances.power import switch_on
from pipeline.instances.record import Record
from pipeline.operations.create import system_of


def start(fleet: Fleet, name: str, *, anyway: bool = False) -> Record:
    """Power the VM on; a VM that was never provisioned gets its medium again. Returns the new record.

    `anyway`: power on even a generalized VM, which then waits for a provisioning that does not come.

    Raises UsageError (vm-running, vm-generalized, vm-incomplete), HostError (vm-no-room), BuildError (vm-busy).
    """
    with fleet.operate(name, "start") as record:
        if fleet.is_on(record):
            raise UsageError(f"{name} is running already", name="vm-running", hint=f"goldsmith vm restart {name}")
        if not anyway:
            refuse_generalized(record)
        if record.disk is None:
            record.image_of_disk  # noqa: B018  raises
        current = allocate(fleet, record)
        power_on(fleet, current)
        return fleet.instances.save(replace(current, operation=None, failure=None))


def allocate(fleet: Fleet, record: Record) -> Record:
    """Reserve processors and memory for a VM that was deallocated. Raises HostError (vm-no-room)."""
    if record.allocated:
        return record
    with fleet.instances.hold_budget():
        others = [each for each in fleet.instances.all() if each.name != record.name]
        budget = fleet.measure_budget(others)
        budget.refuse_excess(record.name, Demand(record.cpus, record.memory, 0))
        return fleet.instances.save(replace(record, allocated=True))


def power_on(fleet: Fleet, record: Record) -> None:
    """Attach the VM to the fabric again, and switch it on."""
    link = fleet.attach(record)
    system = system_of(record)
    if record.provisioned is None and not system.signs_in_by_password:
        write_medium(fleet.make_medium_folder(record), link.instance)
        service.ensure(fleet.store).begin(record.id)
    switch_on(fleet, record, link, system.machine_features()).leave()
