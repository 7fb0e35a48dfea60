"""Who holds a lock, and waiting for it in words: which process, of which user, in which run, since when.

The kernel knows the holder of a flock (/proc/locks), so nothing has to be written down that a killed process would
leave behind. On a file system shared with other hosts only the record of a run tells of a holder elsewhere.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.base.errors import BuildError
from pipeline.base.file_errors import user_name
from pipeline.base.runs import living_runs

log = logging.getLogger("goldsmith.waits")


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock: its number, its user, its command line, seconds since it was started."""

    pid: int
    user: str
    command: str
    seconds: float


def find_holder(lock: Path) -> Holder | None:
    """The process on this host that holds a lock file; None where there is none, or none that can be seen."""
    try:
        status = lock.stat()
        table = Path("/proc/locks").read_text()
    except OSError:
        return None
    wanted = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    found = None
    for line in table.splitlines():
        # "1: FLOCK  ADVISORY  WRITE 29633 fe:00:2146391 0 EOF"; "1: -> FLOCK ..." is one that waits
        words = line.split()
        if len(words) == 8 and words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(status.st_ino):
            # overlay file systems show another device than stat does: then the number of the file has to do
            if words[5] == wanted:
                return _look_at(int(words[4]))
            found = found or _look_at(int(words[4]))
    return found


def _look_at(pid: int) -> Holder | None:
    folder = Path(f"/proc/{pid}")
    try:
        words = [word for word in (folder / "cmdline").read_bytes().decode(errors="replace").split("\0") if word]
        started = int((folder / "stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return Holder(pid, user_name(folder.stat().st_uid), _short(words), max(0.0, _uptime() - started))
    except (OSError, ValueError, IndexError):
        return None


def _uptime() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])


def _short(words: list[str]) -> str:
    """A command line from goldsmith on, without the interpreter's own words."""
    for at, word in enumerate(words):
        if word.rpartition("/")[2] in ("goldsmith", "pipeline"):
            return " ".join(["goldsmith", *words[at + 1 :]])
    return " ".join(words)


def describe_holder(lock: Path, runs: Path | None = None, image: str = "") -> str:
    """'run R12 (goldsmith build web), process 4711 of root on host1, since 2026-11-26T01:00:00Z (12 min)'.

    `runs` is where the records of runs are; by `image` a run of another host is found, whose process cannot be.
    """
    holder = find_holder(lock)
    running = living_runs(runs) if runs is not None else []
    host = os.uname().nodename
    if holder is not None:
        mine = (run for run in running if run.get("pid") == holder.pid and run.get("host") in (host, None))
    else:
        mine = (run for run in running if image and run["image"] == image and run.get("pid") != os.getpid())
    run = next(mine, None)
    if run is not None:
        who = f"process {run.get('pid', '?')} of {run.get('user') or (holder.user if holder else '?')}"
        since = f"since {run['started']} ({_age(run['started'])})"
        return f"run {run['id']} ({run['command']}), {who} on {run.get('host') or host}, {since}"
    if holder is None:
        return "a process that is not visible here"
    began = datetime.fromtimestamp(time.time() - holder.seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"process {holder.pid} of {holder.user} on {host} ({holder.command}), since {began} ({_age(began)})"


def _age(moment: str) -> str:
    try:
        seconds = time.time() - datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return "?"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def acquire(
    lock: FileLock,
    what: str,
    *,
    deadline: float,
    name: str,
    runs: Path | None = None,
    image: str = "",
    on_wait: Callable[[str], None] = log.warning,
) -> None:
    """Take `lock`; where another process has it, say so once and wait for at most `deadline` seconds.

    `what` is what the lock protects, in words. Raises BuildError of `name` at the deadline, with who holds it, and
    OSError where there can be no lock at all.
    """
    try:
        lock.acquire(timeout=0)
        return
    except Timeout:
        on_wait(f"waiting for {what}: {describe_holder(Path(lock.lock_file), runs, image)}")
    try:
        lock.acquire(timeout=deadline)
    except Timeout:
        holder = describe_holder(Path(lock.lock_file), runs, image)
        raise BuildError(
            f"{what} has been locked for {deadline:.0f} s by {holder}",
            name=name,
            hint="wait until that process ends, or end it; then try again",
        ) from None
