"""What a person sees: real terminals of 40 and 200 columns, without colours, and readers that go away."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
_GUARD = "from pipeline.cli.door import guard_output; guard_output()\n"
_TRANSFER = (
    _GUARD
    + """
from pipeline.cli.publish import ProgressLine
line = ProgressLine(quiet=False)
for done in range(0, 101, 20):
    line("sending a-disk-with-a-long-name-gen2.vhd to the container", done << 20, 100 << 20, 5 << 20)
line.close()
print("done")
"""
)
_RUN = (
    _GUARD
    + """
from pipeline.base.runs import Event
from pipeline.cli.show import Progress
progress = Progress()
progress(Event("start", "provision", "a script with a long title, longer than a narrow terminal is wide"))
progress(Event("progress", "provision", "a script with a long title: waits for the guest's agent, 20 s of 600 s"))
progress(Event("end", "provision", "new\\tdone", 12.0))
progress.close()
"""
)


def on_terminal(program: str, columns: int, **variables: str) -> str:
    """What a Python program writes to a terminal of this width."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        cwd=REPOSITORY,
        env={**environment, "TERM": "xterm", **variables},
    )
    os.close(follower)
    out = b""
    while True:
        try:
            block = os.read(leader, 65536)
        except OSError:  # Linux reports the end of a terminal as EIO
            break
        if not block:
            break
        out += block
    os.close(leader)
    assert child.wait(timeout=120) == 0, out
    return out.decode()


def lines_of(screen: str) -> list[str]:
    """What stood in one line, each time that it was written, without control sequences."""
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen))


@pytest.mark.parametrize("columns", [40, 200])
@pytest.mark.parametrize("program", [_TRANSFER, _RUN])
def test_a_live_line_fits_into_its_terminal(program: str, columns: int) -> None:
    screen = on_terminal(program, columns)
    live = [line for line in lines_of(screen) if "sending" in line or "a script" in line]
    assert live
    assert max(map(len, live)) <= columns
    if program == _TRANSFER:
        assert ("…" in "".join(live)) == (columns == 40)
        assert columns == 40 or any("s left" in line and "MiB/s" in line for line in live)


def test_no_colour_is_drawn_where_none_is_wanted() -> None:
    for program in (_TRANSFER, _RUN):
        assert not re.search(r"\x1b\[[0-9;]*m", on_terminal(program, 80, NO_COLOR="1"))


@pytest.mark.parametrize("verb", ["checks", "help", "schema", "completion bash", "help vm"])
def test_a_reader_that_takes_one_line_sees_no_traceback(verb: str, tmp_path: Path) -> None:
    line = f"{sys.executable} -m pipeline {verb} | head -1 | wc -l"
    environment = {**os.environ, "GOLDSMITH_HOME": str(tmp_path / "store")}
    ended = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, cwd=REPOSITORY, env=environment, timeout=300
    )
    assert (ended.stdout.strip(), ended.stderr) == ("1", "")
