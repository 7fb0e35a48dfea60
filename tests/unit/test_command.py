from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import command
from pipeline.base import qemu_img
from pipeline.errors import BuildError, HostError, Interrupted

Run = Callable[..., command.Result]
#: Both ways to run a child keep one contract: the standard library's, and that of qemu-img on the package `sh`.
both = pytest.mark.parametrize("run", [command.run, qemu_img._run], ids=["subprocess", "sh"])
MODULES = {"subprocess": "from pipeline.command import run", "sh": "from pipeline.base.qemu_img import _run as run"}


@both
def test_output_is_whole_and_lines_come_at_once(run: Run) -> None:
    seen: list[tuple[str, float]] = []
    started = time.monotonic()
    script = 'printf "1\\r2\\r"; sleep 0.5; printf "3\\n4"'
    result = run(["sh", "-c", script], deadline=10, on_line=lambda line: seen.append((line, time.monotonic())))
    assert [line for line, _ in seen] == ["1", "2", "3", "4"]
    assert seen[1][1] - started < seen[2][1] - started - 0.3
    assert result.stdout == "1\r2\r3\n4"


@both
def test_failure_carries_the_whole_stderr(run: Run) -> None:
    with pytest.raises(command.CommandFailed) as caught:
        run(["sh", "-c", "for i in $(seq 3000); do echo line $i >&2; done; exit 7"], deadline=10)
    assert caught.value.code == 7
    assert caught.value.stderr.startswith("line 1\n") and caught.value.stderr.endswith("line 3000\n")
    assert "line 3000" in caught.value.message


@both
def test_deadline_ends_the_child_and_its_children(run: Run, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with pytest.raises(command.CommandTimeout):
        run(["sh", "-c", f"sleep 60 & echo $! > {pid}; trap '' TERM; wait; sleep 60"], deadline=0.5)
    time.sleep(0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


@both
def test_missing_tool_is_a_host_error(run: Run) -> None:
    with pytest.raises(HostError, match="no-such-tool is not installed"):
        run(["no-such-tool"], deadline=1)


def test_watch_ends_the_child() -> None:
    def watch() -> None:
        raise Interrupted(15)

    started = time.monotonic()
    with pytest.raises(Interrupted):
        command.run(["sleep", "60"], deadline=60, watch=watch)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("way", MODULES)
def test_a_killed_parent_leaves_no_orphan(way: str, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    code = f"{MODULES[way]}\nrun(['sh', '-c', 'echo $$ > {pid}; exec sleep 60'], deadline=60)\n"
    parent = subprocess.Popen([sys.executable, "-c", code])
    until = time.monotonic() + 10
    while not (pid.exists() and pid.read_text().strip()):
        assert time.monotonic() < until
        time.sleep(0.02)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    child = int(pid.read_text())
    while time.monotonic() < until:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        state = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0]
        if state == "Z":
            return
        time.sleep(0.02)
    pytest.fail("the child outlived its parent")


@both
def test_output_without_end_is_ended(run: Run) -> None:
    began = time.monotonic()
    with pytest.raises(BuildError) as caught:
        run(["sh", "-c", "yes & wait"], deadline=60)
    assert caught.value.name == "output-too-large" and caught.value.hint
    assert time.monotonic() - began < 20


def test_a_line_without_end_is_handed_on_in_pieces() -> None:
    lines: list[str] = []
    cut = command.LineCutter(lines.append)
    for _ in range(100):
        cut.feed(b"x" * 65536)
    assert len(lines) >= 99
    assert max(len(line) for line in lines) <= command.LONGEST_LINE
