"""No foreign text reaches a terminal as a command: not by an error, a table, a progress line or a page."""

from __future__ import annotations

import ast
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from pipeline.base.errors import DiskError
from pipeline.base.printable import printable, single_line
from pipeline.base.runs import Event
from pipeline.checks.html_report import report
from pipeline.checks.model import CheckResult
from pipeline.cli.show import Progress, print_error, table
from pipeline.systems.inspection import DetectedSystem
from tests.fakes import fake_disk

#: A title, a clear screen, a link, a turned line, an eight-bit CSI, a null, a forged line.
EVIL = "a\x1b]0;owned\x07b\x1b[2J\x1b]8;;http://x\x1b\\c\u202ed\x9b31me\x00f\ng\r\u2028"
ROOT = Path(pipeline.__file__).parents[1]


def harmful(text: str) -> list[str]:
    """Characters that a terminal or a reader's eye obeys, newlines not counted."""
    return [char for char in text if not char.isprintable() and char not in "\n\t"]


def on_terminal(*words: str, env: dict[str, str] | None = None) -> bytes:
    """What goldsmith writes to a terminal of its own, stdout and stderr."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline", *words],
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
    ) as process:
        os.close(slave)
        out = b""
        try:
            while chunk := os.read(master, 65536):
                out += chunk
        except OSError:
            pass  # the other end of a terminal that closed
        process.wait(120)
    os.close(master)
    return out


def test_printable_hides_nothing_and_obeys_nothing() -> None:
    assert harmful(printable(EVIL)) == [] and "\n" in printable(EVIL)
    assert harmful(single_line(EVIL)) == [] and "\n" not in single_line(EVIL)
    assert printable("a\x1b[1mb") == r"a\x1b[1mb" and single_line("a\nb\t") == r"a\nb\t"
    # what people write stays what it is
    assert printable("Grün, 日本語, emoji \U0001f600, e\u0301") == "Grün, 日本語, emoji \U0001f600, e\u0301"
    assert single_line("x" * 10, 4) == "xxxx..."
    assert printable("\udcff") == r"\udcff"


def test_errors_tables_progress_and_pages(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    disk = tmp_path / EVIL.replace("\0", "").replace("/", "")
    disk.write_bytes(b"")
    print_error(DiskError(EVIL, hint=EVIL, evidence=Path(EVIL.replace("\0", ""))))
    table([(EVIL, "x")], (EVIL, "y"))
    progress = Progress(verbose=True)
    for kind in ("start", "line", "note", "accelerator", "end"):
        progress(Event(kind, "stage", EVIL))
    progress.close()
    page = report(
        disk,
        DetectedSystem("linux", "linux", "any", False, why=EVIL),
        [CheckResult("x", EVIL, "fail", "error", EVIL, EVIL)],
    )
    shown = capsys.readouterr()
    assert "owned" in shown.out and "owned" in shown.err
    assert harmful(shown.out) == harmful(shown.err) == harmful(page.replace("\N{NARROW NO-BREAK SPACE}", " ")) == []
    # one line for the header, one a row: a cell forges none
    assert len([line for line in shown.out.splitlines() if "y" in line[-3:]]) == 1


def evil_disks(folder: Path) -> dict[str, Path]:
    """Disks whose own strings hold escape codes, and a name that does."""
    backing = folder / "backing.qcow2"
    name = b"\x1b]0;owned\x07\x1b[2J"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "x" * len(name), "-F", "raw", backing, "8M"],
        check=True,
    )
    backing.write_bytes(backing.read_bytes().replace(b"x" * len(name), name))
    data = folder / "data.qcow2"
    other = folder / ("y" * len(name))
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={other}", data, "8M"], check=True)
    data.write_bytes(data.read_bytes().replace(str(other).encode(), b"\x1b[2J" * (len(str(other)) // 4)))
    extent = folder / "extent.vmdk"
    extent.write_bytes(b'# Disk DescriptorFile\nversion=1\nRW 16 FLAT "\x1b]0;owned\x07\x9b31m" 0\n')
    named = folder / "evil\x1b[2J\n\u202e.vhd"
    named.write_bytes(b"conectix")
    raw = Path(os.fsdecode(os.fsencode(folder) + b"/\xff\x1b[31m.vhd"))
    raw.write_bytes(b"conectix")
    return {"backing": backing, "data": data, "extent": extent, "name": named, "bytes": raw}


@pytest.mark.parametrize("words", [("vhd", "info"), ("inspect",)])
def test_disks_on_a_terminal(tmp_path: Path, words: tuple[str, ...]) -> None:
    for what, disk in evil_disks(tmp_path).items():
        out = on_terminal(*words, str(disk))
        assert out and b"Traceback" not in out, (what, out)
        assert harmful(out.decode("utf-8", "replace").replace("\r\n", "\n")) == [], (what, out)


def test_records_on_a_terminal(tmp_path: Path) -> None:
    """runs list and runs show, of a record that somebody wrote: the door holds where a verb prints by itself."""
    folder = tmp_path / "runs" / "R1"
    folder.mkdir(parents=True)
    stage = {"stage": EVIL, "state": EVIL, "seconds": 1.0, "detail": EVIL, "title": EVIL}
    record = {
        "id": "R1",
        "image": EVIL,
        "command": EVIL,
        "outcome": "failed",
        "started": EVIL,
        "ended": EVIL,
        "stages": [stage],
        "error": {"name": EVIL, "message": EVIL, "hint": EVIL},
    }
    (folder / "run.json").write_text(json.dumps(record))
    for words in (("runs", "list"), ("runs", "show", "R1")):
        out = on_terminal(*words, env={"GOLDSMITH_HOME": str(tmp_path)})
        assert b"owned" in out, out
        assert harmful(out.decode("utf-8", "replace").replace("\r\n", "\n")) == [], out


def test_own_colours_pass(tmp_path: Path) -> None:
    disk = fake_disk.build(tmp_path)
    out = on_terminal("inspect", str(disk), "--profile", "any")
    assert re.search(rb"\x1b\[\d+m(pass|fail|skip) ", out) and not re.search(rb"\x1b(?!\[\d+m)", out)


def test_nobody_writes_around_the_door() -> None:
    """The unguarded stream is for the drawing library in cli/show.py; descriptors 1 and 2 are nobody's."""
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        place = path.relative_to(ROOT / "pipeline").as_posix()
        if "/inside/" in place or place == "cli/door.py":
            continue  # it runs in the guest
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                around = node.attr in ("__stdout__", "__stderr__") or (
                    node.attr == "buffer" and ast.unparse(node.value) in ("sys.stdout", "sys.stderr")
                )
                assert not around, f"{place}:{node.lineno}"
                assert node.attr != "unguarded" or place == "cli/show.py", f"{place}:{node.lineno}"
