"""What guests may take of the host through the fabric: connections, memory, records; one guest, and all together.

A guest's own agents hold one or two connections and send a few kilobytes. The bounds leave a wide margin above that,
and so little below the host's means that a guest which uses all of its share does not slow down another one's proof.
"""

from __future__ import annotations

import threading
from collections import Counter

#: Open connections, each of which is a thread, of one guest and of all.
CONNECTIONS, ALL_CONNECTIONS = 32, 256
#: Bytes of one request's body; bytes of larger bodies in flight at a time, of one guest and of all.
LARGEST_BODY, BODIES, ALL_BODIES = 8 << 20, 16 << 20, 64 << 20
#: A body up to this size is not counted.
SMALL_BODY = 64 << 10
#: Bytes of a request's line and headers together.
LARGEST_HEAD = 64 << 10
#: Seconds for which a connection may be idle, and seconds that one request or its answer may take.
IDLE, REQUEST = 60.0, 60.0

#: Exchanges, reports and events of one guest that are kept in memory, the newest.
KEPT_EXCHANGES, KEPT_REPORTS, KEPT_EVENTS = 1024, 64, 256
#: Bytes of a body, of a request's target and of one header that a record keeps; the headers that it keeps.
KEPT_BODY, KEPT_TARGET, KEPT_HEADER = 4096, 1024, 256
KEPT_HEADERS = ("user-agent", "x-ms-agent-name")
#: Characters of a guest's own words in a report or an event.
KEPT_WORDS = 4096
#: Bytes of one guest's exchange log.
LOG = 8 << 20
#: Bytes of a document that is parsed. WALinuxAgent sends telemetry of 64 KiB at most.
LARGEST_DOCUMENT = 256 << 10
#: Bytes of its DHCP log.
DHCP_LOG = 1 << 20
#: Datagrams (DHCP, names) of one guest that are read in a second: at boot it sends a dozen.
DATAGRAMS = 200


class Limits:
    """What is in use, by the guest's address. One for a fabric; every listener of it shares it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connections: Counter[str] = Counter()
        self._bodies: Counter[str] = Counter()

    def take_connection(self, address: str) -> bool:
        """Whether one more connection of this guest may be open; if so it is counted until `release_connection`."""
        return self._take(self._connections, address, 1, CONNECTIONS, ALL_CONNECTIONS)

    def release_connection(self, address: str) -> None:
        self._release(self._connections, address, 1)

    def take_body(self, address: str, size: int) -> bool:
        """Whether a body of this guest may be held in memory; if so it is counted until `release_body`."""
        return size <= SMALL_BODY or self._take(self._bodies, address, size, BODIES, ALL_BODIES)

    def release_body(self, address: str, size: int) -> None:
        if size > SMALL_BODY:
            self._release(self._bodies, address, size)

    def _take(self, used: Counter[str], address: str, amount: int, own: int, whole: int) -> bool:
        with self._lock:
            if used[address] + amount > own or used.total() + amount > whole:
                return False
            used[address] += amount
            return True

    def _release(self, used: Counter[str], address: str, amount: int) -> None:
        with self._lock:
            used[address] -= amount
            if used[address] <= 0:
                del used[address]
