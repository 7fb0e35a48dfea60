"""The process that reads a hostile disk: what it may not do, and what its parent makes of its answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import phony
import pytest

from pipeline.checks import inspect_disk, run_checks, sandbox
from pipeline.errors import DiskError, UsageError
from pipeline.offline import open_disk


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    return phony.as_vhd(phony.build(folder), folder / "disk.vhd")


def test_the_same_results_as_in_process(good: Path) -> None:
    good.chmod(0o600)
    with open_disk(good) as disk:
        assert inspect_disk(good) == run_checks(disk)
    with pytest.raises(UsageError):
        inspect_disk(good, waive={"no-such": "x"})


TRIES = """
import os, socket, sys
from pipeline.checks.child import give_up_rights
give_up_rights()
def can(what):
    try:
        what()
        return True
    except OSError:
        return False
def network():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect(("192.0.2.1", 9))
def write():
    with open(sys.argv[1], "wb") as file:
        file.write(bytes(8 << 20))
print([can(network), can(lambda: open("/etc/shadow")), can(write), os.getuid() == 0])
try:
    bytearray(1 << 30)
    print("memory")
except MemoryError:
    pass
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up being root")
def test_rights_are_gone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRIES, str(tmp_path / "x")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[False, False, False, False]"


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("kill -SEGV $$", "reader-crashed"),
        ("sleep 60", "reader-too-slow"),
        ("printf garbage > $4", "reader-lies"),
        ('printf \'{"results": [{"id": "machine-id", "status": "great"}]}\' > $4', "reader-lies"),
        ('printf \'{"results": [{"id": "x", "status": "pass"}]}\' > $4', "reader-lies"),
        ('printf \'{"error": {"name": "gpt-damaged", "message": "x"}}\' > $4', "gpt-damaged"),
    ],
)
def test_a_reader_that_misbehaves(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, name: str
) -> None:
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    monkeypatch.setattr(sandbox, "DEADLINE", 1.0)
    with pytest.raises(DiskError) as caught:
        inspect_disk(good)
    assert caught.value.name == name


def test_its_words_are_cut_and_cleaned(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake, answer = tmp_path / "python", tmp_path / "answer"
    told = {"id": "machine-id", "status": "fail", "evidence": "\x1b[2J" + "x" * 9999, "remedy": "rm -rf /"}
    answer.write_text(json.dumps({"results": [told]}))
    fake.write_text(f"#!/bin/sh\ncat {answer} > $4\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    (result,) = inspect_disk(good)
    assert "\x1b" not in result.evidence and len(result.evidence) == 4096 and "rm -rf /" not in result.remedy
