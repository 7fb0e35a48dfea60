"""What a clone's first-boot program reported to the fabric itself."""

from __future__ import annotations

from pipeline.base.errors import GuestError
from pipeline.fabric import Event, Guest
from pipeline.hypervisor.machine import Machine
from pipeline.prove.result import CloneResult

#: Seconds for a clone's units to settle after its sshd answers, by whether KVM is real.
SETTLE = {True: 120.0, False: 360.0}


def configured(
    machine: Machine, result: CloneResult, guest: Guest, deadline: float, *, what: str = "first boot"
) -> None:
    """Judge the first-boot adapter by what it reported to the fabric itself; the result calls it `what`."""

    def reported() -> Event | None:
        return next((event for event in list(guest.events) if event.operation == "FirstBoot"), None)

    try:
        event = machine.wait(
            "the report of the first-boot service",
            reported,
            deadline=deadline + SETTLE[machine.spec.kvm],
            name="first-boot-silent",
        )
    except GuestError as error:
        if error.name != "first-boot-silent":
            raise
        result.see(what, error.message, False)
        return
    result.see(what, f"{event.message} after {event.seconds:.1f} s", event.success)
