"""Where the data of one file lies on a disk, however many pieces it has."""

from __future__ import annotations

import io
from array import array
from bisect import bisect_right
from collections.abc import Iterator

from pipeline.disk.filesystem import Read

#: Pieces of one file. A file of 4 GiB in which no two blocks of 4 KiB are neighbours has as many.
MAX_PIECES = 1_000_000
#: Bytes that are asked of the disk at once.
_CHUNK = 4 << 20


class TooManyPiecesError(Exception):
    """A file has more than MAX_PIECES pieces."""


class DataMap:
    """Pieces of (first byte in the file, first byte on the disk, length), ascending; what lies between is a hole.

    Kept in arrays: a million pieces take 25 MB. Each look-up is a binary search, so that reading a fragmented file
    from end to end costs its length.
    """

    __slots__ = ("_ends", "_places", "_starts", "_unwritten")

    def __init__(self) -> None:
        self._starts: array[int] = array("Q")
        self._places: array[int] = array("Q")
        self._ends: array[int] = array("Q")
        self._unwritten = bytearray()

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def end(self) -> int:
        """The first byte of the file behind its last piece."""
        return self._ends[-1] if self._ends else 0

    def add(self, start: int, place: int, length: int, *, unwritten: bool = False) -> None:
        """A piece behind all others; neighbours become one. `unwritten` pieces are reserved and read as zeros.

        Raises ValueError where it begins before the last one's end, TooManyPiecesError.
        """
        number = len(self._starts) - 1
        if number >= 0:
            if start < self._ends[number]:
                raise ValueError("the pieces of a file overlap")
            follows = start == self._ends[number] and place == self._places[number] + start - self._starts[number]
            if follows and unwritten == bool(self._unwritten[number]):
                self._ends[number] += length
                return
        if number + 1 >= MAX_PIECES:
            raise TooManyPiecesError
        self._starts.append(start)
        self._places.append(place)
        self._ends.append(start + length)
        self._unwritten.append(unwritten)

    def pieces(self) -> Iterator[tuple[int, int]]:
        """(first byte in the file, first byte behind it) of every piece."""
        return zip(self._starts, self._ends, strict=True)

    def runs(self) -> list[tuple[int, int]]:
        """(first byte on the disk, length) of every piece, reserved ones too."""
        return [
            (place, end - start) for start, place, end in zip(self._starts, self._places, self._ends, strict=True)
        ]

    def read(self, read: Read, offset: int, length: int) -> bytes:
        """`length` bytes of the file from `offset` on, holes as zeros; shorter only where the disk ends."""
        # gives its bytes without a second copy of them: memory is limited where disks are read
        out = io.BytesIO()
        stop = offset + length
        number = max(0, bisect_right(self._starts, offset) - 1)
        while number < len(self._starts) and self._starts[number] < stop:
            start, end = max(self._starts[number], offset), min(self._ends[number], stop)
            if start < end:
                _zeros(out, start - offset)
                if self._unwritten[number]:
                    _zeros(out, end - offset)
                elif not self._copy(read, number, (start, end), out):
                    return out.getvalue()
            number += 1
        _zeros(out, length)
        return out.getvalue()

    def _copy(self, read: Read, number: int, part: tuple[int, int], out: io.BytesIO) -> bool:
        start, end = part
        place = self._places[number] + start - self._starts[number]
        while start < end:
            data = read(place, min(end - start, _CHUNK))
            if not data:
                return False
            out.write(data)
            place, start = place + len(data), start + len(data)
        return True


def _zeros(out: io.BytesIO, until: int) -> None:
    while out.tell() < until:
        out.write(bytes(min(until - out.tell(), _CHUNK)))
