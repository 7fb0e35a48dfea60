"""What an NTFS at rest says about itself: whether its journal is empty, and where its paging files lie."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.disk.disk import Disk
from pipeline.disk.filesystem import FileSystem
from pipeline.disk.root import Root
from pipeline.disk.volumes import Volume

#: Files into which Windows puts memory that it needs elsewhere. It reads nothing of them after a start.
PAGING = ("/pagefile.sys", "/swapfile.sys")
_HIBERNATION = "/hiberfil.sys"
#: $LogFile, and its restart area: linux-ntfs, include/ntfs-3g/logfile.h.
_LOG_FILE, _RESTART, _CLEAN, _NO_CLIENT = 2, b"RSTR", 0x0002, 0xFFFF
#: Bytes that a look at a paging file reads at a time.
_CHUNK = 1 << 20


def is_at_rest(files: FileSystem) -> bool:
    """Whether the journal holds no change that is not in the file system yet: another mount would not alter it."""
    head = files.read(_LOG_FILE, 0, 8192)
    if head and head.count(0xFF) == len(head):
        return True  # an empty one, as made and as left by chkdsk
    for start in (0, 4096):
        page = head[start : start + 4096]
        if len(page) < 4096 or page[:4] != _RESTART:
            return False
        (area,) = struct.unpack_from("<H", page, 24)
        if area + 16 > 512 - 2:
            return False
        in_use, flags = struct.unpack_from("<HH", page, area + 12)
        if in_use != _NO_CLIENT and not flags & _CLEAN:
            return False
    return True


@dataclass(frozen=True)
class PagingFile:
    """`runs`: (start, length) in bytes of the disk; none of a file so small that it lies in its own record."""

    path: str
    inode: int
    size: int
    runs: tuple[tuple[int, int], ...]


def paging_files(disk: Disk, volume: Volume) -> Iterator[PagingFile]:
    """The paging files of an NTFS volume."""
    files = disk.filesystem(volume)
    root = Root(files)
    for path in PAGING:
        stat = root.stat(path, follow=False)
        if stat is not None and stat.type == "file":
            yield PagingFile(path, stat.inode, stat.size, tuple(files.runs(stat.inode)))


def holds_data(disk: Disk, volume: Volume, file: PagingFile) -> bool:
    """Whether any byte of it is not zero. Holes of the disk cost nothing."""
    if not file.runs:
        return any(disk.filesystem(volume).read(file.inode, 0, min(file.size, _CHUNK)))
    return any(_has_data(disk, start, start + length) for start, length in file.runs)


def _has_data(disk: Disk, start: int, end: int) -> bool:
    for extent in disk.source.extents:
        at, stop = max(start, extent.start), min(end, extent.end)
        while at < stop:
            data = disk.read(at, min(_CHUNK, stop - at))
            if not data:
                break
            if data.count(0) != len(data):
                return True
            at += len(data)
    return False


def disposable(disk: Disk, volume: Volume) -> Iterator[tuple[int, int]]:
    """(start, length) of what paging files hold: pieces of the memory of the machine that ran last.

    Nothing of a disk that hibernated, or whose journal may yet move files.
    """
    files = disk.filesystem(volume)
    hibernation = Root(files).stat(_HIBERNATION)
    if (hibernation is not None and hibernation.size) or not is_at_rest(files):
        return
    seen: list[tuple[int, int]] = []
    for file in paging_files(disk, volume):
        for start, length in file.runs:
            # a damaged table may give a block to two files, or one outside
            outside = start < volume.start or start + length > volume.start + volume.size
            if not outside and not any(start < end and begin < start + length for begin, end in seen):
                seen.append((start, start + length))
                yield start, length
