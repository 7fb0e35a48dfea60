"""The VHD footer: the last 512 bytes of every VHD, big-endian.

Layout and rules: Microsoft's "Virtual Hard Disk Image Format Specification" 1.0, libyal's description of it,
and what qemu's block/vpc.c really does. All sizes are in bytes unless a name says sectors (512 bytes).
"""

from __future__ import annotations

import datetime
import os
import struct
import uuid
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from pipeline.base.errors import DiskError
from pipeline.vhd.extents import AGAIN, open_file

SECTOR = 512
MIB = 1 << 20
FOOTER_SIZE = 512
COOKIE = b"conectix"
VERSION = 0x00010000
#: Bit 1 of the features is "reserved, always set".
FEATURES = 0x2
#: The data offset of a fixed disk: it has no further header.
NO_OFFSET = 0xFFFFFFFFFFFFFFFF
#: 2000-01-01T00:00:00Z, where VHD time begins, in Unix seconds.
EPOCH = 946684800
#: A block table holds 32-bit sector numbers; the format, and every tool, ends at 2040 GiB.
MAX_SIZE = 2040 << 30
MAX_CYLINDERS, MAX_HEADS, MAX_SECTORS = 65535, 16, 255

#: What goldsmith writes. Not a name of its own: qemu 7.2 reads the size of a creator it does not know from
#: the geometry, which loses the end of the disk; `qem2` means "current size counts" to every qemu.
CREATOR, CREATOR_VERSION, CREATOR_OS = b"qem2", 0x00050003, b"Wi2k"
#: Creators whose disks are as large as their geometry says (Virtual PC and old qemu).
GEOMETRY_CREATORS = frozenset({b"vpc ", b"qemu"})
#: Creators whose current size qemu up to 9 believes; all others it measures by the geometry.
OLD_QEMU_SIZE_CREATORS = frozenset({b"win ", b"qem2", b"d2v ", b"tap\0", b"CTXS"})

_LAYOUT = struct.Struct(">8sIIQI4sI4sQQHBBII16sB427s")
_CHECKSUM_AT = 64


class DiskType(IntEnum):
    FIXED = 2
    DYNAMIC = 3
    DIFFERENCING = 4


class Geometry(NamedTuple):
    """Cylinders, heads, sectors per track."""

    cylinders: int
    heads: int
    sectors: int

    @property
    def size(self) -> int:
        return self.cylinders * self.heads * self.sectors * SECTOR


def geometry(size: int) -> Geometry:
    """The geometry that the specification's appendix gives for a disk of `size` bytes (rounded down)."""
    total = min(size // SECTOR, MAX_CYLINDERS * MAX_HEADS * MAX_SECTORS)
    if total >= 65535 * 16 * 63:
        sectors, heads, tracks = 255, 16, total // 255
    else:
        sectors, tracks = 17, total // 17
        heads = max(4, (tracks + 1023) // 1024)
        if tracks >= heads * 1024 or heads > 16:
            sectors, heads, tracks = 31, 16, total // 31
        if tracks >= heads * 1024:
            sectors, heads, tracks = 63, 16, total // 63
    return Geometry(tracks // heads, heads, sectors)


def checksum(data: bytes, at: int = _CHECKSUM_AT) -> int:
    """The one's complement of the sum of all bytes, the checksum field at `at` taken as zero."""
    return ~(sum(data) - sum(data[at : at + 4])) & 0xFFFFFFFF


def vhd_time(unix: float) -> int:
    """Unix seconds as VHD seconds; what lies outside 2000 to 2136 is clamped, the field has 32 bits."""
    return min(max(int(unix) - EPOCH, 0), 0xFFFFFFFF)


@dataclass(frozen=True)
class Footer:
    """One footer, field by field; `timestamp` is in seconds since 2000."""

    disk_type: int
    original_size: int
    current_size: int
    geometry: Geometry
    unique_id: uuid.UUID
    timestamp: int
    data_offset: int = NO_OFFSET
    creator: bytes = CREATOR
    creator_version: int = CREATOR_VERSION
    creator_os: bytes = CREATOR_OS
    features: int = FEATURES
    version: int = VERSION
    saved_state: int = 0
    reserved: bytes = field(default=bytes(427), repr=False)

    @classmethod
    def build(cls, size: int, *, disk_type: DiskType, unique_id: uuid.UUID, timestamp: int) -> Footer:
        """A new disk's footer; `timestamp` is in Unix seconds. Raises DiskError past 2040 GiB."""
        if not 0 < size <= MAX_SIZE or size % SECTOR:
            raise DiskError(
                f"a VHD cannot hold {size} bytes: whole sectors up to {MAX_SIZE} (2040 GiB) fit",
                name="vhd-too-large" if size > MAX_SIZE else "vhd-size",
                hint="make the disk smaller, or use another format"
                if size > MAX_SIZE
                else "round the disk up to whole sectors of 512 bytes",
            )
        return cls(
            disk_type=disk_type,
            original_size=size,
            current_size=size,
            geometry=geometry(size),
            unique_id=unique_id,
            timestamp=vhd_time(timestamp),
            data_offset=NO_OFFSET if disk_type == DiskType.FIXED else FOOTER_SIZE,
        )

    @classmethod
    def parse(cls, data: bytes) -> Footer:
        """Read a footer. Raises DiskError: vhd-truncated, vhd-no-footer, vhd-checksum, vhd-version, vhd-type.

        511 bytes are accepted: Virtual PC before 2004 left the last reserved byte out.
        """
        if len(data) == FOOTER_SIZE - 1:
            data += b"\0"
        if len(data) != FOOTER_SIZE:
            raise DiskError(f"a VHD footer has 512 bytes, not {len(data)}", name="vhd-truncated", hint=AGAIN)
        if not data.startswith(COOKIE):
            raise DiskError(
                "no VHD footer: the last 512 bytes do not begin with 'conectix'",
                name="vhd-no-footer",
                hint="check that it is a complete VHD; for disks of other formats use goldsmith inspect FILE "
                "--list volumes",
            )
        (_, features, version, data_offset, timestamp, creator, creator_version, creator_os, original, current,
         cylinders, heads, sectors, disk_type, stored, unique_id, saved, reserved) = _LAYOUT.unpack(data)  # fmt: skip
        if stored != checksum(data):
            raise DiskError(
                f"the VHD footer's checksum is {stored:08x}, its bytes give {checksum(data):08x}",
                name="vhd-checksum",
                hint=f"the footer was torn or edited: {AGAIN}",
            )
        if version != VERSION:
            raise DiskError(f"VHD version {version:#x} is not 1.0", name="vhd-version", hint=AGAIN)
        if disk_type not in tuple(DiskType):
            raise DiskError(
                f"VHD type {disk_type} is neither fixed, dynamic nor differencing", name="vhd-type", hint=AGAIN
            )
        return cls(
            disk_type=disk_type,
            original_size=original,
            current_size=current,
            geometry=Geometry(cylinders, heads, sectors),
            unique_id=uuid.UUID(bytes=unique_id),
            timestamp=timestamp,
            data_offset=data_offset,
            creator=creator,
            creator_version=creator_version,
            creator_os=creator_os,
            features=features,
            version=version,
            saved_state=saved,
            reserved=reserved,
        )

    def pack(self) -> bytes:
        """The 512 bytes, with their checksum."""
        data = _LAYOUT.pack(
            COOKIE,
            self.features,
            self.version,
            self.data_offset,
            self.timestamp,
            self.creator,
            self.creator_version,
            self.creator_os,
            self.original_size,
            self.current_size,
            *self.geometry,
            self.disk_type,
            0,
            self.unique_id.bytes,
            self.saved_state,
            self.reserved,
        )
        return data[:_CHECKSUM_AT] + struct.pack(">I", checksum(data)) + data[_CHECKSUM_AT + 4 :]

    @property
    def virtual_size(self) -> int:
        """The size that counts, as Hyper-V, Azure and qemu from 10 on read it."""
        return self._size(self.creator in GEOMETRY_CREATORS)

    @property
    def old_qemu_size(self) -> int:
        """The size that qemu up to 9 gives a guest; smaller than `virtual_size` it loses the disk's end."""
        return self._size(self.creator not in OLD_QEMU_SIZE_CREATORS)

    def _size(self, by_geometry: bool) -> int:
        # a disk at or past the largest geometry cannot be measured by it
        if by_geometry and self.geometry != (MAX_CYLINDERS, MAX_HEADS, MAX_SECTORS):
            return self.geometry.size
        return self.current_size

    @property
    def created(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(EPOCH + self.timestamp, datetime.UTC)

    def resized(self, size: int) -> Footer:
        """The same disk with another current size; the original size stays."""
        return replace(self, current_size=size, geometry=geometry(size))


def read_footer(path: Path) -> Footer:
    """The footer at the end of a file. Raises DiskError as `Footer.parse` and `open_file`."""
    fd = open_file(path)
    try:
        end = os.lseek(fd, 0, os.SEEK_END)
        tail = os.pread(fd, FOOTER_SIZE, max(0, end - FOOTER_SIZE))
    except OSError as error:
        raise DiskError(
            f"cannot read {path}: {error.strerror}", name="disk-unreadable", hint=AGAIN, evidence=path
        ) from None
    finally:
        os.close(fd)
    if not tail.startswith(COOKIE) and tail[1:].startswith(COOKIE):
        tail = tail[1:]
    try:
        return Footer.parse(tail)
    except DiskError as error:
        raise DiskError(f"{path.name}: {error.message}", name=error.name, hint=error.hint, evidence=path) from None


def verify_fixed(path: Path) -> Footer:
    """Prove that a file is a fixed VHD that Azure and Hyper-V take. Raises DiskError with the fault's name.

    vhd-not-fixed, vhd-features, vhd-data-offset, vhd-file-size (file = size + 512), vhd-not-whole-mib,
    vhd-size-by-creator (a qemu up to 9 would cut the disk), vhd-saved-state, vhd-reserved; and those of
    `read_footer`.
    """
    footer = read_footer(path)
    faults = fixed_faults(footer, path.stat().st_size)
    if faults:
        name, what = next(iter(faults.items()))
        raise DiskError(
            f"{path.name}: {what}",
            name=name,
            evidence=path,
            hint="write a valid VHD with goldsmith vhd convert FILE NEW.vhd",
        )
    return footer


def fixed_faults(footer: Footer, file_size: int) -> dict[str, str]:
    """Every fault of a fixed VHD's footer: its name and what it says. Empty when the footer is right."""
    size = footer.current_size
    found = {
        "vhd-not-fixed": (
            footer.disk_type != DiskType.FIXED,
            f"a {DiskType(footer.disk_type).name.lower()} VHD, but a master must be fixed",
        ),
        "vhd-features": (footer.features & ~1 != FEATURES, f"features are {footer.features:#x}, not 0x2"),
        "vhd-data-offset": (
            footer.disk_type == DiskType.FIXED and footer.data_offset != NO_OFFSET,
            f"the data offset is {footer.data_offset:#x}, not all ones",
        ),
        "vhd-file-size": (file_size != size + FOOTER_SIZE, f"the file has {file_size} bytes, not {size} + 512"),
        "vhd-not-whole-mib": (
            size % MIB != 0 or not size,
            f"a virtual size of {size} bytes is not a whole number of MiB",
        ),
        "vhd-size-by-creator": (
            footer.old_qemu_size != size,
            f"creator {footer.creator!r}: qemu up to 9 sees {footer.old_qemu_size} of {size} bytes",
        ),
        "vhd-saved-state": (footer.saved_state != 0, "the footer says that the disk has a saved state"),
        "vhd-reserved": (any(footer.reserved), "reserved bytes of the footer are not zero"),
    }
    return {name: what for name, (wrong, what) in found.items() if wrong}
