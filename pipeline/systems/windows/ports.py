"""Opening a definition's ports in the guest, as the last thing before sysprep: no step can close them any more."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from pipeline.base import process
from pipeline.base.errors import GuestError
from pipeline.definition import Port
from pipeline.systems.windows.firewall import RULES, script
from pipeline.systems.windows.session import WindowsSession
from pipeline.systems.windows.shell import Shell

_REG = r"C:\Windows\System32\reg.exe"
_SYSTEM = r"HKLM\SYSTEM"


def open_ports(session: WindowsSession, ports: Sequence[Port], on_line: Callable[[str], None]) -> None:
    """Leave the rules of `ports`, and of ours no other, in every control set. Raises GuestError (ports-failed)."""
    session.progress("the firewall's ports")
    shell = Shell(session)
    try:
        shell.powershell(script(ports), deadline=session.deadlines.command, on_line=on_line, reboots=False)
    except process.CommandFailed as error:
        last = next((line for line in error.stderr.splitlines() if line.strip()), f"exit code {error.code}")
        raise _failed(last) from None
    # the firewall writes to the set that runs; which one a clone boots is decided there, after a failure by Windows
    current, others = _sets(shell)
    for name in others:
        shell.run([_REG, "delete", rf"{_SYSTEM}\{name}\{RULES}", "/f"])
        words = [rf"{_SYSTEM}\{current}\{RULES}", rf"{_SYSTEM}\{name}\{RULES}", "/s", "/f"]
        copied = shell.run([_REG, "copy", *words])
        if copied.code != 0:
            raise _failed(f"{name}: {copied.stderr.strip()}")


def _sets(shell: Shell) -> tuple[str, list[str]]:
    """The control set that runs, and the others."""
    listed = shell.run([_REG, "query", _SYSTEM]).stdout
    names = re.findall(r"\\(ControlSet\d{3})\s*$", listed, re.MULTILINE | re.IGNORECASE)
    selected = re.search(
        r"Current\s+REG_DWORD\s+(0x[0-9a-f]+)", shell.run([_REG, "query", rf"{_SYSTEM}\Select"]).stdout
    )
    current = f"ControlSet{int(selected[1], 16):03}" if selected else ""
    if current not in names:
        raise _failed(f"no control set is active ({', '.join(names) or 'there is none'})")
    return current, [name for name in names if name != current]


def _failed(why: str) -> GuestError:
    return GuestError(
        f"the firewall's ports could not be opened: {why[:300]}",
        name="ports-failed",
        hint="check that the firewall's service (mpssvc) is running in the guest",
    )
