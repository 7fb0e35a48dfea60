"""Puts a definition's first-boot adapter into a Windows master: a task, the script that it runs, and the image's own.

A task at each start, because what has failed is to be tried again at the next: SetupComplete.cmd and the commands of
an answer file run once, before there need be a network. Its folder is below C:\\Windows, where only administrators
write: what lies there runs as the system.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib import resources

from pipeline.base import process
from pipeline.base.errors import GuestError
from pipeline.definition import FirstBoot
from pipeline.systems.windows.session import CMD, WindowsSession
from pipeline.systems.windows.shell import Shell, marked

#: Where it lives in the guest, and what its task is called.
FOLDER = r"C:\Windows\Setup\FirstBoot"
TASK = "first-boot"
#: One start of it; /tr takes no more than 261 characters.
_PROGRAM = (
    r"C:\Windows\System32\WindowsPowerShell\v1.0\powershell.exe -NoLogo -NoProfile -NonInteractive "
    rf"-ExecutionPolicy Bypass -File {FOLDER}\first-boot.ps1"
)
TASK_LINE = f'schtasks /create /tn {TASK} /sc onstart /ru SYSTEM /rl HIGHEST /f /tr "{_PROGRAM}"'


def files(first_boot: FirstBoot) -> dict[str, bytes]:
    """Its files by their paths in the guest. Raises OSError when the definition's own script cannot be read."""
    settings = {"source": first_boot.source, "deadline": first_boot.deadline}
    inside = resources.files("pipeline.systems.windows.inside").joinpath("first-boot.ps1")
    return {
        rf"{FOLDER}\first-boot.ps1": marked(inside.read_bytes()),
        rf"{FOLDER}\first-boot.json": json.dumps(settings).encode() + b"\n",
        rf"{FOLDER}\apply.ps1": marked(first_boot.apply.read_bytes()),
    }


def digest(first_boot: FirstBoot) -> str:
    """Of all that is put into the guest."""
    whole = hashlib.sha256(TASK_LINE.encode())
    for path, data in files(first_boot).items():
        whole.update(f"{path} {len(data)}\n".encode() + data)
    return whole.hexdigest()


def install(session: WindowsSession, first_boot: FirstBoot, on_line: Callable[[str], None]) -> None:
    """Install it in a guest that is about to be generalized; it first runs when a clone starts.

    Raises GuestError (first-boot-not-installed).
    """
    session.progress("the first-boot service")
    shell = Shell(session)
    # one that the image began with may know a machine
    shell.run([CMD, "/d", "/c", "if", "exist", FOLDER, "rmdir", "/s", "/q", FOLDER])
    for path, data in files(first_boot).items():
        shell.write(path, data)
    try:
        shell.cmd(TASK_LINE, deadline=session.deadlines.command, on_line=on_line, reboots=False)
    except process.CommandFailed as error:
        last = (error.stderr.strip() or error.stdout.strip() or f"exit code {error.code}").splitlines()[-1]
        raise GuestError(
            f"the first-boot service has no task: {last[:300]}",
            name="first-boot-not-installed",
            hint="check that the Task Scheduler (Schedule) is running in the guest",
        ) from None
