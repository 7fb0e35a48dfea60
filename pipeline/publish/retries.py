"""Another attempt, later: throttled, failed and cut requests are repeated with growing pauses, up to a deadline."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from pipeline.publish.errors import is_passing, named, wait_asked

T = TypeVar("T")


@dataclass
class Retries:
    """How often and how long a request is repeated: `attempts`, with pauses from `first` to `longest` seconds.

    `stop` ends every pause: another thread has failed, or the user has interrupted.
    """

    attempts: int = 8
    first: float = 0.5
    longest: float = 20.0
    stop: threading.Event = field(default_factory=threading.Event)
    #: How many requests were repeated.
    repeated: int = 0

    def call(self, what: str, where: str, action: Callable[[], T]) -> T:
        """What `action` returns. Raises PublishError for what does not pass."""
        from azure.core.exceptions import AzureError

        for attempt in range(1, self.attempts + 1):
            try:
                return action()
            except AzureError as error:
                if not is_passing(error) or attempt == self.attempts or self.stop.is_set():
                    raise named(error, what, where) from None
                self.repeated += 1
                self.pause(attempt, wait_asked(error))
        raise AssertionError("the last attempt returns or raises")

    def pause(self, attempt: int, asked: float = 0.0) -> None:
        """Wait before the attempt after this one. Pauses of several threads spread (a server asked for less)."""
        longest = min(self.longest, self.first * 2.0 ** (attempt - 1))
        self.stop.wait(max(asked, longest * random.uniform(0.5, 1.0)))  # noqa: S311  no secret


class Bandwidth:
    """Lets bytes through at a rate, for all threads together. `rate` in bytes a second; None for no limit."""

    def __init__(self, rate: int | None) -> None:
        self._rate = rate
        self._free_at = time.monotonic()
        self._lock = threading.Lock()

    def take(self, count: int, stop: threading.Event) -> None:
        """Wait until `count` bytes may go."""
        if self._rate is None:
            return
        with self._lock:
            begin = max(self._free_at, time.monotonic())
            self._free_at = begin + count / self._rate
        stop.wait(max(0.0, begin - time.monotonic()))
