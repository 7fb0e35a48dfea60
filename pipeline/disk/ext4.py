"""What an ext2, ext3 or ext4 superblock says. Offsets by the kernel's Documentation/filesystems/ext4/super.rst."""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass

MAGIC = 0xEF53
SUPERBLOCK_AT, SUPERBLOCK_SIZE = 1024, 1024
_STATE_CLEAN, _STATE_ERRORS, _STATE_ORPHANS = 1, 2, 4
_COMPAT_JOURNAL = 0x4
_INCOMPAT_RECOVER, _INCOMPAT_JOURNAL_DEVICE, _INCOMPAT_64BIT, _INCOMPAT_EXTENTS = 0x4, 0x8, 0x80, 0x40
_RO_BIGALLOC, _RO_CHECKSUMS, _RO_ORPHANS = 0x200, 0x400, 0x10000


@dataclass(frozen=True)
class Ext4Facts:
    """`size`, `free` and `used` in bytes."""

    kind: str
    label: str
    uuid: str
    block_size: int
    blocks: int
    free_blocks: int
    state_clean: bool
    has_errors: bool
    has_orphans: bool
    has_journal: bool
    needs_recovery: bool
    external_journal: bool
    bigalloc: bool
    last_mounted: str
    checksum_ok: bool

    @property
    def clean(self) -> bool:
        """Unmounted, no journal to replay: what a reader sees is what the file system means."""
        return self.state_clean and not (self.has_errors or self.has_orphans or self.needs_recovery)

    @property
    def faults(self) -> tuple[str, ...]:
        """What keeps it from being clean, and what is wrong with the superblock."""
        found = {
            "its journal must be replayed": self.needs_recovery,
            "not marked clean": not self.state_clean,
            "the kernel recorded errors in it": self.has_errors,
            "the blocks of deleted files are not freed yet": self.has_orphans,
            "the superblock's checksum is wrong": not self.checksum_ok,
        }
        return tuple(text for text, holds in found.items() if holds)

    @property
    def size(self) -> int:
        return self.blocks * self.block_size

    @property
    def free(self) -> int:
        return self.free_blocks * self.block_size

    @property
    def used(self) -> int:
        return self.size - self.free


def parse_superblock(data: bytes) -> Ext4Facts | None:
    """The facts in the 1024 bytes at offset 1024 of a file system, or None if they are not a superblock."""
    if len(data) < SUPERBLOCK_SIZE or struct.unpack_from("<H", data, 56)[0] != MAGIC:
        return None
    (blocks,) = struct.unpack_from("<I", data, 4)
    (free,) = struct.unpack_from("<I", data, 12)
    (log_block,) = struct.unpack_from("<I", data, 24)
    (state,) = struct.unpack_from("<H", data, 58)
    compat, incompat, ro_compat = struct.unpack_from("<III", data, 92)
    if log_block > 6:
        return None
    if incompat & _INCOMPAT_64BIT:
        blocks |= struct.unpack_from("<I", data, 0x150)[0] << 32
        free |= struct.unpack_from("<I", data, 0x158)[0] << 32
    journal = bool(compat & _COMPAT_JOURNAL)
    return Ext4Facts(
        kind="ext4" if incompat & _INCOMPAT_EXTENTS else ("ext3" if journal else "ext2"),
        label=_text(data[120:136]),
        uuid=str(uuid.UUID(bytes=data[104:120])),
        block_size=1024 << log_block,
        blocks=blocks,
        free_blocks=min(free, blocks),
        state_clean=bool(state & _STATE_CLEAN),
        has_errors=bool(state & _STATE_ERRORS) or struct.unpack_from("<I", data, 0x194)[0] > 0,
        has_orphans=bool(state & _STATE_ORPHANS)
        or struct.unpack_from("<I", data, 232)[0] > 0
        or bool(ro_compat & _RO_ORPHANS),
        has_journal=journal,
        needs_recovery=bool(incompat & _INCOMPAT_RECOVER),
        external_journal=bool(incompat & _INCOMPAT_JOURNAL_DEVICE),
        bigalloc=bool(ro_compat & _RO_BIGALLOC),
        last_mounted=_text(data[136:200]),
        checksum_ok=not ro_compat & _RO_CHECKSUMS or crc32c(data[:1020]) == struct.unpack_from("<I", data, 1020)[0],
    )


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "replace")


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # noqa: PLW2901
        table.append(value)
    return tuple(table)


_TABLE = _crc_table()


def crc32c(data: bytes, crc: int = 0xFFFFFFFF) -> int:
    """CRC-32C (Castagnoli) as ext4 keeps it: begun with all ones, not inverted at the end."""
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc
