"""Moving the second GPT to the end of a disk that has grown, as a layer over its data: the source is never written.

A disk that was rounded up (to whole cylinders by qemu-img, to whole MiB for Azure) has it somewhere before its end.
By the UEFI specification 2.10, 5.3; integers are little-endian, LBAs are sectors of 512 bytes.
"""

from __future__ import annotations

import os
import struct
import uuid
import zlib
from dataclasses import dataclass
from pathlib import Path

from pipeline.base.errors import DiskError
from pipeline.vhd.chain import overlay
from pipeline.vhd.extents import Extent, ExtentSource, Reader
from pipeline.vhd.footer import SECTOR

_SIGNATURE = b"EFI PART"
#: The header's own bytes; the rest of its sector is reserved.
_SMALLEST = 92
#: 128 entries of 128 bytes are usual; more than this is an attack on memory.
_MAX_TABLE = 1 << 20
_PROTECTIVE, _MBR_ENTRIES = 0xEE, 446


@dataclass(frozen=True)
class _Header:
    """A GPT header that is right, with its entries."""

    raw: bytes
    entries: bytes

    def field(self, at: int) -> int:
        return int(struct.unpack_from("<Q", self.raw, at)[0])

    @property
    def other(self) -> int:
        return self.field(32)

    @property
    def entries_at(self) -> int:
        return self.field(72)

    @property
    def guid(self) -> bytes:
        return self.raw[56:72]

    @property
    def last_used(self) -> int:
        """The last sector of any partition."""
        (size,) = struct.unpack_from("<I", self.raw, 84)
        parts = [self.entries[at : at + size] for at in range(0, len(self.entries), size)]
        return max((struct.unpack_from("<Q", part, 40)[0] for part in parts if any(part[:16])), default=0)

    def moved(self, own: int, other: int, entries_at: int, last_usable: int) -> bytes:
        """The header for another place, with its checksum: one sector."""
        raw = bytearray(self.raw)
        struct.pack_into("<QQ", raw, 24, own, other)
        struct.pack_into("<Q", raw, 48, last_usable)
        struct.pack_into("<Q", raw, 72, entries_at)
        struct.pack_into("<I", raw, 16, 0)
        (length,) = struct.unpack_from("<I", raw, 12)
        struct.pack_into("<I", raw, 16, zlib.crc32(raw[:length]))
        return bytes(raw)


def move_backup(source: ExtentSource, size: int) -> tuple[ExtentSource, bool]:
    """`source` as a disk of `size` bytes whose second GPT stands at its end, and whether anything had to be moved.

    The first GPT must be right; the second may stand where the disk once ended, or be lost. What is changed is held
    in memory: the two headers, the second table, the size in the protective MBR. Raises DiskError: gpt-missing (none,
    or the first is damaged), gpt-no-room (a partition stands where the table has to go), gpt-size.
    """
    if size % SECTOR or size < source.size:
        raise DiskError(
            f"{size} bytes are not whole sectors",
            name="gpt-size",
            hint="convert the disk to a VHD, which rounds the size up",
        )
    # a reader of its own: closing it must not close the source
    reader = Reader(ExtentSource(source.size, source.extents))
    try:
        patches = _patches(reader, size)
        return _patched(source, size, {lba: data for lba, data in patches.items() if data != _sector(reader, lba)})
    finally:
        reader.close()


def _sector(reader: Reader, lba: int) -> bytes:
    return reader.read(lba * SECTOR, SECTOR).ljust(SECTOR, b"\0")


def _patches(reader: Reader, size: int) -> dict[int, bytes]:
    """The sectors that a disk of `size` bytes has to have."""
    first = _header(reader, 1)
    if first is None:
        raise DiskError(
            "the primary GPT is not valid, so the backup GPT cannot be made from it",
            name="gpt-missing",
            hint="goldsmith inspect DISK --list volumes shows the partitions; a disk with an MBR needs no backup GPT",
        )
    last = size // SECTOR - 1
    width = -(-len(first.entries) // SECTOR)
    if first.last_used >= last - width:
        raise DiskError(
            f"a partition ends in sector {first.last_used}; the second GPT needs {last - width} to {last}",
            name="gpt-no-room",
            hint="enlarge the disk first by 1 MiB, with goldsmith vhd resize",
        )
    out = _old_backup(reader, first, last - width)
    table = first.entries.ljust(width * SECTOR, b"\0")
    out |= {last - width + at: table[at * SECTOR : (at + 1) * SECTOR] for at in range(width)}
    out[last] = first.moved(last, 1, last - width, last - width - 1)
    out[1] = first.moved(1, last, first.entries_at, last - width - 1)
    out[0] = _protective(_sector(reader, 0), last)
    return out


def _old_backup(reader: Reader, first: _Header, new_table: int) -> dict[int, bytes]:
    """Zeros over the second GPT where it stood, so that nobody finds two; none where it is not this disk's."""
    old = _header(reader, first.other) if first.other > first.last_used else None
    if old is None or old.guid != first.guid:
        return {}
    begin = old.entries_at if first.last_used < old.entries_at < first.other else first.other
    begin = max(begin, first.other - _MAX_TABLE // SECTOR)
    return {lba: bytes(SECTOR) for lba in range(begin, min(first.other + 1, new_table))}


def _header(reader: Reader, lba: int) -> _Header | None:
    """The header in sector `lba`, if it and its entries are right."""
    raw = reader.read(lba * SECTOR, SECTOR) if 0 < lba < reader.size // SECTOR else b""
    if len(raw) < SECTOR or not raw.startswith(_SIGNATURE):
        return None
    length, crc = struct.unpack_from("<II", raw, 12)
    if not _SMALLEST <= length <= SECTOR or zlib.crc32(raw[:16] + bytes(4) + raw[20:length]) != crc:
        return None
    (own,) = struct.unpack_from("<Q", raw, 24)
    table, count, entry, table_crc = struct.unpack_from("<QIII", raw, 72)
    if own != lba or not 128 <= entry <= SECTOR or not 0 < count * entry <= _MAX_TABLE:
        return None
    if table * SECTOR > reader.size:
        return None
    entries = reader.read(table * SECTOR, count * entry)
    if len(entries) < count * entry or zlib.crc32(entries) != table_crc:
        return None
    return _Header(raw, entries)


def _protective(mbr: bytes, last: int) -> bytes:
    """The protective MBR with the disk's size; one with partitions of its own (a hybrid) stays as it is."""
    kinds = [mbr[_MBR_ENTRIES + 16 * i + 4] for i in range(4)]
    if mbr[510:512] != b"\x55\xaa" or [kind for kind in kinds if kind] != [_PROTECTIVE]:
        return mbr
    at = _MBR_ENTRIES + 16 * kinds.index(_PROTECTIVE)
    begin, length = struct.unpack_from("<II", mbr, at + 8)
    if begin != 1 or length == 0xFFFFFFFF:
        return mbr
    return mbr[: at + 12] + struct.pack("<I", min(last, 0xFFFFFFFF)) + mbr[at + 16 :]


def _patched(source: ExtentSource, size: int, patches: dict[int, bytes]) -> tuple[ExtentSource, bool]:
    """The source with other sectors on top. They stand in memory that has a path, which no dead run leaves behind."""
    if not patches:
        return ExtentSource(size, source.extents, source.cleanup), False
    fd = os.memfd_create(f"goldsmith-gpt-{uuid.uuid4().hex[:8]}", os.MFD_CLOEXEC)
    source.cleanup.callback(os.close, fd)
    path = Path(f"/proc/{os.getpid()}/fd/{fd}")
    top: list[Extent] = []
    for index, (lba, data) in enumerate(sorted(patches.items())):
        os.pwrite(fd, data, index * SECTOR)
        top.append(Extent(lba * SECTOR, SECTOR, path, index * SECTOR))
    return ExtentSource(size, tuple(overlay(list(source.extents), top)), source.cleanup), True
