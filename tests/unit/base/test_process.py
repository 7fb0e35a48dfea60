from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.base import process, qemu_img
from pipeline.base.errors import BuildError, HostError, Interrupted
from tests.harness import wait_for
from tests.processes import has_ended

Run = Callable[..., process.Result]
#: Both ways to run a child keep one contract: the standard library's, and that of qemu-img on the package `sh`.
both = pytest.mark.parametrize("run", [process.run, qemu_img._run], ids=["subprocess", "sh"])
MODULES = {
    "subprocess": "from pipeline.base.process import run",
    "sh": "from pipeline.base.qemu_img import _run as run",
}


@both
def test_output_is_whole_and_lines_come_at_once(run: Run, tmp_path: Path) -> None:
    seen: list[str] = []
    go = tmp_path / "go"

    def note(line: str) -> None:
        seen.append(line)
        if line == "2":
            go.touch()

    # the child goes on when its first lines have come
    script = f'printf "1\\r2\\r"; until [ -e {go} ]; do sleep 0.02; done; printf "3\\n4"'
    result = run(["sh", "-c", script], deadline=60, on_line=note)
    assert seen == ["1", "2", "3", "4"]
    assert result.stdout == "1\r2\r3\n4"


@both
def test_failure_carries_the_whole_stderr(run: Run) -> None:
    with pytest.raises(process.CommandFailed) as caught:
        run(["sh", "-c", "for i in $(seq 3000); do echo line $i >&2; done; exit 7"], deadline=60)
    assert caught.value.code == 7
    assert caught.value.stderr.startswith("line 1\n") and caught.value.stderr.endswith("line 3000\n")
    assert "line 3000" in caught.value.message


@both
def test_deadline_ends_the_child_and_its_children(run: Run, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    for deadline in (0.5, 5, 50):
        with pytest.raises(process.CommandTimeout):
            run(["sh", "-c", f"trap '' TERM; sleep 600 & echo $! > {pid}; wait; sleep 600"], deadline=deadline)
        if pid.exists() and pid.read_text().endswith("\n"):
            break  # else the host was too slow to start the child's child
    wait_for("the end of the child's child", lambda: has_ended(int(pid.read_text())), 60)


@both
def test_missing_tool_is_a_host_error(run: Run) -> None:
    with pytest.raises(HostError, match="no-such-tool is not installed"):
        run(["no-such-tool"], deadline=1)


def test_watch_ends_the_child() -> None:
    def watch() -> None:
        raise Interrupted(15)

    started = time.monotonic()
    with pytest.raises(Interrupted):
        process.run(["sleep", "600"], deadline=600, watch=watch)
    assert time.monotonic() - started < 120


@pytest.mark.parametrize("way", MODULES)
def test_a_killed_parent_leaves_no_orphan(way: str, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    code = f"{MODULES[way]}\nrun(['sh', '-c', 'echo $$ > {pid}; exec sleep 600'], deadline=600)\n"
    parent = subprocess.Popen([sys.executable, "-c", code])
    wait_for("the child", lambda: pid.exists() and pid.read_text().endswith("\n"), 120)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_for("the end of the child of a killed parent", lambda: has_ended(int(pid.read_text())), 60)


@both
def test_output_without_end_is_ended(run: Run) -> None:
    with pytest.raises(BuildError) as caught:
        run(["sh", "-c", "yes & wait"], deadline=300)
    assert caught.value.name == "output-too-large" and caught.value.hint


@both
def test_a_log_that_cannot_be_written_ends_the_program_with_its_error(run: Run) -> None:
    """The reader alone would end: the program would wait for it, and half its output would pass for the whole."""

    def full(line: str) -> None:
        if line == "3":
            raise OSError(errno.ENOSPC, "No space left on device", "step.log")

    with pytest.raises(OSError, match=r"No space left on device: 'step.log'"):
        run(["sh", "-c", "seq 100000; sleep 300"], deadline=300, on_line=full)


@both
def test_an_output_that_cannot_be_read_is_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process._Lines, "_read", _refuse)
    with pytest.raises(OSError, match="Input/output error"):
        run(["sh", "-c", "echo 1; sleep 300"], deadline=300)


def _refuse(_lines: process._Lines) -> bytes:
    raise OSError(errno.EIO, "Input/output error")


def test_a_line_without_end_is_handed_on_in_pieces() -> None:
    lines: list[str] = []
    cut = process.LineCutter(lines.append)
    for _ in range(100):
        cut.feed(b"x" * 65536)
    assert len(lines) >= 99
    assert max(len(line) for line in lines) <= process.LONGEST_LINE


# ---- what a child gets of its caller -------------------------------------------------------------------------------

#: What shells and CI jobs export, and what must not reach a child.
CALLER = {
    "ANSIBLE_RUN_TAGS": "none",
    "ANSIBLE_FORCE_COLOR": "1",
    "APT_CONFIG": "/tmp/apt.conf",
    "DEBIAN_FRONTEND": "dialog",
    "GIT_DIR": "/tmp/git",
    "HOME": "/home/nobody-of-ours",
    "LANG": "de_DE.ISO-8859-1",
    "LC_ALL": "tr_TR.UTF-8",
    "LD_PRELOAD": "",
    "PYTHONSTARTUP": "/tmp/start.py",
    "SOURCE_DATE_EPOCH": "1",
    "SSH_AUTH_SOCK": "/tmp/agent",
    "TZ": "Asia/Tokyo",
    "https_proxy": "http://proxy.example:3128",
}


def test_a_child_gets_nothing_of_the_callers_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = process.run(["env"], deadline=60, env={"ONE": "1"}).stdout
    for name, value in CALLER.items():
        monkeypatch.setenv(name, value)
    old = os.umask(0o077)
    try:
        after = process.run(["env"], deadline=60, env={"ONE": "1"}).stdout
        made = process.run(["sh", "-c", "touch x; mkdir d; umask"], deadline=60, cwd=tmp_path).stdout
        log = tmp_path / "log"
        process.start(["env"], log).wait(60)
    finally:
        os.umask(old)
    assert after == before and "ONE=1\n" in after
    assert log.read_text() == after.replace("ONE=1\n", "")
    assert made == "0022\n" and (tmp_path / "x").stat().st_mode & 0o777 == 0o644
    assert dict(line.split("=", 1) for line in after.splitlines())["LANG"] == "C.UTF-8"


def test_a_download_gets_the_callers_proxy_and_certificates_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in {**CALLER, "NO_PROXY": "localhost", "SSL_CERT_FILE": "/etc/ca.pem"}.items():
        monkeypatch.setenv(name, value)
    assert sorted(process.download_variables()) == ["NO_PROXY", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "https_proxy"]


def test_goldsmith_itself_takes_neither_mask_nor_encoding_of_its_caller() -> None:
    """A locale that is not UTF-8 would read names of files, and texts, as something else: other keys."""
    script = (
        "import sys; from pipeline import __main__ as m; m._guarded = lambda: ("
        "print(sys.getfilesystemencoding(), open(0).encoding.lower(), __import__('os').umask(0)), 0)[1]; m.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(process.__file__).parents[2]),
            **{"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"},
        },
        umask=0o077,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["utf-8", "utf-8", str(process.UMASK)]
