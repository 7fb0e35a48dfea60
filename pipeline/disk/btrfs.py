"""What a btrfs says about itself: its superblock, and where its logical addresses are on the device.

Offsets by the kernel's include/uapi/linux/btrfs_tree.h, numbers are little-endian.
"""

from __future__ import annotations

import struct
import uuid
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.disk.ext4 import crc32c

MAGIC = b"_BHRfS_M"
SUPERBLOCK_AT, SUPERBLOCK_SIZE = 64 << 10, 4096
#: Copies of the superblock, which a file system has where it is large enough.
MIRRORS = (64 << 20, 256 << 30)
#: What a device begins with and never gives to a chunk: BTRFS_DEVICE_RANGE_RESERVED.
RESERVED = 1 << 20
#: A chunk never uses the 64 KiB in which a copy of the superblock is: BTRFS_STRIPE_LEN.
MIRROR_ROOM = 64 << 10
#: A key on the disk: object, type, offset.
KEY = struct.Struct("<QBQ")
_CHUNK_HEAD, _STRIPE = 48, 32
_SYSTEM_CHUNKS, _SYSTEM_ROOM = 811, 2048
_METADATA_UUID = 0x400
#: Profiles of a chunk whose bytes stand on a device as they are, once (0) or twice (DUP).
_PROFILES, _DUP = 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400, 0x20
_CRC32C = 0


@dataclass(frozen=True)
class BtrfsFacts:
    """`size` and `free` in bytes; `fsid` is what every block of metadata names."""

    label: str
    uuid: str
    fsid: bytes
    size: int
    used: int
    generation: int
    root: int
    root_level: int
    chunk_root: int
    chunk_level: int
    log_root: int
    devices: int
    device: int
    node_size: int
    sector_size: int
    incompatible: int
    top_directory: int
    system_chunks: bytes
    checksum_ok: bool

    @property
    def free(self) -> int:
        return max(0, self.size - self.used)

    @property
    def needs_recovery(self) -> bool:
        return bool(self.log_root)

    @property
    def clean(self) -> bool:
        return not self.faults

    @property
    def faults(self) -> tuple[str, ...]:
        found = {
            "its journal must be replayed": self.needs_recovery,
            "the superblock's checksum is wrong": not self.checksum_ok,
        }
        return tuple(text for text, holds in found.items() if holds)


def parse_superblock(data: bytes) -> BtrfsFacts | None:
    """The 4,096 bytes at byte 65,536 of a file system; None where they are no superblock."""
    if len(data) < SUPERBLOCK_SIZE or data[64:72] != MAGIC:
        return None
    generation, root, chunk_root, log_root, _, size, used, top, devices = struct.unpack_from("<9Q", data, 72)
    sector_size, node_size, _, _, system_size = struct.unpack_from("<5I", data, 144)
    (incompatible,) = struct.unpack_from("<Q", data, 188)
    (checksum_type,) = struct.unpack_from("<H", data, 196)
    at, place = struct.unpack_from("<Q", data, 48)[0], SUPERBLOCK_AT
    sizes_right = (
        at == place
        and sector_size in (4096, 8192, 16384, 32768, 65536)
        and node_size in (4096, 8192, 16384, 32768, 65536)
        and node_size >= sector_size
        and system_size <= _SYSTEM_ROOM
        and data[198] <= 7
        and data[199] <= 7
    )
    if not sizes_right:
        return None
    right = checksum_type != _CRC32C or crc32c(data[32:]) ^ 0xFFFFFFFF == struct.unpack_from("<I", data)[0]
    return BtrfsFacts(
        label=data[299:555].split(b"\0", 1)[0].decode("utf-8", "replace"),
        uuid=str(uuid.UUID(bytes=data[32:48])),
        fsid=data[571:587] if incompatible & _METADATA_UUID else data[32:48],
        size=size,
        used=used,
        generation=generation,
        root=root,
        root_level=data[198],
        chunk_root=chunk_root,
        chunk_level=data[199],
        log_root=log_root,
        devices=devices,
        device=struct.unpack_from("<Q", data, 201)[0],
        node_size=node_size,
        sector_size=sector_size,
        incompatible=incompatible,
        top_directory=top,
        system_chunks=data[_SYSTEM_CHUNKS : _SYSTEM_CHUNKS + system_size],
        checksum_ok=right,
    )


@dataclass(frozen=True, slots=True)
class Chunk:
    """`length` bytes at the logical address `start`; each of `places` on the device has all of them."""

    start: int
    length: int
    places: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.start + self.length


class UnsupportedChunkError(Exception):
    """A chunk that is spread over stripes or devices; the text says how."""


def parse_chunk(start: int, raw: bytes, device: int) -> Chunk:
    """A chunk's item. Raises ValueError where it is damaged, UnsupportedChunkError."""
    if len(raw) < _CHUNK_HEAD + _STRIPE:
        raise ValueError("a chunk that is too short")
    (length,) = struct.unpack_from("<Q", raw)
    (profile,) = struct.unpack_from("<Q", raw, 24)
    (count,) = struct.unpack_from("<H", raw, 44)
    if not length or not count or len(raw) < _CHUNK_HEAD + count * _STRIPE or start + length >= 1 << 63:
        raise ValueError("a chunk of impossible size")
    stripes = [struct.unpack_from("<QQ", raw, _CHUNK_HEAD + number * _STRIPE) for number in range(count)]
    if profile & _PROFILES & ~_DUP or any(each != device for each, _ in stripes):
        raise UnsupportedChunkError(f"data on several devices or in stripes (profile {profile & _PROFILES:#x})")
    if count != (2 if profile & _DUP else 1):
        raise ValueError("a chunk with a wrong number of copies")
    return Chunk(start, length, tuple(offset for _, offset in stripes))


def system_chunks(facts: BtrfsFacts) -> Iterator[tuple[int, bytes]]:
    """(logical address, item) of the chunks that the superblock itself names. Raises ValueError."""
    at, raw = 0, facts.system_chunks
    while at + KEY.size + _CHUNK_HEAD <= len(raw):
        _, kind, start = KEY.unpack_from(raw, at)
        (count,) = struct.unpack_from("<H", raw, at + KEY.size + 44)
        size = _CHUNK_HEAD + count * _STRIPE
        if kind != 228 or not count:
            raise ValueError("the superblock's chunks")
        yield start, raw[at + KEY.size : at + KEY.size + size]
        at += KEY.size + size


class ChunkMap:
    """From logical addresses to the device's bytes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._chunks: list[Chunk] = []
        self._starts: list[int] = []

    def add(self, chunk: Chunk) -> None:
        """Raises ValueError where it overlaps another one, or lies outside the device."""
        if any(place + chunk.length > self._size for place in chunk.places):
            raise ValueError("a chunk outside the device")
        number = bisect_right(self._starts, chunk.start)
        if number and self._chunks[number - 1] == chunk:
            return
        before = number and self._chunks[number - 1].end > chunk.start
        if before or (number < len(self._chunks) and self._chunks[number].start < chunk.end):
            raise ValueError("two chunks overlap")
        self._chunks.insert(number, chunk)
        self._starts.insert(number, chunk.start)

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        return tuple(self._chunks)

    def copies(self, address: int, length: int) -> list[list[tuple[int, int]]]:
        """For each copy the (start, length) on the device of a range. Raises ValueError outside of all chunks."""
        found: list[list[tuple[int, int]]] = []
        at, stop = address, address + length
        while at < stop:
            number = bisect_right(self._starts, at) - 1
            if number < 0 or at >= self._chunks[number].end:
                raise ValueError(f"the address {at} is in no chunk")
            chunk = self._chunks[number]
            step = min(stop, chunk.end) - at
            places = [(place + at - chunk.start, step) for place in chunk.places]
            before = list(found[0]) if found else []
            while len(found) < len(places):
                found.append(list(before))
            for copy, parts in enumerate(found):
                # a chunk with one copy less gives the one that it has
                parts.append(places[min(copy, len(places) - 1)])
            at += step
        return found
