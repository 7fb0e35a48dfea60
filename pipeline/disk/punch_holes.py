"""Giving back as holes what file systems on an image report as free.

A deleted file's blocks keep their bytes until something discards them, and a journal keeps copies of what it has long
written home. Whatever the guest did or did not trim, none of that leaves the house: it becomes holes, which read as
zeros. Which blocks are free is asked of the sandbox.
"""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Iterator
from pathlib import Path

from pipeline.base.errors import HostError
from pipeline.disk import sandbox
from pipeline.disk.questions import Question, lies
from pipeline.vhd.extents import data_ranges

FREE = Question("free blocks", "pipeline.disk.answers:free_ranges", limit=64 << 20)
#: linux/falloc.h
_KEEP_SIZE, _PUNCH_HOLE = 0x01, 0x02


def free_extents(path: Path, fmt: str | None = None) -> list[tuple[int, int]]:
    """(start, length) in bytes of what no reader of a raw disk or fixed VHD can get at any more, sorted.

    Errors as `free_blocks.free_ranges`, and the sandbox's.
    """
    return list(_free_extents(path, fmt))


def _free_extents(path: Path, fmt: str | None) -> Iterator[tuple[int, int]]:
    blobs = sandbox.ask(FREE, path, fmt).blobs
    if len(blobs) != 2 or len(blobs[0]) != len(blobs[1]) or len(blobs[0]) % 8:
        raise lies(path)
    size = path.stat().st_size
    for start, length in zip(array("q", blobs[0]), array("q", blobs[1]), strict=True):
        if start < 0 or length <= 0 or start + length > size:
            raise lies(path)
        yield start, length


def punch_free(path: Path, fmt: str | None = None) -> int:
    """Make holes of all free blocks that hold data, then fsync. Returns the bytes given back.

    `fmt`: the format's key, by default what the content says.

    Errors as `free_extents`; HostError (no-holes) where the host's file system cannot make holes.
    """
    punched = 0
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        for start, length in free_extents(path, fmt):
            for begin, end in list(data_ranges(fd, start, start + length)):
                _punch(fd, begin, end - begin)
                punched += end - begin
        os.fsync(fd)
    finally:
        os.close(fd)
    return punched


def _punch(fd: int, offset: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, ctypes.c_int64(offset), ctypes.c_int64(length)):
        number = ctypes.get_errno()
        raise HostError(
            f"a hole cannot be punched: {os.strerror(number)}",
            name="no-holes",
            hint="move the store to a file system that supports holes: ext4, xfs, btrfs",
        )
