"""A volume that lies on its disk in pieces: where each byte of it is.

A file system is read by addresses that begin where the volume does, `start`; a reader that knows nothing of pieces
works on them, and what it finds is translated at the end.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.disk.filesystem import Read


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes `begin` to `end` of a volume, in turns of `turn` bytes on pieces that begin at `places` of the disk.

    With a single place they lie one behind the other.
    """

    begin: int
    end: int
    places: tuple[int, ...]
    turn: int = 0


class Space:
    """Segments of a volume in order, without gaps: they begin with byte 0."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = tuple(segments)
        self._begins = [each.begin for each in self.segments]

    @property
    def start(self) -> int:
        """Where the volume begins on its disk; the addresses of its file system begin with the same number."""
        return self.segments[0].places[0]

    @property
    def size(self) -> int:
        return self.segments[-1].end

    @property
    def is_contiguous(self) -> bool:
        return len(self.segments) == 1 and len(self.segments[0].places) == 1

    def locate(self, address: int, length: int) -> Iterator[tuple[int, int]]:
        """(start, length) on the disk of what the volume has at an address; shorter at its end."""
        at, stop = max(0, address - self.start), min(address - self.start + length, self.size)
        number = max(0, bisect_right(self._begins, at) - 1)
        while at < stop:
            segment = self.segments[number]
            while at < min(stop, segment.end):
                place, most = _place(segment, at - segment.begin)
                step = min(stop, segment.end, at + most) - at
                yield place, step
                at += step
            number += 1

    def reader(self, read: Read) -> Read:
        """Bytes of the volume by addresses, out of the disk's."""

        def read_volume(address: int, length: int) -> bytes:
            parts = []
            for start, size in self.locate(address, length):
                parts.append(read(start, size))
                if len(parts[-1]) < size:
                    break
            return parts[0] if len(parts) == 1 else b"".join(parts)

        return read_volume


def _place(segment: Segment, inner: int) -> tuple[int, int]:
    """Where a byte of a segment is on the disk, and how many bytes follow it there."""
    if len(segment.places) == 1:
        return segment.places[0] + inner, segment.end - segment.begin - inner
    turn, within = divmod(inner, segment.turn)
    row, column = divmod(turn, len(segment.places))
    return segment.places[column] + row * segment.turn + within, segment.turn - within
