"""Reading everything that a disk holds in order, and finding the file that a place belongs to.

The disk is read once from end to end by its data extents, which is faster than file by file, and sees what no
file shows: freed blocks, slack, journals.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from pipeline.disk.disk import Disk

#: Bytes read at a time, and how much of the last chunk is looked at again: longer strings are not found whole.
CHUNK, OVERLAP = 2 << 20, 16 << 10


@dataclass(frozen=True)
class Window:
    """A chunk of the disk: `data` begins at `start`."""

    start: int
    data: bytes


def parts_of(disk: Disk, count: int) -> list[tuple[int, int]]:
    """(begin, end) of `count` parts of the disk that have about the same amount of data."""
    share = max(1, -(-disk.source.data_bytes // count))
    cuts, seen = [0], 0
    for begin, stop in _joined(disk):
        while len(cuts) < count and seen + stop - begin >= share * len(cuts):
            cuts.append(begin + share * len(cuts) - seen)
        seen += stop - begin
    cuts += [disk.size] * (count + 1 - len(cuts))
    return list(pairwise(cuts))


def windows(disk: Disk, part: tuple[int, int] | None = None) -> Iterator[Window]:
    """The disk's data in order, neighbours joined; each window repeats the end of the one before it.

    Of a part (begin, end), the first window begins OVERLAP before the part does.
    """
    first, last = part or (0, disk.size)
    for begin, stop in _within(_joined(disk), max(0, first - OVERLAP), last):
        at = begin
        while at < stop:
            # read again rather than joined: both pieces would be copied
            start = max(begin, at - OVERLAP)
            data = disk.read(start, min(CHUNK, stop - at) + at - start)
            if len(data) <= at - start:
                break
            yield Window(start, data)
            at = start + len(data)


def _within(pieces: Iterator[tuple[int, int]], first: int, last: int) -> Iterator[tuple[int, int]]:
    for begin, stop in pieces:
        if stop > first and begin < last:
            yield max(begin, first), min(stop, last)


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


def owners(places: Iterable[tuple[str, list[tuple[int, int]]]], offsets: Collection[int]) -> dict[int, str]:
    """The file that each offset of the disk belongs to; what is in no file is left out.

    `places` is `Root.places()`, a walk over all files, whatever the number of offsets: ask once, for all of them.
    """
    wanted = sorted(set(offsets))
    found: dict[int, str] = {}
    if wanted:
        for path, runs in places:
            for start, length in runs:
                for index in range(bisect_left(wanted, start), bisect_left(wanted, start + length)):
                    found[wanted[index]] = path
    return found
