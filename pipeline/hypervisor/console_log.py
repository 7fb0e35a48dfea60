"""The log of a guest's serial console, to which each boot appends: where in it this boot began."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

#: Bytes of the log that are looked at, the last.
SERIAL_LIMIT = 8 << 20
_POSITION = re.compile(r"(\d{1,20}):(\d{1,20})")


@dataclass(frozen=True)
class Position:
    """A place in a log: the log's inode, and its length at that time.

    virtlogd begins a new file at some size, by default 2 MiB. All of another file was written later.
    """

    inode: int
    length: int

    def __str__(self) -> str:
        return f"{self.inode}:{self.length}"

    @classmethod
    def parse(cls, text: str) -> Position | None:
        """The position that `str` wrote; None for anything else."""
        found = _POSITION.fullmatch(text)
        return cls(int(found[1]), int(found[2])) if found else None

    def offset_in(self, log: os.stat_result) -> int:
        """The byte of this log at which begins what was written later."""
        return self.length if log.st_ino == self.inode and log.st_size >= self.length else 0


class ConsoleLog:
    """What a guest's console shows in its present boot."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._boot: Position | None = None
        self._mark: Position | None = None

    def begin_boot(self) -> Position | None:
        """The machine is switched on now: this boot's lines begin here. Returns the place; None where there is no log
        yet.
        """
        self._mark, self._boot = None, self._measure()
        return self._boot

    def resume_boot(self, began: Position | None) -> None:
        """Another process has switched the machine on; None: the log has this boot alone."""
        self._mark, self._boot = None, began

    def mark(self) -> None:
        """What was shown before now is of no more interest to `read`'s second result."""
        self._mark = self._measure()

    def read(self) -> tuple[bytes, int]:
        """What the console has shown in this boot, the last SERIAL_LIMIT bytes of it, and the byte of that at which
        begins what it has shown since `mark`.
        """
        try:
            with self._path.open("rb") as log:
                status = os.fstat(log.fileno())
                boot, since = (at.offset_in(status) if at else 0 for at in (self._boot, self._mark))
                start = log.seek(max(boot, status.st_size - SERIAL_LIMIT))
                text = log.read(SERIAL_LIMIT)
        except OSError:
            return b"", 0
        return text, max(0, since - start)

    def _measure(self) -> Position | None:
        with contextlib.suppress(OSError):
            status = self._path.stat()
            return Position(status.st_ino, status.st_size)
        return None
