"""Every error that goldsmith raises on purpose.

A library raises; only ``__main__`` turns an error into an exit code. The codes are a promise to scripts:
0 done, 1 a check, gate or comparison failed, or the gallery has no such thing, 2 wrong usage or definition, 3 the
host is not fit, 4 the build or guest failed, 5 publishing failed, 130, 141 and 143 interrupted.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.base.hints import HINTS


class GoldsmithError(Exception):
    """What went wrong, what to do about it (`hint`), where to look (`evidence`), and a stable `name`.

    Where a raise site gives no hint, `hints` has one for the name. The name is what scripts and tests match on: lower
    case words joined by hyphens.
    """

    exit_code = 4
    #: Whether each line of the message begins with its own place, file:line:column.
    has_places = False

    def __init__(
        self,
        message: str,
        *,
        name: str = "failed",
        hint: str | None = None,
        evidence: Path | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.name = name
        self.hint = hint or HINTS.get(name)
        self.evidence = evidence


class CheckFailed(GoldsmithError):
    """A check, a gate or a comparison said no."""

    exit_code = 1


class UsageError(GoldsmithError):
    """The command line or a definition is wrong; nothing was started."""

    exit_code = 2


class NotFound(UsageError):
    """The gallery has no such image, version, channel, lease or refusal."""

    exit_code = 1


class HostError(GoldsmithError):
    """This host cannot do the work; `goldsmith doctor` says why."""

    exit_code = 3


class BuildError(GoldsmithError):
    """A stage failed."""


class GuestError(BuildError):
    """The guest, or what runs inside it, failed."""


class DiskError(GoldsmithError):
    """A disk image cannot be read, or is not what it says it is."""

    exit_code = 2


class Interrupted(GoldsmithError):
    """A signal asked for the end; the layers made so far are kept."""

    def __init__(self, signal_number: int) -> None:
        super().__init__("interrupted; all finished layers are kept", name="interrupted")
        self.exit_code = 128 + signal_number
