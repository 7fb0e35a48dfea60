"""Watches the boot of a Linux guest on a master's disk until it has posted Ready, or the evidence shows why not."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.base.errors import GuestError
from pipeline.fabric.instance import FabricRecord
from pipeline.guest.timeouts import Timeouts
from pipeline.hypervisor.console import LOGIN
from pipeline.hypervisor.film import Film
from pipeline.hypervisor.machine import Machine
from pipeline.hypervisor.observation import progress_check
from pipeline.systems.linux.diagnosis import FIRMWARE_SHELL, Evidence, diagnose

#: Seconds of processor time after which a silent guest hangs: it makes host keys of every kind, without a word.
FIRST_BOOT_BUSY = 180.0
#: The guest's journal, in its logs.
JOURNAL = "journal.log"


@dataclass
class BootWatch:
    """One boot. Without a `guest` record it is not on the fabric; without a `medium` nobody provisions it.

    `greets` asks whether its sshd answers. `end` brings its disk to rest and its journal into `logs`; None where the
    guest is to run on: then its disk is not read. `film` takes pictures while the watch waits. `on_wait`
    gets what the watch waits for, each time that it changes.
    """

    machine: Machine
    timeouts: Timeouts
    logs: Path
    store: Path
    user: str
    guest: FabricRecord | None
    medium: bool
    greets: Callable[[], bool]
    end: Callable[[], None] | None = None
    dhcp_log: Path | None = None
    film: Film | None = None
    on_wait: Callable[[str], None] = lambda _text: None
    _waits: str = ""
    _asked: bool = False

    def wait_ready(self) -> None:
        """Wait until the guest has posted Ready. Raises GuestError with the evidence's own words."""
        guest = self.guest
        assert guest is not None, "only the fabric hears Ready"
        prompt_at: list[float] = []
        began = time.monotonic()

        def ready() -> bool | None:
            report = guest.report
            serial = self.serial()
            self._asked = self._asked or bool(guest.asked())
            self.say(f"waiting for Ready, {_phase(serial, asked=self._asked)}")
            if report is not None:
                if report.ready:
                    return True
                # one that nobody provisions is to be seen at its login prompt
                if report.failed and (self.medium or LOGIN.search(serial)):
                    raise self.diagnosis("the guest's own report ends the wait")
            if not serial.strip() and not guest.asked() and time.monotonic() - began > self.timeouts.silent:
                raise self.diagnosis(f"{self.timeouts.silent:.0f} s after it was switched on")
            if not prompt_at and LOGIN.search(serial):
                prompt_at.append(time.monotonic())
            if prompt_at and time.monotonic() - prompt_at[0] > self.timeouts.ready_grace:
                raise self.diagnosis(f"the guest shows its login prompt since {self.timeouts.ready_grace:.0f} s")
            return None

        self.wait("Ready", ready, self.timeouts.boot)

    def say(self, text: str) -> None:
        """Report what the watch waits for, if that is new."""
        if text != self._waits:
            self._waits = text
            self.on_wait(text)

    def serial(self) -> bytes:
        """What the console says. Raises the diagnosis of a firmware that found nothing to start."""
        serial = self.machine.serial()
        if FIRMWARE_SHELL.search(serial):
            raise self.diagnosis("its prompt ends the wait")
        return serial

    def wait(self, what: str, probe: Callable[[], bool | None], deadline: float) -> None:
        """Wait until `probe` gives something, for `deadline` seconds. Raises GuestError with the diagnosis."""
        moves = progress_check(self.machine, FIRST_BOOT_BUSY)

        def getting_on() -> bool | None:
            if self.film is not None:
                self.film.roll()
            found = probe()
            if found is None and not LOGIN.search(self.machine.serial()):
                moves()  # from its login prompt on, an agent may work for minutes without a word
            return found

        try:
            self.machine.wait(what, getting_on, deadline=deadline, name="clone-timeout")
        except GuestError as error:
            if error.name != "clone-timeout":
                raise
            raise self.diagnosis(error.message) from None

    def diagnosis(self, what: str) -> GuestError:
        """What is wrong, drawn from the boot's own evidence. Takes the screenshot first, and then ends the guest."""
        self.machine.screenshot(self.logs / "screen.png")
        serial = self.machine.serial()
        greets = self.greets()
        disk = self.machine.spec.disks[0].image
        if self.end is not None:
            self.end()
        return diagnose(
            Evidence(
                what=what,
                serial=serial.decode(errors="replace"),
                on_fabric=self.guest is not None,
                medium=self.medium,
                reports=tuple(self.guest.reports) if self.guest else (),
                exchanges=tuple(self.guest.asked()) if self.guest else (),
                dhcp=_read(self.dhcp_log or self.logs / "dhcp.log"),
                greets=greets,
                disk=disk if self.end is not None else None,
                store=self.store,
                user=self.user,
                journal=_read(self.logs / JOURNAL) if self.end is not None else "",
            )
        )


def _phase(serial: bytes, *, asked: bool) -> str:
    """How far a boot is, by its console and by whether its agent has asked the fabric."""
    if asked:
        return "its agent asks the fabric"
    if LOGIN.search(serial):
        return "it shows its login prompt"
    return "it boots"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
