"""What the executor Slurm waits for, and how long: a job's state, its delivery, the lines of its output."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.base.process import LineCutter
from pipeline.engine.executors.slurm_queue import JobState

#: Seconds between two looks at the queue, for all jobs together, and at the files of one job.
POLL = 2.0
#: Seconds for which a job waits for the host that has its layers; then it may run anywhere.
AFFINITY = 60.0
#: Seconds for which the controller may be silent, and for which a job may be missing before it is submitted again.
SILENT_DEADLINE, MISSING_DEADLINE = 3600.0, 30.0
#: Seconds for which the exchange may take to show what a job has written that Slurm says has ended.
DELIVERY_DEADLINE = 60.0
#: Seconds for cancelled jobs to end: Slurm's KillWait is 30.
CANCEL_DEADLINE = 120.0


@dataclass(frozen=True)
class Timing:
    """The waits, in seconds, as the constants of this module state them."""

    poll: float = POLL
    affinity: float = AFFINITY
    silent: float = SILENT_DEADLINE
    missing: float = MISSING_DEADLINE
    delivery: float = DELIVERY_DEADLINE
    cancel: float = CANCEL_DEADLINE


class JobWatch:
    """Since when a job has been missing, has ended, or waits for its node. Times are of the monotonic clock."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._missing: float | None = None
        self._ended: float | None = None
        self._waits: float | None = None
        self._reason = ""

    def is_there(self) -> None:
        self._missing = self._ended = None

    def is_missing(self, answered: float) -> bool:
        """Whether a controller that answers, last at `answered`, has not known the job for long enough."""
        if self._missing is None:
            self._missing = answered
        return answered - self._missing >= self._timing.missing

    def is_overdue(self, state: JobState) -> bool:
        """Whether a job that has ended should have delivered by now; a cancelled one delivers nothing."""
        if self._ended is None:
            self._ended = time.monotonic()
        return state.state == "CANCELLED" or time.monotonic() - self._ended >= self._timing.delivery

    def waits_for_node(self) -> bool:
        if self._waits is None:
            self._waits = time.monotonic()
        return time.monotonic() - self._waits >= self._timing.affinity

    def new_wait(self, state: JobState) -> str:
        """Why the job waits, if somebody may have to act and it is not what the last call returned."""
        before, self._reason = self._reason, state.unusual_wait
        return self._reason if self._reason != before else ""


class JobOutput:
    """Hands on the lines that a job has written to its file since the last look."""

    def __init__(self, path: Path, on_line: Callable[[str], None]) -> None:
        self._path = path
        self._cut = LineCutter(on_line)
        self._position = 0

    def read(self, *, whole: bool = False) -> None:
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                while chunk := file.read(1 << 16):
                    self._position += len(chunk)
                    self._cut.feed(chunk)
        except OSError:
            return  # not written to yet
        if whole:
            self._cut.end()
