"""A clone of a master, as its users start one: an overlay of the shipped file, booted, provisioned, logged in to.

Nothing of goldsmith is in it and no agent of the hypervisor is needed: what it is told comes by Azure's fabric or by
a NoCloud seed, what it says comes by the fabric's record, its console and its sshd.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.base import process
from pipeline.base.errors import GoldsmithError, GuestError
from pipeline.cache.layers import Image
from pipeline.fabric import Guest
from pipeline.guest.access import Access
from pipeline.guest.journal import read_journal
from pipeline.guest.timeouts import Patience
from pipeline.hypervisor.connection import Connection
from pipeline.hypervisor.console import LOGIN
from pipeline.hypervisor.domain import Spec, attached
from pipeline.hypervisor.machine import Machine, own
from pipeline.hypervisor.observation import progress_check
from pipeline.systems.linux import scripts
from pipeline.systems.linux.diagnosis import FIRMWARE_SHELL, Evidence, diagnose
from pipeline.systems.linux.steps import Steps

#: Seconds of processor time after which a silent clone hangs: it makes host keys of every kind, without a word.
CLONE_BUSY = 180.0
#: The guest's journal, in the clone's logs.
JOURNAL = "journal.log"


class Clone:
    """One clone, from its first boot to its last. `seconds` are those of the last boot: ready, ssh.

    Without a `medium` it is started and nobody provisions it.
    """

    def __init__(
        self,
        connection: Connection,
        spec: Spec,
        access: Access,
        *,
        logs: Path,
        store: Path,
        guest: Guest | None = None,
        medium: bool = True,
        cancelled: threading.Event | None = None,
        progress: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.access = access
        self.guest = guest
        self.medium = medium
        self.logs = logs
        self.seconds: dict[str, float] = {}
        self.patience = Patience.for_kind(spec.kvm)
        self._connection = connection
        self._store = store
        self._cancelled = cancelled
        self._progress = progress
        self.spec = spec
        self.machine = Machine(connection, spec, logs, cancelled)
        self.steps = Steps(access, self._alive)

    def _alive(self) -> None:
        self.machine.check()

    def write_seed(self, user_data: Mapping[str, Any], hostname: str) -> None:
        """Give the clone a NoCloud seed. On the fabric it gets Azure's medium, which the fabric writes."""
        self.access.write_seed(user_data, scripts.network_config(self.spec.access_mac, None), hostname)

    def boot(self, disk: Image, *, provisions: bool, name: str) -> None:
        """Power on from `disk` and wait for a login.

        Where it `provisions`, the medium is in its drive, and on the fabric the guest must post Ready. Logs of this
        boot begin with `name`. Raises GuestError with the evidence's own words.
        """
        self.seconds = {}
        disks = attached(disk, self.spec.disks[0].bus)
        for each in disks:
            own(each.image.path, self._connection)
        self.access.forget_host_key()
        spec = replace(
            self.spec,
            disks=disks,
            seed=self.access.seed if provisions and self.medium else None,
            serial_log=self.logs / f"{name}.serial.log",
            nvram=self.access.nvram if self.spec.firmware == "efi" else None,
        )
        self.machine = Machine(self._connection, spec, self.logs, self._cancelled)
        if self.guest is not None:
            self.guest.begin()
        began = time.monotonic()
        self._progress(f"{name}: booting")
        self.machine.start()
        if self.guest is not None and provisions:
            self._wait_ready(self.guest)
            self.seconds["ready"] = round(time.monotonic() - began, 1)
            self._progress(f"{name}: Ready")
        self._wait_login()
        self.seconds["ssh"] = round(time.monotonic() - began, 1)
        self._progress(f"{name}: logged in")

    def _wait_ready(self, guest: Guest) -> None:
        prompt_at: list[float] = []
        began = time.monotonic()

        def ready() -> bool | None:
            report = guest.report
            serial = self._serial()
            if report is not None:
                if report.ready:
                    return True
                # one that nobody provisions is to be seen at its login prompt
                if report.failed and (self.medium or LOGIN.search(serial)):
                    raise self._diagnosis("the guest's own report ends the wait")
            if not serial.strip() and not guest.asked() and time.monotonic() - began > self.patience.silent:
                raise self._diagnosis(f"{self.patience.silent:.0f} s after it was switched on")
            if not prompt_at and LOGIN.search(serial):
                prompt_at.append(time.monotonic())
            if prompt_at and time.monotonic() - prompt_at[0] > self.patience.ready_grace:
                raise self._diagnosis(f"the guest shows its login prompt since {self.patience.ready_grace:.0f} s")
            return None

        self._wait("Ready", ready, self.patience.boot)

    def _wait_login(self) -> None:
        def greeted() -> bool | None:
            self._serial()
            return self.access.greets() or None

        self._wait("sshd", greeted, self.patience.boot if self.guest is None else self.patience.ssh)

        refused_at: list[float] = []

        def logged_in() -> bool | None:
            # each time anew: an agent may make the host keys, and restart sshd, after it has greeted once
            if not self.access.learn_host_key(self.patience.command):
                return None
            try:
                self.steps.ssh("true", deadline=self.patience.ssh)
            except process.CommandFailed as error:
                if self.guest is not None and "Permission denied" in error.stderr:
                    refused_at.append(time.monotonic())
                    # who has posted Ready has made its user: it is not going to come any more
                    if refused_at[-1] - refused_at[0] > self.patience.login_grace:
                        raise self._diagnosis(f"refused for {self.patience.login_grace:.0f} s") from None
                return None
            except process.CommandTimeout:
                return None
            return True

        # a guest that provisions itself while its sshd runs already does not know its user yet
        self._wait("login", logged_in, self.patience.ssh)

    def _serial(self) -> bytes:
        """What the console says. Raises the diagnosis of a firmware that found nothing to start."""
        serial = self.machine.serial()
        if FIRMWARE_SHELL.search(serial):
            raise self._diagnosis("its prompt ends the wait")
        return serial

    def _wait(self, what: str, probe: Callable[[], bool | None], deadline: float) -> None:
        moves = progress_check(self.machine, CLONE_BUSY)

        def getting_on() -> bool | None:
            found = probe()
            if found is None and not LOGIN.search(self.machine.serial()):
                moves()  # from its login prompt on, an agent may work for minutes without a word
            return found

        try:
            self.machine.wait(what, getting_on, deadline=deadline, name="clone-timeout")
        except GuestError as error:
            if error.name != "clone-timeout":
                raise
            raise self._diagnosis(error.message) from None

    def _diagnosis(self, what: str) -> GuestError:
        """What is wrong, drawn from the boot's own evidence. Takes the screenshot first, and ends the guest."""
        self.machine.screenshot(self.logs / "screen.png")
        serial = self.machine.serial()
        greets = self.access.greets()
        self._end()
        return diagnose(
            Evidence(
                what=what,
                serial=serial.decode(errors="replace"),
                on_fabric=self.guest is not None,
                medium=self.medium,
                reports=tuple(self.guest.reports) if self.guest else (),
                exchanges=tuple(self.guest.asked()) if self.guest else (),
                dhcp=_read(self.logs / "dhcp.log"),
                greets=greets,
                disk=self.machine.spec.disks[0].image,
                store=self._store,
                user=self.access.user,
                journal=_read(self.logs / JOURNAL),
            )
        )

    def shutdown(self) -> None:
        """Power off as its user would, and wait for the end."""
        # the connection ends with the guest, in whatever way
        with contextlib.suppress(process.CommandFailed, process.CommandTimeout):
            self.steps.ssh("sudo -n systemctl poweroff", deadline=self.patience.command)
        self.access.hang_up()
        self.machine.wait_off(self.patience.shutdown)
        # libvirt knows one set of event callbacks a connection: the next boot brings its own
        self.machine.destroy()

    def black_box(self, *, quick: bool = False) -> None:
        """Save what there is: the screen while it runs, then the journal off its disk."""
        if not self.machine.started:
            return  # a diagnosis has saved it all
        self.machine.screenshot(self.logs / "screen.png")
        if not quick:
            self._end()

    def _end(self) -> None:
        """Switch it off, and take its journal off its disk.

        By its power button where it has booted: what it has said in the last half minute is in its memory alone.
        """
        if LOGIN.search(self.machine.serial()) and self.machine.running:
            self.machine.press_power(self.patience.button)
        self.machine.destroy()
        journal = self.logs / JOURNAL
        try:
            journal.write_text(read_journal(self.machine.spec.disks[0].image, self.logs, self._store))
        except (GoldsmithError, OSError) as error:
            journal.write_text(f"the guest's journal could not be read off its disk: {error}\n")

    def close(self) -> None:
        self.access.hang_up()
        self.machine.destroy()
        self.access.remove()


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
