"""LVM2 at rest: the volume groups whose physical volumes are on a disk, and where their logical volumes lie.

Layout by LVM2's lib/format_text/layout.h and lib/label/label.c: a label in one of the first four sectors, a header
with the places of metadata areas, in each of them a ring with texts, of which the header names the current one.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from pipeline.disk.filesystem import Read
from pipeline.disk.lvm_text import parse_text
from pipeline.disk.spaces import Segment, Space

SECTOR = 512
_LABEL, _TYPE, _LABEL_SECTORS = b"LABELONE", b"LVM2 001", 4
_AREA_MAGIC = b"\x20LVM2\x20x[5A%r0N*>"
#: The header of a metadata area; the ring of texts begins behind it.
_AREA_HEADER = 512
#: lvm's own start value of CRC-32 (lib/misc/crc.c), as zlib takes it.
_CRC_START = 0xF597A6CF ^ 0xFFFFFFFF
#: Bytes of one text: lvm2 makes areas of 1 MiB.
MAX_TEXT = 4 << 20
_MAX_AREAS, _MAX_VOLUMES, _MAX_SEGMENTS = 8, 256, 10_000


class LvmDamagedError(Exception):
    """What is on the disk contradicts itself; the text says what."""


@dataclass(frozen=True)
class PhysicalVolume:
    """`start` and `size`: the partition, in bytes. `group` is its group's parsed text."""

    uuid: str
    start: int
    size: int
    group_name: str
    group: Mapping[str, Any]


@dataclass(frozen=True)
class LogicalVolume:
    """`space` is None where it cannot be read; `obstacle` then says why: a kind of volume, or "incomplete"."""

    group: str
    name: str
    space: Space | None
    obstacle: str = ""

    @property
    def path(self) -> str:
        return f"{self.group}/{self.name}"


@dataclass(frozen=True)
class VolumeGroup:
    """`free`: (start, length) in bytes of the disk of extents that no logical volume has."""

    name: str
    volumes: tuple[LogicalVolume, ...]
    free: tuple[tuple[int, int], ...] = field(default=())


def read_physical_volume(read: Read, start: int, size: int) -> PhysicalVolume:
    """The physical volume in a partition. Raises LvmDamagedError."""
    label, offset = _find_label(read, start)
    header = label[offset:]
    uuid = header[:32].decode("ascii", "replace")
    _data, areas = _places(header[40:])
    for at, length in areas[:_MAX_AREAS]:
        if not SECTOR <= at < size or not _AREA_HEADER < length <= size - at:
            continue
        text = _current_text(read, start + at, length)
        if text is not None:
            name, group = _group_of(text)
            return PhysicalVolume(uuid, start, size, name, group)
    raise LvmDamagedError("no metadata area of the physical volume has a valid description of its group")


def _find_label(read: Read, start: int) -> tuple[bytes, int]:
    for sector in range(_LABEL_SECTORS):
        raw = read(start + sector * SECTOR, SECTOR)
        if len(raw) == SECTOR and raw[:8] == _LABEL and raw[24:32] == _TYPE:
            (crc, offset) = struct.unpack_from("<II", raw, 16)
            if _checksum(raw[20:]) != crc:
                raise LvmDamagedError("the checksum of its label is wrong")
            if not 32 <= offset <= SECTOR - 72:
                raise LvmDamagedError("its label points outside its sector")
            return raw, offset
    raise LvmDamagedError("it has no label")


def _checksum(data: bytes) -> int:
    return zlib.crc32(data, _CRC_START) ^ 0xFFFFFFFF


def _places(raw: bytes) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The (offset, size) of the data areas and of the metadata areas; each list ends with zeros."""
    lists: list[list[tuple[int, int]]] = [[], []]
    number = 0
    for at in range(0, len(raw) - 15, 16):
        offset, size = struct.unpack_from("<QQ", raw, at)
        if offset or size:
            lists[number].append((offset, size))
        elif number:
            break
        else:
            number = 1
    return lists[0], lists[1]


def _current_text(read: Read, start: int, length: int) -> bytes | None:
    """The text that the header of a metadata area names; None where it names none, or a damaged one."""
    header = read(start, _AREA_HEADER)
    if len(header) < _AREA_HEADER or header[4:20] != _AREA_MAGIC:
        return None
    (crc,) = struct.unpack_from("<I", header)
    offset, size, checksum, flags = struct.unpack_from("<QQII", header, 40)
    if _checksum(header[4:]) != crc or flags & 1:
        return None
    if not 0 < size <= min(MAX_TEXT, length - _AREA_HEADER) or not _AREA_HEADER <= offset < length:
        return None
    text = read(start + offset, min(size, length - offset))
    # a text that does not fit behind the last one goes on where the ring begins
    text += read(start + _AREA_HEADER, size - len(text)) if len(text) < size else b""
    return text if _checksum(text) == checksum else None


def _group_of(text: bytes) -> tuple[str, Mapping[str, Any]]:
    try:
        parsed = parse_text(text)
    except ValueError as error:
        raise LvmDamagedError(f"the description of its group: {error}") from None
    for name, value in parsed.items():
        if isinstance(value, dict) and "physical_volumes" in value:
            return name, value
    raise LvmDamagedError("the description of its group names no physical volumes")


def read_groups(physical: Iterable[PhysicalVolume]) -> list[VolumeGroup]:
    """The groups of the physical volumes on one disk. Raises LvmDamagedError."""
    by_id: dict[str, list[PhysicalVolume]] = {}
    for each in physical:
        by_id.setdefault(str(each.group.get("id")), []).append(each)
    return [_read_group(members) for members in by_id.values()]


def _read_group(members: Sequence[PhysicalVolume]) -> VolumeGroup:
    # the copy with the highest number is current
    current = max(members, key=lambda each: _number(each.group, "seqno"))
    group = current.group
    extent = _number(group, "extent_size") * SECTOR
    if not extent:
        raise LvmDamagedError("extents of no size")
    places = _extent_places(group, members, extent)
    volumes = _table(group, "logical_volumes", required=False)
    if len(volumes) > _MAX_VOLUMES:
        raise LvmDamagedError(f"more than {_MAX_VOLUMES} logical volumes")
    used: dict[str, list[tuple[int, int]]] = {}
    # a kind that is not known may have extents that its segments do not name as stripes
    is_known = True
    found = []
    for name, volume in volumes.items():
        segments = _segments(volume)
        _note_used(segments, used)
        is_known &= all(row.kind in ("striped", "snapshot") for row in segments)
        if "VISIBLE" in _words(volume, "status"):
            space, obstacle = _space(segments, places, extent)
            found.append(LogicalVolume(current.group_name, name, space, obstacle))
    return VolumeGroup(current.group_name, tuple(found), tuple(_free(used, places, extent)) if is_known else ())


@dataclass(frozen=True)
class _Extents:
    """Where the extents of a physical volume on this disk begin, and how many there are."""

    start: int
    count: int


def _extent_places(
    group: Mapping[str, Any], members: Sequence[PhysicalVolume], extent: int
) -> dict[str, _Extents | None]:
    """By the name that the group has for each physical volume; None for those that are on another disk."""
    here = {each.uuid: each for each in members}
    found: dict[str, _Extents | None] = {}
    for name, row in _table(group, "physical_volumes").items():
        member = here.get(str(row.get("id", "")).replace("-", "")) if isinstance(row, dict) else None
        if member is None:
            found[name] = None
            continue
        first, count = _number(row, "pe_start") * SECTOR, _number(row, "pe_count")
        if first + count * extent > member.size:
            raise LvmDamagedError(f"the physical volume {name} has more extents than its partition has room for")
        found[name] = _Extents(member.start + first, count)
    return found


@dataclass(frozen=True)
class _Row:
    """A segment as the text has it: first extent and number of extents, and its stripes (name, first extent)."""

    first: int
    count: int
    kind: str
    turn: int
    stripes: tuple[tuple[str, int], ...]


def _segments(volume: object) -> list[_Row]:
    if not isinstance(volume, dict):
        raise LvmDamagedError("a logical volume without a description")
    count = _number(volume, "segment_count")
    if not 0 < count <= _MAX_SEGMENTS:
        raise LvmDamagedError(f"a logical volume of {count} segments")
    rows = []
    for number in range(1, count + 1):
        row = _table(volume, f"segment{number}")
        stripes = row.get("stripes", []) if row.get("type") == "striped" else []
        if not isinstance(stripes, list) or len(stripes) % 2:
            raise LvmDamagedError("a list of stripes with an odd number of values")
        pairs = tuple(zip(stripes[::2], stripes[1::2], strict=True))
        if not all(isinstance(name, str) and isinstance(first, int) and first >= 0 for name, first in pairs):
            raise LvmDamagedError("a stripe without a place")
        turn = _number(row, "stripe_size") * SECTOR if len(pairs) > 1 else 0
        rows.append(
            _Row(
                _number(row, "start_extent"), _number(row, "extent_count"), str(row.get("type", ""))[:40], turn, pairs
            )
        )
    return sorted(rows, key=lambda each: each.first)


def _space(rows: Sequence[_Row], places: Mapping[str, _Extents | None], extent: int) -> tuple[Space | None, str]:
    """Where a logical volume lies; or None, and what is in the way."""
    segments: list[Segment] = []
    end = 0
    for row in rows:
        if row.kind != "striped":
            return None, row.kind or "unknown"
        if row.first * extent != end or not row.count or not row.stripes or row.count % len(row.stripes):
            raise LvmDamagedError("segments that do not follow each other")
        if len(row.stripes) > 1 and not row.turn:
            raise LvmDamagedError("stripes of no size")
        starts = []
        for name, first in row.stripes:
            where = places.get(name)
            if where is None:
                return None, "incomplete"
            if first + row.count // len(row.stripes) > where.count:
                raise LvmDamagedError("a segment outside its physical volume")
            starts.append(where.start + first * extent)
        end += row.count * extent
        segments.append(Segment(row.first * extent, end, tuple(starts), row.turn))
    return Space(segments), ""


def _note_used(rows: Sequence[_Row], used: dict[str, list[tuple[int, int]]]) -> None:
    for row in rows:
        for name, first in row.stripes:
            used.setdefault(name, []).append((first, first + -(-row.count // len(row.stripes))))


def _free(
    used: Mapping[str, list[tuple[int, int]]], places: Mapping[str, _Extents | None], extent: int
) -> Iterator[tuple[int, int]]:
    for name, where in places.items():
        if where is None:
            continue
        taken = sorted([(0, 0), *used.get(name, []), (where.count, where.count)])
        reached = 0
        for (_, end), (begin, _) in pairwise(taken):
            reached = max(reached, end)
            if begin > reached:
                yield where.start + reached * extent, (begin - reached) * extent


def _table(above: Mapping[str, Any], name: str, *, required: bool = True) -> Mapping[str, Any]:
    found = above.get(name, None if required else {})
    if not isinstance(found, dict):
        raise LvmDamagedError(f"the description of its group has no {name}")
    return found


def _number(above: Mapping[str, Any], name: str) -> int:
    found = above.get(name)
    if not isinstance(found, int) or not 0 <= found < 1 << 50:
        raise LvmDamagedError(f"the description of its group has no number {name}")
    return found


def _words(above: Mapping[str, Any], name: str) -> list[str]:
    found = above.get(name, [])
    return [str(each) for each in found] if isinstance(found, list) else [str(found)]
