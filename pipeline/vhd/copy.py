"""Copying a disk's data into a new file: shared blocks where the file system can, else past the page cache.

Seen on ext4 with a cold source: copy_file_range spends several times the processor time of reading and writing,
and a buffered copy starts to write only when it has read for seconds. So the target is written past the cache,
several chunks at a time: reading and writing overlap from the first chunk on, and the fsync at the end finds nothing
left to do. A source that lies in the cache (a guest may just have written it) is read from there, a cold one past it.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from pipeline.base.errors import DiskError, GoldsmithError, HostError
from pipeline.base.file_errors import describe_os_error
from pipeline.vhd.cached import is_cached
from pipeline.vhd.extents import AGAIN, ExtentSource, Piece, Progress, pieces

#: Bytes of one write, and how many are under way: the memory of a copy is their product.
CHUNK, WORKERS = 2 << 20, 4
#: Writes past the cache begin and end on whole pages; smaller ones are left to the cache, which joins them.
PAGE, SMALLEST = 4096, 256 << 10
#: linux/fs.h: FICLONERANGE, and its argument (source, its offset, length, offset in the target).
_CLONE, _CLONE_RANGE = 0x4020940D, struct.Struct("qQQQ")
#: Answers that mean "not this way" rather than "cannot be copied".
_NOT_THIS_WAY = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ENOTTY, errno.EISDIR, errno.EBADF}
)


class _Part(NamedTuple):
    """`length` bytes at `offset` of an open file."""

    fd: int
    offset: int
    length: int
    path: Path


@dataclass(slots=True)
class _Job:
    """One write: parts that follow each other in the target, from `to` on."""

    to: int
    length: int
    parts: list[_Part]


def copy_extents(source: ExtentSource, fd: int, *, progress: Progress | None = None) -> int:
    """Copy a disk's data to `fd`, each byte at its own offset; holes are not touched. Returns the bytes copied.

    `progress` gets (bytes done, bytes to do). Raises DiskError (disk-truncated, disk-unreadable) and
    HostError (no-space).
    """
    with ExitStack() as stack:
        return copy_pieces(list(pieces(source, stack)), fd, lambda piece: piece.start, progress=progress)


def copy_pieces(
    found: Sequence[Piece], fd: int, place: Callable[[Piece], int], *, progress: Progress | None = None
) -> int:
    """Copy pieces to where `place` says in `fd`; errors as `copy_extents`."""
    total = sum(piece.length for piece in found)
    count = _Count(total, progress)
    left = list(_cloned(found, fd, place, count))
    with ExitStack() as stack:
        sources = stack.enter_context(_Sources(part for _, part in left))
        direct = _direct(fd, os.O_RDWR)
        if direct is None:
            _run(list(_jobs(left)), fd, count, sources)
            return total
        stack.callback(os.close, direct)
        large: list[_Job] = []
        small: list[_Job] = []
        for job in _jobs(left):
            for past_cache, part in _cut(job):
                (large if past_cache else small).append(part)
        _run(large, direct, count, sources)
        # only now: the cache must hold no page that a write past it would overtake
        _run(small, fd, count, sources)
    return total


class _Count:
    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total, self._progress, self._done = total, progress, 0

    def add(self, length: int) -> None:
        self._done += length
        if self._progress is not None:
            self._progress(self._done, self._total)


def _cloned(
    found: Iterable[Piece], fd: int, place: Callable[[Piece], int], count: _Count
) -> Iterator[tuple[int, _Part]]:
    """Share what can be shared (XFS, btrfs); give what is left, with its place in the target."""
    works = True
    for piece in found:
        to, at, length = place(piece), piece.offset, piece.length
        head = min(-at % PAGE, length)
        body = (length - head) // PAGE * PAGE if works and (to - at) % PAGE == 0 else 0
        if body:
            try:
                fcntl.ioctl(fd, _CLONE, _CLONE_RANGE.pack(piece.fd, at + head, body, to + head))
            except OSError as error:
                if error.errno not in _NOT_THIS_WAY:
                    raise as_ours(error, piece.path) from None
                # EINVAL and EXDEV are about this source, the rest about the target
                works = error.errno in (errno.EINVAL, errno.EXDEV)
                body = 0
        if not body:
            yield to, _Part(piece.fd, at, length, piece.path)
            continue
        count.add(body)
        if head:
            yield to, _Part(piece.fd, at, head, piece.path)
        if head + body < length:
            yield to + head + body, _Part(piece.fd, at + head + body, length - head - body, piece.path)


def _jobs(found: Iterable[tuple[int, _Part]]) -> Iterator[_Job]:
    """Cut at whole chunks of the target, and join what follows each other there, wherever it comes from."""
    job: _Job | None = None
    for to, part in found:
        at = 0
        while at < part.length:
            here = to + at
            length = min(part.length - at, CHUNK - here % CHUNK)
            piece = _Part(part.fd, part.offset + at, length, part.path)
            if job is not None and job.to + job.length == here and here % CHUNK:
                job.parts.append(piece)
                job.length += length
            else:
                if job is not None:
                    yield job
                job = _Job(here, length, [piece])
            at += length
    if job is not None:
        yield job


def _cut(job: _Job) -> Iterator[tuple[bool, _Job]]:
    """(past the cache?, job): the whole pages apart from the ragged ends; small jobs as they are."""
    begin, end = -(-job.to // PAGE) * PAGE, (job.to + job.length) // PAGE * PAGE
    if end - begin < SMALLEST:
        yield False, job
        return
    for start, stop in ((job.to, begin), (begin, end), (end, job.to + job.length)):
        if start < stop:
            yield start == begin, _Job(start, stop - start, list(_slice(job, start - job.to, stop - job.to)))


def _slice(job: _Job, start: int, stop: int) -> Iterator[_Part]:
    at = 0
    for part in job.parts:
        begin, end = max(start, at), min(stop, at + part.length)
        if begin < end:
            yield _Part(part.fd, part.offset + begin - at, end - begin, part.path)
        at += part.length


def _direct(fd: int, mode: int) -> int | None:
    """The same file once more, for reads or writes past the cache; None if that is not possible (tmpfs)."""
    with suppress(OSError):
        return os.open(f"/proc/self/fd/{fd}", mode | os.O_DIRECT | os.O_CLOEXEC)
    return None


class _Sources:
    """The files that are copied from; cold ones are open once more, for reads past the cache, until it is left."""

    def __init__(self, parts: Iterable[_Part]) -> None:
        by_file: dict[int, list[tuple[int, int]]] = {}
        for part in parts:
            by_file.setdefault(part.fd, []).append((part.offset, part.length))
        cold = [fd for fd, ranges in by_file.items() if not is_cached(fd, ranges)]
        self._past = {fd: past for fd in cold if (past := _direct(fd, os.O_RDONLY)) is not None}

    def __enter__(self) -> _Sources:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._past.values():
            os.close(fd)

    def read(self, fd: int, buffer: memoryview, offset: int) -> int:
        """Read some of what is at `offset` of the file open as `fd`. Raises OSError."""
        if fd in self._past and offset % PAGE == 0 and len(buffer) % PAGE == 0:
            # a file system may still want another alignment; the cache takes any
            with suppress(OSError):
                return os.preadv(self._past[fd], [buffer], offset)
        return os.preadv(fd, [buffer], offset)


def _run(jobs: Sequence[_Job], fd: int, count: _Count, sources: _Sources) -> None:
    """Do the jobs, several at a time; the first error ends the others and is raised, as is an interrupt."""
    todo = iter(jobs)
    taking = threading.Lock()
    stop = threading.Event()
    done: SimpleQueue[int | BaseException | None] = SimpleQueue()

    def work() -> None:
        try:
            # page by page, as writes past the cache want it
            buffer = memoryview(mmap.mmap(-1, CHUNK))
            while not stop.is_set():
                with taking:
                    job = next(todo, None)
                if job is None:
                    break
                _do(job, fd, buffer, sources)
                done.put(job.length)
        except BaseException as error:
            done.put(error)
        done.put(None)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(WORKERS, len(jobs)))]
    try:
        for thread in threads:
            thread.start()
        running = len(threads)
        while running:
            report = done.get()
            if report is None:
                running -= 1
            elif isinstance(report, BaseException):
                raise report
            else:
                count.add(report)
    finally:
        stop.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()


def _do(job: _Job, fd: int, buffer: memoryview, sources: _Sources) -> None:
    at = 0
    for part in job.parts:
        _fill(part, buffer[at : at + part.length], sources)
        at += part.length
    written = 0
    while written < job.length:
        try:
            step = os.pwrite(fd, buffer[written : job.length], job.to + written)
        except OSError as error:
            raise as_ours(error, job.parts[0].path, writing=True) from None
        if step == 0:
            raise HostError("nothing was written", name="no-space", hint="free some space")
        written += step


def _fill(part: _Part, buffer: memoryview, sources: _Sources) -> None:
    got = 0
    while got < part.length:
        try:
            step = sources.read(part.fd, buffer[got:], part.offset + got)
        except OSError as error:
            raise as_ours(error, part.path) from None
        if step == 0:
            raise DiskError(
                f"{part.path.name} ends before its data does", name="disk-truncated", evidence=part.path, hint=AGAIN
            )
        got += step


def as_ours(error: OSError, path: Path, *, writing: bool = False) -> GoldsmithError:
    """What an OSError of a copy means: what fails in `writing` is the host's fault, the rest is the disk's."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return HostError(
            f"there is no space for the copy of {path.name}: {error.strerror}",
            name="no-space",
            hint="free some space",
        )
    if writing:
        return HostError(
            f"cannot write the copy of {path.name}: {error.strerror}",
            name="cannot-write",
            hint=describe_os_error(error).hint,
        )
    return DiskError(
        f"cannot copy {path.name}: {error.strerror}",
        name="disk-unreadable",
        evidence=path,
        hint="check the host's disk with dmesg",
    )
