"""Packages of Windows Installer's: the line that installs one, its exit codes, its log. NOT WINDOWS."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.base import process
from pipeline.base.errors import CheckFailed, GuestError
from pipeline.definition import MsiStep, step_inputs
from pipeline.systems.windows import msi, provision
from pipeline.systems.windows.session import Deadlines

#: As msiexec writes it, cut short.
LOG = """\
=== Verbose logging started: 11/25/2026  3:00:00 ===
MSI (s) (14:B8): Product: Contoso -- Error 1920. Service 'Contoso' failed to start. Verify that you may start it.
Action ended 3:00:09: InstallFinalize. Return value 3.
MSI (s) (14:B8): Rollback
=== Verbose logging stopped: 11/25/2026  3:00:10 ===
"""


@pytest.fixture
def step(tmp_path: Path) -> MsiStep:
    path = tmp_path / "agent 1.2.msi"
    path.write_bytes(b"NOT AN MSI\n")
    return MsiStep(file=path, path=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


class Guest:
    """msiexec's exit codes in turn, and its log."""

    def __init__(self, *codes: int, log: bytes = b"") -> None:
        self.codes, self.log = list(codes), log
        self.asked: list[tuple[str, float]] = []
        self.output: list[str] = []
        self.kept: list[bytes] = []
        self.now = 0.0
        self.machine = self.agent = self
        self.deadlines = Deadlines(*(9 * [60.0]))

    def check(self) -> None:
        pass

    def progress(self, text: str) -> None:
        self.output.append(text)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def read(self, _path: str, _limit: int) -> bytes:
        if not self.log:
            raise GuestError("no such file", name="guest-agent-silent")
        return self.log

    def batch(
        self,
        files: dict[str, bytes],
        line: str,
        *,
        deadline: float,
        on_line: Callable[[str], None],
        reboots: bool,
        done: frozenset[int],
    ) -> int:
        assert set(files) == {"agent 1.2.msi"}
        self.asked.append((line, deadline))
        code = self.codes.pop(0) if len(self.codes) > 1 else self.codes[0]
        if code and code not in done:
            raise process.CommandFailed(["step"], code, "", "", None)
        return code


@pytest.fixture
def install(step: MsiStep, monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(guest: Guest) -> None:
        monkeypatch.setattr(msi.time, "monotonic", lambda: guest.now)
        monkeypatch.setattr(msi.time, "sleep", guest.sleep)
        monkeypatch.setattr(msi, "Shell", lambda session: session)
        msi.install(guest, step, guest.output.append, guest.kept.append)  # type: ignore[arg-type]  # a likeness

    return run


def test_the_line_is_pinned(golden: Any) -> None:
    arguments = ["ADDLOCAL=ALL", r"INSTALLDIR=C:\Program Files\X", "TAG=100% & more", "EMPTY="]
    golden("windows/msi.cmd", msi.command_line("WindowsAzureVmAgent 2.7.msi", arguments) + "\n")


@pytest.mark.parametrize("code", [0, 3010, 1641])
def test_what_is_installed(install: Any, code: int) -> None:
    guest = Guest(code)
    install(guest)
    assert bool(guest.output) == (code != 0)


NAMES = {
    1601: "msi-service",
    1602: "msi-failed",
    1603: "msi-failed",
    1618: "msi-busy",
    1619: "msi-unreadable",
    1620: "msi-unreadable",
    1625: "msi-forbidden",
    1633: "msi-foreign",
    1638: "msi-installed",
    1639: "msi-arguments",
    1700: "msi-failed",
}


def test_no_code_is_without_its_test() -> None:
    assert set(msi.CODES) <= set(NAMES)


@pytest.mark.parametrize(("code", "name"), NAMES.items())
def test_every_other_code_has_a_name(install: Any, code: int, name: str) -> None:
    guest = Guest(code, log=LOG.replace("\n", "\r\n").encode("utf-16"))
    with pytest.raises(GuestError) as caught:
        install(guest)
    assert (caught.value.name, bool(caught.value.hint)) == (name, True)
    assert f"exit code {code}: " in caught.value.message
    assert "Error 1920. Service 'Contoso' failed to start" in caught.value.message
    assert guest.kept == [guest.log]


def test_another_installation_is_waited_for_as_long_as_the_step_may_take(install: Any) -> None:
    guest = Guest(1618, 1618, 0)
    install(guest)
    assert (len(guest.asked), guest.now) == (3, 2 * msi.BUSY_PAUSE)
    assert guest.asked[2][1] == 1800 - guest.now
    busy = Guest(1618)
    with pytest.raises(GuestError) as caught:
        install(busy)
    assert caught.value.name == "msi-busy"
    assert busy.now <= 1800


def test_a_log_that_is_not_there(install: Any) -> None:
    guest = Guest(1620)
    with pytest.raises(GuestError, match=r"exit code 1620: this is not a Windows Installer package$"):
        install(guest)
    assert guest.kept == []


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (b"", ""),
        ("one\r\ntwo\r\n".encode("utf-16"), "two"),
        (b"Doing: X\nfails so\nAction ended: X. Return value 3.\n", "fails so; Action ended: X. Return value 3."),
        (b"\xff\xfe\x00", "\ufffd"),
    ],
)
def test_the_end_of_a_log(log: bytes, words: str) -> None:
    assert msi.last_words(log) == words


def test_its_content_alone_is_in_the_key(step: MsiStep) -> None:
    before = step_inputs(step)
    step.file.write_bytes(b"NOT AN MSI, and another\n")
    assert step_inputs(step) != before


def test_another_package_than_was_meant_is_known_before_anything_boots(step: MsiStep) -> None:
    assert provision.verified_inputs(step)["kind"] == "msi"
    step.file.write_bytes(b"NOT AN MSI, and another\n")
    with pytest.raises(CheckFailed) as caught:
        provision.verified_inputs(step)
    assert caught.value.name == "checksum-mismatch"
