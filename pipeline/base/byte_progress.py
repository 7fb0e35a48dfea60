"""Progress of work on bytes, as a line of text: what is done, how fast, and how long the rest takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: Gets the name of the work, the bytes that are done, and all bytes; from several threads.
OnWork = Callable[[str, int, int], None]
#: Seconds between two lines: people read no faster, and each line is an event.
_BETWEEN = 0.5
#: Seconds after which a rate says something: the first bytes come from a cache, or wait for a connection.
_SETTLED = 1.0


def ignore_work(_what: str, _done: int, _total: int) -> None:
    """For callers that show no progress."""


class ByteProgress:
    """Gives `on_text` lines such as `disk.vhd: 512 of 8192 MiB, 102 MiB/s, 75 s left`.

    Call it with the bytes that are done and those of the whole, None where that is not known. The rate is that since
    the first call: what was there before, as in a download that is resumed, does not count. Several threads may call.
    """

    def __init__(self, on_text: Callable[[str], None], what: str = "") -> None:
        self._on_text = on_text
        self._what = f"{what}: " if what else ""
        self._lock = threading.Lock()
        self._first: tuple[float, int] | None = None
        self._shown = float("-inf")
        self._ended = False

    def __call__(self, done: int, total: int | None) -> None:
        with self._lock:
            now = time.monotonic()
            if self._first is None:
                self._first = now, done
            if now - self._shown < _BETWEEN and (done != total or self._ended):
                return
            self._shown, self._ended = now, done == total
            began, first = self._first
            text = f"{self._what}{describe_bytes(done, total, done - first, now - began)}"
        self._on_text(text)


def describe_bytes(done: int, total: int | None, moved: int, seconds: float) -> str:
    """`done` of `total` bytes, the rate of `moved` bytes in `seconds`, and the seconds that the rest takes at it."""
    text = f"{done >> 20} of {total >> 20} MiB" if total is not None else f"{done >> 20} MiB"
    if seconds < _SETTLED or moved <= 0:
        return text
    rate = moved / seconds
    text += f", {rate / (1 << 20):.{0 if rate >= 10 << 20 else 1}f} MiB/s"
    if total is not None and total > done:
        text += f", {(total - done) / rate:.0f} s left"
    return text
