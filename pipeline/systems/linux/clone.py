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
from pipeline.base.errors import GoldsmithError
from pipeline.cache.layers import Image
from pipeline.fabric import Guest
from pipeline.guest.access import Access
from pipeline.guest.journal import read_journal
from pipeline.guest.timeouts import Timeouts
from pipeline.hypervisor.connection import Connection
from pipeline.hypervisor.console import LOGIN
from pipeline.hypervisor.domain import Disk, Spec, attached
from pipeline.hypervisor.film import Film
from pipeline.hypervisor.machine import Machine, own
from pipeline.systems.linux import scripts
from pipeline.systems.linux.boot_watch import JOURNAL, BootWatch
from pipeline.systems.linux.steps import Steps

#: The folder of the pictures of a boot, in the logs of its clone.
SCREENS = "screens"


class Clone:
    """One clone, from its first boot to its last. `seconds` are those of the last boot: ready, ssh.

    Without a `medium` it is started and nobody provisions it. Disks `beside` are not the master's.
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
        beside: tuple[Disk, ...] = (),
        cancelled: threading.Event | None = None,
        progress: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.access = access
        self.guest = guest
        self.medium = medium
        self._beside = beside
        self.logs = logs
        self.seconds: dict[str, float] = {}
        self.timeouts = Timeouts.for_kind(spec.kvm, spec.slowness)
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
        disks = (*attached(disk, self.spec.disks[0].bus), *self._beside)
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
        screens = self.logs / SCREENS  # of the first boot alone
        prefix = "" if name == "boot" else f"{name.replace('-', ' ')}: "
        film = Film(screens, self.machine.screenshot) if not screens.exists() else None
        watch = self._watch(film, prefix)
        began = time.monotonic()
        self._progress(f"{prefix}booting")
        self.machine.start()
        if self.guest is not None and provisions:
            watch.wait_ready()
            self.seconds["ready"] = round(time.monotonic() - began, 1)
        self._wait_login(watch)
        self.seconds["ssh"] = round(time.monotonic() - began, 1)
        self._progress(f"{prefix}logged in, the tests run")

    def _watch(self, film: Film | None = None, prefix: str = "") -> BootWatch:
        """What waits for this boot; each line of its progress begins with `prefix`."""
        return BootWatch(
            self.machine,
            self.timeouts,
            self.logs,
            self._store,
            self.access.user,
            guest=self.guest,
            medium=self.medium,
            greets=self.access.greets,
            end=self._end,
            film=film,
            on_wait=lambda text: self._progress(f"{prefix}{text}"),
        )

    def restart(self) -> None:
        """Restart from inside, as its user would, and wait for a login in the next boot.

        Raises GuestError: guest-no-restart, or what `boot` raises.
        """
        self.seconds = {}
        before = self.machine.reboots
        began = time.monotonic()
        self._progress("restarting")
        # the connection ends with the boot, in whatever way
        with contextlib.suppress(process.CommandFailed, process.CommandTimeout):
            self.steps.ssh("sudo -n systemctl reboot", deadline=self.timeouts.command)
        self.access.hang_up()
        self.machine.wait(
            "the restart of the clone",
            lambda: True if self.machine.reboots > before else None,
            deadline=self.timeouts.shutdown,
            name="guest-no-restart",
            hint="find in journal.log in the clone's folder the unit that does not stop",
        )
        self.machine.begin_boot()
        # the fabric's record of the first boot stays: an agent need not report Ready again
        self._wait_login(self._watch(prefix="restart: "))
        self.seconds["ssh"] = round(time.monotonic() - began, 1)
        self._progress("restart: logged in")

    def _wait_login(self, watch: BootWatch) -> None:
        def greeted() -> bool | None:
            watch.serial()
            return self.access.greets() or None

        watch.say("Ready, waiting for sshd" if "ready" in self.seconds else "waiting for sshd")
        watch.wait("sshd", greeted, self.timeouts.boot if self.guest is None else self.timeouts.ssh)

        refused_at: list[float] = []

        def logged_in() -> bool | None:
            # each time again: an agent may make the host keys, and restart sshd, after it has greeted once
            if not self.access.learn_host_key(self.timeouts.command):
                return None
            try:
                self.steps.ssh("true", deadline=self.timeouts.ssh)
            except process.CommandFailed as error:
                if self.guest is not None and "Permission denied" in error.stderr:
                    refused_at.append(time.monotonic())
                    # who has posted Ready has made its user: it is not going to come any more
                    if refused_at[-1] - refused_at[0] > self.timeouts.login_grace:
                        raise watch.diagnosis(f"refused for {self.timeouts.login_grace:.0f} s") from None
                return None
            except process.CommandTimeout:
                return None
            return True

        watch.say("waiting for its user's login")
        # a guest that provisions itself while its sshd runs already does not know its user yet
        watch.wait("login", logged_in, self.timeouts.ssh)

    def shutdown(self) -> None:
        """Power off as its user would, and wait for the end."""
        # the connection ends with the guest, in whatever way
        with contextlib.suppress(process.CommandFailed, process.CommandTimeout):
            self.steps.ssh("sudo -n systemctl poweroff", deadline=self.timeouts.command)
        self.access.hang_up()
        self.machine.wait_off(self.timeouts.shutdown)
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
            self.machine.press_power(self.timeouts.button)
        self.machine.destroy()
        journal = self.logs / JOURNAL
        try:
            journal.write_text(read_journal(self.machine.spec.disks[0].image, self.logs, self._store))
        except (GoldsmithError, OSError) as error:
            journal.write_text(f"the guest's journal could not be read from its disk: {error}\n")

    def close(self) -> None:
        self.access.hang_up()
        self.machine.destroy()
        self.access.remove()
