"""A running guest: start, wait, look, snapshot, stop.

Every wait ends in one of: what was waited for, a failure seen (the guest stopped, panicked, fell into emergency
mode), or the deadline. Each has a name of its own.
Over 400 lines, because its verbs share the domain, its events and the lock of its state.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import libvirt
from lxml import etree

from pipeline.base.errors import BuildError, GuestError
from pipeline.cache.layers import Image
from pipeline.hypervisor import console
from pipeline.hypervisor.agent import Agent
from pipeline.hypervisor.connection import Connection, translated
from pipeline.hypervisor.console_log import ConsoleLog
from pipeline.hypervisor.domain import Spec, attached, domain_xml, qemu_files, restored_xml, targets
from pipeline.hypervisor.enrolled_keys import write_variable_store
from pipeline.hypervisor.file_access import need_access
from pipeline.hypervisor.observation import is_agent_connected, progress_check, read_traffic, take_picture
from pipeline.hypervisor.paused import disk_error, is_paused_by_disk
from pipeline.hypervisor.persistent import read_console_start

T = TypeVar("T")

#: Seconds between two looks while waiting; lifecycle events wake the wait at once.
LOOK = 0.25

_NO_AGENT = (
    "check that the source has qemu-guest-agent installed and enabled, with udev's virtio ports; see "
    "screen.png, and serial.log if the kernel's command line has console=ttyS0"
)

#: Seconds until libvirt has forgotten a domain that has ended; it takes some milliseconds on a quiet host.
_FORGOTTEN = 20.0

#: linux/input-event-codes.h
_KEY_SPACE = 57

_STOPPED_BY = {
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN: "powered off",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED: "was destroyed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED: "failed with its QEMU",
}


_PAUSED_BY_DISK = (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_IOERROR)


class Machine:
    """One domain of this run. Use as a context manager: it leaves no domain behind, unless `keep` is set."""

    def __init__(
        self, connection: Connection, spec: Spec, logs: Path, cancelled: threading.Event | None = None
    ) -> None:
        self.connection = connection
        self.spec = spec
        self.keep = False
        self.autodestroy = True
        self.stopped: str | None = None
        self.reboots = 0
        self.panicked = False
        self._disk_failed = False
        self._cancelled = cancelled or threading.Event()
        self._changed = threading.Condition()
        self._power = threading.Lock()
        self._agent_up = False
        self._callbacks: list[int] = []
        self._domain: libvirt.virDomain | None = None
        self._agent_log = logs / "agent.log"
        self.find_code_page: Callable[[], str] = lambda: "utf-8"
        self._console = ConsoleLog(spec.serial_log)

    @property
    def domain(self) -> libvirt.virDomain:
        assert self._domain is not None, "the machine is not started"
        return self._domain

    @property
    def started(self) -> bool:
        return self._domain is not None

    @property
    def running(self) -> bool:
        return self._domain is not None and self.stopped is None

    @property
    def agent(self) -> Agent:
        return Agent(lambda: self.domain, self._agent_log, self.find_code_page)

    def __enter__(self) -> Machine:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.keep:
            self.destroy()

    def start(self, saved: Path | None = None) -> None:
        """Power on, or go on from a saved state. Raises BuildError when libvirt or qemu refuses, and HostError
        (qemu-access-denied) where QEMU could not reach a disk.

        libvirt does not end a restored guest with its connection: a dead builder's is swept by the next run.
        """
        self.spec.serial_log.parent.mkdir(parents=True, exist_ok=True)
        need_access(*qemu_files(self.spec), self.connection.qemu_owner)
        with self._power, translated(f"starting {self.spec.name}"):
            self._register()
            try:
                self._create() if saved is None else self._restore(saved)
            except BaseException:
                self._unregister()
                raise

    def _create(self) -> None:
        # an identity of our own making: the events of an earlier domain of this name are told apart by it
        start = self._console.begin_boot()
        self.spec = replace(self.spec, uuid=self.spec.uuid or str(uuid.uuid4()), console_start=start)
        if self.spec.keys is not None and self.spec.nvram is not None and not self.spec.nvram.exists():
            write_variable_store(self.spec.keys, self.spec.nvram)
            own(self.spec.nvram, self.connection)
        if self.spec.instance is not None:
            domain = self.connection.raw.defineXML(domain_xml(self.spec))
            domain.create()
            self._domain = domain
            return
        flags = libvirt.VIR_DOMAIN_START_AUTODESTROY if self.autodestroy else 0
        self._domain = self.connection.raw.createXML(domain_xml(self.spec), flags)

    def adopt(self) -> None:
        """Take over an instance's domain that another process has started. Raises BuildError where there is none."""
        assert self.spec.uuid is not None, "an instance has its identity from the first"
        with self._power, translated(f"finding {self.spec.name}"):
            self._register()
            try:
                domain = self.connection.raw.lookupByUUIDString(self.spec.uuid)
                if not domain.isActive():
                    self.stopped = "powered off"
                self._domain, self._disk_failed = domain, is_paused_by_disk(domain)
                self._console.resume_boot(read_console_start(domain))
                # libvirt reports a change of the agent's channel, and this one may have been open for long
                self._agent_up = self._agent_up or is_agent_connected(domain)
            except BaseException:
                self._unregister()
                raise

    def leave(self) -> None:
        """Watch the domain no longer, and let it run."""
        with self._power:
            self._unregister()
            self._domain = None

    def _restore(self, saved: Path) -> None:
        raw = self.connection.raw
        xml = raw.saveImageGetXMLDesc(str(saved), 0)
        self.spec = replace(self.spec, uuid=etree.fromstring(xml.encode()).findtext("uuid"))
        raw.restoreFlags(str(saved), restored_xml(xml, self.spec), libvirt.VIR_DOMAIN_SAVE_RUNNING)
        self._domain = raw.lookupByUUIDString(self.spec.uuid)

    def save(self, path: Path) -> None:
        """Write the running guest's memory and devices to a file, and end it. Raises BuildError."""
        with translated(f"saving {self.spec.name}"):
            self.domain.saveFlags(str(path), None, libvirt.VIR_DOMAIN_SAVE_RUNNING)

    def _from_disk(self) -> None:
        """A guest started by a kernel of ours restarts itself: what it boots now is for its disk to say.

        qemu would load the same kernel again. At this moment the guest is in its firmware, its file systems at rest.
        """
        with self._power:
            if self._domain is None or self.spec.kernel is None:
                return
            old, self._agent_up = self._domain, False
            self.spec = replace(self.spec, kernel=None, uuid=None)
            with contextlib.suppress(libvirt.libvirtError):
                old.destroy()
            try:
                self._create()
            except libvirt.libvirtError as error:
                with self._changed:
                    self.stopped = f"could not be started again: {error.get_error_message()}"
                    self._changed.notify_all()

    def _register(self) -> None:
        raw = self.connection.raw

        def mine(domain: Any) -> bool:
            return bool(domain.UUIDString() == self.spec.uuid)

        def lifecycle(_c: object, domain: Any, event: int, detail: int, _o: object) -> None:
            if event == libvirt.VIR_DOMAIN_EVENT_CRASHED and mine(domain):
                self.panicked = True
            if event == libvirt.VIR_DOMAIN_EVENT_STOPPED and mine(domain):
                with self._changed:
                    self.stopped = _STOPPED_BY.get(detail, f"stopped (detail {detail})")
                    self._changed.notify_all()
            if (event, detail) == _PAUSED_BY_DISK and mine(domain):
                with self._changed:
                    self._disk_failed = True
                    self._changed.notify_all()

        def reboot(_c: object, domain: Any, _o: object) -> None:
            if mine(domain):
                self.reboots += 1
                if self.spec.kernel is not None:
                    # not here: this is the thread that brings libvirt's answers
                    threading.Thread(target=self._from_disk, name="restart", daemon=True).start()

        def agent(_c: object, domain: Any, state: int, _reason: int, _o: object) -> None:
            if mine(domain):
                with self._changed:
                    self._agent_up = state == libvirt.VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED
                    self._changed.notify_all()

        for kind, callback in (
            (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle),
            (libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, reboot),
            (libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, agent),
        ):
            self._callbacks.append(raw.domainEventRegisterAny(None, kind, callback, None))

    def _unregister(self) -> None:
        for number in self._callbacks:
            with contextlib.suppress(libvirt.libvirtError):
                self.connection.raw.domainEventDeregisterAny(number)
        self._callbacks = []

    # ---- waiting -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise GuestError if the guest is lost, HostError (disk-full) for its disk, BuildError (cancelled)."""
        self._check_host()
        if found := console.disaster(*self._console.read(), self.spec.features.disasters):
            name, message = found
            raise GuestError(message, name=name, hint=console.HINTS[name])
        if self.panicked and (panic := self.spec.features.panic) is not None:
            raise GuestError(panic.message, name=panic.name, hint=panic.hint)
        if self.stopped is not None:
            raise GuestError(
                f"the guest {self.stopped} during the build",
                name="guest-powered-off",
                hint="serial.log and journal.log in the run's folder show its last messages: a step or a service "
                "has powered it off, or its QEMU ended (see /var/log/libvirt/qemu)",
            )

    def _check_host(self) -> None:
        if self._cancelled.is_set():
            raise BuildError("cancelled", name="cancelled")
        if self._disk_failed and self.running:
            raise disk_error(self.domain)

    def wait(
        self, what: str, probe: Callable[[], T | None], *, deadline: float, name: str, hint: str | None = None
    ) -> T:
        """Wait until `probe` gives something.

        `deadline` is in seconds. Raises GuestError(`name`) at the deadline, after one last look, or whatever
        `check` finds.
        """
        until = time.monotonic() + deadline
        while True:
            found = probe()
            if found is not None:
                return found
            self.check()
            if time.monotonic() >= until:
                raise GuestError(f"{what}: not within {deadline:.0f} s", name=name, hint=hint)
            with self._changed:
                self._changed.wait(LOOK)

    def agent_up(self) -> bool:
        """Whether the agent answers."""
        if self._agent_up:
            with contextlib.suppress(GuestError):
                self.agent.call("guest-ping", answer=5)
                return True
        return False

    def wait_agent(self, deadline: float, grace: float) -> Agent:
        """Wait for the agent; once a login prompt stands on the console it gets only `grace` more seconds.

        A kernel that hangs, and a disk that does not boot, are named before the deadline.
        """
        prompt_at: list[float] = []
        moves = progress_check(self)

        def up() -> Agent | None:
            if self.agent_up():
                return self.agent
            moves()
            if not prompt_at and console.LOGIN.search(*self._console.read()):
                prompt_at.append(time.monotonic())
            if prompt_at and time.monotonic() - prompt_at[0] > grace:
                raise GuestError(
                    f"the guest has shown its login prompt for {grace:.0f} s, but its agent does not answer",
                    name="guest-no-agent",
                    hint=_NO_AGENT,
                )
            return None

        return self.wait("the guest agent", up, deadline=deadline, name="guest-no-agent", hint=_NO_AGENT)

    def wait_off(self, deadline: float) -> None:
        """Wait for the guest to power itself off. A crash or a forced end is an error."""
        until = time.monotonic() + deadline
        with self._changed:
            while self.stopped is None:
                self._check_host()
                left = until - time.monotonic()
                if left <= 0:
                    raise GuestError(
                        f"the guest was still running {deadline:.0f} s after the request to shut down",
                        name="guest-shutdown-timeout",
                    )
                self._changed.wait(min(left, 1.0))
        if self.stopped != "powered off":
            raise GuestError(f"the guest {self.stopped} instead of powering off", name="guest-unclean-shutdown")

    # ---- looking -------------------------------------------------------------------------------------------------

    def serial(self) -> bytes:
        """What the serial console has shown in this boot, the last SERIAL_LIMIT bytes of it."""
        return self._console.read()[0]

    def begin_boot(self) -> None:
        """The guest restarts from inside: what its console shows from now on is another boot's."""
        self._console.begin_boot()

    def mark(self) -> None:
        """Look for disasters only in what the console says from now on."""
        self._console.mark()

    def screenshot(self, path: Path) -> bool:
        """Save the screen as PNG. False if the machine has no screen any more."""
        if self._domain is None or self.stopped is not None:
            return False
        picture = take_picture(self.connection, self.domain)
        if picture is None:
            return False
        path.write_bytes(picture)
        return True

    def traffic(self) -> tuple[int, int]:
        """Bytes that the guest has read from its media, and written to its disks, since it was started."""
        return read_traffic(self.connection, self.domain)

    # ---- acting --------------------------------------------------------------------------------------------------

    def snapshot(self, overlay: Image) -> None:
        """Freeze the guest's file systems and let it write on to `overlay`; what were its disks is a layer now.

        The overlays exist already: we made them, so that their paths, owners and backings are ours to say. All disks
        change at one moment.
        """
        root = etree.Element("domainsnapshot")
        disks = etree.SubElement(root, "disks")
        after = attached(overlay, self.spec.disks[0].bus)
        for target, new in zip(targets(after), after, strict=True):
            disk = etree.SubElement(disks, "disk", name=target, snapshot="external", type="file")
            etree.SubElement(disk, "driver", type=new.image.format.driver)
            source = etree.SubElement(disk, "source", file=str(new.image.path))
            etree.SubElement(source, "seclabel", model="dac", relabel="no")
        flags = (
            libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
            | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_QUIESCE
            | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
            | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
            | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
        )
        for new in after:
            own(new.image.path, self.connection)
        try:
            self.domain.snapshotCreateXML(etree.tostring(root, encoding="unicode"), flags)
        except libvirt.libvirtError as error:
            self.check()
            raise GuestError(
                f"the guest could not be frozen for a layer: {error.get_error_message()}", name="guest-freeze-failed"
            ) from None
        self.spec = replace(self.spec, disks=after)

    def outside(self, connected: bool) -> None:
        """Plug or unplug the card that leads to the network."""
        if not self.spec.outside:
            return
        tree = etree.fromstring(self.domain.XMLDesc(0).encode())
        for card in tree.iterfind("devices/interface"):
            mac = card.find("mac")
            if mac is not None and mac.get("address") == self.spec.outside_mac:
                for old in card.findall("link"):
                    card.remove(old)
                etree.SubElement(card, "link", state="up" if connected else "down")
                with translated("changing the guest's network connection"):
                    self.domain.updateDeviceFlags(etree.tostring(card, encoding="unicode"), 0)

    def plug_card(self, model: str) -> None:
        """Plug a second card of this model, with the MAC of the first, into the same bridge. Raises BuildError."""
        assert self.spec.bridge is not None, "the machine has no card in a bridge"
        second = etree.Element("interface", {"type": "bridge"})
        etree.SubElement(second, "mac", {"address": self.spec.access_mac})
        etree.SubElement(second, "source", {"bridge": self.spec.bridge})
        etree.SubElement(second, "model", {"type": model})
        with translated("plugging a second network card"):
            self.domain.attachDeviceFlags(etree.tostring(second, encoding="unicode"), libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def shutdown(self, deadline: float) -> None:
        """Ask the agent to power off, and wait for it.

        What the agent answers decides nothing: systemd may end its child, or itself, before it can say that all is
        well. A guest that stays up is told by the deadline.
        """
        with contextlib.suppress(libvirt.libvirtError):
            self.domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT)
        self.wait_off(deadline)

    def press_power(self, deadline: float) -> bool:
        """Press the power button; whether the guest has ended within `deadline` seconds."""
        with contextlib.suppress(libvirt.libvirtError):
            self.domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
        with self._changed:
            return self._changed.wait_for(lambda: self.stopped is not None, deadline)

    def press_space(self) -> None:
        """Press the space bar, for as long as a person would."""
        with contextlib.suppress(libvirt.libvirtError):
            self.domain.sendKey(libvirt.VIR_KEYCODE_SET_LINUX, 50, [_KEY_SPACE], 1, 0)

    def destroy(self) -> None:
        """Power off at once if it still runs. Its name is free afterwards, unless it is an instance's."""
        with self._power:
            if self._domain is not None and self.stopped is None:
                with contextlib.suppress(libvirt.libvirtError):
                    self._domain.destroy()
            elif self._domain is not None and self.spec.instance is None:
                wait_forgotten(self._domain)
            self._unregister()
            self._domain = None


def wait_forgotten(domain: libvirt.virDomain) -> None:
    """Wait until libvirt has forgotten a transient domain that has powered itself off.

    It tells of the end before it does so, and refuses another domain of that name until then.
    """
    until = time.monotonic() + _FORGOTTEN
    with contextlib.suppress(libvirt.libvirtError):  # it knows no such domain: that is the end
        while domain.info() and time.monotonic() < until:
            time.sleep(0.02)


def own(path: Path, connection: Connection) -> None:
    """Give a writable disk to libvirt's qemu user, since libvirt is told not to."""
    if os.geteuid() == 0:
        os.chown(path, *connection.qemu_owner)
        path.chmod(0o600)
