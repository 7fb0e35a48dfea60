"""What an XFS says about itself: its superblock, and whether its log is empty.

Offsets by the kernel's fs/xfs/libxfs/xfs_format.h and xfs_log_format.h. All numbers are big-endian but checksums.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from functools import cached_property

from pipeline.disk.ext4 import crc32c
from pipeline.disk.filesystem import Read

MAGIC = b"XFSB"
SUPERBLOCK_SIZE = 512
#: Features of version 5 without which the files cannot be read right.
NEEDS_REPAIR = 0x10
#: A record of the log begins a sector; the last one of a clean unmount holds this operation alone.
_RECORD, _UNMOUNT = b"\xfe\xed\xba\xbe", 0x20
_SECTOR, _CHUNK = 512, 1 << 20
#: Bytes of log that one sector of a record's header describes.
_CYCLE_SIZE = 32 << 10
#: XFS_MAX_LOG_BYTES.
_MAX_LOG = 1 << 31


@dataclass(frozen=True)
class Superblock:
    """Numbers of blocks and inodes as the superblock has them; sizes in bytes."""

    version: int
    block_size: int
    blocks: int
    uuid: str
    log_start: int
    root: int
    group_blocks: int
    groups: int
    log_blocks: int
    sector_size: int
    inode_size: int
    label: str
    group_log: int
    inodes_log: int
    directory_log: int
    free_blocks: int
    in_progress: bool
    features2: int
    incompatible: int
    checksum_ok: bool

    @property
    def has_types(self) -> bool:
        """Do directories keep the type of each name?"""
        return bool(self.incompatible & 1) if self.version == 5 else bool(self.features2 & 0x200)

    def place(self, block: int) -> int | None:
        """Where a block of the file system is, in bytes from its start; None outside."""
        group, inner = block >> self.group_log, block & (1 << self.group_log) - 1
        number = group * self.group_blocks + inner
        return None if inner >= self.group_blocks or number >= self.blocks else number * self.block_size


def parse_superblock(data: bytes) -> Superblock | None:
    """The first 512 bytes of a file system; None where they are no superblock of versions 4 and 5."""
    if len(data) < SUPERBLOCK_SIZE or data[:4] != MAGIC:
        return None
    (block_size, blocks) = struct.unpack_from(">IQ", data, 4)
    (log_start, root) = struct.unpack_from(">QQ", data, 48)
    group_blocks, groups, _, log_blocks, version, sector, inode = struct.unpack_from(">IIIIHHH", data, 84)
    block_log, _, inode_log, inodes_log, group_log = data[120:125]
    (free,) = struct.unpack_from(">Q", data, 144)
    (features2,) = struct.unpack_from(">I", data, 200)
    number = version & 0xF
    sizes_right = (
        9 <= block_log <= 16
        and block_size == 1 << block_log
        and 8 <= inode_log <= 11
        and inode == 1 << inode_log
        and inode <= block_size
        and inodes_log == block_log - inode_log
        and sector in (512, 1024, 2048, 4096, 8192, 16384, 32768)
        and sector <= block_size
        and 0 < group_blocks <= 1 << group_log <= 1 << 31
        and 0 < groups <= 1 << 20
        and (groups - 1) * group_blocks < blocks <= groups * group_blocks
        and data[192] <= 16 - block_log
    )
    if number not in (4, 5) or not sizes_right:
        return None
    incompatible = struct.unpack_from(">I", data, 216)[0] if number == 5 else 0
    return Superblock(
        version=number,
        block_size=block_size,
        blocks=blocks,
        uuid=str(uuid.UUID(bytes=data[32:48])),
        log_start=log_start,
        root=root,
        group_blocks=group_blocks,
        groups=groups,
        log_blocks=log_blocks,
        sector_size=sector,
        inode_size=inode,
        label=data[108:120].split(b"\0", 1)[0].decode("utf-8", "replace"),
        group_log=group_log,
        inodes_log=inodes_log,
        directory_log=data[192],
        free_blocks=min(free, blocks),
        in_progress=bool(data[126]),
        features2=features2,
        incompatible=incompatible,
        checksum_ok=number == 4 or sector > SUPERBLOCK_SIZE or _checksum_ok(data),
    )


def _checksum_ok(data: bytes) -> bool:
    (stored,) = struct.unpack_from("<I", data, 224)
    return bool(crc32c(data[:224] + bytes(4) + data[228:]) ^ 0xFFFFFFFF == stored)


@dataclass(frozen=True)
class XfsFacts:
    """`read` gives bytes of the disk by addresses, `start` is the volume's."""

    superblock: Superblock
    read: Read
    start: int

    @property
    def size(self) -> int:
        return self.superblock.blocks * self.superblock.block_size

    @property
    def free(self) -> int:
        """Exact of a file system that was unmounted; of a mounted one what the last checkpoint wrote."""
        return self.superblock.free_blocks * self.superblock.block_size

    @cached_property
    def needs_recovery(self) -> bool:
        """Whether the last record of the log is another one than that of a clean unmount."""
        at = self.superblock.place(self.superblock.log_start)
        if at is None or not self.superblock.log_start:
            return True
        length = min(self.superblock.log_blocks * self.superblock.block_size, _MAX_LOG)
        return _has_changes(self.read, self.start + at, length)

    @property
    def clean(self) -> bool:
        return not self.faults

    @property
    def faults(self) -> tuple[str, ...]:
        block = self.superblock
        found = {
            "its log is on another device": not block.log_start,
            "its journal must be replayed": bool(block.log_start) and self.needs_recovery,
            "it was not completed by mkfs or growfs": block.in_progress,
            "xfs_repair was interrupted and must run again": bool(block.incompatible & NEEDS_REPAIR),
            "the superblock's checksum is wrong": not block.checksum_ok,
        }
        return tuple(text for text, holds in found.items() if holds)


def _has_changes(read: Read, start: int, length: int) -> bool:
    """The log is a ring of records; the one with the highest number is the last. A log of zeros is empty."""
    last, place = -1, 0
    for at in range(0, length, _CHUNK):
        chunk = read(start + at, min(_CHUNK, length - at))
        found = chunk.find(_RECORD)
        while found >= 0:
            if found % _SECTOR == 0 and len(chunk) >= found + 24:
                (number,) = struct.unpack_from(">Q", chunk, found + 16)
                if number > last:
                    last, place = number, at + found
            found = chunk.find(_RECORD, found + 1)
    return last >= 0 and not _is_unmount(read, start, length, place)


def _is_unmount(read: Read, start: int, length: int, place: int) -> bool:
    header = read(start + place, _SECTOR)
    if len(header) < _SECTOR:
        return False
    (version,) = struct.unpack_from(">I", header, 8)
    (operations,) = struct.unpack_from(">I", header, 40)
    (size,) = struct.unpack_from(">I", header, 320)
    sectors = max(1, -(-size // _CYCLE_SIZE)) if version & 2 and size <= 1 << 20 else 1
    body = read(start + (place + sectors * _SECTOR) % length, 12)
    return operations == 1 and len(body) == 12 and bool(body[9] & _UNMOUNT)
