"""Start a VM that is stopped or deallocated, or let one run on that is paused."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.base.errors import UsageError
from pipeline.hypervisor.paused import is_paused, resume
from pipeline.hypervisor.persistent import find_domain
from pipeline.instances.budget import Demand
from pipeline.instances.fleet import Fleet, refuse_generalized
from pipeline.instances.power import switch_on
from pipeline.instances.record import Record
from pipeline.operations.create import launch, system_of


@dataclass(frozen=True)
class Started:
    """A VM that was powered on. `password`: a new one of its user, where it was never provisioned and its system's
    login needs one."""

    record: Record
    password: str | None


def start(fleet: Fleet, name: str, *, anyway: bool = False) -> Started:
    """Power the VM on; a VM that was never provisioned gets its medium again.

    `anyway`: power on even a generalized VM, which then waits for a provisioning that does not come.

    A VM that is paused runs on, also after an error of its disk: it has lost nothing.

    Raises UsageError (vm-running, vm-generalized, vm-incomplete), HostError (vm-no-room; disk-full where the host has
    no space yet for what a paused VM writes), BuildError (vm-busy).
    """
    with fleet.operate(name, "start") as record:
        if _run_on(fleet, record):
            return Started(fleet.instances.save(replace(record, operation=None, failure=None)), None)
        if fleet.is_on(record):
            raise UsageError(f"{name} is running already", name="vm-running", hint=f"goldsmith vm restart {name}")
        if not anyway:
            refuse_generalized(record)
        if record.disk is None:
            record.image_of_disk  # noqa: B018  raises
        current = allocate(fleet, record)
        password = power_on(fleet, current)
        return Started(fleet.instances.save(replace(current, operation=None, failure=None)), password)


def _run_on(fleet: Fleet, record: Record) -> bool:
    """Let a paused VM run on; whether it was paused. A crashed guest is not paused: it needs a restart."""
    domain = find_domain(fleet.connection, record.id)
    if domain is None or not is_paused(domain):
        return False
    resume(domain)
    return True


def allocate(fleet: Fleet, record: Record) -> Record:
    """Reserve processors and memory for a VM that was deallocated. Raises HostError (vm-no-room)."""
    if record.allocated:
        return record
    with fleet.instances.hold_budget():
        others = [each for each in fleet.instances.all() if each.name != record.name]
        budget = fleet.measure_budget(others)
        budget.refuse_excess(record.name, Demand(record.cpus, record.memory, 0))
        return fleet.instances.save(replace(record, allocated=True))


def power_on(fleet: Fleet, record: Record) -> str | None:
    """Attach the VM to the fabric again, and switch it on. One that was never provisioned is provisioned now, also
    where the command that began that was killed: returns the new password, if its system needs one.
    """
    if record.provisioned is None:
        return launch(fleet, record)
    link = fleet.attach(record)
    switch_on(fleet, record, link, system_of(record).machine_features()).leave()
    return None
