"""What file systems on an image report as free, as their own tables have it. Runs in the sandbox's worker."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from pathlib import Path

from pipeline.base.disk_format import known_format
from pipeline.base.errors import DiskError
from pipeline.disk import fat, paging, tools
from pipeline.disk.disk import Disk, open_disk
from pipeline.disk.ext4 import Ext4Facts
from pipeline.disk.volumes import Volume

#: More pieces of free room than this are damage or an attack.
MAX_RANGES = 1 << 20
#: EXT4_JOURNAL_INO, and JBD2_MAGIC_NUMBER at the start of the journal's first block.
_JOURNAL_INODE, _JOURNAL_MAGIC = 8, 0xC03B3998
#: A line of dumpe2fs that lists the free blocks of one group.
_FREE = b"  Free blocks: "


def free_ranges(path: Path, fmt: str | None = None) -> tuple[array[int], array[int]]:
    """Starts and lengths in bytes of what no reader of a raw disk or fixed VHD can get at any more, sorted.

    That is what ext, XFS, btrfs and FAT file systems report as free, what no logical volume has of its group, what an
    ext journal has already written home, and what Windows' paging files hold.

    Raises DiskError: fs-not-clean where a journal would have to be replayed first (its blocks may be claimed as
    free), disk-too-fragmented, and what `open_disk` raises.
    """
    starts, lengths = array("q"), array("q")
    with open_disk(path, fmt) as disk:
        if not known_format(disk.fmt).is_flat:
            raise DiskError(
                f"{path.name} is {disk.fmt}: only a raw disk or a fixed VHD can be trimmed",
                name="disk-format",
                hint="convert it to a fixed VHD with goldsmith vhd convert",
            )
        for start, length in _free(disk, path):
            if len(starts) >= MAX_RANGES:
                raise DiskError(
                    f"{path.name}: its free space is in more than {MAX_RANGES} pieces",
                    name="disk-too-fragmented",
                    hint="check the file system, or defragment it with e4defrag",
                    evidence=path,
                )
            starts.append(start)
            lengths.append(length)
    order = sorted(range(len(starts)), key=starts.__getitem__)
    return array("q", (starts[each] for each in order)), array("q", (lengths[each] for each in order))


def _free(disk: Disk, path: Path) -> Iterator[tuple[int, int]]:
    for volume in disk.filesystems:
        yield from volume.spare
        if volume.facts is not None and not volume.facts.clean:
            raise DiskError(
                f"{volume.title}: the {volume.kind} file system was not unmounted cleanly "
                f"({', '.join(volume.facts.faults)})",
                name="fs-not-clean",
                hint="shut the guest down properly, then build again",
                evidence=path,
            )
        if isinstance(volume.facts, Ext4Facts):
            yield from _ext_free(disk, path, volume, volume.facts)
            yield from _ext_journal(disk, volume, volume.facts)
        elif volume.facts is not None:
            yield from disk.filesystem(volume).free_ranges()
        elif volume.kind == "vfat":
            yield from _fat_free(disk, volume)
        elif volume.kind == "ntfs":
            yield from paging.disposable(disk, volume)


def _ext_free(disk: Disk, path: Path, volume: Volume, facts: Ext4Facts) -> Iterator[tuple[int, int]]:
    if facts.bigalloc:
        raise DiskError(f"{volume.title}: ext4 with bigalloc cannot be trimmed", name="fs-unsupported")
    if volume.space is not None and not volume.space.is_contiguous:
        # dumpe2fs reads a file system that is in one piece
        yield from disk.filesystem(volume).free_ranges()
        return
    if "?" in path.name:
        # e2fsprogs takes what follows as its own options
        raise DiskError(f"{path}: a name with '?' cannot be given to dumpe2fs", name="disk-name")
    running = tools.RUNNER.start("free-blocks", {"files": [str(path.absolute())], "offset": volume.start})
    block = facts.block_size
    for line in running.lines():
        if not line.startswith(_FREE):
            continue
        for piece in filter(None, line[len(_FREE) :].decode("ascii", "replace").strip().split(", ")):
            first, _, last = piece.partition("-")
            begin, end = int(first), int(last or first) + 1
            if end <= begin or end > facts.blocks:
                raise DiskError(
                    f"{volume.title}: the free block {end} is outside the disk",
                    name="fs-damaged",
                    hint="check it in a rescue system with e2fsck -f",
                )
            yield volume.start + begin * block, (end - begin) * block
    running.finish()


def _ext_journal(disk: Disk, volume: Volume, facts: Ext4Facts) -> Iterator[tuple[int, int]]:
    """The blocks of an empty journal behind its first one, which says that it is empty.

    They still hold copies of directories: names of files that were deleted long ago, a boot's id among them. Layout
    by the kernel's Documentation/filesystems/ext4/journal.rst.
    """
    if not facts.has_journal or facts.external_journal:
        return
    runs = disk.filesystem(volume).runs(_JOURNAL_INODE)
    if not runs:
        return
    magic, kind = struct.unpack(">II", disk.read(runs[0][0], 8))
    (start,) = struct.unpack(">I", disk.read(runs[0][0] + 28, 4))
    if magic != _JOURNAL_MAGIC or kind not in (3, 4) or start != 0:
        return
    for number, (begin, length) in enumerate(runs):
        skip = facts.block_size if number == 0 else 0
        if length > skip:
            yield begin + skip, length - skip


def _fat_free(disk: Disk, volume: Volume) -> Iterator[tuple[int, int]]:
    """Free clusters by the allocation table."""
    layout = fat.parse_layout(disk.read_volume(volume, 0, 512))
    if layout is None or layout.size > volume.size:
        return
    for start, length in fat.free_ranges(volume.reader(disk.read), volume.start, layout):
        yield from [(start, length)] if volume.space is None else volume.space.locate(start, length)
