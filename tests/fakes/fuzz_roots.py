"""Damaged XFS, btrfs and LVM: disks that a Linux kernel has written (tests/fixtures/make_roots.py), their metadata
changed. Each is read whole, as `goldsmith inspect` reads it, and its map of free blocks too.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from pipeline.base.errors import DiskError
from pipeline.disk import btrfs, sandbox_worker, xfs
from pipeline.disk.disk import Disk
from pipeline.disk.questions import Asked
from pipeline.vhd.chain import overlay
from pipeline.vhd.extents import Extent, ExtentSource, file_extents
from tests.fakes.fuzz import MEMORY, Kind
from tests.fixtures.sparse import unpack

FOLDER = Path(__file__).parents[1] / "fixtures/roots"
#: Bytes of a disk that are damaged together at most, and the block in which their places are counted.
_PIECE, _BLOCK = 16 << 10, 4096
#: XFS's log has no part in reading files; what says whether it is empty reads all of it, once in so many disks.
_LOG_EVERY = 50
#: Where LVM's metadata area begins in a physical volume, as pvcreate makes it.
_AREA = 4096


def kinds(folder: Path) -> dict[str, Kind]:
    """A kind for each disk; the good ones are written into `folder`."""
    return {
        "XFS": _kind(folder, "few-xfs", _seal_xfs),
        "btrfs": _kind(folder, "few-btrfs", _seal_btrfs),
        "LVM": _kind(folder, "few-lvm", _seal_lvm),
    }


def _kind(folder: Path, name: str, seal: Any) -> Kind:
    path = unpack(FOLDER / f"{name}.disk.zst", folder / name)
    base = file_extents(path)
    with Disk(path, "raw", file_extents(path), file_size=base.size, tail=b"") as good:
        places = list(_metadata(good))
        seeds = [good.read(at, length) for at, length in places]
        assert len(list(good.root.walk())) > 60 and all(map(any, seeds))
    numbers = random.Random(name)

    def look(index: int, data: bytes, scratch: Path) -> None:
        patch = scratch / "patch"
        patch.write_bytes(data)
        extents = overlay(list(base.extents), [Extent(places[index][0], len(data), patch, 0)])
        with Disk(path, "raw", ExtentSource(base.size, tuple(extents)), file_size=base.size, tail=b"") as opened:
            _read_all(opened, with_log=not numbers.randrange(_LOG_EVERY))

    return Kind(seeds, look, lambda index, data: seal(places[index][0], data), path, tuple(at for at, _ in places))


def _metadata(disk: Disk) -> Iterator[tuple[int, int]]:
    """Pieces of the disk's data that are no file's and not in XFS's log, each of neighbouring blocks."""
    files = [run for _, runs in disk.root.places() for run in runs]
    log = _log_of(disk)
    begin = end = -1
    for extent in disk.source.extents:
        for at in range(extent.start, extent.end, _BLOCK):
            kept = not log[0] <= at < log[1] and not any(start <= at < start + size for start, size in files)
            if not kept or not any(disk.read(at, min(_BLOCK, disk.size - at))):
                continue
            if at != end or end - begin >= _PIECE:
                if end > begin:
                    yield begin, end - begin
                begin = at
            end = min(at + _BLOCK, disk.size)
    yield begin, end - begin


def _log_of(disk: Disk) -> tuple[int, int]:
    for volume in disk.filesystems:
        if isinstance(volume.facts, xfs.XfsFacts):
            block = volume.facts.superblock
            begin = volume.start + (block.place(block.log_start) or 0)
            return begin, begin + block.log_blocks * block.block_size
    return 0, 0


def _read_all(disk: Disk, *, with_log: bool) -> None:
    """What the sandbox's worker would answer: an error of its own for whatever else is raised. Raises DiskError."""
    asked = cast("Asked", SimpleNamespace(path=disk.path, blobs=[], disk=disk, with_log=with_log))
    value, _ = sandbox_worker.answer(_look, asked, MEMORY)
    if "error" in value:
        error = value["error"]
        assert error["name"] != "reader-crashed", error["message"]
        raise DiskError(error["message"], name=error["name"])


def _look(asked: Any) -> int:
    disk: Disk = asked.disk
    root, seen = disk.root, 0
    for path, kind in root.walk():
        stat = root.stat(path, follow=False)
        assert stat is not None
        if kind == "link":
            root.read_link(path)
        elif kind == "file" and stat.size:
            root.read(path, 200_000)
            root.runs(path)
        seen += 1
    for volume in disk.filesystems:
        assert 0 <= volume.start <= disk.size or volume.start == -1
        if volume.facts is not None and volume.readable:
            _ = volume.facts.free, volume.facts.clean if asked.with_log else None
            for start, length in disk.filesystem(volume).free_ranges():
                assert start >= 0 and length > 0
    return seen


def _seal_xfs(place: int, data: bytes) -> bytes:
    """The superblock's checksum; those of other blocks are not looked at."""
    if place:
        return data
    whole = data[:224] + bytes(4) + data[228:512]
    return data[:224] + struct.pack("<I", xfs.crc32c(whole) ^ 0xFFFFFFFF) + data[228:]


def _seal_btrfs(place: int, data: bytes) -> bytes:
    at = btrfs.SUPERBLOCK_AT - place
    if not 0 <= at < len(data):
        return data
    block = data[at : at + btrfs.SUPERBLOCK_SIZE]
    checksum = struct.pack("<I", btrfs.crc32c(block[32:]) ^ 0xFFFFFFFF)
    return data[:at] + checksum + data[at + 4 :]


def _seal_lvm(_place: int, data: bytes) -> bytes:
    """The checksums of a label, of a text, and of the header that names the text."""
    out = bytearray(data)
    if out[512:520] == b"LABELONE":
        struct.pack_into("<I", out, 528, _checksum(bytes(out[532:1024])))
    if len(out) >= _AREA + 1024 and out[_AREA + 4 : _AREA + 8] == b" LVM":
        offset, size = struct.unpack_from("<QQ", out, _AREA + 40)
        text = bytes(out[_AREA + offset : _AREA + offset + size]) if offset < len(out) and size < len(out) else b""
        struct.pack_into("<I", out, _AREA + 56, _checksum(text))
        struct.pack_into("<I", out, _AREA, _checksum(bytes(out[_AREA + 4 : _AREA + 512])))
    return bytes(out)


def _checksum(data: bytes) -> int:
    return zlib.crc32(data, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
