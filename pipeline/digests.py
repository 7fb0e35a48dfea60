"""Digests of a disk file: flat, and by chunks of 2 MiB, reading data only.

A hole's chunk has a constant digest, so verifying costs what the data costs. The flat sha256 that the world expects
has to feed the zeros too: at capture up to FLAT_LIMIT, and in an export whatever the size.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

#: Bytes of one chunk.
CHUNK = 2 << 20
#: Bytes of the largest disk whose flat sha256 is taken at capture: its zeros cost half a second a GiB, data or not.
FLAT_LIMIT = 32 << 30
_ZEROS = bytes(CHUNK)
_ZERO_DIGEST = hashlib.sha256(_ZEROS).hexdigest()


@dataclass(frozen=True)
class Digests:
    """`chunks` holds the hexadecimal sha256 of each 2 MiB, the last one of what is left."""

    size: int
    allocated: int
    chunks: tuple[str, ...]

    @property
    def tree(self) -> str:
        """One digest over the chunk digests: equal exactly when the files are equal."""
        return tree_of(self.chunks)


def tree_of(chunks: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(chunks).encode()).hexdigest()


def _has_data(fd: int, start: int, end: int) -> bool:
    try:
        return os.lseek(fd, start, os.SEEK_DATA) < end
    except OSError as error:
        if error.errno == errno.ENXIO:
            return False
        raise


def _chunks(fd: int, size: int) -> Iterator[bytes | None]:
    """Each chunk's bytes, None for a hole of a whole chunk."""
    for start in range(0, size, CHUNK):
        end = min(start + CHUNK, size)
        if end - start == CHUNK and not _has_data(fd, start, end):
            yield None
            continue
        data = b""
        while len(data) < end - start:
            more = os.pread(fd, end - start - len(data), start + len(data))
            if not more:
                raise OSError(errno.EIO, "the file shrank while it was read")
            data += more
        yield data


def chunk_digests(path: Path) -> Digests:
    """The chunk digests of a file; cost follows its data."""
    fd = os.open(path, os.O_RDONLY)
    try:
        status = os.fstat(fd)
        chunks = tuple(
            _ZERO_DIGEST if data is None else hashlib.sha256(data).hexdigest() for data in _chunks(fd, status.st_size)
        )
    finally:
        os.close(fd)
    return Digests(status.st_size, status.st_blocks * 512, chunks)


def flat_digest(path: Path) -> str:
    """sha256 of the whole file, holes read as zeros."""
    whole = hashlib.sha256()
    fd = os.open(path, os.O_RDONLY)
    try:
        for data in _chunks(fd, os.fstat(fd).st_size):
            whole.update(_ZEROS if data is None else data)
    finally:
        os.close(fd)
    return whole.hexdigest()
