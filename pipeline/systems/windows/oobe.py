"""The first start of a generalized Windows: it sets itself up for a while after its agent answers.

What is done to it meanwhile its set-up may undo, and sysprep refuses a Windows that is in the middle of it.
"""

from __future__ import annotations

import contextlib

from pipeline.base.errors import GuestError
from pipeline.systems.windows.session import WindowsSession
from pipeline.systems.windows.shell import Shell

#: Windows' own word for a set-up that has ended. Microsoft: Windows Setup states.
COMPLETE = "IMAGE_STATE_COMPLETE"
_STATE = r"HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Setup\State"
_NOT_SET_UP = "guest-not-set-up"


def begin(session: WindowsSession) -> None:
    """Start an installed or a generalized Windows, and wait until it is there for work.

    Raises GuestError: guest-no-agent, guest-not-set-up.
    """
    session.open()
    need_complete(session)


def need_complete(session: WindowsSession) -> None:
    """Wait for the end of Windows' own set-up. Raises GuestError (guest-not-set-up)."""
    state = set_up(session)
    if state != COMPLETE:
        session.picture(now=True)
        waited = f"after {session.deadlines.agent:.0f} s"
        raise GuestError(
            f"Windows' setup has not ended {waited}: {state or 'its state is unknown'}",
            name=_NOT_SET_UP,
            hint="it may wait for input: see the last screenshot in screens/",
        )


def set_up(session: WindowsSession) -> str:
    """The state that Windows' own set-up has reached by the agent's deadline; its agent may go away once more."""
    shell, seen = Shell(session), ""

    def ended() -> str | None:
        nonlocal seen
        # gone with a restart: it comes back
        with contextlib.suppress(GuestError):
            seen = shell.value(_STATE, "ImageState")
        return seen if seen == COMPLETE else None

    try:
        session.machine.wait("Windows' set-up", ended, deadline=session.deadlines.agent, name=_NOT_SET_UP)
    except GuestError as error:
        if error.name != _NOT_SET_UP:
            raise
    return seen
