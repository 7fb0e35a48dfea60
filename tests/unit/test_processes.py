"""What tests see of processes that end while they look."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import processes
from tests.harness import wait_for

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)", "a process of test_processes"]


def test_a_living_process_is_seen() -> None:
    with subprocess.Popen(SLEEP, env={**os.environ, "MARK": "seen"}) as child:
        # its command line is ours until it has become Python
        wait_for("the child", lambda: child.pid in [each.pid for each in processes.other_processes()], 60)
        wait_for("its words", lambda: "a process of test_processes" in _line(child.pid), 60)
        (found,) = (each for each in processes.other_processes() if each.pid == child.pid)
        assert "MARK=seen\0" in found.environment
        assert child.pid in processes.children(os.getpid())
        assert not processes.has_ended(child.pid)
        (thread,) = processes.threads(child.pid)
        assert thread["Pid"] == [str(child.pid)]
        processes.kill_tree(child.pid)
        wait_for("its end", lambda: processes.has_ended(child.pid), 60)  # a zombie: its parent has not collected it
    assert processes.has_ended(child.pid) and processes.threads(child.pid) == [] and found.environment == ""
    processes.kill(child.pid)


def test_what_ends_after_it_was_listed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = 4_194_305  # above the largest number of a process (proc(5), pid_max)
    names = processes._names
    monkeypatch.setattr(processes, "_names", lambda folder: [*names(folder), str(gone)])
    assert gone not in [each.pid for each in processes.other_processes()]
    assert str(os.getpid()) in [thread["Pid"][0] for thread in processes.threads(os.getpid())]
    assert os.getpid() not in processes.children(os.getpid())


def _line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().replace("\0", " ")
