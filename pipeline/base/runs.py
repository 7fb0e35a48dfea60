"""What happened: one folder a run, one JSON record in it, one writer.

`runs/ID/run.json` is rewritten whole (by rename) at each change, so a reader never sees half of it. A run is alive
while its lock is held; the kernel frees the lock when the process dies, however it dies.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import Field

from pipeline.base.errors import GoldsmithError, UsageError
from pipeline.base.file_errors import user_name
from pipeline.base.files import (
    RecordDamaged,
    Shape,
    list_folder,
    read_json,
    remove_tree,
    skip,
    sync_folder,
    sync_tree,
    walk_files,
    write_json,
)
from pipeline.base.names import RUN_ID

__all__ = ["remove_tree", "sync_folder", "sync_tree", "write_json"]  # moved to files; many import them from here

RECORD = "run.json"
LOCK = "lock"
#: The mode of a log, in a finished run and in a version alike: guests and steps write secrets to their consoles. The
#: store's group may read it, because anyone who is in it can start guests anyway.
LOG_MODE = 0o440


def now() -> str:
    """UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Event:
    """Something a person may want to see at once.

    `kind` is one of: accelerator, start, progress, line, end, note, saved. `stage` is the stage's name or "".
    """

    kind: str
    stage: str
    text: str = ""
    seconds: float = 0.0


def held(lock: Path) -> bool:
    """Whether a live process holds this lock file. A missing file is not held."""
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # as FileLock takes it, which costs ten times as much: a store has thousands of runs
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False


class Run:
    """One run of the pipeline: its folder, its record, its listeners."""

    def __init__(self, folder: Path, record: dict[str, Any], lock: FileLock) -> None:
        self.folder = folder
        self.record = record
        self._lock = lock
        self._listeners: list[Callable[[Event], None]] = []
        self._writing = threading.RLock()
        #: Takes the secrets of the build out of a text that people see.
        self.mask: Callable[[str], str] = str

    @property
    def id(self) -> str:
        return self.folder.name

    @classmethod
    def start(cls, runs: Path, image: str, command: str) -> Run:
        """Take the next run id and its lock."""
        number = 1 + max(map(_number, _folders(runs)), default=0)
        while True:
            folder = runs / f"R{number}"
            try:
                folder.mkdir(parents=True)
                lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
                lock.acquire()
            except (FileExistsError, Timeout):
                number += 1  # another run has it, or a sweep is about to remove it
                continue
            if (folder / LOCK).exists():
                break
            lock.release()
        record: dict[str, Any] = {
            "id": folder.name,
            "image": image,
            "command": command,
            "pid": os.getpid(),
            "user": user_name(os.geteuid()),
            "host": socket.gethostname(),
            "started": now(),
            "ended": None,
            "outcome": "running",
            "stages": [],
        }
        run = cls(folder, record, lock)
        run.save()
        return run

    def listen(self, listener: Callable[[Event], None]) -> None:
        self._listeners.append(listener)

    def emit(self, kind: str, stage: str, text: str = "", seconds: float = 0.0) -> None:
        event = Event(kind, stage, self.mask(text), seconds)
        for listener in self._listeners:
            listener(event)

    def note(self, **facts: object) -> None:
        with self._writing:
            self.record.update(facts)
            self.save()

    def append(self, name: str, fact: object) -> None:
        """Add one more to a list of the record; several threads may."""
        with self._writing:
            self.record[name] = [*self.record.get(name, ()), fact]
            self.save()

    def stage(self, name: str, state: str, *, seconds: float, detail: str = "", **facts: object) -> None:
        """Record that a stage ended in `state` (kept, new, ok, failed, skipped) after `seconds`."""
        with self._writing:
            entry = {"stage": name, "state": state, "seconds": round(seconds, 2), "detail": detail, **facts}
            self.record["stages"].append(entry)
            self.save()

    def log(self, name: str) -> Path:
        """The path of a log file of this run; its folder exists."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def save(self) -> None:
        with self._writing:
            write_json(self.folder / RECORD, self.record)

    def finish(self, outcome: str, error: GoldsmithError | None = None) -> None:
        """Close the record: `outcome` is done, unchanged, failed or interrupted."""
        if error is not None:
            self.record["error"] = {
                "name": error.name,
                "message": error.message,
                "hint": error.hint,
                "evidence": str(error.evidence) if error.evidence else None,
            }
        for path, _ in walk_files(self.folder):
            if path.suffix == ".log":
                path.chmod(LOG_MODE)
        self.note(outcome=outcome, ended=now())
        self._lock.release()


class _NoRun(Run):
    """Stands in where a plan is only asked for: nothing is recorded, nobody listens."""

    def __init__(self) -> None:
        super().__init__(Path("/nonexistent"), {}, FileLock("/nonexistent/lock"))

    def save(self) -> None:
        return


NO_RUN: Run = _NoRun()


class _Stage(Shape):
    stage: str
    state: str
    seconds: float
    detail: str
    title: str | None = None


class _Failure(Shape):
    name: str
    message: str
    hint: str | None = None
    evidence: str | None = None


class _Guest(Shape):
    """What `goldsmith shell` needs of a guest; a Windows guest has another set."""

    folder: str | None = None
    user: str | None = None
    port: int | None = None


class RunShape(Shape):
    """The record of a run."""

    id: str
    image: str
    command: str
    outcome: str
    started: str | None
    ended: str | None
    stages: list[_Stage]
    error: _Failure | None = None
    pid: int | None = None
    user: str | None = None
    host: str | None = None
    guest: _Guest | None = None
    kept_guest: _Guest | None = None
    layers: list[str] = Field(default_factory=list)

    @classmethod
    def advice(cls) -> str:
        return "delete the run's folder to remove the run; its logs are still there"


def load_run(folder: Path) -> dict[str, Any]:
    """A run's record, its outcome set to `died` when nobody holds its lock though it says running.

    A damaged record is skipped by name: its run has the outcome `unreadable`.
    """
    try:
        record = read_json(folder / RECORD, RunShape)
        if record is not None and record["id"] != folder.name:
            raise RecordDamaged(folder / RECORD, f"it is the record of {record['id']}", RunShape.advice())
    except RecordDamaged as error:
        skip(error)
        record = None
    if record is None:
        record = {
            "id": folder.name,
            "image": "?",
            "command": "",
            "outcome": "unreadable",
            "stages": [],
            "started": None,
            "ended": None,
        }
    if record["outcome"] == "running" and not held(folder / LOCK):
        record["outcome"] = "died"
    record["folder"] = str(folder)
    return record


def list_runs(runs: Path) -> list[dict[str, Any]]:
    """All runs, newest first."""
    return [load_run(folder) for folder in sorted(_folders(runs), key=_number, reverse=True)]


def living_runs(runs: Path) -> list[dict[str, Any]]:
    """The runs whose processes live, newest first. Of the others, of which there may be many, only locks are read."""
    folders = sorted(_folders(runs), key=_number, reverse=True)
    found = (load_run(folder) for folder in folders if held(folder / LOCK))
    return [run for run in found if run["outcome"] == "running"]


def run_ids(runs: Path) -> list[str]:
    """The ids of all runs, newest first."""
    return [folder.name for folder in sorted(_folders(runs), key=_number, reverse=True)]


def _folders(runs: Path) -> list[Path]:
    return [path for path in list_folder(runs, "R*") if RUN_ID.fullmatch(path.name)]


def _number(folder: Path) -> int:
    return int(folder.name[1:])


def find_run(runs: Path, run_id: str) -> dict[str, Any]:
    """One run's record. Raises UsageError for an unknown id."""
    folder = runs / run_id
    if not RUN_ID.fullmatch(run_id) or not folder.is_dir():
        raise UsageError(f"there is no run {run_id}", name="run-unknown", hint="goldsmith runs list shows all runs")
    return load_run(folder)


def drop_unrecorded(folder: Path, *, dry: bool = False) -> bool:
    """Remove the folder of a run whose process was killed before there was anything to record (`dry`: only look)."""
    if not folder.is_dir() or _has_files(folder):
        return False
    lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except (Timeout, OSError):
        return False
    try:
        if _has_files(folder):
            return False
        if not dry:
            remove_tree(folder)
    finally:
        lock.release()
    return True


def _has_files(folder: Path) -> bool:
    return any(path.name != LOCK for path in list_folder(folder))


def drop_run(folder: Path) -> bool:
    """Remove the folder of a run that has ended; False where a live process holds it."""
    lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except (Timeout, FileNotFoundError, FileExistsError):  # the last where it is removed as the lock makes its folder
        return False
    try:
        remove_tree(folder)
    finally:
        lock.release()
    return True


def alive(runs: Path, run_id: str) -> bool:
    return held(runs / run_id / LOCK)


class Stopwatch:
    """Seconds since it was made, by the monotonic clock."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start
