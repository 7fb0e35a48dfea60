"""Where a disk's data lies: ranges of files. What no extent covers reads as zeros.

Copying by extents costs what the data costs, never what the virtual size would.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import overload

from pipeline.base.errors import DiskError
from pipeline.base.file_errors import describe_os_error, is_limit

Progress = Callable[[int, int], None]

#: What helps where bytes of a disk are lost or changed.
AGAIN = "copy it again from its source, and compare the sizes"


@dataclass(frozen=True, slots=True)
class Extent:
    """`length` bytes of the disk from `start` on stand in `path` at `offset`."""

    start: int
    length: int
    path: Path
    offset: int

    @property
    def end(self) -> int:
        return self.start + self.length


#: More extents than this are damage or an attack: 32 GiB of which no two clusters of 64 KiB are neighbours.
MAX_EXTENTS = 1 << 19


class ExtentTable(Sequence[Extent]):
    """Many extents in little memory: 28 bytes each; an `Extent` is made when it is looked at."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self.starts, self.lengths, self.offsets = array("q"), array("q"), array("q")
        self.numbers = array("i")

    def add(self, start: int, length: int, number: int, offset: int) -> None:
        """Append one; `number` is the place of its file in `paths`. Raises DiskError (disk-too-fragmented)."""
        if len(self.starts) >= MAX_EXTENTS:
            raise DiskError(
                f"the disk's data lies in more than {MAX_EXTENTS} pieces",
                name="disk-too-fragmented",
                hint="copy it on its original host with qemu-img convert",
            )
        if not 0 <= number < len(self.paths) or max(start, length, offset) >= 1 << 62 or min(start, offset) < 0:
            raise DiskError(
                "an extent has no position",
                name="disk-extents",
                hint="the disk's own tables are damaged: do not use it",
            )
        self.starts.append(start)
        self.lengths.append(length)
        self.offsets.append(offset)
        self.numbers.append(number)

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> Extent: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Extent]: ...
    def __getitem__(self, index: int | slice) -> Extent | Sequence[Extent]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        path = self.paths[self.numbers[index]]
        return Extent(self.starts[index], self.lengths[index], path, self.offsets[index])


@dataclass
class ExtentSource:
    """A disk of `size` bytes as sorted extents that do not overlap. `close` removes what `cleanup` holds."""

    size: int
    extents: Sequence[Extent]
    cleanup: ExitStack = field(default_factory=ExitStack, repr=False)

    def __post_init__(self) -> None:
        end = 0
        for extent in self.extents:
            if extent.start < end or extent.length <= 0 or extent.offset < 0:
                raise DiskError("the disk's extents overlap or run backwards", name="disk-extents", hint=AGAIN)
            end = extent.end
        if end > self.size:
            raise DiskError(
                f"an extent ends at {end}, past the disk's {self.size} bytes", name="disk-extents", hint=AGAIN
            )

    @property
    def data_bytes(self) -> int:
        return sum(extent.length for extent in self.extents)

    def close(self) -> None:
        self.cleanup.close()

    def __enter__(self) -> ExtentSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def data_ranges(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The (start, end) ranges between two offsets of a file that hold data; a file system without holes gives one."""
    at = start
    while at < end:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                yield at, end
                return
            raise
        if begin >= end:
            return
        at = min(os.lseek(fd, begin, os.SEEK_HOLE), end)
        yield begin, at


def file_extents(path: Path, size: int | None = None, offset: int = 0) -> ExtentSource:
    """A raw disk inside a file: `size` bytes from `offset` on (by default to the file's end)."""
    with _Opened(path) as fd:
        whole = os.lseek(fd, 0, os.SEEK_END) if size is None else offset + size
        ranges = list(data_ranges(fd, offset, whole))
    extents = tuple(Extent(begin - offset, end - begin, path, begin) for begin, end in ranges)
    return ExtentSource(whole - offset, extents)


def open_file(path: Path) -> int:
    """A descriptor to read a file or block device. Nothing else is opened: a FIFO would wait for ever, a device act.

    Raises DiskError: disk-missing, disk-unreadable, disk-not-a-file.
    """
    try:
        # without O_NONBLOCK the open of a FIFO waits for a writer
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        raise DiskError(f"{path} does not exist", name="disk-missing", hint="check the path") from None
    except (OSError, ValueError) as error:
        # ValueError: a NUL in the name
        why = error.strerror if isinstance(error, OSError) else str(error)
        if isinstance(error, OSError) and is_limit(error):
            raise describe_os_error(error) from None
        if isinstance(error, OSError) and error.errno in (errno.ENXIO, errno.ENODEV):
            raise _not_a_file(path) from None
        damaged = isinstance(error, OSError) and error.errno not in (errno.EACCES, errno.EPERM)
        raise DiskError(
            f"cannot read {path}: {why}",
            name="disk-unreadable",
            hint="check the host's disk with dmesg" if damaged else "check its permissions with ls -l FILE",
            evidence=path,
        ) from None
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        os.close(fd)
        raise _not_a_file(path)
    return fd


def file_size(path: Path) -> int:
    """The bytes of a file or block device. Errors as `open_file`."""
    fd = open_file(path)
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)


def _not_a_file(path: Path) -> DiskError:
    return DiskError(
        f"{path} is neither a file nor a block device",
        name="disk-not-a-file",
        hint="write the output of a pipe into a file first",
    )


class _Opened(AbstractContextManager[int]):
    def __init__(self, path: Path) -> None:
        self._fd = open_file(path)

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


class Reader:
    """Random access to an ExtentSource; descriptors stay open until `close`.

    `held` maps files to descriptors that somebody else opened and will close.
    """

    def __init__(self, source: ExtentSource, held: Mapping[Path, int] | None = None) -> None:
        self.size = source.size
        self._source = source
        self._starts = array("q", (extent.start for extent in source.extents))
        self._files: dict[Path, _Opened] = {}
        self._held = held or {}
        self._opening = threading.Lock()

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on; shorter only at the disk's end. Raises DiskError (disk-unreadable)."""
        if offset < 0 or length < 0:
            raise DiskError(
                f"a read of {length} bytes at {offset} is outside the disk", name="disk-outside", hint=AGAIN
            )
        length = max(0, min(length, self.size - offset))
        if (piece := self._single_piece(offset, length)) is not None:
            return piece
        out = bytearray(length)
        self.read_into(memoryview(out), offset)
        return bytes(out)

    def _single_piece(self, offset: int, length: int) -> bytes | None:
        """What one extent holds and one call reads, which nothing copies; None for all else."""
        index = bisect_right(self._starts, offset) - 1
        if index < 0 or offset + length > self._source.extents[index].end:
            return None
        extent = self._source.extents[index]
        try:
            data = os.pread(self._descriptor(extent.path), length, extent.offset + offset - extent.start)
        except OSError:
            return None
        return data if len(data) == length else None

    def read_into(self, room: memoryview, offset: int) -> None:
        """Fill `room` with what is from `offset` on; zeros past the disk's end. Errors as `read`; from any thread."""
        at, end = offset, offset + len(room)
        index = max(0, bisect_right(self._starts, offset) - 1)
        extents = self._source.extents
        while index < len(extents) and extents[index].start < end:
            extent = extents[index]
            begin, stop = max(at, extent.start), min(end, extent.end)
            if begin < stop:
                _blank(room[at - offset : begin - offset])
                self._fill(extent.path, room[begin - offset : stop - offset], extent.offset + begin - extent.start)
                at = stop
            index += 1
        _blank(room[at - offset :])

    def _descriptor(self, path: Path) -> int:
        with self._opening:
            if path in self._held:
                return self._held[path]
            if path not in self._files:
                self._files[path] = _Opened(path)
            return self._files[path].__enter__()

    def _fill(self, path: Path, room: memoryview, offset: int) -> None:
        fd = self._descriptor(path)
        got = 0
        while got < len(room):
            try:
                step = os.preadv(fd, [room[got:]], offset + got)
            except OSError as error:
                raise DiskError(
                    f"cannot read {path}: {error.strerror}",
                    name="disk-unreadable",
                    hint="check the host's disk with dmesg",
                ) from None
            if step == 0:
                raise DiskError(
                    f"{path.name} ends before its data does", name="disk-truncated", evidence=path, hint=AGAIN
                )
            got += step

    def close(self) -> None:
        while self._files:
            self._files.popitem()[1].__exit__()
        self._source.close()


def _blank(room: memoryview) -> None:
    if room:
        room[:] = bytes(len(room))


@dataclass(frozen=True, slots=True)
class Piece:
    """`length` bytes of real data for the disk's offset `start`, in an open file at `offset`."""

    start: int
    length: int
    fd: int
    offset: int
    path: Path


def pieces(source: ExtentSource, stack: ExitStack) -> Iterator[Piece]:
    """The data of a disk without the holes that its files have; descriptors are closed with `stack`.

    Raises DiskError (disk-truncated, disk-unreadable).
    """
    files: dict[Path, int] = {}
    for extent in source.extents:
        if extent.path not in files:
            files[extent.path] = stack.enter_context(_Opened(extent.path))
        fd = files[extent.path]
        if os.lseek(fd, 0, os.SEEK_END) < extent.offset + extent.length:
            raise DiskError(
                f"{extent.path.name} ends before its data does",
                name="disk-truncated",
                evidence=extent.path,
                hint=AGAIN,
            )
        # an allocated cluster of a layer may itself be a hole of its file
        for begin, end in data_ranges(fd, extent.offset, extent.offset + extent.length):
            yield Piece(extent.start + begin - extent.offset, end - begin, fd, begin, extent.path)
