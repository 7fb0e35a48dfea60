"""What AgentScript makes of the agent's answers; that it runs in a real guest is the business of tests/vm."""

from __future__ import annotations

import base64
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.base import process
from pipeline.base.errors import GuestError
from pipeline.guest import agent_script
from pipeline.guest.agent_script import FOLDER, AgentScript
from pipeline.hypervisor import answers
from pipeline.hypervisor.agent import Executed


class Guest:
    """An agent whose guest's files grow by a script of events, one for each look at the exit code."""

    def __init__(self, *events: Callable[[Guest], None]) -> None:
        self.files = {f"{FOLDER}/{name}": b"" for name in ("out", "err", "code")}
        self.events = list(events)
        self.boot = b"first"
        self.handles: dict[int, tuple[str, int]] = {}
        self.deaf = False
        self.script_is_there = False
        self.opened = 0
        self.executed: list[list[str]] = []
        self.stdin: object = None

    def say(self, name: str, data: bytes) -> None:
        self.files[f"{FOLDER}/{name}"] += data

    def restart(self) -> None:
        self.handles.clear()

    def read(self, _path: str, _limit: int) -> bytes:
        self._answer()
        return self.boot

    def execute(self, argv: list[str], *, stdin: object = None, **_options: object) -> Executed:
        self._answer()
        self.executed.append(argv)
        if argv[2] == '[ -e "$1" ]':
            return Executed(0 if self.script_is_there else 1, "", "")
        self.stdin = stdin if stdin is not None else self.stdin
        return Executed(0, "", "")

    def open(self, path: str, mode: str) -> int:
        return int(self.call("guest-file-open", {"path": path, "mode": mode}))

    def read_chunk(self, handle: int, count: int, *, quiet: bool = False) -> tuple[bytes, bool]:
        return answers.chunk("read", self.call("guest-file-read", {"handle": handle}, quiet=quiet), count)

    def call(self, name: str, arguments: dict[str, Any], *, quiet: bool = False) -> Any:
        _ = quiet
        if name == "guest-file-open":
            self._answer()
            self.opened += 1
            self.handles[self.opened] = (arguments["path"], 0)
            return self.opened
        path, at = self._handle(arguments["handle"])
        if name == "guest-file-seek":
            self.handles[arguments["handle"]] = (path, arguments["offset"])
            return None
        if path.endswith("code") and self.events:
            self.events.pop(0)(self)
        self._answer()
        path, at = self._handle(arguments["handle"])
        data = self.files[path][at:]
        self.handles[arguments["handle"]] = (path, len(self.files[path]))
        return {"buf-b64": base64.b64encode(data).decode(), "count": len(data), "eof": True}

    def _handle(self, number: int) -> tuple[str, int]:
        if number not in self.handles:
            raise GuestError("no such handle", name="guest-agent-silent")
        return self.handles[number]

    def _answer(self) -> None:
        if self.deaf:
            raise GuestError("no answer", name="guest-agent-silent")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_script, "QUICK", 0.0)
    monkeypatch.setattr(agent_script, "SLOW", 0.0)


def run(guest: Guest, script: bytes | str = b"true\n", deadline: float = 600.0) -> list[str]:
    lines: list[str] = []
    AgentScript(guest, lambda: None).run(script, deadline=deadline, on_line=lines.append)  # type: ignore[arg-type]  # a likeness
    return lines


def saying(name: str, data: bytes) -> Callable[[Guest], None]:
    return lambda guest: guest.say(name, data)


def test_lines_come_whole_and_in_order() -> None:
    guest = Guest(saying("out", b"one\ntw"), saying("out", b"o\rthree"), saying("code", b"0\n"))
    assert run(guest) == ["one", "two", "three"]
    assert guest.stdin == b"#!/bin/sh\nset -e\ntrue\n"


def test_what_is_said_with_the_last_breath_is_heard() -> None:
    def last(guest: Guest) -> None:
        guest.say("code", b"3\n")
        guest.say("err", b"no space left\n")

    with pytest.raises(process.CommandFailed) as caught:
        run(Guest(last))
    assert (caught.value.code, caught.value.stderr) == (3, "no space left\n")


def test_half_an_exit_code_is_none() -> None:
    with pytest.raises(process.CommandFailed) as caught:
        run(Guest(saying("code", b"1"), saying("code", b"2\n")))
    assert caught.value.code == 12


def test_an_agent_that_is_restarted_is_read_on_where_it_was() -> None:
    guest = Guest(saying("out", b"one\n"), Guest.restart, saying("out", b"two\n"), saying("code", b"0\n"))
    assert run(guest) == ["one", "two"]
    assert guest.opened > 3


def restarting(guest: Guest) -> None:
    """The guest's memory, where the exit code would be, does not outlive a restart."""
    guest.boot = b"second"
    guest.restart()


def test_a_restart_in_the_middle_of_a_script_is_named() -> None:
    guest = Guest(saying("out", b"one\n"), restarting)
    guest.script_is_there = True
    with pytest.raises(GuestError, match="restarted before the script had ended") as caught:
        run(guest)
    assert caught.value.name == "guest-rebooted"
    assert caught.value.hint


def test_a_restart_as_a_scripts_last_command_ends_it_well() -> None:
    guest = Guest(saying("out", b"one\nlast"), restarting)
    assert run(guest) == ["one", "last"]
    # the file that was asked for is the very script that was started
    started, asked = guest.executed[0], guest.executed[-1]
    assert asked[:3] == ["/bin/sh", "-c", '[ -e "$1" ]']
    assert asked[-1] == started[4] and asked[-1].startswith("/var/tmp/goldsmith-step.")


def test_a_restart_may_take_as_long_as_a_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent's silence is counted again from the restart on."""
    monkeypatch.setattr(agent_script, "SILENCE", 0.05)
    guest, restarts = Guest(saying("out", b"one\n")), [0]
    silent: list[float] = []

    def alive() -> None:
        if not guest.events and not silent:
            silent.append(time.monotonic())
            guest.deaf, restarts[0] = True, 1
        elif guest.deaf and time.monotonic() > silent[0] + 0.3:
            guest.deaf = False
            restarting(guest)

    AgentScript(guest, alive, restarts=lambda: restarts[0], boot_time=600.0).run(b"reboot\n", deadline=600.0)  # type: ignore[arg-type]  # a likeness


def test_the_wrapper_removes_a_script_only_where_it_ended_well(tmp_path: Path) -> None:
    """The very lines that run in the guest, with a systemd-run that runs them here."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "systemd-run").write_text('#!/bin/sh\nwhile [ "$1" != /bin/sh ]; do shift; done\nexec "$@"\n')
    (folder / "systemd-run").chmod(0o755)
    lines = agent_script._START.replace(FOLDER, str(tmp_path / "run")).replace("PATH=", f"PATH={folder}:")
    for code, there in ((0, False), (7, True)):
        script = tmp_path / f"step{code}"
        # the unit is told to end while the script runs: it waits for it
        text = f"#!/bin/sh\nkill -TERM $PPID\nexit {code}\n"
        subprocess.run(
            ["/bin/sh", "-c", lines, "sh", script, "stdin"], input=text, text=True, check=True, timeout=120
        )
        assert (tmp_path / "run" / "code").read_text() == f"{code}\n"
        assert script.exists() is there


def test_an_agent_that_stays_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_script, "SILENCE", 0.05)

    def falls_silent(guest: Guest) -> None:
        guest.deaf = True

    with pytest.raises(GuestError, match="agent has not answered"):
        run(Guest(falls_silent))


def test_a_guest_that_is_lost_is_named_by_who_watches_it() -> None:
    def lost() -> None:
        raise GuestError("panic", name="guest-kernel-panic")

    with pytest.raises(GuestError, match="panic"):
        AgentScript(Guest(), lost).run(b"true", deadline=30)  # type: ignore[arg-type]  # a likeness


def test_its_deadline_is_kept() -> None:
    with pytest.raises(process.CommandTimeout):
        run(Guest(), deadline=0.05)


def test_what_was_read_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_script, "FREE_EVERY", 10)
    guest = Guest(saying("out", b"0123456789ab\n"), saying("out", b"0123456789ab\n"), saying("code", b"0\n"))
    run(guest)
    freed = [words[2:6] for words in guest.executed if words[0].endswith("fallocate")]
    assert freed == [["-o", "0", "-l", "13"], ["-o", "13", "-l", "13"]]


def test_a_file_of_the_guest_is_run_as_it_is() -> None:
    guest = Guest(saying("code", b"0\n"))
    run(guest, "/var/tmp/large")
    assert guest.executed[0][-2:] == ["/var/tmp/large", "file"]
    assert guest.stdin == b""


def test_the_start_is_shell() -> None:
    subprocess.run(["sh", "-n"], input=agent_script._START, text=True, check=True)
