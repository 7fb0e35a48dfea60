"""A power cut of the host, played.

The writes to a disk's file go through QEMU's filter `blklogwrites`, which logs each write and each flush. The disk
after the power cut is the disk from before with the log replayed to its last flush: what came later was in the host's
memory only. Killing QEMU alone would leave the host's page cache.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from pipeline.base import qemu_img
from pipeline.base.disk_format import RAW
from pipeline.cache.layers import Image

#: Bytes of one write of a test.
LENGTH = 64 << 10
#: The log's format (Linux, drivers/md/dm-log-writes.c).
MAGIC, FLUSH_FLAG, FUA_FLAG, DISCARD_FLAG = 0x6A736677736872, 1, 2, 4


def entries(log: Path) -> Iterator[tuple[int, int, int, bytes]]:
    """Each entry of the log up to its last flush: flags, the first byte and the number of bytes, the data."""
    data = log.read_bytes()
    if not any(data[:8]):
        return  # its head is written with the first flush: nothing was flushed
    magic, _, count, sector = struct.unpack_from("<QQQI", data)
    assert magic == MAGIC, hex(magic)
    at = sector
    for _ in range(count):
        first, length, flags, _ = struct.unpack_from("<QQQQ", data, at)
        at += sector
        size = length * sector
        content = b"" if flags & DISCARD_FLAG else data[at : at + size]
        at += len(content)
        yield flags, first * sector, size, content


def replay(log: Path, disk: Path) -> tuple[int, int]:
    """Apply the log to the disk up to the last flush; the numbers of entries that were applied and that were lost."""
    found = list(entries(log))
    flushes = [index for index, (flags, *_) in enumerate(found) if flags & (FLUSH_FLAG | FUA_FLAG)]
    last = flushes[-1] + 1 if flushes else 0
    with disk.open("r+b") as file:
        for flags, first, size, content in found[:last]:
            file.seek(first)
            file.write(bytes(size) if flags & DISCARD_FLAG else content)
    return last, len(found) - last


def read(image: Image, at: int) -> int:
    """The byte that a whole range has; -1 if it has several."""
    raw = image.path.with_suffix(".raw")
    qemu_img.convert(image.path, image.format.driver, raw, RAW.driver)
    values = set(raw.read_bytes()[at : at + LENGTH])
    return values.pop() if len(values) == 1 else -1
