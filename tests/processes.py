"""The processes of this host, for tests and campaigns.

Each process, and each thread, can end between the moment it is listed and the moment it is read: here it then counts
as ended, so that no test fails of that.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Where the kernel shows processes (proc(5)).
PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A process as it was listed: its id, and its argument list with spaces between the words."""

    pid: int
    line: str

    @property
    def folder(self) -> Path:
        """What the kernel says of it."""
        return PROC / str(self.pid)

    @property
    def environment(self) -> str:
        """NAME=VALUE words, each with a NUL behind it; empty where the process has ended."""
        return _read(self.folder / "environ")


def process_ids() -> list[int]:
    """The ids of all processes."""
    return [int(name) for name in _names(PROC) if name.isdigit()]


def other_processes() -> Iterator[Process]:
    """All processes but this one, without kernel threads and without those that have ended: their line is empty."""
    for pid in process_ids():
        line = _read(PROC / str(pid) / "cmdline").replace("\0", " ") if pid != os.getpid() else ""
        if line.strip():
            yield Process(pid, line)


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or dead and not yet collected by its parent."""
    # "PID (COMMAND) STATE ...", where the command may hold any character
    return _read(PROC / str(pid) / "stat").rpartition(")")[2].split()[:1] in ([], ["Z"])


def threads(pid: int) -> list[dict[str, list[str]]]:
    """The words of each line of /proc/PID/task/*/status, by the line's name; a thread that has ended is left out."""
    found = []
    for task in _names(PROC / str(pid) / "task"):
        text = _read(PROC / str(pid) / "task" / task / "status")
        if text:
            lines = (line.partition(":") for line in text.splitlines())
            found.append({name: value.split() for name, _, value in lines})
    return found


def children(pid: int) -> list[int]:
    """The processes that a process has started, by any of its threads."""
    task = PROC / str(pid) / "task"
    return [int(child) for thread in _names(task) for child in _read(task / thread / "children").split()]


def open_files(pid: int) -> list[str]:
    """What the open descriptors of a process stand for: paths, and words such as "socket:[12]"."""
    found = []
    for name in _names(PROC / str(pid) / "fd"):
        with contextlib.suppress(OSError):  # closed meanwhile
            found.append(str((PROC / str(pid) / "fd" / name).readlink()))
    return found


def kill(pid: int) -> None:
    """SIGKILL, if the process is there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_tree(pid: int) -> None:
    """SIGKILL to a process and to all below it."""
    for child in children(pid):
        kill_tree(child)
    kill(pid)


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []


def _read(path: Path) -> str:
    # ENOENT where it ended before the file was opened, ESRCH where it ended between that and the reading
    try:
        return os.fsdecode(path.read_bytes())
    except OSError:
        return ""
