"""Partition tables, read by our own parser: MBR with logical partitions, and GPT with both headers verified.

Offsets and lengths are in bytes. Sectors are taken as 512 bytes, which is what a VHD has; a table for larger ones is
named and refused.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline.base.errors import DiskError
from pipeline.disk import volumes

Read = Callable[[int, int], bytes]

SECTOR = 512
#: What else a disk's sectors may be: 4,096 bytes on "4K native" disks, 2,048 on optical ones.
_OTHER_SECTORS = (4096, 2048, 1024, 8192)
ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649"
LINUX_SWAP = "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"
MICROSOFT_RESERVED = "e3c9e316-0b5c-4db8-817d-f92df00215ae"
#: MBR types as they are shown.
MBR_SWAP, MBR_ESP, _MBR_PROTECTIVE = "0x82", "0xef", 0xEE
_MBR_EXTENDED = (0x05, 0x0F, 0x85)
_SIGNATURE = b"EFI PART"
#: The UEFI specification asks for 128 entries of 128 bytes; more than this is an attack on memory.
_MAX_ENTRIES, _MAX_LOGICAL = 1024, 64


@dataclass(frozen=True)
class Partition:
    number: int
    start: int
    size: int
    type: str
    name: str = ""
    uuid: str = ""
    bootable: bool = False

    @property
    def end(self) -> int:
        return self.start + self.size


@dataclass(frozen=True)
class Gpt:
    """One header and its entries; `fault` says what is wrong with it."""

    lba: int
    fault: str | None = None
    disk_guid: str = ""
    other_lba: int = 0
    first_usable: int = 0
    last_usable: int = 0
    partitions: tuple[Partition, ...] = ()


@dataclass(frozen=True)
class Table:
    """`kind` is gpt, mbr or none; `boot_code` the first 440 bytes of the disk."""

    kind: str
    partitions: tuple[Partition, ...]
    boot_code: bytes
    primary: Gpt | None = None
    backup: Gpt | None = None


def read_table(read: Read, size: int) -> Table:
    """The partition table of a disk.

    Raises DiskError: gpt-damaged where a GPT was and neither copy is right, gpt-sector-size where it is right for
    sectors of another size.
    """
    mbr = read(0, SECTOR)
    signed = len(mbr) == SECTOR and mbr[510:] == b"\x55\xaa"
    kinds = [mbr[446 + 16 * i + 4] for i in range(4)] if signed else []
    primary = _gpt(read, 1, size)
    if _MBR_PROTECTIVE in kinds or primary.fault is None:
        backup = _gpt(read, size // SECTOR - 1, size)
        if primary.fault is None:
            backup = _agree(primary, backup)
        good = primary if primary.fault is None else backup
        if good.fault is not None:
            _refuse_other_sectors(read, size)
            raise DiskError(
                f"both copies of the GPT are damaged: primary: {primary.fault}; backup: {backup.fault}",
                name="gpt-damaged",
                hint="try gdisk's recovery menu on a copy of the disk",
            )
        return Table("gpt", good.partitions, mbr[:440], primary, backup)
    _refuse_other_sectors(read, size)
    if signed and any(kinds) and not _is_boot_sector(mbr):
        found = tuple(_mbr(read, mbr, size))
        # what names no place on the disk is boot code, or the table of a larger disk: look at the whole disk then
        return Table("mbr" if found else "none", found, mbr[:440])
    return Table("none", (), mbr[:440])


def _refuse_other_sectors(read: Read, size: int) -> None:
    """A GPT that is right, read with larger sectors, has its partitions at other places than 512 bytes say."""
    for sector in _OTHER_SECTORS:
        for lba in (1, size // sector - 1):
            header = read(lba * sector, SECTOR) if lba > 0 else b""
            if _header_fault(header, lba) is None:
                raise DiskError(
                    f"the disk has a GPT for sectors of {sector:,} bytes; goldsmith reads sectors of 512 bytes only",
                    name="gpt-sector-size",
                    hint="create a disk with sectors of 512 bytes, as a VHD has, and copy the file systems to it",
                )


def _is_boot_sector(sector: bytes) -> bool:
    """A file system without a table ends in 55 aa too; its boot code stands where a table has its entries."""
    flags = {sector[446 + 16 * index] for index in range(4)}
    return volumes.is_whole_disk(sector) or not flags <= {0, 0x80}


def _agree(primary: Gpt, backup: Gpt) -> Gpt:
    if backup.fault is None and (backup.disk_guid, backup.partitions) != (primary.disk_guid, primary.partitions):
        return replace(backup, fault="its entries differ from the first header's")
    if backup.fault is None and primary.other_lba != backup.lba:
        return replace(backup, fault=f"the first header expects it in sector {primary.other_lba}, not {backup.lba}")
    return backup


def _gpt(read: Read, lba: int, size: int) -> Gpt:
    header = read(lba * SECTOR, SECTOR) if lba > 0 else b""
    fault = _header_fault(header, lba)
    if fault is not None:
        return Gpt(lba, fault=fault)
    other, first, last = struct.unpack_from("<QQQ", header, 32)
    guid = str(uuid.UUID(bytes_le=header[56:72]))
    table, count, entry_size, table_crc = struct.unpack_from("<QIII", header, 72)
    entries = read(table * SECTOR, count * entry_size) if table * SECTOR < size else b""
    if len(entries) < count * entry_size or zlib.crc32(entries) != table_crc:
        return Gpt(lba, fault="the entries' checksum is wrong")
    raws = [entries[at : at + entry_size] for at in range(0, len(entries), entry_size)]
    partitions = tuple(_gpt_partition(number, raw) for number, raw in enumerate(raws, 1) if any(raw[:16]))
    for partition in partitions:
        if partition.size <= 0 or partition.end > size:
            return Gpt(lba, fault=f"partition {partition.number} ends outside the disk")
    return Gpt(lba, None, guid, other, first, last, partitions)


def _header_fault(header: bytes, lba: int) -> str | None:
    if not header.startswith(_SIGNATURE) or len(header) < SECTOR:
        return f"no header in sector {lba}"
    length, crc = struct.unpack_from("<II", header, 12)
    (own,) = struct.unpack_from("<Q", header, 24)
    count, entry_size = struct.unpack_from("<II", header, 80)
    if not 92 <= length <= SECTOR:
        return f"a header of {length} bytes"
    if zlib.crc32(header[:16] + bytes(4) + header[20:length]) != crc:
        return "the header's checksum is wrong"
    if own != lba:
        return f"the header says that it stands in sector {own}"
    if not 128 <= entry_size <= SECTOR or entry_size % 8 or not 0 < count <= _MAX_ENTRIES:
        return f"{count} entries of {entry_size} bytes"
    return None


def _gpt_partition(number: int, raw: bytes) -> Partition:
    begin, end = struct.unpack_from("<QQ", raw, 32)
    return Partition(
        number=number,
        start=begin * SECTOR,
        size=(end - begin + 1) * SECTOR,
        type=str(uuid.UUID(bytes_le=raw[:16])),
        name=raw[56:128].decode("utf-16-le", "replace").split("\0", 1)[0],
        uuid=str(uuid.UUID(bytes_le=raw[16:32])),
    )


def _mbr(read: Read, mbr: bytes, size: int) -> list[Partition]:
    signature = mbr[440:444][::-1].hex()
    found: list[Partition] = []
    extended: int | None = None
    for index in range(4):
        flag, kind, start, length = _entry(mbr, index)
        if kind in _MBR_EXTENDED:
            extended = start
        elif kind and length:
            found.append(_mbr_partition(index + 1, (flag, kind, start, length), signature))
    at, number = extended, 5
    seen: set[int] = set()
    while at is not None and extended is not None and at not in seen and len(seen) < _MAX_LOGICAL:
        seen.add(at)
        sector = read(at * SECTOR, SECTOR)
        if len(sector) < SECTOR or sector[510:] != b"\x55\xaa":
            break
        flag, kind, start, length = _entry(sector, 0)
        if kind and length:
            found.append(_mbr_partition(number, (flag, kind, at + start, length), signature))
            number += 1
        _, kind, start, _ = _entry(sector, 1)
        at = extended + start if kind in _MBR_EXTENDED else None
    return [partition for partition in found if partition.start < size]


def _entry(sector: bytes, index: int) -> tuple[int, int, int, int]:
    raw = sector[446 + 16 * index : 462 + 16 * index]
    start, length = struct.unpack_from("<II", raw, 8)
    return raw[0], raw[4], start, length


def _mbr_partition(number: int, entry: tuple[int, int, int, int], signature: str) -> Partition:
    flag, kind, start, length = entry
    return Partition(
        number, start * SECTOR, length * SECTOR, f"0x{kind:02x}", "", f"{signature}-{number:02x}", flag == 0x80
    )
