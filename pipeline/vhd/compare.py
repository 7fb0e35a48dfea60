"""In what two disks differ: read side by side by several threads, and compared where it was read to.

Reading is mostly the copy out of the page cache, which several threads do at once; libc's memcmp lets the others run.
"""

from __future__ import annotations

import ctypes
import mmap
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue

from pipeline.vhd.extents import ExtentSource, Progress, Reader, pieces
from pipeline.vhd.footer import SECTOR

#: Bytes that are compared at a time, and by how many threads: the memory is twice their product.
CHUNK, WORKERS = 2 << 20, 4
#: Pieces that wait for their turn: nobody waits for who has only just begun.
AHEAD = 2 * WORKERS

_libc = ctypes.CDLL(None)
_libc.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
Runs = Iterator[tuple[int, int]]
#: (start, end) in bytes, sorted.
Places = Sequence[tuple[int, int]]


def changed_ranges(
    old: ExtentSource, new: ExtentSource, progress: Progress | None = None, within: Places | None = None
) -> Runs:
    """(start, length) of the sectors in which two disks differ, as runs; only where either has data is looked.

    `within`: somebody knows by digests that they are the same elsewhere, and nothing else is read. Raises DiskError
    (disk-unreadable, disk-truncated).
    """
    wanted = list(_data_union(old, new))
    if within is not None:
        wanted = list(_common(wanted, within))
    total, done = sum(end - start for start, end in wanted), 0
    run: tuple[int, int] | None = None
    with ExitStack() as stack:
        sides = Reader(old), Reader(new)
        for side in sides:
            stack.callback(side.close)
        for length, found in stack.enter_context(_Comparison(*sides)).over(_cut(wanted)):
            for begin, size in found:
                if run and run[0] + run[1] == begin:
                    run = (run[0], run[1] + size)
                    continue
                if run:
                    yield run
                run = (begin, size)
            done += length
            if progress is not None:
                progress(done, total)
    if run:
        yield run


class _Buffer:
    """Room for one piece of both disks, used for one after another."""

    def __init__(self) -> None:
        room = mmap.mmap(-1, 2 * CHUNK)
        self.old, self.new = memoryview(room)[:CHUNK], memoryview(room)[CHUNK:]
        self._at = ctypes.addressof(ctypes.c_char.from_buffer(room))

    def same(self, length: int) -> bool:
        return bool(_libc.memcmp(self._at, self._at + CHUNK, length) == 0)


class _Comparison:
    """Threads that compare pieces of two disks."""

    def __init__(self, old: Reader, new: Reader) -> None:
        self._old, self._new = old, new
        self._buffers: SimpleQueue[_Buffer] = SimpleQueue()
        self._pool = ThreadPoolExecutor(WORKERS)

    def __enter__(self) -> _Comparison:
        for _ in range(WORKERS):
            self._buffers.put(_Buffer())
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def over(self, places: Iterable[tuple[int, int]]) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """For each (start, length) in turn, its length and the runs of sectors that differ in it."""
        ahead: deque[tuple[int, Future[list[tuple[int, int]]]]] = deque()
        for at, length in places:
            ahead.append((length, self._pool.submit(self._unequal_within, at, length)))
            if len(ahead) > AHEAD:
                done, found = ahead.popleft()
                yield done, found.result()
        for done, found in ahead:
            yield done, found.result()

    def _unequal_within(self, at: int, length: int) -> list[tuple[int, int]]:
        buffer = self._buffers.get()
        try:
            self._old.read_into(buffer.old[:length], at)
            self._new.read_into(buffer.new[:length], at)
            if buffer.same(length):
                return []
            before, after = bytes(buffer.old[:length]), bytes(buffer.new[:length])
            return [(at + begin, size) for begin, size in _differing(before, after, 0, length)]
        finally:
            self._buffers.put(buffer)


def _common(runs: Iterable[tuple[int, int]], places: Places) -> Iterator[tuple[int, int]]:
    """What two sorted lists of (start, end) have in common."""
    index = 0
    for start, end in runs:
        while index < len(places) and places[index][1] <= start:
            index += 1
        at = index
        while at < len(places) and places[at][0] < end:
            yield max(start, places[at][0]), min(end, places[at][1])
            at += 1


def _cut(wanted: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for start, end in wanted:
        for at in range(start, end, CHUNK):
            yield at, min(CHUNK, end - at)


def _differing(before: bytes, after: bytes, start: int, end: int) -> Runs:
    """Sectors that differ, by halving: equal halves cost one comparison."""
    if before[start:end] == after[start:end]:
        return
    if end - start <= SECTOR:
        yield start, end - start
        return
    middle = start + max(SECTOR, (end - start) // 2 // SECTOR * SECTOR)
    yield from _differing(before, after, start, middle)
    yield from _differing(before, after, middle, end)


def _data_union(old: ExtentSource, new: ExtentSource) -> Runs:
    """Sector-aligned ranges where either disk has data, cut at the new disk's end."""
    with ExitStack() as stack:
        both = sorted(
            (piece.start // SECTOR * SECTOR, min(-(-(piece.start + piece.length) // SECTOR) * SECTOR, new.size))
            for source in (old, new)
            for piece in pieces(source, stack)
        )
    current: tuple[int, int] | None = None
    for start, end in both:
        if current and start <= current[1]:
            current = (current[0], max(current[1], end))
        else:
            if current:
                yield current
            current = (start, end)
    if current:
        yield current
