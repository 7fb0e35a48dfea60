"""LZO1X, as btrfs compresses with: decompression alone.

By the kernel's Documentation/staging/lzo.rst, which describes the stream, and lib/lzo/lzo1x_decompress_safe.c.
"""

from __future__ import annotations


class LzoError(ValueError):
    """The stream is damaged."""


def decompress(data: bytes, limit: int) -> bytes:
    """At most `limit` bytes. Raises LzoError where the stream is damaged, or holds more."""
    try:
        return _Stream(data, limit).run()
    except IndexError:
        raise LzoError("the stream ends early") from None


class _Stream:
    def __init__(self, data: bytes, limit: int) -> None:
        self._data, self._limit = data, limit
        self._at = 0
        self._out = bytearray()

    def run(self) -> bytes:
        # how many literals the last instruction took along: 0 to 3, or 4 for a run of them
        state = 0
        first = self._data[0]
        if first > 17:
            self._at = 1
            count = first - 17
            self._literals(count)
            state = min(count, 4)
        while True:
            code = self._byte()
            if code < 16 and state == 0:
                self._literals(self._count(code, 15) + 3)
                state = 4
                continue
            length, distance, take = self._match(code, state)
            if not distance:
                return bytes(self._out)
            self._copy(length, distance)
            self._literals(take)
            state = take

    def _match(self, code: int, state: int) -> tuple[int, int, int]:
        """(length, distance, literals that follow); a distance of 0 is the end."""
        if code < 16:
            return self._short_match(code, state)
        if code < 32:
            length = self._count(code & 7, 7) + 2
            low = self._byte() | self._byte() << 8
            far = (code & 8) << 11 | low >> 2
            return length, far + 16384 if far else 0, low & 3
        if code < 64:
            length = self._count(code & 31, 31) + 2
            low = self._byte() | self._byte() << 8
            return length, (low >> 2) + 1, low & 3
        distance = (self._byte() << 3 | code >> 2 & 7) + 1
        return (code >> 5) + 1, distance, code & 3

    def _short_match(self, code: int, state: int) -> tuple[int, int, int]:
        high = self._byte()
        if state == 4:
            return 3, (high << 2 | code >> 2) + 2049, code & 3
        return 2, (high << 2 | code >> 2) + 1, code & 3

    def _count(self, bits: int, most: int) -> int:
        """A length of a few bits; where they are 0, bytes of zero count 255 each, and one more byte ends it."""
        if bits:
            return bits
        count = most
        while not (byte := self._byte()):
            count += 255
            if count > self._limit:
                raise LzoError("the stream holds more than its length says")
        return count + byte

    def _byte(self) -> int:
        byte = self._data[self._at]
        self._at += 1
        return byte

    def _literals(self, count: int) -> None:
        piece = self._data[self._at : self._at + count]
        if len(piece) < count:
            raise LzoError("the stream ends early")
        self._at += count
        self._grow(piece)

    def _copy(self, length: int, distance: int) -> None:
        begin = len(self._out) - distance
        if begin < 0:
            raise LzoError("a match begins before the data")
        piece = bytes(self._out[begin : begin + length])
        # a match may overlap what it makes
        while len(piece) < length:
            piece += piece[: length - len(piece)]
        self._grow(piece)

    def _grow(self, piece: bytes) -> None:
        if len(self._out) + len(piece) > self._limit:
            raise LzoError("the stream holds more than its length says")
        self._out += piece
