"""VHDX: refusing one that has a parent. By Microsoft's [MS-VHDX]; integers are little-endian."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from pathlib import Path

from pipeline.base.errors import DiskError
from pipeline.vhd.extents import AGAIN

Read = Callable[[int, int], bytes]

MAGIC = b"vhdxfile"
_REGION_TABLES = (192 << 10, 256 << 10)
_METADATA = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
_FILE_PARAMETERS = uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
_PARENT_LOCATOR = uuid.UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
_HAS_PARENT = 2
_HEADERS, _HEADER_SIZE = (64 << 10, 128 << 10), 4096
#: Bytes of a log that are looked through; Hyper-V and qemu make 1 MiB.
_MAX_LOG = 64 << 20
#: Castagnoli's polynomial, reflected.
_CRC32C = 0x82F63B78
#: [MS-VHDX] 2.2.3.1 and 2.6.1.1: at most 2047 entries in either table.
_MAX_ENTRIES = 2047


def refuse_parent(read: Read, path: Path) -> None:
    """Raises DiskError: vhdx-parent, vhdx-damaged. Both copies of the region table are judged."""
    seen = False
    for at in _REGION_TABLES:
        for region in _metadata_regions(read, at):
            seen = True
            _judge_metadata(read, region, path)
    if not seen:
        raise DiskError(
            f"{path.name}: no VHDX region table names its metadata", name="vhdx-damaged", hint=AGAIN, evidence=path
        )


def _metadata_regions(read: Read, at: int) -> list[int]:
    head = read(at, 16)
    if len(head) < 16 or not head.startswith(b"regi"):
        return []
    (count,) = struct.unpack_from("<I", head, 8)
    entries = read(at + 16, 32 * min(count, _MAX_ENTRIES))
    return [
        struct.unpack_from("<Q", entries, i + 16)[0]
        for i in range(0, len(entries) - 31, 32)
        if uuid.UUID(bytes_le=entries[i : i + 16]) == _METADATA
    ]


def _judge_metadata(read: Read, region: int, path: Path) -> None:
    damaged = DiskError(
        f"{path.name}: its VHDX metadata cannot be read", name="vhdx-damaged", hint=AGAIN, evidence=path
    )
    if region >= 1 << 62:
        raise damaged
    head = read(region, 32)
    if len(head) < 32 or not head.startswith(b"metadata"):
        raise damaged
    (count,) = struct.unpack_from("<H", head, 10)
    entries = read(region + 32, 32 * min(count, _MAX_ENTRIES))
    parameters = False
    for i in range(0, len(entries) - 31, 32):
        item = uuid.UUID(bytes_le=entries[i : i + 16])
        (offset,) = struct.unpack_from("<I", entries, i + 16)
        if item == _PARENT_LOCATOR:
            raise _parent(path)
        if item == _FILE_PARAMETERS:
            raw = read(region + offset, 8)
            if len(raw) < 8:
                raise damaged
            parameters = True
            if struct.unpack("<II", raw)[1] & _HAS_PARENT:
                raise _parent(path)
    if not parameters:
        raise damaged


def _parent(path: Path) -> DiskError:
    return DiskError(
        f"{path.name} is a differencing VHDX: it needs its parent's data",
        name="vhdx-parent",
        hint="merge it on its original host (Merge-VHD)",
        evidence=path,
    )


def refuse_log(read: Read, path: Path) -> None:
    """Refuse a disk whose last writes are only in its log. Raises DiskError: vhdx-log, vhdx-damaged."""
    headers = [header for at in _HEADERS if (header := _header(read(at, _HEADER_SIZE))) is not None]
    if not headers:
        raise DiskError(
            f"{path.name}: neither of its VHDX headers is valid",
            name="vhdx-damaged",
            hint=AGAIN,
            evidence=path,
        )
    _, log_guid, length, offset = max(headers)
    if not any(log_guid):
        return
    for at in range(0, min(length, _MAX_LOG), 4096):
        entry = read(offset + at, 64)
        if len(entry) < 64:
            break
        # [MS-VHDX] 2.3.1.1: an entry of the log that the header names
        if entry.startswith(b"loge") and entry[32:48] == log_guid:
            raise DiskError(
                f"{path.name}: its log must be replayed first, because it was not closed properly",
                name="vhdx-log",
                hint="run qemu-img check -r all on a copy and use the copy, or open and close the disk in Hyper-V",
                evidence=path,
            )


def _header(data: bytes) -> tuple[int, bytes, int, int] | None:
    """(sequence, guid, length and offset of the log) of a header; None where it is not right ([MS-VHDX] 2.2.2)."""
    if len(data) < _HEADER_SIZE or not data.startswith(b"head"):
        return None
    (stored,) = struct.unpack_from("<I", data, 4)
    if stored != crc32c(data[:4] + bytes(4) + data[8:]):
        return None
    (sequence,) = struct.unpack_from("<Q", data, 8)
    length, offset = struct.unpack_from("<IQ", data, 68)
    return sequence, data[48:64], length, min(offset, 1 << 62)


def crc32c(data: bytes) -> int:
    """The CRC-32C (RFC 3720, B.4) of some KiB."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _table() -> list[int]:
    table = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (_CRC32C if number & 1 else 0)  # noqa: PLW2901  eight steps of one byte
        table.append(number)
    return table


_TABLE = _table()
