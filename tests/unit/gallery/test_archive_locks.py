"""What borg leaves of a process that was killed while it took a lock."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

from pipeline.gallery.archive import _sweep_locks


def test_only_locks_of_dead_processes_of_this_host_go(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    node = uuid.getnode()
    owners = {
        "dead": f"vm@{node}.{child.pid}-0",
        "alive": f"vm@{node}.{os.getpid()}-0",
        "elsewhere": f"vm@{node + 1}.{child.pid}-0",
        "strange": "a file",
        "empty": "",
    }
    for name, owner in owners.items():
        folder = tmp_path / f"lock.exclusive.{name}.tmp"
        folder.mkdir()
        if owner:
            (folder / owner).touch()
    _sweep_locks(tmp_path)
    left = {path.name.split(".")[2] for path in tmp_path.iterdir()}
    assert left == {"alive", "elsewhere", "strange", "empty"}
