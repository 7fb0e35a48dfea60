"""Digests of a disk file: flat, and by chunks of 2 MiB, reading data only.

A hole's chunk has a constant digest, so verifying costs what the data costs. The flat sha256 that the world expects
has to feed the zeros too: at capture up to FLAT_LIMIT, and in an export whatever the size.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

#: Bytes of one chunk.
CHUNK = 2 << 20
#: Bytes of the largest disk whose flat sha256 is taken at capture: its zeros cost half a second a GiB, data or not.
FLAT_LIMIT = 32 << 30
#: Threads that hash one file, and chunks that one of them takes at a time.
THREADS, BATCH = 4, 16
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


def _data_chunks(fd: int, size: int) -> Iterator[int]:
    """The start of each chunk that is not one whole hole; a hole costs one look, whatever its size."""
    start = 0
    while start < size:
        try:
            data = os.lseek(fd, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            data = size
        # the last chunk is not of the length that a hole's digest is of
        start = max(start, min(data, size - 1) // CHUNK * CHUNK)
        if data >= size and size % CHUNK == 0:
            return
        yield start
        start += CHUNK


def _chunk(fd: int, start: int, size: int) -> bytes:
    end = min(start + CHUNK, size)
    data = b""
    while len(data) < end - start:
        more = os.pread(fd, end - start - len(data), start + len(data))
        if not more:
            raise OSError(errno.EIO, "the file shrank while it was read")
        data += more
    return data


def chunk_digests(path: Path) -> Digests:
    """The chunk digests of a file; cost follows its data."""
    fd = os.open(path, os.O_RDONLY)
    try:
        status = os.fstat(fd)
        size = status.st_size
        chunks = [_ZERO_DIGEST] * -(-size // CHUNK)

        def digest(starts: Sequence[int]) -> None:
            for start in starts:
                chunks[start // CHUNK] = hashlib.sha256(_chunk(fd, start, size)).hexdigest()

        with ThreadPoolExecutor(min(os.cpu_count() or 1, THREADS)) as pool:
            # reading and hashing let other threads run
            list(pool.map(digest, _batches(_data_chunks(fd, size))))
    finally:
        os.close(fd)
    return Digests(size, status.st_blocks * 512, tuple(chunks))


def _batches(starts: Iterable[int]) -> Iterator[list[int]]:
    batch: list[int] = []
    for start in starts:
        batch.append(start)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def file_digest(path: Path) -> str:
    """sha256 of a file that is no disk."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flat_digest(path: Path) -> str:
    """sha256 of the whole file, holes read as zeros."""
    whole = hashlib.sha256()
    fd = os.open(path, os.O_RDONLY)
    try:
        size, done = os.fstat(fd).st_size, 0
        for start in _data_chunks(fd, size):
            for _ in range((start - done) // CHUNK):
                whole.update(_ZEROS)
            data = _chunk(fd, start, size)
            whole.update(data)
            done = start + len(data)
        for _ in range((size - done) // CHUNK):
            whole.update(_ZEROS)
    finally:
        os.close(fd)
    return whole.hexdigest()
