"""The first-boot adapter of Windows: what is put into a guest, and that its script keeps the contract of Linux' own.

Nobody here can run PowerShell: the script is parsed, and held word by word to the Python one, whose contract it has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest

from pipeline.base import process
from pipeline.base.errors import GuestError
from pipeline.definition import FirstBoot
from pipeline.fabric import Request, wireserver
from pipeline.hypervisor.agent import Executed
from pipeline.hypervisor.domain import AZURE_CHASSIS_TAG, BUILD_CHASSIS_TAG
from pipeline.systems.linux.inside import first_boot as linux
from pipeline.systems.windows import first_boot
from pipeline.systems.windows.session import Deadlines
from tests.unit.systems.windows.test_windows_guest import faults

SCRIPT = resources.files("pipeline.systems.windows.inside").joinpath("first-boot.ps1").read_text()


@pytest.fixture
def wish(tmp_path: Path) -> FirstBoot:
    (tmp_path / "apply.ps1").write_text("$input | Set-Content 'C:\\page.txt'\n")
    return FirstBoot(tmp_path / "apply.ps1", "userdata", 120)


class Guest:
    """What was asked of it, in order. NOT WINDOWS."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.files: dict[str, bytes] = {}
        self.error: Exception | None = None
        self.deadlines = Deadlines(*(9 * [60.0]))

    def progress(self, _text: str) -> None:
        pass

    def run(self, argv: list[str]) -> Executed:
        self.asked.append(" ".join(argv[3:]))
        return Executed(0, "", "")

    def write(self, path: str, data: bytes) -> None:
        self.asked.append(f"write {path}")
        self.files[path] = data

    def cmd(self, line: str, *, deadline: float, on_line: Callable[[str], None], reboots: bool) -> None:
        self.asked.append(line)
        if self.error:
            raise self.error


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> Guest:
    monkeypatch.setattr(first_boot, "Shell", lambda session: session)
    return Guest()


def test_it_is_put_into_the_guest(guest: Guest, wish: FirstBoot) -> None:
    first_boot.install(guest, wish, lambda _line: None)  # type: ignore[arg-type]  # a likeness
    folder = r"C:\Windows\Setup\FirstBoot"
    # what an image begins with may have been configured once
    assert guest.asked[0] == rf"if exist {folder} rmdir /s /q {folder}"
    assert set(guest.files) == {rf"{folder}\{name}" for name in ("first-boot.ps1", "first-boot.json", "apply.ps1")}
    assert json.loads(guest.files[rf"{folder}\first-boot.json"]) == {"source": "userdata", "deadline": 120}
    mark = b"\xef\xbb\xbf"
    assert guest.files[rf"{folder}\apply.ps1"] == mark + wish.apply.read_bytes()
    assert guest.files[rf"{folder}\first-boot.ps1"] == mark + SCRIPT.encode()
    assert guest.asked[-1] == first_boot.TASK_LINE
    # what schtasks takes for /tr, in characters
    program = re.search(r'/tr "([^"]+)"', first_boot.TASK_LINE)
    assert program and len(program[1]) <= 261 and program[1].endswith(rf"{folder}\first-boot.ps1")
    assert all(word in first_boot.TASK_LINE for word in ("/sc onstart", "/ru SYSTEM", "/f", "/tn first-boot"))


def test_a_task_that_cannot_be_made_is_named(guest: Guest, wish: FirstBoot) -> None:
    guest.error = process.CommandFailed(["step"], 1, "", "ERROR: The service is not available.\r\n", None)
    with pytest.raises(GuestError, match="The service is not available") as caught:
        first_boot.install(guest, wish, lambda _line: None)  # type: ignore[arg-type]  # a likeness
    assert caught.value.name == "first-boot-not-installed"


def test_all_that_is_put_in_is_in_the_key(wish: FirstBoot, monkeypatch: pytest.MonkeyPatch) -> None:
    before = first_boot.digest(wish)
    assert first_boot.digest(FirstBoot(wish.apply, "userdata", 121)) != before
    assert first_boot.digest(FirstBoot(wish.apply, "http://192.0.2.1/x", 120)) != before
    wish.apply.write_text("exit 0\n")
    assert first_boot.digest(wish) != before
    before = first_boot.digest(wish)
    monkeypatch.setattr(first_boot, "TASK_LINE", "another")
    assert first_boot.digest(wish) != before


# ---- the script --------------------------------------------------------------------------------------------------


def test_it_is_powershell() -> None:
    assert faults(SCRIPT.encode()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("azureTag", linux.AZURE),
        ("azureTag", AZURE_CHASSIS_TAG),
        ("buildTag", BUILD_CHASSIS_TAG),
        ("userData", linux.USER_DATA),
        ("telemetry", linux.TELEMETRY),
        ("provider", linux.PROVIDER),
        ("firstPause", linux.FIRST_PAUSE),
        ("lastPause", linux.LAST_PAUSE),
        ("answer", linux.ANSWER),
        ("largest", linux.LARGEST),
    ],
)
def test_its_constants_are_those_of_linux(name: str, value: str | float) -> None:
    found = re.search(rf"^\${name} = (.+)$", SCRIPT, re.MULTILINE)
    assert found
    text = found[1].strip("'").replace("MB", "*1048576")
    result = eval(text) if isinstance(value, int | float) else text
    assert result == value


def test_its_report_is_one_that_the_fabric_reads() -> None:
    """The texts of the script, put together as it does, are an event."""
    fields = re.findall(r"@\('(\w+)', (.+), '(\w+)'\)", SCRIPT)
    assert [name for name, _, _ in fields] == [
        *("Name", "Version", "Operation", "OperationSuccess", "Message", "Duration"),
    ]
    values = {"OperationSuccess": "True", "Message": "12 bytes applied &lt;", "Duration": "1500"}
    shape = re.search(r"'(<Param .+ />)' -f", SCRIPT)
    assert shape
    params = "".join(shape[1].format(name, values.get(name, value.strip("'")), kind) for name, value, kind in fields)
    parts = re.search(r"\$xml = '([^']+)' \+\s+\"(.+)\"\n", SCRIPT)
    assert parts
    text = parts[1] + parts[2].replace('`"', '"').replace("$provider", linux.PROVIDER).replace("$params", params)
    (event,) = wireserver.events(Request("POST", 80, "/machine?comp=telemetrydata", body=text.encode()))
    assert (event.name, event.operation, event.success) == ("first-boot", "FirstBoot", True)
    assert (event.message, event.seconds) == ("12 bytes applied <", 1.5)


def test_its_outcomes_are_told_in_the_words_of_linux() -> None:
    python = Path(linux.__file__).read_text()
    for words in (
        "no configuration was given",
        "bytes applied",
        "its program did not end before the deadline",
        "its program ended with",
        "it said nothing",
        "no configuration from",
        "not on Azure, there is no user data",
        "this guest is being built",
    ):
        assert words in SCRIPT and words in python, words


def test_every_wait_of_it_ends() -> None:
    """A loop without a condition has a throw that a clock decides; nothing waits for a process for ever."""
    assert ".WaitForExit()" not in SCRIPT
    loops = re.findall(r"while \((?:\$true|\(Get-ItemProperty).*?\n    \}\n\}", SCRIPT, re.DOTALL)
    assert len(loops) == 2
    for loop in loops:
        assert re.search(r"if \(\$watch\.Elapsed.*?throw", loop, re.DOTALL), loop
    assert len(re.findall(r"\bwhile \(", SCRIPT)) == 3 + 1
