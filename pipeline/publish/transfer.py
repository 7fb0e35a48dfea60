"""Many requests at once over one disk's pages, in little memory, until the first failure."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from pipeline.publish.retries import Retries

T = TypeVar("T")
#: Gets the name of the work, finished bytes, all bytes, and bytes a second.
OnProgress = Callable[[str, int, int, float], None]


def at_once(items: Iterable[T], parallel: int, work: Callable[[T], None], retries: Retries) -> None:
    """Call `work` for each item, `parallel` at a time; raises the first failure, when the others have ended.

    Items are taken as workers get free: no more than `parallel` pages are in memory, or sent again after a crash.
    """
    waiting: set[Future[None]] = set()
    with ThreadPoolExecutor(parallel, thread_name_prefix="publish") as pool:
        try:
            for item in items:
                if len(waiting) >= parallel:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
                waiting.add(pool.submit(work, item))
            for future in waiting:
                future.result()
        except BaseException:
            # threads that wait for their next attempt stop waiting
            retries.stop.set()
            for future in waiting:
                future.cancel()
            raise


class Meter:
    """How far a transfer is: calls `on_progress` with (what, done, total, bytes a second) about twice a second."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._what, self._total, self._done = "", 0, 0
        self._began = self._shown = time.monotonic()

    def begin(self, what: str, total: int) -> None:
        with self._lock:
            self._what, self._total, self._done = what, total, 0
            self._began = time.monotonic()
            self._shown = 0.0
        self.add(0)

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count
            now = time.monotonic()
            if self._done < self._total and now - self._shown < 0.5:
                return
            self._shown = now
            rate = self._done / max(now - self._began, 0.001)
            state = (self._what, self._done, self._total, rate)
        self._on_progress(*state)


class Follower:
    """Tells a meter of work that itself says how many bytes are done, one thing after the other."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._meter = Meter(on_progress)
        self._what, self._done = "", 0

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._what, self._done = what, 0
            self._meter.begin(what, total)
        self._meter.add(done - self._done)
        self._done = done


def ignore_progress(_what: str, _done: int, _total: int, _rate: float) -> None:
    """For callers that show no progress."""
