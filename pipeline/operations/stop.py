"""Stop a VM, give its processors and memory back, or start it again."""

from __future__ import annotations

from dataclasses import replace

from pipeline.base.errors import UsageError
from pipeline.fabric import service
from pipeline.guest.timeouts import Timeouts
from pipeline.hypervisor import accelerator
from pipeline.instances.fleet import Fleet, refuse_generalized
from pipeline.instances.power import switch_off
from pipeline.instances.record import Record
from pipeline.instances.resource_disk import drop_resource_disk
from pipeline.operations.start import Started, power_on


def shutdown_deadline(fleet: Fleet) -> float:
    """Seconds that a guest of this host may take to switch off."""
    verdict = accelerator.choose("auto", fleet.store)
    return Timeouts.for_kind(verdict.kind == "kvm", verdict.slowness).shutdown


def stop(fleet: Fleet, name: str, *, force: bool = False) -> Record:
    """Switch the VM off; its processors, memory and address stay reserved. `force` cuts its power.

    Raises UsageError (vm-stopped), GuestError (guest-shutdown-timeout), BuildError (vm-busy).
    """
    with fleet.operate(name, "stop") as record:
        _need_running(fleet, record)
        switch_off(fleet, record, deadline=shutdown_deadline(fleet), force=force)
        return fleet.instances.save(replace(record, operation=None))


def deallocate(fleet: Fleet, name: str, *, force: bool = False) -> Record:
    """Switch the VM off and give back its processors, memory and address; its disks stay.

    Raises UsageError (vm-deallocated), GuestError (guest-shutdown-timeout), BuildError (vm-busy).
    """
    with fleet.operate(name, "deallocate") as record:
        if not record.allocated:
            raise UsageError(
                f"{name} is deallocated already", name="vm-deallocated", hint=f"goldsmith vm start {name}"
            )
        if fleet.is_on(record):
            switch_off(fleet, record, deadline=shutdown_deadline(fleet), force=force)
        running = service.find(fleet.store)
        if running is not None:
            running.suspend(record.id)
        drop_resource_disk(fleet.folder(record))
        return fleet.instances.save(replace(record, operation=None, allocated=False))


def restart(fleet: Fleet, name: str, *, force: bool = False) -> Started:
    """Switch the VM off and on again. Raises as `stop` does, and UsageError (vm-generalized)."""
    with fleet.operate(name, "restart") as record:
        _need_running(fleet, record)
        refuse_generalized(record)
        switch_off(fleet, record, deadline=shutdown_deadline(fleet), force=force)
        password = power_on(fleet, record)
        return Started(fleet.instances.save(replace(record, operation=None)), password)


def _need_running(fleet: Fleet, record: Record) -> None:
    if not fleet.is_on(record):
        state = "stopped" if record.allocated else "deallocated"
        raise UsageError(
            f"{record.name} is {state}", name=f"vm-{state}", hint=f"goldsmith vm start {record.name} starts it"
        )
