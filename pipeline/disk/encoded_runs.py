"""Where a buffer holds base64, and where a zlib stream may begin in it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import hyperscan

#: The shortest run of base64 that is decoded: 30 bytes. A run of several lines has longer ones.
RUN = 40
#: Bytes of a run of base64 that are decoded together.
RUN_LIMIT = 1 << 20
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
BREAKS = b"\r\n \t"
#: Bytes between the places where a file may begin.
SECTOR = 512
#: Two bytes are found everywhere: the beginnings of sectors alone are looked at.
_ZLIB = 0x78
_ZLIB_HEADS = frozenset({b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"})
#: RUN and no less of base64. Hyperscan looks for that by leaps, five times as fast as for where it ends; but from so
#: many of a buffer on, their ends are quicker.
_AT_LEAST, _ENDS, _LEAPS = rb"[A-Za-z0-9+/]{%d}" % RUN, rb"[A-Za-z0-9+/]{%d}[^A-Za-z0-9+/]" % RUN, 500


def zlib_heads(data: bytes, start: int) -> list[int]:
    """Where zlib's two bytes are the first of a sector; the buffer begins at the disk's byte `start`."""
    first = -start % SECTOR
    heads, found = data[first::SECTOR], []
    number = heads.find(_ZLIB)
    while number >= 0:
        begin = first + number * SECTOR
        if data[begin : begin + 2] in _ZLIB_HEADS:
            found.append(begin)
        number = heads.find(_ZLIB, number + 1)
    return found


def match_ends(pattern: bytes, data: bytes | memoryview, flags: int = 0) -> list[int]:
    """Where what matches a single expression ends."""
    found: list[int] = []

    def on_match(_number: int, _begin: int, end: int, _flags: int, _context: object) -> None:
        found.append(end)

    database, scratch = _compile(pattern, flags)
    # the stubs know of bytes alone
    database.scan(data, match_event_handler=on_match, scratch=scratch)  # type: ignore[type-var]
    return found


@cache
def _compile(pattern: bytes, flags: int = 0) -> tuple[hyperscan.Database, hyperscan.Scratch]:
    """A database of one expression: it is compiled in a few milliseconds, where it is needed."""
    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    database.compile(expressions=[pattern], ids=[0], flags=[flags])
    return database, hyperscan.Scratch(database)


def base64_runs(data: bytes) -> Iterator[tuple[int, int]]:
    """(begin, end) of RUN or more of base64, with the lines that follow; what the buffer ends with is left out."""
    view = memoryview(data)
    at = steps = 0
    # of many buffers this is the longest part: one list, and one function, for all leaps
    first: list[int] = []

    def on_match(_number: int, _begin: int, end: int, _flags: int, _context: object) -> None:
        first.append(end)

    database, scratch = _compile(_AT_LEAST, hyperscan.HS_FLAG_SINGLEMATCH)
    while steps < _LEAPS:
        database.scan(view[at:], match_event_handler=on_match, scratch=scratch)  # type: ignore[type-var]
        if not first:
            return
        # the first match ends where RUN bytes are complete
        whole = at + first.pop()
        end = _after(data, whole, _BASE64, len(data))
        if end == len(data):
            return
        at = _after(data, end, _BASE64 + BREAKS, end + RUN_LIMIT)
        yield whole - RUN, at
        steps += 1
    behind = at
    for end in match_ends(_ENDS, view[behind:]):
        if behind + end - 1 > at:
            begin, at = _run(data, behind + end - 1, at)
            yield begin, at


def _after(data: bytes, at: int, letters: bytes, limit: int) -> int:
    """The first place from `at` on with another byte than `letters`, or the first of the pieces that are read at or
    behind `limit`."""
    step = 512
    while at < min(limit, len(data)):
        piece = data[at : at + step]
        left = piece.lstrip(letters)
        at += len(piece) - len(left)
        if left:
            break
        step *= 8
    return at


def _run(data: bytes, end: int, floor: int) -> tuple[int, int]:
    """The run of base64 around a place, its lines joined: (begin, end). `floor` is where an earlier one ended."""
    begin, step = end, 512
    while begin > floor and end - begin < RUN_LIMIT:
        piece = data[max(floor, begin - step) : begin]
        kept = piece.rstrip(_BASE64)
        begin -= len(piece) - len(kept)
        if kept:
            break
        step *= 8
    return begin, _after(data, end, _BASE64 + BREAKS, end + RUN_LIMIT)
