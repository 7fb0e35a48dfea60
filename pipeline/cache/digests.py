"""Digests of a disk file: flat, by chunks of 2 MiB, and by blocks of 64 KiB; only data is read.

A hole's chunk has a constant digest, so verifying costs what the data costs. The flat sha256 that the world expects
has to feed the zeros too: at capture up to FLAT_LIMIT, and in an export whatever the size.

The digest over the chunks' digests (`tree`) is what a disk is known by. The blocks' digests say where two disks
differ; they lie in a file of their own: 32 bytes of sha256 for each block, in order, and 32 zero bytes for a block of
zeros, so that the file has a hole where the disk has one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import mmap
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue

#: Bytes of one chunk.
CHUNK = 2 << 20
#: Bytes of the largest disk whose flat sha256 is taken at capture: its zeros cost half a second a GiB, data or not.
FLAT_LIMIT = 32 << 30
#: Threads that hash one file, and chunks that one of them takes at a time.
THREADS, BATCH = 4, 16
#: Bytes of one block, as deduplicating stores and uploads count, and of its digest.
BLOCK, DIGEST = 64 << 10, 32
_ZEROS = bytes(CHUNK)
_ZERO_BLOCK = bytes(BLOCK)
_ZERO_DIGEST = hashlib.sha256(_ZEROS).hexdigest()


@dataclass(frozen=True)
class Digests:
    """`chunks` holds the hexadecimal sha256 of each 2 MiB, the last one of what is left."""

    size: int
    allocated: int
    chunks: tuple[str, ...]
    #: How many blocks are not those that the disk was compared with, and the number of the first.
    changed: int = 0
    first_changed: int | None = None

    @property
    def tree(self) -> str:
        """One digest over the chunk digests: equal exactly when the files are equal."""
        return tree_of(self.chunks)


def tree_of(chunks: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(chunks).encode()).hexdigest()


def _data_chunks(fd: int, size: int) -> Iterator[int]:
    """The start of each chunk that is not one whole hole."""
    return _data_places(fd, size, CHUNK)


def _data_places(fd: int, size: int, step: int) -> Iterator[int]:
    """The start of each piece of `step` bytes that is not one whole hole; a hole costs one look."""
    start = 0
    while start < size:
        try:
            data = os.lseek(fd, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            data = size
        # the last piece is not of the length that a hole's digest is of
        start = max(start, min(data, size - 1) // step * step)
        if data >= size and size % step == 0:
            return
        yield start
        start += step


def _buffer() -> memoryview:
    """Room for one chunk, for all that a thread reads: memory of its own that goes back to the kernel at once."""
    return memoryview(mmap.mmap(-1, CHUNK))


def _chunk(fd: int, start: int, size: int, buffer: memoryview) -> memoryview:
    """The chunk at `start`, read into `buffer`; valid until that is used again."""
    room = buffer[: min(CHUNK, size - start)]
    done = 0
    while done < len(room):
        count = os.preadv(fd, [room[done:]], start + done)
        if not count:
            raise OSError(errno.EIO, "the file became shorter while it was read")
        done += count
    return room


#: Gets the bytes that have been read, and about how many there are to read; from several threads.
OnBytes = Callable[[int, int], None]


def chunk_digests(path: Path, progress: OnBytes | None = None) -> Digests:
    """The chunk digests of a file; cost follows its data."""
    return _read(path, None, progress=progress)


def write_block_digests(path: Path, target: Path, progress: OnBytes | None = None) -> Digests:
    """The chunk digests of a file; the same reading writes its blocks' digests to `target`, a new file."""
    with target.open("xb") as file:
        file.truncate(blocks_size(path.stat().st_size))
        return _read(path, lambda start, blocks: _write_blocks(file.fileno(), start, blocks), progress=progress)


def compare_block_digests(path: Path, blocks: Path, progress: OnBytes | None = None) -> Digests:
    """The chunk digests of a file, and how many of its blocks are not what the file of digests says.

    Raises ValueError where that file has not the size for it.
    """
    size, expected_size = path.stat().st_size, blocks.stat().st_size
    if expected_size != blocks_size(size):
        raise ValueError(f"{expected_size} bytes of digests are not those of {size} bytes")
    changed: list[tuple[int, int]] = []
    with blocks.open("rb") as file:

        def compare(start: int, found: bytes) -> None:
            place = start // BLOCK * DIGEST
            expected = os.pread(file.fileno(), len(found), place)
            if places := list(_unequal(expected, found)):
                changed.append(((place + places[0]) // DIGEST, len(places)))

        digests = _read(path, compare, also=_chunks_of_blocks(file.fileno(), expected_size), progress=progress)
    first = min((number for number, _ in changed), default=None)
    return replace(digests, changed=sum(count for _, count in changed), first_changed=first)


def unequal_blocks(left: Path, right: Path) -> Iterator[int]:
    """Numbers of the blocks whose digests are not the same in two files of digests; one may be longer."""
    with left.open("rb") as first, right.open("rb") as second:
        sizes = [os.fstat(file.fileno()).st_size for file in (first, second)]
        places = {
            place
            for file, size in zip((first, second), sizes, strict=True)
            for place in _data_places(file.fileno(), size, _PER_CHUNK)
        }
        for place in sorted(places):
            pair = (os.pread(file.fileno(), _PER_CHUNK, place).ljust(_PER_CHUNK, b"\0") for file in (first, second))
            yield from ((place + at) // DIGEST for at in _unequal(*pair))


def blocks_size(size: int) -> int:
    """Bytes of the file of digests of a disk's file of `size` bytes."""
    return -(-size // BLOCK) * DIGEST


#: Bytes of digests of the blocks of one chunk.
_PER_CHUNK = CHUNK // BLOCK * DIGEST


def _unequal(left: bytes, right: bytes) -> Iterator[int]:
    """Places of the digests that differ."""
    if left != right:
        yield from (at for at in range(0, len(left), DIGEST) if left[at : at + DIGEST] != right[at : at + DIGEST])


def _blocks(data: memoryview) -> bytes:
    """The digests of a chunk's blocks."""
    pieces = (data[at : at + BLOCK] for at in range(0, len(data), BLOCK))
    return b"".join(
        bytes(DIGEST) if piece == _ZERO_BLOCK[: len(piece)] else hashlib.sha256(piece).digest() for piece in pieces
    )


def _write_blocks(fd: int, start: int, blocks: bytes) -> None:
    if any(blocks):
        os.pwrite(fd, blocks, start // BLOCK * DIGEST)


def _chunks_of_blocks(fd: int, size: int) -> Iterator[int]:
    """The start of each chunk that a file of digests has something for."""
    return (place // _PER_CHUNK * CHUNK for place in _data_places(fd, size, _PER_CHUNK))


def _read(
    path: Path,
    on_blocks: Callable[[int, bytes], None] | None,
    also: Iterable[int] = (),
    progress: OnBytes | None = None,
) -> Digests:
    """Hash every chunk that is not one whole hole, and those that start at `also`.

    `on_blocks` gets each one's start and the digests of its blocks, from several threads.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        status = os.fstat(fd)
        size = status.st_size
        chunks = [_ZERO_DIGEST] * -(-size // CHUNK)
        count = itertools.count(1)

        def digest(starts: Sequence[int]) -> None:
            if progress is not None:
                # a chunk with a hole in it is read whole, so there may be more to read than the file takes
                taken = status.st_blocks * 512
                progress(min(next(count) * BATCH * CHUNK, taken), taken)
            # as many as there are threads: one is free
            buffer = buffers.get_nowait()
            try:
                for start in starts:
                    data = _chunk(fd, start, size, buffer)
                    chunks[start // CHUNK] = hashlib.sha256(data).hexdigest()
                    if on_blocks is not None:
                        on_blocks(start, _blocks(data))
            finally:
                buffers.put(buffer)

        wanted: Iterable[int] = _data_chunks(fd, size)
        if also := set(also):
            wanted = sorted({*wanted, *also})
        threads = min(os.cpu_count() or 1, THREADS)
        buffers: SimpleQueue[memoryview] = SimpleQueue()
        for _ in range(threads):
            buffers.put(_buffer())
        with ThreadPoolExecutor(threads) as pool:
            # reading and hashing let other threads run
            list(pool.map(digest, _batches(wanted)))
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
    """sha256 of a file that is not a disk."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flat_digest(path: Path, progress: OnBytes | None = None) -> str:
    """sha256 of the whole file, holes read as zeros."""
    whole, done, size = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        for _, data in _whole_chunks(file.fileno()):
            whole.update(data)
            done += len(data)
            if progress is not None:
                progress(done, size)
    return whole.hexdigest()


def _whole_chunks(fd: int) -> Iterator[tuple[bool, bytes | memoryview]]:
    """Each chunk of a file in order, whether it was read, and its bytes, which are valid until the next one is asked
    for: what is one whole hole is not read.
    """
    size, done, buffer = os.fstat(fd).st_size, 0, _buffer()
    for start in _data_chunks(fd, size):
        for _ in range((start - done) // CHUNK):
            yield False, _ZEROS
        data = _chunk(fd, start, size, buffer)
        yield True, data
        done = start + len(data)
    for _ in range((size - done) // CHUNK):
        yield False, _ZEROS


class FlatDigest(threading.Thread):
    """Takes a file's flat sha256 while others work. Of the same reading comes the tree, which says what it is of."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._path = path
        self._stopped = threading.Event()
        self._found: tuple[str, str] | None = None
        self.start()

    def run(self) -> None:
        whole, chunks = hashlib.sha256(), []
        # anyone who wants the digest reads the file again where this could not, and gets the error
        with contextlib.suppress(OSError), self._path.open("rb") as file:
            for read, data in _whole_chunks(file.fileno()):
                whole.update(data)
                chunks.append(hashlib.sha256(data).hexdigest() if read else _ZERO_DIGEST)
                if self._stopped.is_set():
                    return
            self._found = whole.hexdigest(), tree_of(chunks)

    def stop(self) -> None:
        """Nobody wants it any more."""
        self._stopped.set()
        self.join()

    def of(self, tree: str) -> str | None:
        """The flat sha256 of the file whose tree this is, once it is taken; None where another was read, or none."""
        self.join()
        return self._found[0] if self._found is not None and self._found[1] == tree else None
