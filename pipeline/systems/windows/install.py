"""An installation that nobody sits at: from the medium to an agent that answers, each phase with its own deadline.

What Setup does shows from outside: what is read from its media, what is written to the disk, restarts, the agent.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from pipeline.base.errors import GuestError
from pipeline.systems.windows.session import CMD, WindowsSession

MIB = 1 << 20
#: Bytes read from the media that are more than firmware and a boot loader read: Setup's own system is on its way.
SETUP_READS = 16 * MIB
#: Bytes written to the disk that are more than a partition table.
SETUP_WRITES = 1 * MIB
#: Seconds between two presses of the space bar, for as long as the loader may be asking.
PRESS_EVERY = 0.5
#: Restarts from which on an installation goes in circles. Windows' own has two or three.
MOST_RESTARTS = 12


@dataclass
class _Seen:
    """What there was to see so far."""

    read: int = 0
    written: int = 0
    restarts: int = 0
    alive_at: float = 0.0

    def __str__(self) -> str:
        if self.restarts:
            return f"{self.restarts} restarts, {self.written // MIB} MiB written"
        return f"{self.read // MIB} MiB read from the media, {self.written // MIB} MiB written to the disk"


def install(session: WindowsSession, *, press: bool) -> None:
    """Start the machine from its medium and wait until Windows is installed and its agent answers.

    `press`: the loader asks for a key. Raises GuestError: no-key-pressed, setup-stopped, setup-hangs, setup-loops,
    guest-no-agent, setup-unfinished, guest-blue-screen, guest-powered-off.
    """
    began = time.monotonic()
    session.start()
    seen = _Seen(alive_at=began)
    phases = (
        _Phase("reading the medium", session.deadlines.medium, "no-key-pressed", _NO_KEY),
        _Phase("Setup has started", session.deadlines.disk, "setup-stopped", _STOPPED),
        _Phase("copying", session.deadlines.still, "setup-hangs", _HANGS),
    )
    _follow(session, seen, phases, began, press)
    session.progress("the agent answers; its first logon ends")
    _settle(session)


@dataclass(frozen=True)
class _Phase:
    what: str
    deadline: float
    name: str
    hint: str


_NO_KEY = "see the last screenshot: the loader waited for a key press, or the medium does not support this firmware"
_STOPPED = (
    "see the last screenshot: Setup waits with a message about a missing disk, an unknown edition or the answer file"
)
_HANGS = "see the screenshots in screens/ and Windows' setuperr.log"


def _follow(session: WindowsSession, seen: _Seen, phases: tuple[_Phase, ...], began: float, press: bool) -> None:
    """Through the phases, until the agent answers."""
    machine, pressed, index, phase_began = session.machine, 0.0, 0, began
    while True:
        now = time.monotonic()
        session.picture()
        machine.check()
        if machine.agent_up():
            return
        _look(session, seen, now)
        wanted = (seen.read >= SETUP_READS) + (seen.written >= SETUP_WRITES or seen.restarts > 0)
        if wanted > index:
            index, phase_began = min(wanted, len(phases) - 1), now
        phase = phases[index]
        session.progress(f"{phase.what}: {seen}")
        if press and index == 0 and seen.restarts == 0 and now - pressed >= PRESS_EVERY:
            machine.press_space()
            pressed = now
        if seen.restarts > MOST_RESTARTS:
            raise _failed(session, "setup-loops", f"the machine has restarted {seen.restarts} times", _HANGS)
        waited = now - (seen.alive_at if phase is phases[-1] else phase_began)
        if phase is phases[-1] and seen.restarts and waited > session.deadlines.agent:
            raise _failed(
                session,
                "guest-no-agent",
                f"the agent did not start within {waited:.0f} s of the last activity ({seen})",
                "check in the last screenshot whether the first logon installed the agent",
            )
        if waited > phase.deadline and not (phase is phases[-1] and seen.restarts):
            raise _failed(
                session,
                phase.name,
                f"there was no progress for {waited:.0f} s while {phase.what} ({seen})",
                phase.hint,
            )
        if now - began > session.deadlines.whole:
            raise _failed(session, "setup-hangs", f"not installed after {now - began:.0f} s ({seen})", _HANGS)
        time.sleep(PRESS_EVERY)


def _look(session: WindowsSession, seen: _Seen, now: float) -> None:
    """Take in what the machine has done since; a megabyte written, or a restart, is a sign of life."""
    read, written = session.machine.traffic()
    if written - seen.written >= MIB or session.machine.reboots != seen.restarts:
        seen.alive_at = now
        seen.written = written
    seen.read = max(read, seen.read)
    seen.restarts = session.machine.reboots


def _failed(session: WindowsSession, name: str, message: str, hint: str) -> GuestError:
    session.picture(now=True)
    return GuestError(f"Windows is not installed: {message}", name=name, hint=hint)


def _settle(session: WindowsSession) -> None:
    """Wait for the end of the first logon's commands: the last of them removes the answer file's copies."""
    until = time.monotonic() + session.deadlines.agent
    there = r"C:\Windows\Panther\unattend.xml"
    while True:
        session.machine.check()
        try:
            words = [CMD, "/d", "/c", "if", "exist", there, "exit", "77"]
            if session.agent.execute(words, deadline=session.deadlines.command).code != 77:
                return
        except GuestError:
            # its own installation may start the agent a second time
            pass
        if time.monotonic() > until:
            raise _failed(
                session, "setup-unfinished", f"the commands of the first logon have not ended: {there} exists", _HANGS
            )
        time.sleep(1.0)
