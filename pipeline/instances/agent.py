"""The fabric's record of an instance, in the form that the watch of a boot needs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence

from pipeline.base.errors import GuestError
from pipeline.base.store import Store
from pipeline.fabric.instance import Exchange, Report
from pipeline.fabric.registration import AgentState
from pipeline.fabric.service import Service, read_exchanges, read_status
from pipeline.guest.access import SSH_BANNER
from pipeline.instances.record import Record

#: Seconds to reach a guest's sshd and to read its greeting.
_REACH, _GREETING = 2.0, 5.0
#: Seconds between two tries to reach its sshd.
LOOK = 1.0


class ServiceRecord:
    """The record of one guest. Each answer is read again."""

    def __init__(self, store: Store, instance: str) -> None:
        self._store, self._instance = store, instance

    @property
    def report(self) -> Report | None:
        status = read_status(self._store, self._instance)
        if status.state is AgentState.NONE:
            return None
        if status.state is AgentState.READY:
            return Report("Ready", status.substatus, status.description)
        substatus = "Provisioning" if status.state is AgentState.PROVISIONING else status.substatus
        return Report("NotReady", substatus, status.description)

    @property
    def reports(self) -> Sequence[Report]:
        report = self.report
        return [report] if report is not None else []

    def asked(self) -> list[Exchange]:
        return read_exchanges(self._store, self._instance)


def greets(running: Service, instance: str) -> bool:
    """Whether an sshd answers at the instance's address."""
    with contextlib.suppress(OSError), running.connect(instance, 22, _REACH) as link:
        link.settimeout(_GREETING)
        return link.recv(16).startswith(SSH_BANNER)
    return False


def wait_greeting(running: Service, record: Record, deadline: float, on_wait: Callable[[], None]) -> None:
    """Wait until the instance's sshd answers: an agent reports Ready before all services of its guest are up.

    `on_wait` is called once if sshd does not answer at once. Raises GuestError (guest-sshd-dead) after `deadline` s.
    """
    until, waited = time.monotonic() + deadline, False
    while not greets(running, record.id):
        if time.monotonic() >= until:
            raise GuestError(
                f"{record.name}: no sshd has answered for {deadline:.0f} s",
                name="guest-sshd-dead",
                hint=f"goldsmith vm console {record.name}, vm logs and vm screenshot show its state",
            )
        if not waited:
            on_wait()
            waited = True
        time.sleep(LOOK)
