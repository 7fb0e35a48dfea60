"""An open-loop client: it sends a request at each tick, whether earlier ones were answered or not."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections import Counter
from types import TracebackType

#: Seconds after which an answer is no answer any more.
LATEST = 10.0


class OpenLoop:
    """`rate` requests a second from entering to leaving. `pages` counts answers by their text, `failed` has the rest.

    Failed is what is not 200, or is not there after LATEST seconds. `sent` counts the requests that were begun;
    `slowest` is the longest time to an answer, in seconds.
    """

    def __init__(self, url: str, rate: float) -> None:
        self._url, self._every = url, 1 / rate
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._requests: list[threading.Thread] = []
        self._clock = threading.Thread(target=self._tick)
        self.pages: Counter[str] = Counter()
        self.failed: list[str] = []
        self.sent = 0
        self.slowest = 0.0

    def __enter__(self) -> OpenLoop:
        self._clock.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._ended.set()
        self._clock.join()
        for each in self._requests:
            each.join()

    def _tick(self) -> None:
        began = time.monotonic()
        number = 0
        while not self._ended.wait(max(0.0, began + number * self._every - time.monotonic())):
            request = threading.Thread(target=self._send, daemon=True)
            request.start()
            self._requests.append(request)
            number += 1
            self.sent = number

    def _send(self) -> None:
        began = time.monotonic()
        try:
            with urllib.request.urlopen(self._url, timeout=LATEST) as reply:
                page = reply.read().decode().strip()
            trouble = f"{time.monotonic() - began:.1f} s" if time.monotonic() - began > LATEST else ""
        except OSError as error:
            page, trouble = "", f"{type(error).__name__}: {error} after {time.monotonic() - began:.1f} s"
        with self._lock:
            self.slowest = max(self.slowest, time.monotonic() - began)
            if trouble:
                self.failed.append(trouble)
            else:
                self.pages[page] += 1
