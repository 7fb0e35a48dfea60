"""The bytes of a disk that are sent: pages with data, or the blocks whose digests differ between two versions.

Digests are those of `cache/digests.py`: 32 bytes for each block of 64 KiB, zeros for a block of zeros.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.cache.digests import BLOCK, DIGEST, unequal_blocks
from pipeline.vhd.extents import data_ranges

#: Bytes of the largest write of a page blob (Azure's Put Page).
PAGE_LIMIT = 4 << 20
#: Bytes of a page: each range begins and ends at one.
SECTOR = 512
_NO_DATA = bytes(DIGEST)


@dataclass(frozen=True, order=True)
class Range:
    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start


class BlockDigests:
    """The digests of a disk's blocks, in a file; read at random, from several threads."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self.count = -(-size // BLOCK)
        self._file = path.open("rb")

    def of(self, number: int) -> bytes:
        """The digest of a block; zeros for a block of zeros."""
        return os.pread(self._file.fileno(), DIGEST, number * DIGEST)

    def has_data(self, number: int) -> bool:
        return self.of(number) != _NO_DATA

    def with_data(self) -> Iterator[int]:
        """The numbers of the blocks that are not zeros."""
        for begin, end in data_ranges(self._file.fileno(), 0, self.count * DIGEST):
            yield from (number for number in range(begin // DIGEST, -(-end // DIGEST)) if self.of(number) != _NO_DATA)

    def range_of(self, number: int) -> Range:
        return Range(number * BLOCK, min((number + 1) * BLOCK, self.size))

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class Changes:
    """The changes that make a blob the new disk: pages to write, pages to clear, and the blocks that were read."""

    writes: tuple[Range, ...]
    clears: tuple[Range, ...]
    blocks: frozenset[int]

    @property
    def write_bytes(self) -> int:
        return sum(each.length for each in self.writes)


def whole(disk: Path, digests: BlockDigests) -> Changes:
    """The data of a disk without blocks of zeros. The blob is new, and reads as zeros."""
    blocks = frozenset(digests.with_data())
    fd = os.open(disk, os.O_RDONLY | os.O_CLOEXEC)
    try:
        extents = [Range(_down(begin), _up(end, digests.size)) for begin, end in data_ranges(fd, 0, digests.size)]
    finally:
        os.close(fd)
    kept = intersect(merge(extents), merge(digests.range_of(number) for number in sorted(blocks)))
    return Changes(tuple(cut(kept)), (), blocks)


def difference(old: Path, digests: BlockDigests) -> Changes:
    """The changes that turn the disk with the digests `old` into this one; both disks have the same size."""
    changed = list(unequal_blocks(old, digests.path))
    written = [number for number in changed if digests.has_data(number)]
    cleared = [number for number in changed if not digests.has_data(number)]
    return Changes(
        tuple(cut(merge(map(digests.range_of, written)))),
        tuple(cut(merge(map(digests.range_of, cleared)))),
        frozenset(changed),
    )


def sample(digests: BlockDigests, without: frozenset[int], share: int = 100) -> list[int]:
    """One in `share` of the blocks with data that are not in `without`, at random; at least one if there is any."""
    rest = [number for number in digests.with_data() if number not in without]
    count = -(-len(rest) // share)
    return sorted(random.sample(rest, count))  # where a fault lies is unknown to both


def _down(offset: int) -> int:
    return offset // SECTOR * SECTOR


def _up(offset: int, size: int) -> int:
    return min(-(-offset // SECTOR) * SECTOR, size)


def merge(ranges: Iterable[Range]) -> list[Range]:
    """Ranges in order; ranges that touch are joined."""
    merged: list[Range] = []
    for each in ranges:
        if merged and each.start <= merged[-1].end:
            merged[-1] = Range(merged[-1].start, max(merged[-1].end, each.end))
        else:
            merged.append(each)
    return merged


def intersect(left: list[Range], right: list[Range]) -> list[Range]:
    """The intersection of two lists of ranges, each in order and without overlaps."""
    found, first, second = [], 0, 0
    while first < len(left) and second < len(right):
        start = max(left[first].start, right[second].start)
        end = min(left[first].end, right[second].end)
        if start < end:
            found.append(Range(start, end))
        if left[first].end < right[second].end:
            first += 1
        else:
            second += 1
    return found


def cut(ranges: Iterable[Range], limit: int = PAGE_LIMIT) -> Iterator[Range]:
    """The same bytes in pieces, cut at multiples of `limit` bytes, so that a resumed upload has the same pieces."""
    for each in ranges:
        at = each.start
        while at < each.end:
            end = min(each.end, (at // limit + 1) * limit)
            yield Range(at, end)
            at = end
