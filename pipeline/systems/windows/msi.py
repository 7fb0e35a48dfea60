"""A package of Windows Installer's in the guest: what msiexec is asked, and what its exit codes mean.

Microsoft: MsiExec.exe and InstMsi.exe error messages; command-line options.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence

from pipeline.base import process
from pipeline.base.errors import GuestError
from pipeline.definition import MsiStep
from pipeline.systems.windows.session import WindowsSession
from pipeline.systems.windows.shell import FOLDER, WANTS_RESTART, Shell

#: msiexec's own log, in the step's folder.
LOG = "msi.log"
#: Bytes of it that are read: one that says everything has some MiB, in UTF-16.
LARGEST_LOG = 32 << 20
#: Seconds between two tries while another installation runs.
BUSY_PAUSE = 15.0
_BUSY = 1618
#: Exit codes, with the error's name, what they mean, and what to do.
CODES = {
    1601: ("msi-service", "Windows Installer cannot be reached", "enable the service msiserver"),
    1602: ("msi-failed", "it was cancelled", "use a package that installs silently; this one may ask for input"),
    1603: ("msi-failed", "a fatal error", "read the package's reason in the log"),
    _BUSY: (
        "msi-busy",
        "another installation is running",
        "restart the guest in a step before it (reboot: expected, exit code 3010)",
    ),
    1619: ("msi-unreadable", "the package could not be opened", "check that the file is a complete MSI"),
    1620: ("msi-unreadable", "this is not a Windows Installer package", "check that the file is a complete MSI"),
    1625: ("msi-forbidden", "a policy forbids it", "check the guest's policies for Windows Installer"),
    1633: ("msi-foreign", "the package is for another processor", "choose an edition for amd64"),
    1638: ("msi-installed", "another version of it is installed", "remove the other version first, in a step"),
    1639: ("msi-arguments", "an argument is not valid", "correct the step's `arguments`"),
}
#: Lines of the log that say why; the log is thousands of lines long, and ends with what was undone.
_TELLING = re.compile(r"-- Error \d+|Error \d{4}\.|Return value 3|Installation failed")


def command_line(name: str, arguments: Sequence[str]) -> str:
    """The batch line that installs the package `name` of the step's folder. Pure.

    `start /wait`, because msiexec is a program with windows, which cmd need not wait for.
    """
    words = [rf'start "" /wait msiexec.exe /i "%~dp0{name}" /qn /norestart /l*v "%~dp0{LOG}"']
    for argument in arguments:
        key, _, value = argument.partition("=")
        # in a batch file a percent sign is written twice
        words.append(f'{key}="{value}"'.replace("%", "%%"))
    return " ".join(words)


def install(
    session: WindowsSession, step: MsiStep, on_line: Callable[[str], None], keep: Callable[[bytes], object]
) -> None:
    """Install a step's package; its log goes to `keep` where it fails.

    Raises GuestError by CODES or msi-failed, CommandTimeout, or what becomes of the guest.
    """
    shell = Shell(session)
    name, until = step.file.name, time.monotonic() + step.timeout
    while True:
        try:
            code = shell.batch(
                {name: step.file},
                command_line(name, step.arguments),
                deadline=max(1.0, until - time.monotonic()),
                on_line=on_line,
                reboots=step.reboots,
                done=WANTS_RESTART,
            )
        except process.CommandFailed as error:
            if error.code == _BUSY and time.monotonic() + BUSY_PAUSE < until:
                session.progress("another installation is running")
                _pause(session)
                continue
            raise _failed(session, error.code, keep) from None
        if code in WANTS_RESTART and not step.reboots:
            on_line("it requests a restart; the guest is shut down after the step's layer")
        return


def _pause(session: WindowsSession) -> None:
    until = time.monotonic() + BUSY_PAUSE
    while time.monotonic() < until:
        session.machine.check()
        time.sleep(0.5)


def _failed(session: WindowsSession, code: int, keep: Callable[[bytes], object]) -> GuestError:
    name, what, hint = CODES.get(
        code, ("msi-failed", "msiexec failed", "look up the code in the list of Windows Installer errors")
    )
    try:
        log = session.agent.read(rf"{FOLDER}\{LOG}", LARGEST_LOG)
    except GuestError:
        log = b""
    if log:
        keep(log)
    end = last_words(log)
    return GuestError(f"exit code {code}: {what}{f': {end}' if end else ''}", name=name, hint=hint)


def last_words(log: bytes) -> str:
    """The line of msiexec's log that says why, or else its last one."""
    text = log.decode("utf-16" if log.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [index for index, line in enumerate(lines) if _TELLING.search(line)]
    if not telling:
        return lines[-1][:300] if lines else ""
    found = lines[telling[0]]
    # the action that returned 3 has said why in the line before
    if "Return value 3" in found and telling[0]:
        found = f"{lines[telling[0] - 1]}; {found}"
    return found[:300]
