"""A Windows guest at work: started on its disk, spoken to over its agent, and closed without a trace."""

from __future__ import annotations

import codecs
import contextlib
import re
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.base.errors import GoldsmithError, GuestError
from pipeline.base.runs import remove_tree
from pipeline.cache.layers import Image
from pipeline.hypervisor.agent import Agent
from pipeline.hypervisor.connection import Connection
from pipeline.hypervisor.domain import Spec
from pipeline.hypervisor.machine import Machine, own

#: Windows' own paths. Answer files and commands name them so; the agent takes them as they are.
CMD = r"C:\Windows\System32\cmd.exe"
#: Seconds between two pictures of an installation.
PICTURE_EVERY = 30.0
#: Where the agent's lines are read from when a build fails: what Windows itself has written down.
_LOGS = (
    r"C:\Windows\Panther\setuperr.log",
    r"C:\Windows\System32\Sysprep\Panther\setuperr.log",
    r"C:\Windows\System32\Sysprep\Panther\setupact.log",
)


#: Seconds that no factor makes less, for a boot and for a command over the agent: a busy host is not a failure.
_LEAST_BOOT, _LEAST_COMMAND = 90.0, 30.0


@dataclass(frozen=True)
class Deadlines:
    """Seconds for each phase. With KVM an installation takes 10 to 30 minutes; emulated, hours."""

    #: Until Setup reads its medium: firmware, and the key that it asks for.
    medium: float
    #: From there until it writes to the disk: what it asks is answered, and it has found a disk.
    disk: float
    #: Between two signs of life: a megabyte written, a restart.
    still: float
    #: From the last restart until the agent answers: first logon, and its commands.
    agent: float
    #: The whole installation.
    whole: float
    #: A start of the installed system until its agent answers.
    boot: float
    shutdown: float
    #: Sysprep, from its start to the power-off.
    sysprep: float
    #: One short command over the agent.
    command: float

    @classmethod
    def for_kind(cls, kvm: bool, factor: float) -> Deadlines:
        """The deadlines, times `factor`. A boot and a command take what they take: they have a floor."""
        seconds = (
            (180, 600, 900, 1800, 2 * 3600, 600, 600, 1800, 120)
            if kvm
            else (900, 3600, 3600, 3 * 3600, 12 * 3600, 3600, 3600, 3 * 3600, 600)
        )
        made = cls(*(factor * each for each in seconds))
        return replace(
            made,
            medium=max(made.medium, _LEAST_BOOT),
            boot=max(made.boot, _LEAST_BOOT),
            shutdown=max(made.shutdown, _LEAST_BOOT),
            command=max(made.command, _LEAST_COMMAND),
        )


_CODE_PAGES = r"HKLM\SYSTEM\CurrentControlSet\Control\Nls\CodePage"


class WindowsSession:
    """A running Windows guest, or one that is being installed."""

    def __init__(
        self,
        connection: Connection,
        spec: Spec,
        folder: Path,
        *,
        logs: Path,
        deadlines: Deadlines,
        cancelled: threading.Event | None = None,
        progress: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.folder = folder
        self.logs = logs
        self.deadlines = deadlines
        self.machine = Machine(connection, spec, logs, cancelled)
        self.machine.find_code_page = self._oem_code_page
        self._code_page: str | None = None
        #: Where the UEFI variables of the guest are kept when it is closed; None: nowhere.
        self.kept_variables: Path | None = None
        self.progress = progress
        self._connection = connection
        self._pictured = 0.0
        self._began = 0.0

    @property
    def agent(self) -> Agent:
        return self.machine.agent

    @property
    def spec(self) -> Spec:
        return self.machine.spec

    @property
    def disk(self) -> Image:
        return self.spec.disks[0].image

    def access_facts(self) -> dict[str, Any]:
        """What the run's record says of a guest that is kept."""
        return {"folder": str(self.folder)}

    def _oem_code_page(self) -> str:
        """The codec of what console programs write in this Windows; US English's where it is not known."""
        if self._code_page is None:
            # the answer comes this way too
            self._code_page = "cp437"
            argv = [r"C:\Windows\System32\reg.exe", "query", _CODE_PAGES, "/v", "OEMCP"]
            with contextlib.suppress(GoldsmithError, LookupError):
                output = self.agent.execute(argv, deadline=self.deadlines.command).stdout
                if found := re.search(r"OEMCP\s+REG_SZ\s+(\d{1,5})", output):
                    self._code_page = codecs.lookup(f"cp{found[1]}").name
        return self._code_page

    def insert(self, *media: Image) -> None:
        """Put media into the drives, before it is started; it boots from the first where its disk does not boot."""
        self.machine.spec = replace(self.spec, media=media)

    def start(self) -> None:
        """Power on."""
        ours = [medium.path for medium in self.spec.media if medium.path.parent == self.folder]
        for path in (*(disk.image.path for disk in self.spec.disks), *ours):
            own(path, self._connection)
        self._began = time.monotonic()
        self.machine.start()

    def open(self) -> None:
        """Start the installed system, and wait until its agent answers. Raises GuestError (guest-no-agent)."""
        self.start()
        self.progress("booting")
        self.machine.wait_agent(self.deadlines.boot, self.deadlines.boot)
        self.progress("agent is up")

    def rotate(self, overlay: Image) -> None:
        raise AssertionError(f"{overlay.path}: no unit of Windows is live: its disk is at rest only when it is off")

    def shut_down(self) -> None:
        """Power off in order, so that the disk is at rest, and close."""
        self.progress("shutting down")
        self.machine.shutdown(self.deadlines.shutdown)
        self.close()

    def picture(self, *, now: bool = False) -> None:
        """Take a picture of the screen if the last one is old enough; its name is the second that it was taken at."""
        since = time.monotonic() - self._began
        if not now and since - self._pictured < PICTURE_EVERY:
            return
        self._pictured = since
        folder = self.logs / "screens"
        folder.mkdir(parents=True, exist_ok=True)
        self.machine.screenshot(folder / f"{since:05.0f}.png")

    def close(self) -> None:
        self.machine.destroy()
        nvram, kept = self.spec.nvram, self.kept_variables
        if nvram is not None and kept is not None and nvram.exists() and kept.parent.is_dir():
            shutil.copyfile(nvram, kept)
        remove_tree(self.folder)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()

    def black_box(self, *, quick: bool = False) -> None:
        """Save what the guest can still tell: its screen, and what Windows wrote down, by its agent."""
        if not self.machine.started:
            return
        self.machine.screenshot(self.logs / "screen.png")
        if quick or not self.machine.running or self.machine.panicked:
            return
        for path in _LOGS:
            with contextlib.suppress(GoldsmithError):
                (self.logs / _name(path)).write_bytes(self.agent.read(path, 1 << 20))

    def lost(self) -> GuestError | None:
        """Why the guest cannot be spoken to any more, or None."""
        try:
            self.machine.check()
        except GuestError as error:
            return error
        return None


def session_of_instance(
    machine: Machine, logs: Path, progress: Callable[[str], None] = lambda _text: None
) -> WindowsSession:
    """The session of a VM that runs already; its machine stays the caller's."""
    deadlines = Deadlines.for_kind(machine.spec.kvm, 1.0)
    session = WindowsSession(
        machine.connection, machine.spec, logs, logs=logs, deadlines=deadlines, progress=progress
    )
    machine.find_code_page = session.machine.find_code_page
    session.machine = machine
    return session


def _name(path: str) -> str:
    return "-".join(part.lower() for part in path.split("\\")[-3:])
