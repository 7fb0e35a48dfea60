"""Pictures of a boot, some seconds apart: a page shows them as a strip."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

#: Seconds between two pictures of a boot, at first.
EVERY = 4.0
#: Pictures that are kept. When there are as many, each second picture goes, and the interval doubles.
MOST = 16


class Film:
    """The pictures of one boot in `folder`, each named by its second. `take` writes one picture to a path, and is
    False where the machine has no screen.
    """

    def __init__(
        self, folder: Path, take: Callable[[Path], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._take = take
        self._clock = clock
        self._began = clock()
        self._next = 0.0
        self._every = EVERY
        self._last = b""
        self._frames: list[Path] = []

    def roll(self) -> None:
        """Take a picture if the last is old enough. A picture like the one before is not kept."""
        since = self._clock() - self._began
        if since < self._next:
            return
        self._next = since + self._every
        with contextlib.suppress(OSError):  # a boot does not fail because a picture of it cannot be written
            self._add(self._folder / f"{since:05.0f}.png")

    def _add(self, path: Path) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        if path in self._frames or not self._take(path):
            return
        data = path.read_bytes()
        if data == self._last:
            path.unlink()
            return
        self._last = data
        self._frames.append(path)
        if len(self._frames) > MOST:
            self._thin()

    def _thin(self) -> None:
        for path in self._frames[1::2]:
            path.unlink(missing_ok=True)
        self._frames = self._frames[::2]
        self._every *= 2
