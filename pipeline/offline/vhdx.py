"""VHDX: refusing one that has a parent. By Microsoft's [MS-VHDX]; integers are little-endian."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import DiskError

Read = Callable[[int, int], bytes]

MAGIC = b"vhdxfile"
_REGION_TABLES = (192 << 10, 256 << 10)
_METADATA = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
_FILE_PARAMETERS = uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
_PARENT_LOCATOR = uuid.UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
_HAS_PARENT = 2
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
        raise DiskError(f"{path.name}: no VHDX region table names its metadata", name="vhdx-damaged", evidence=path)


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
    damaged = DiskError(f"{path.name}: its VHDX metadata cannot be read", name="vhdx-damaged", evidence=path)
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
        f"{path.name} is a differencing VHDX: its data is only whole with its parent's",
        name="vhdx-parent",
        hint="merge it where it comes from (Merge-VHD)",
        evidence=path,
    )
