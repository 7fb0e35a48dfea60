"""What happened: one folder a run, one JSON record in it, one writer.

`runs/ID/run.json` is rewritten whole (by rename) at each change, so a reader never sees half of it. A run is alive
while its lock is held; the kernel frees the lock when the process dies, however it dies.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.errors import GoldsmithError, UsageError

RECORD = "run.json"
LOCK = "lock"


def now() -> str:
    """UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write_json(path: Path, data: object) -> None:
    """Write `data` durably under `path`: a temporary file, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(data, file, indent=1, sort_keys=False, default=str)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(folder: Path) -> None:
    """Bring a folder and all that is in it to the disk."""
    for path in [*folder.rglob("*"), folder]:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


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
    if not lock.exists():
        return False
    probe = FileLock(lock, timeout=0)
    try:
        probe.acquire()
    except Timeout:
        return True
    except OSError:
        return False
    probe.release()
    return False


class Run:
    """One run of the pipeline: its folder, its record, its listeners."""

    def __init__(self, folder: Path, record: dict[str, Any], lock: FileLock) -> None:
        self.folder = folder
        self.record = record
        self._lock = lock
        self._listeners: list[Callable[[Event], None]] = []
        self._writing = threading.RLock()

    @property
    def id(self) -> str:
        return self.folder.name

    @classmethod
    def start(cls, runs: Path, image: str, command: str) -> Run:
        """Take the next run id and its lock."""
        number = 1 + max((int(p.name[1:]) for p in runs.glob("R*") if p.name[1:].isdigit()), default=0)
        while True:
            folder = runs / f"R{number}"
            try:
                folder.mkdir(parents=True)
                break
            except FileExistsError:
                number += 1
        lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
        lock.acquire()
        record: dict[str, Any] = {
            "id": folder.name,
            "image": image,
            "command": command,
            "pid": os.getpid(),
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
        event = Event(kind, stage, text, seconds)
        for listener in self._listeners:
            listener(event)

    def note(self, **facts: object) -> None:
        with self._writing:
            self.record.update(facts)
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
        self.note(outcome=outcome, ended=now())
        self._lock.release()


class _NoRun(Run):
    """Stands in where a plan is only asked for: nothing is recorded, nobody listens."""

    def __init__(self) -> None:
        super().__init__(Path("/nonexistent"), {}, FileLock("/nonexistent/lock"))

    def save(self) -> None:
        return


NO_RUN: Run = _NoRun()


def load_run(folder: Path) -> dict[str, Any]:
    """A run's record, its outcome set to `died` when nobody holds its lock though it says running."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return {
            "id": folder.name,
            "image": "?",
            "outcome": "unreadable",
            "stages": [],
            "started": None,
            "ended": None,
        }
    if record.get("outcome") == "running" and not held(folder / LOCK):
        record["outcome"] = "died"
    record["folder"] = str(folder)
    return record


def list_runs(runs: Path) -> list[dict[str, Any]]:
    """All runs, newest first."""
    folders = sorted(
        (p for p in runs.glob("R*") if p.name[1:].isdigit()), key=lambda p: int(p.name[1:]), reverse=True
    )
    return [load_run(folder) for folder in folders]


def find_run(runs: Path, run_id: str) -> dict[str, Any]:
    """One run's record. Raises UsageError for an unknown id."""
    folder = runs / run_id
    if "/" in run_id or not folder.is_dir():
        raise UsageError(f"no run {run_id}", name="run-unknown", hint="goldsmith runs list shows the runs")
    return load_run(folder)


def alive(runs: Path, run_id: str) -> bool:
    return held(runs / run_id / LOCK)


class Stopwatch:
    """Seconds since it was made, by the monotonic clock."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start


def remove_tree(folder: Path) -> None:
    """Remove a folder of ours; what is not there is fine, anything else is an error.

    Another build may sweep the same scratch at the same time: what it took first is not there either.
    """
    if folder.is_symlink():
        folder.unlink(missing_ok=True)
    elif folder.exists():
        shutil.rmtree(folder, onerror=_unless_gone)


def _unless_gone(_function: object, _path: object, caught: tuple[object, BaseException, object]) -> None:
    if not isinstance(caught[1], FileNotFoundError):
        raise caught[1]
