"""A definition's steps in a Windows guest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.definition import CmdStep, CopyStep, MsiStep, PowershellStep, Step
from pipeline.systems.windows import msi
from pipeline.systems.windows.session import WindowsSession
from pipeline.systems.windows.shell import Shell


def windows_step(
    session: WindowsSession, step: Step, on_line: Callable[[str], None], keep: Callable[[bytes], object]
) -> None:
    """Run one step; the log of an installer that failed goes to `keep`.

    Raises CommandFailed, CommandTimeout or GuestError, as the shell does, and as `msi.install`.
    """
    shell = Shell(session)
    if isinstance(step, PowershellStep):
        shell.powershell(step.file.read_bytes(), deadline=step.timeout, on_line=on_line, reboots=step.reboots)
    elif isinstance(step, CmdStep):
        shell.cmd(step.cmd, deadline=step.timeout, on_line=on_line, reboots=step.reboots)
    elif isinstance(step, MsiStep):
        msi.install(session, step, on_line, keep)
    else:
        assert isinstance(step, CopyStep), step
        for path, target in _files(step.file, step.to):
            on_line(target)
            shell.write(target, path)


def _files(source: Path, target: str) -> list[tuple[Path, str]]:
    """Each file of a copy with its path in the guest; empty folders are left out."""
    if source.is_file():
        return [(source, target)]
    below = [path for path in sorted(source.rglob("*")) if path.is_file()]
    return [(path, "\\".join([target, *path.relative_to(source).parts])) for path in below]
