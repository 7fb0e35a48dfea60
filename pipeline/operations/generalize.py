"""Generalize a VM: its guest removes its identity and powers itself off; its disk then shows whether that is so."""

from __future__ import annotations

import threading
from dataclasses import replace

from pipeline import checks
from pipeline.base.errors import CheckFailed, UsageError
from pipeline.gallery.verdict import BLOCKING
from pipeline.guest.timeouts import Timeouts
from pipeline.instances.fleet import Fleet
from pipeline.instances.record import Record
from pipeline.operations.create import OnProgress, adopt, system_of
from pipeline.systems.base import LiveGuest


def generalize(
    fleet: Fleet, name: str, *, run: bool, on_progress: OnProgress, cancelled: threading.Event | None = None
) -> Record:
    """Mark a VM as generalized, once its disk at rest shows that it is. `run`: let its guest do it first.

    Raises UsageError (vm-running, vm-stopped, vm-incomplete), CheckFailed (not-generalized) with each check that
    failed, GuestError as the system's `generalize_instance`, BuildError (vm-busy).
    """
    with fleet.operate(name, "generalize") as record:
        if run:
            _generalize_inside(fleet, record, on_progress, cancelled or threading.Event())
        else:
            refuse_running(fleet, record)
        on_progress("checking whether its disk is generalized")
        refuse_specialized(fleet, record)
        # the guest's last boot is over: what failed while it ran says nothing about the disk
        return fleet.instances.save(replace(record, generalized=True, operation=None, failure=None))


def refuse_running(fleet: Fleet, record: Record) -> None:
    """Raise UsageError (vm-running) for a VM whose disk is in use."""
    if fleet.is_on(record):
        raise UsageError(
            f"{record.name} is running, so its disk is not at rest",
            name="vm-running",
            hint=f"goldsmith vm generalize {record.name} --run generalizes it; "
            f"goldsmith vm stop {record.name} stops one that was generalized inside",
        )


def _generalize_inside(fleet: Fleet, record: Record, on_progress: OnProgress, cancelled: threading.Event) -> None:
    if not fleet.is_on(record):
        raise UsageError(
            f"{record.name} is not running, so its guest cannot generalize itself",
            name="vm-stopped",
            hint=f"goldsmith vm start {record.name}; without --run a stopped VM that is generalized is only checked",
        )
    machine = adopt(fleet, record, cancelled)
    try:
        system_of(record).generalize_instance(
            LiveGuest(
                machine,
                Timeouts.for_kind(machine.spec.kvm, machine.spec.slowness),
                fleet.logs(record),
                record.user,
                on_progress,
            )
        )
    finally:
        machine.leave()


def refuse_specialized(fleet: Fleet, record: Record) -> None:
    """Raise CheckFailed (not-generalized) for a disk at rest with a machine's own identity."""
    system = system_of(record)
    disk = record.image_of_disk
    results = checks.inspect_disk(
        disk.path,
        disk.format.key,
        profile=system.profile,
        generations=(record.generation,),
        allow_backing_within=fleet.store.root,
    )
    found = [each for each in results if each.id in system.generalized_checks and each.status in BLOCKING]
    if not found:
        return
    lines = [f"  {each.status}: {each.id}: {each.evidence}" for each in found]
    raise CheckFailed(
        "\n".join([f"the disk of {record.name} is not generalized", *lines]),
        name="not-generalized",
        hint=f"goldsmith vm start {record.name}, then goldsmith vm generalize {record.name} --run; "
        "docs/checks.md explains each check",
    )
