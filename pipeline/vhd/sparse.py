"""Dynamic and differencing VHDs: the header, the block table, the bitmaps; reading them as extents.

By Microsoft's specification 1.0. All integers are big-endian, all sizes in bytes unless a name says sectors.
"""

from __future__ import annotations

import os
import struct
import sys
import uuid
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from pipeline.base.errors import DiskError
from pipeline.vhd.extents import AGAIN, Extent, ExtentSource, open_file
from pipeline.vhd.footer import FOOTER_SIZE, MAX_SIZE, NO_OFFSET, SECTOR, DiskType, Footer, checksum, read_footer

HEADER_SIZE, LOCATORS = 1024, 8
COOKIE = b"cxsparse"
VERSION = 0x00010000
#: What Virtual PC, Hyper-V and qemu write; other powers of two are read.
BLOCK_SIZE = 2 << 20
#: The largest block that is believed: a table of absurd blocks is an attack on memory.
MAX_BLOCK = 256 << 20
ABSENT = 0xFFFFFFFF
NO_PARENT = uuid.UUID(int=0)
_CHECKSUM_AT = 36
_LAYOUT = struct.Struct(">8sQQIIII16sI4x512s")
_LOCATOR = struct.Struct(">4sII4xQ")
RELATIVE, ABSOLUTE = b"W2ru", b"W2ku"


@dataclass(frozen=True)
class Locator:
    """One way to the parent; `space` as it stands in the file (sectors by the document, bytes in practice)."""

    code: bytes
    space: int
    length: int
    offset: int


@dataclass(frozen=True)
class Header:
    """The 1024 bytes of a dynamic disk's header."""

    table_offset: int
    entries: int
    block_size: int = BLOCK_SIZE
    parent_id: uuid.UUID = NO_PARENT
    parent_timestamp: int = 0
    parent_name: str = ""
    locators: tuple[Locator, ...] = ()

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """Raises DiskError: vhd-header (cookie, checksum, version or block size is wrong)."""
        if len(data) != HEADER_SIZE or not data.startswith(COOKIE):
            raise _header("the footer points to no header")
        _, _, table, version, entries, block, stored, parent, when, name = _LAYOUT.unpack_from(data)
        if stored != checksum(data, _CHECKSUM_AT):
            raise _header(f"its checksum is {stored:08x}, its bytes give {checksum(data, _CHECKSUM_AT):08x}")
        if version != VERSION:
            raise _header(f"version {version:#x}")
        if block < SECTOR or block > MAX_BLOCK or block & (block - 1):
            raise _header(f"blocks of {block} bytes")
        locators = tuple(Locator(*_LOCATOR.unpack_from(data, 576 + 24 * i)) for i in range(LOCATORS))
        return cls(
            table_offset=table,
            entries=entries,
            block_size=block,
            parent_id=uuid.UUID(bytes=parent),
            parent_timestamp=when,
            parent_name=name.decode("utf-16-be", "replace").split("\0", 1)[0],
            locators=tuple(each for each in locators if any(each.code)),
        )

    def pack(self) -> bytes:
        name = self.parent_name.encode("utf-16-be")[:510].ljust(512, b"\0")
        data = _LAYOUT.pack(
            COOKIE,
            NO_OFFSET,
            self.table_offset,
            VERSION,
            self.entries,
            self.block_size,
            0,
            self.parent_id.bytes,
            self.parent_timestamp,
            name,
        )
        for each in self.locators:
            data += struct.pack(">4sIIIQ", each.code, each.space, each.length, 0, each.offset)
        data = data.ljust(HEADER_SIZE, b"\0")
        return data[:_CHECKSUM_AT] + struct.pack(">I", checksum(data, _CHECKSUM_AT)) + data[_CHECKSUM_AT + 4 :]

    @property
    def bitmap_size(self) -> int:
        """One bit a sector, padded to whole sectors."""
        return -(-self.block_size // SECTOR // 8 // SECTOR) * SECTOR


def _header(what: str) -> DiskError:
    return DiskError(f"the dynamic VHD header: {what}", name="vhd-header", hint=AGAIN)


@dataclass(frozen=True)
class SparseVhd:
    """An opened dynamic or differencing disk; `recovered` says that the footer at the end was torn."""

    path: Path
    footer: Footer
    header: Header
    table: array[int] = field(repr=False)
    file_size: int
    recovered: str | None = None

    @property
    def size(self) -> int:
        return self.footer.virtual_size

    @property
    def blocks_present(self) -> int:
        return sum(1 for entry in self.table if entry != ABSENT)

    def ranges(self) -> Iterator[Extent]:
        """Where this file holds data of its own; for a differencing disk the rest is the parent's."""
        block, bitmap = self.header.block_size, self.header.bitmap_size
        full = b"\xff" * (block // SECTOR // 8)
        with self.path.open("rb") as file:
            for index, entry in enumerate(self.table):
                start = index * block
                if entry == ABSENT or start >= self.size:
                    continue
                at = entry * SECTOR
                bits = os.pread(file.fileno(), len(full) or 1, at)
                length = min(block, self.size - start)
                if bits == full:
                    yield Extent(start, length, self.path, at + bitmap)
                    continue
                for begin, end in _runs(bits, -(-length // SECTOR)):
                    stop = min(end * SECTOR, length)
                    yield Extent(
                        start + begin * SECTOR, stop - begin * SECTOR, self.path, at + bitmap + begin * SECTOR
                    )


def _runs(bits: bytes, sectors: int) -> Iterator[tuple[int, int]]:
    """Runs of set bits, most significant bit first, as (first, end) sectors."""
    number = int.from_bytes(bits, "big")
    width = len(bits) * 8
    if width > sectors:
        number >>= width - sectors
    text = f"{number:0{sectors}b}"
    at = text.find("1")
    while at >= 0:
        end = text.find("0", at)
        yield at, sectors if end < 0 else end
        at = -1 if end < 0 else text.find("1", end)


def open_sparse(path: Path) -> SparseVhd:
    """Read footer, header and table, all of it verified. Nothing but this file is opened.

    A footer torn at the end is taken from its copy at the start. Raises DiskError: vhd-header, vhd-table-outside,
    vhd-block-outside, vhd-blocks-overlap, vhd-not-sparse, vhd-too-large, disk-unreadable, and the footer's names.
    """
    fd = open_file(path)
    try:
        file_size = os.lseek(fd, 0, os.SEEK_END)
        footer, recovered = _footer(path, os.pread(fd, FOOTER_SIZE, 0))
        if footer.disk_type == DiskType.FIXED:
            raise DiskError(
                f"{path.name} is a fixed VHD",
                name="vhd-not-sparse",
                evidence=path,
                hint="goldsmith vhd info FILE shows it",
            )
        header = Header.parse(os.pread(fd, HEADER_SIZE, min(footer.data_offset, 1 << 62)))
        table = _table(fd, header, footer, file_size)
    except OSError as error:
        raise DiskError(
            f"cannot read {path}: {error.strerror}",
            name="disk-unreadable",
            hint="check the host's disk with dmesg",
            evidence=path,
        ) from None
    finally:
        os.close(fd)
    _verify_blocks(table, header, file_size, path)
    return SparseVhd(path, footer, header, table, file_size, recovered)


def _footer(path: Path, head: bytes) -> tuple[Footer, str | None]:
    try:
        return read_footer(path), None
    except DiskError as torn:
        try:
            return Footer.parse(head), torn.message
        except DiskError:
            raise torn from None


def _table(fd: int, header: Header, footer: Footer, file_size: int) -> array[int]:
    if footer.virtual_size > MAX_SIZE:
        raise DiskError(
            f"{footer.virtual_size} bytes are more than a VHD can hold",
            name="vhd-too-large",
            hint="make the disk smaller, or use another format",
        )
    wanted = -(-footer.virtual_size // header.block_size)
    if header.entries < wanted:
        raise _header(f"{header.entries} table entries, {wanted} are needed")
    if header.table_offset + 4 * wanted > file_size:
        raise DiskError("the block table lies outside the file", name="vhd-table-outside", hint=AGAIN)
    raw = os.pread(fd, 4 * wanted, header.table_offset)
    if len(raw) < 4 * wanted:
        raise DiskError("the block table is cut off", name="vhd-table-outside", hint=AGAIN)
    table = array("I", raw)
    if sys.byteorder == "little":
        table.byteswap()
    return table


def _verify_blocks(table: array[int], header: Header, file_size: int, path: Path) -> None:
    span = header.block_size + header.bitmap_size
    places = sorted(entry for entry in table if entry != ABSENT)
    if not places:
        return
    # the last block may be cut where the disk ends inside it, but its bitmap must be there
    if places[-1] * SECTOR + header.bitmap_size > file_size:
        raise DiskError(
            f"{path.name}: a block lies at byte {places[-1] * SECTOR}, the file ends at {file_size}",
            name="vhd-block-outside",
            evidence=path,
            hint=AGAIN,
        )
    if places[0] * SECTOR < FOOTER_SIZE + HEADER_SIZE:
        raise DiskError(
            f"{path.name}: a block lies inside the header", name="vhd-blocks-overlap", evidence=path, hint=AGAIN
        )
    for before, after in pairwise(places):
        if (after - before) * SECTOR < span:
            raise DiskError(
                f"{path.name}: the blocks at bytes {before * SECTOR} and {after * SECTOR} overlap",
                name="vhd-blocks-overlap",
                evidence=path,
                hint=AGAIN,
            )


def sparse_extents(disk: SparseVhd) -> ExtentSource:
    """A dynamic disk's data. Raises DiskError: vhd-block-outside where the data of a block is cut off."""
    found = merged(disk.ranges())
    for extent in found:
        if extent.offset + extent.length > disk.file_size:
            raise DiskError(
                f"{disk.path.name}: a block's data ends outside the file",
                name="vhd-block-outside",
                evidence=disk.path,
                hint=AGAIN,
            )
    return ExtentSource(disk.size, tuple(found))


def merged(extents: Iterator[Extent]) -> list[Extent]:
    """Neighbours that follow each other on the disk and in the file as one."""
    out: list[Extent] = []
    for extent in extents:
        last = out[-1] if out else None
        if (
            last
            and last.end == extent.start
            and last.path == extent.path
            and last.offset + last.length == extent.offset
        ):
            out[-1] = Extent(last.start, last.length + extent.length, last.path, last.offset)
        else:
            out.append(extent)
    return out
