"""Ports of a definition: the script that opens them, and every control set. NOT WINDOWS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.base import process
from pipeline.base.errors import GuestError
from pipeline.definition import Port
from pipeline.hypervisor.agent import Executed
from pipeline.systems.windows import ports
from pipeline.systems.windows.firewall import RULES, script
from pipeline.systems.windows.session import Deadlines
from tests.unit.systems.windows.test_windows_guest import faults

PORTS = (Port(443, "tcp", "web"), Port(53, "udp", "UDP 53"))
SYSTEM = "\r\nHKEY_LOCAL_MACHINE\\SYSTEM\\ControlSet001\r\nHKEY_LOCAL_MACHINE\\SYSTEM\\ControlSet003\r\n"
SYSTEM += "HKEY_LOCAL_MACHINE\\SYSTEM\\CurrentControlSet\r\nHKEY_LOCAL_MACHINE\\SYSTEM\\Select\r\n"
SELECT = (
    "\r\nHKEY_LOCAL_MACHINE\\SYSTEM\\Select\r\n    Default    REG_DWORD    0x1\r\n    Current    REG_DWORD    0x3\r\n"
)


class Guest:
    """A shell that answers as reg does, and remembers. NOT WINDOWS."""

    def __init__(self) -> None:
        self.ran: list[list[str]] = []
        self.system, self.copies = SYSTEM, 0
        self.error: Exception | None = None
        self.deadlines = Deadlines(*(9 * [60.0]))

    def progress(self, _text: str) -> None:
        pass

    def powershell(self, _script: bytes, *, deadline: float, on_line: Callable[[str], None], reboots: bool) -> None:
        if self.error:
            raise self.error

    def run(self, argv: list[str]) -> Executed:
        self.ran.append(argv[1:])
        if argv[1] == "query":
            return Executed(0, SELECT if argv[2].endswith("Select") else self.system, "")
        return Executed(self.copies if argv[1] == "copy" else 0, "", "ERROR: Access is denied.")


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> Guest:
    monkeypatch.setattr(ports, "Shell", lambda session: session)
    return Guest()


def opened(guest: Guest) -> Any:
    return ports.open_ports(guest, PORTS, lambda _line: None)  # type: ignore[arg-type]  # a likeness


def test_the_script_is_pinned_and_powershell(golden: Any) -> None:
    golden("windows/ports.ps1", script(PORTS).decode())
    assert faults(script(PORTS)) == [] and faults(script(())) == []


def test_every_control_set_gets_what_the_current_one_has(guest: Guest) -> None:
    opened(guest)
    here, there = rf"HKLM\SYSTEM\ControlSet003\{RULES}", rf"HKLM\SYSTEM\ControlSet001\{RULES}"
    assert guest.ran[2:] == [["delete", there, "/f"], ["copy", here, there, "/s", "/f"]]


def test_what_goes_wrong_has_a_name(guest: Guest) -> None:
    guest.error = process.CommandFailed(["step"], 1, "", "\nNew-NetFirewallRule : no service\n + x", None)
    with pytest.raises(GuestError, match="New-NetFirewallRule : no service") as caught:
        opened(guest)
    assert caught.value.name == "ports-failed"
    guest.error, guest.copies = None, 1
    with pytest.raises(GuestError, match="ControlSet001: ERROR: Access is denied"):
        opened(guest)
    guest.system = ""
    with pytest.raises(GuestError, match="no control set is active"):
        opened(guest)
