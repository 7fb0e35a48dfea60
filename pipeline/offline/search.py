"""Looking for byte strings in everything a disk holds, and telling which file a place belongs to.

The disk is read once from end to end by its data extents, which is faster than file by file, and sees what no
file shows: freed blocks, slack, journals.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from pipeline.offline.disk import Disk

#: Bytes read at a time, and how much of the last chunk is looked at again: longer strings are not found whole.
CHUNK, OVERLAP = 8 << 20, 16 << 10


@dataclass(frozen=True)
class Window:
    """A chunk of the disk: `data` begins at `start`."""

    start: int
    data: bytes


def windows(disk: Disk) -> Iterator[Window]:
    """The disk's data in order, neighbours joined; each window repeats the end of the one before it."""
    end = 0
    carried = b""
    for begin, stop in _joined(disk):
        at = begin
        if begin != end:
            carried = b""
        while at < stop:
            data = disk.read(at, min(CHUNK, stop - at))
            if not data:
                break
            yield Window(at - len(carried), carried + data)
            at += len(data)
            carried = data[-OVERLAP:]
        end = at


def _joined(disk: Disk) -> Iterator[tuple[int, int]]:
    current: tuple[int, int] | None = None
    for extent in disk.source.extents:
        if current and current[1] == extent.start:
            current = (current[0], extent.end)
        else:
            if current:
                yield current
            current = (extent.start, extent.end)
    if current:
        yield current


def find_all(disk: Disk, needles: Sequence[bytes], *, limit: int) -> Iterator[tuple[int, bytes, bytes, int]]:
    """(offset on the disk, needle, the window's data, place in it) of at most `limit` hits of each needle."""
    counts = dict.fromkeys(needles, 0)
    seen: dict[bytes, int] = dict.fromkeys(needles, -1)
    for window in windows(disk):
        for needle in needles:
            at = window.data.find(needle)
            while at >= 0 and counts[needle] < limit:
                offset = window.start + at
                if offset > seen[needle]:
                    seen[needle] = offset
                    counts[needle] += 1
                    yield offset, needle, window.data, at
                at = window.data.find(needle, at + 1)


def owners(disk: Disk, offsets: Collection[int]) -> dict[int, str]:
    """The file of the Linux root that each offset belongs to; what is in no file is left out.

    Costs a walk over all inodes: ask once, for all of them.
    """
    if not offsets:
        return {}
    wanted = sorted(offsets)
    found: dict[int, str] = {}
    for path, runs in disk.root.places():
        for start, length in runs:
            for offset in wanted:
                if start <= offset < start + length:
                    found[offset] = path
    return found
