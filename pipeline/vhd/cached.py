"""Whether a file's data lies in the page cache, found out by looking at a few of its pages."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence

#: Pages that are looked at, spread over the data.
LOOKS = 64
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t], *[ctypes.c_int] * 3, ctypes.c_int64]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]


def is_cached(fd: int, ranges: Sequence[tuple[int, int]]) -> bool:
    """Whether at least half of the pages looked at, in `ranges` of (offset, length), are in memory.

    What cannot be looked at (the kernel shows a file's pages only to who may write it) counts as cold.
    """
    places = _spread(ranges)
    return bool(places) and sum(_resident(fd, place) for place in places) * 2 >= len(places)


def _spread(ranges: Sequence[tuple[int, int]]) -> list[int]:
    """Up to LOOKS offsets of pages, evenly over all the bytes of the ranges."""
    total = sum(length for _, length in ranges)
    step = max(mmap.PAGESIZE, total // LOOKS)
    places, at = [], step // 2
    for offset, length in ranges:
        while at < length:
            places.append((offset + at) // mmap.PAGESIZE * mmap.PAGESIZE)
            at += step
        at -= length
    return places


def _resident(fd: int, offset: int) -> bool:
    page = mmap.PAGESIZE
    address = _libc.mmap(None, page, mmap.PROT_READ, mmap.MAP_SHARED, fd, offset)
    if address is None or address == _FAILED:
        return False
    seen = ctypes.create_string_buffer(1)
    try:
        return _libc.mincore(address, page, seen) == 0 and bool(seen.raw[0] & 1)
    finally:
        _libc.munmap(address, page)
