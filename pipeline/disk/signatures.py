"""The marks of file systems and volumes that goldsmith names and does not read, their labels and UUIDs.

Offsets by util-linux's libblkid/src/superblocks, which is also the measure for what a label or UUID is.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

from pipeline.disk.filesystem import Read

#: Bytes of exFAT's top directory, and of an NTFS record, that are looked at for a label.
_EXFAT_DIRECTORY, _MAX_RECORD = 64 << 10, 4096


@dataclass(frozen=True)
class Place:
    """A partition: `read` gives its bytes (shorter at its end), `head` are the first 68 KiB, filled up with zeros."""

    read: Read
    head: bytes
    size: int


@dataclass(frozen=True)
class Found:
    """`label` and `uuid` are '' where there is none, or where goldsmith does not look for it."""

    kind: str
    label: str = ""
    uuid: str = ""


@dataclass(frozen=True)
class _Mark:
    """`magic` stands at byte `at`; the label and the UUID, where they are plain fields, at `label` and `uuid`."""

    at: int
    magic: bytes
    kind: str
    label: tuple[int, int] | None = None
    uuid: int | None = None
    utf16: bool = False


_MARKS = (
    _Mark(0, b"XFSB", "xfs", (108, 12), 32),
    _Mark(65600, b"_BHRfS_M", "btrfs", (65536 + 299, 256), 65536 + 32),
    _Mark(0, b"LUKS\xba\xbe", "luks"),
    _Mark(1024, b"\x10\x20\xf5\xf2", "f2fs", (1024 + 124, 1024), 1024 + 108, utf16=True),
    _Mark(32768, b"JFS1", "jfs", (32768 + 152, 16), 32768 + 136),
    *(
        _Mark(at + 52, magic, "reiserfs", (at + 100, 16), at + 84)
        for at in (8192, 65536)
        for magic in (b"ReIsErFs", b"ReIsEr2Fs", b"ReIsEr3Fs")
    ),
    _Mark(65536, b"ReIsEr4", "reiser4", (65536 + 36, 16), 65536 + 20),
    _Mark(1024, b"\xe2\xe1\xf5\xe0", "erofs", (1024 + 64, 16), 1024 + 48),
    _Mark(0, b"hsqs", "squashfs"),
    _Mark(0, b"sqsh", "squashfs"),
    _Mark(0, b"\x45\x3d\xcd\x28", "cramfs", (48, 16)),
    _Mark(0, b"\x28\xcd\x3d\x45", "cramfs", (48, 16)),
    _Mark(0, b"-rom1fs-", "romfs", (16, 16)),
    _Mark(32, b"NXSB", "apfs", None, 72),
    _Mark(0, b"\0\0\0ReFS\0", "refs"),
    _Mark(4096 + 24, bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef"), "bcachefs", (4096 + 72, 32), 4096 + 56),
    _Mark(4096 + 24, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81"), "bcache", None, 4096 + 40),
    _Mark(65536, b"\x01\x16\x19\x70", "gfs2"),
    *(_Mark(at, b"OCFSV2", "ocfs2") for at in (1024, 2048, 4096, 8192)),
    _Mark(8192, b"\x49\xe8\x95\xf9", "hpfs"),
    _Mark(544, b"1SFB", "befs"),
    _Mark(32, b"1SFB", "befs"),
    _Mark(1024, b"\xf5\xfc\x01\xa5", "vxfs"),
    _Mark(0, b"UBI#", "ubi"),
    _Mark(0, b"\x31\x18\x10\x06", "ubifs"),
    *(
        _Mark(at + 1372, magic, "ufs")
        for at in (8192, 65536)
        for magic in (b"\x54\x19\x01\x00", b"\x19\x01\x54\x19", b"\x00\x01\x19\x54", b"\x19\x54\x01\x19")
    ),
    _Mark(4096, b"SPB5", "nss"),
    _Mark(0, b"SnAp", "snapshot-cow"),
    _Mark(0, b"verity\0\0", "verity"),
    _Mark(0, b"integrt\0", "integrity"),
    _Mark(0, b"dmvdo001", "vdo"),
    _Mark(516, b"!Stra0tis\x86\xff\x02^\x41rh", "stratis"),
    _Mark(0, b"bluestore block device", "bluestore"),
    _Mark(0, b"SPACEDB ", "storage-spaces"),
    _Mark(32, b"ORCLDISK", "oracleasm"),
)
#: Marks outside the first 68 KiB.
_FAR_MARKS = (
    _Mark(1048576, b"\x0d\xd0\x01\xc0", "vmfs"),
    _Mark(2097152, b"\x5e\xf1\xab\x2f", "vmfs"),
    *(
        _Mark(262144 + 1372, magic, "ufs")
        for magic in (b"\x54\x19\x01\x00", b"\x19\x01\x54\x19", b"\x00\x01\x19\x54", b"\x19\x54\x01\x19")
    ),
)


def find(place: Place) -> Found | None:
    """What the volume is whose bytes `read` gives and whose first 68 KiB are `head`; None where no mark is known."""
    for special in _SPECIALS:
        found = special(place)
        if found is not None:
            return found
    for mark in _MARKS:
        if place.head[mark.at : mark.at + len(mark.magic)] == mark.magic:
            return _details(mark, place.head)
    for mark in _FAR_MARKS:
        if place.read(mark.at, len(mark.magic)) == mark.magic:
            return Found(mark.kind)
    return None


def _details(mark: _Mark, head: bytes) -> Found:
    if mark.kind == "luks":
        version = int.from_bytes(head[6:8], "big")
        return Found("luks", _text(head[24:72]) if version == 2 else "", _text(head[168:208]))
    label = ""
    if mark.label:
        raw = head[mark.label[0] : mark.label[0] + mark.label[1]]
        label = _wide(raw) if mark.utf16 else _text(raw)
    return Found(mark.kind, label, _uuid(head[mark.uuid : mark.uuid + 16]) if mark.uuid is not None else "")


def find_raid(place: Place) -> Found | None:
    """A member of a RAID, of LVM or DRBD. Some keep their record at the end, behind what looks like a file system."""
    return _md(place) or _firmware_raid(place) or _lvm(place.head)


def _md(place: Place) -> Found | None:
    magic = b"\xfc\x4e\x2b\xa9"
    sectors = place.size // 512
    # version 1: at the start, 4 KiB in, or 8 to 12 KiB before the end; the record names its own sector
    for at in (0, 4096, (sectors - 16 & ~7) * 512):
        raw = place.read(at, 256)
        if raw[:8] == magic + b"\1\0\0\0" and len(raw) == 256 and struct.unpack_from("<Q", raw, 144)[0] == at // 512:
            return Found("raid", _text(raw[32:64]), _uuid(raw[16:32]))
    raw = place.read((place.size & ~0xFFFF) - 0x10000, 256)
    for order, mark in (("<", magic), (">", magic[::-1])):
        if raw[:4] == mark and len(raw) == 256 and struct.unpack_from(order + "II", raw, 4) in ((0, 90), (0, 91)):
            first = struct.unpack_from(order + "I", raw, 20)
            words = struct.pack(">4I", *first, *struct.unpack_from(order + "3I", raw, 52))
            return Found("raid", "", _uuid(words))
    return None


def _firmware_raid(place: Place) -> Found | None:
    sectors = place.size // 512
    if place.read((sectors - 2) * 512, 24) == b"Intel Raid ISM Cfg Sig. ":
        return Found("raid")
    if place.read((sectors - 1) * 512, 4) in (b"\xde\x11\xde\x11", b"\x11\xde\x11\xde"):
        return Found("raid")
    if place.read((place.size & ~0xFFF) - 4096 + 60, 4) in (
        b"\x83\x74\x02\x6b",
        b"\x83\x74\x02\x6c",
        b"\x83\x74\x02\x6d",
    ):
        return Found("drbd")
    return None


def _lvm(head: bytes) -> Found | None:
    for at in range(0, 2048, 512):
        if head[at : at + 8] == b"LABELONE" and head[at + 24 : at + 32] == b"LVM2 001":
            (offset,) = struct.unpack_from("<I", head, at + 20)
            raw = head[at + offset : at + offset + 32]
            text = raw.decode("ascii", "replace") if offset < 512 else ""
            whole = len(text) == 32 and text.isalnum()
            return Found("lvm", "", _hyphenated(text, 6, 4, 4, 4, 4, 4, 6) if whole else "")
    return None


def _bitlocker(place: Place) -> Found | None:
    """BitLocker has its mark where NTFS has its own; on a stick (To Go) it looks like FAT32 but for an identifier."""
    to_go = place.head[424:440] == bytes.fromhex("3bd66749292ed84a8399f6a339e3d001")
    return Found("bitlocker") if place.head[3:11] == b"-FVE-FS-" or to_go else None


def _swap(place: Place) -> Found | None:
    for page in (4096, 8192, 16384, 32768, 65536):
        mark = place.head[page - 10 : page]
        if mark in (b"SWAPSPACE2", b"SWAP-SPACE"):
            new = mark == b"SWAPSPACE2" and place.head[1024:1028] in (b"\1\0\0\0", b"\0\0\0\1")
            return Found(
                "swap", _text(place.head[1052:1068]) if new else "", _uuid(place.head[1036:1052]) if new else ""
            )
        if mark[:9] in (b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND") or mark == b"LINHIB0001":
            return Found("swsuspend", _text(place.head[1052:1068]), _uuid(place.head[1036:1052]))
    return None


def _ntfs(place: Place) -> Found | None:
    if place.head[3:11] != b"NTFS    ":
        return None
    serial = place.head[72:80][::-1].hex().upper()
    sector, per_cluster = struct.unpack_from("<HB", place.head, 11)
    cluster = sector * (per_cluster if per_cluster <= 128 else 1 << min(256 - per_cluster, 24))
    (first,) = struct.unpack_from("<Q", place.head, 48)
    (width,) = struct.unpack_from("<b", place.head, 64)
    record = width * cluster if width > 0 else 1 << min(-width, 24)
    if not 256 <= record <= _MAX_RECORD:
        return Found("ntfs", "", serial)
    # record 3 is $Volume; its attribute 0x60 is the label
    raw = bytearray(place.read(first * cluster + 3 * record, record))
    return Found("ntfs", _ntfs_label(raw) if raw[:4] == b"FILE" and len(raw) == record else "", serial)


def _ntfs_label(record: bytearray) -> str:
    fixup, count = struct.unpack_from("<HH", record, 4)
    for number in range(1, count):
        # the last word of each 512 bytes stands in the array at `fixup`
        place, kept = number * 512 - 2, fixup + 2 * number
        if place + 2 <= len(record) and kept + 2 <= len(record):
            record[place : place + 2] = record[kept : kept + 2]
    (at,) = struct.unpack_from("<H", record, 20)
    while at + 24 <= len(record):
        kind, length = struct.unpack_from("<II", record, at)
        if kind == 0x60 and not record[at + 8]:
            size, offset = struct.unpack_from("<IH", record, at + 16)
            return _wide(bytes(record[at + offset : at + offset + size]))
        if kind == 0xFFFFFFFF or length < 16:
            break
        at += length
    return ""


def _exfat(place: Place) -> Found | None:
    if place.head[3:11] != b"EXFAT   ":
        return None
    (heap,) = struct.unpack_from("<I", place.head, 88)
    root, serial = struct.unpack_from("<II", place.head, 96)
    sector, per_cluster = place.head[108], place.head[109]
    name = f"{serial >> 16:04X}-{serial & 0xFFFF:04X}"
    if not 9 <= sector <= 12 or per_cluster > 25 - sector or root < 2:
        return Found("exfat", "", name)
    cluster = 1 << sector + per_cluster
    raw = place.read((heap << sector) + (root - 2) * cluster, min(cluster, _EXFAT_DIRECTORY))
    for at in range(0, len(raw) - 31, 32):
        if raw[at] == 0:
            break
        if raw[at] == 0x83:
            return Found("exfat", _wide(raw[at + 2 : at + 2 + 2 * min(raw[at + 1], 11)]), name)
    return Found("exfat", "", name)


def _iso9660(place: Place) -> Found | None:
    if place.head[32777:32782] == b"CDROM":
        return Found("iso9660")
    if _has_udf(place.read):
        # a bridge disc has both, and is read as UDF
        return _udf(place.read)
    if place.head[32769:32774] != b"CD001":
        return None
    label = place.head[32808:32840].decode("ascii", "replace").rstrip(" \0")
    for at in (32768 + 830, 32768 + 813):
        date = place.head[at : at + 16]
        if date.isdigit() and any(date.strip(b"0")):
            return Found("iso9660", label, _hyphenated(date.decode("ascii"), 4, 2, 2, 2, 2, 2, 2))
    return Found("iso9660", label)


def _has_udf(read: Read) -> bool:
    """By the volume recognition sequence, whose entries have 2,048 bytes or one sector of 4,096."""
    for step in (2048, 4096):
        for at in range(32768, 32768 + 16 * step, step):
            mark = read(at + 1, 5)
            if mark in (b"NSR02", b"NSR03"):
                return True
            if mark not in (b"BEA01", b"BOOT2", b"CD001", b"CDW02", b"TEA01"):
                break
    return False


def _udf(read: Read) -> Found:
    """Its logical volume's name and volume set: anchor in sector 256, then what it points at (ECMA-167)."""
    label = serial = ""
    for sector in (2048, 512, 4096):
        anchor = read(256 * sector, 24)
        if anchor[:2] != b"\2\0" or len(anchor) < 24:
            continue
        length, first = struct.unpack_from("<II", anchor, 16)
        for number in range(min(length // sector, 64)):
            raw = read((first + number) * sector, 512)
            if raw[:2] == b"\6\0" and len(raw) == 512:
                label = _dstring(raw[84:212])
            elif raw[:2] == b"\1\0" and len(raw) == 512:
                serial = _udf_uuid(_dstring(raw[72:200]).encode())
        break
    return Found("udf", label, serial)


def _dstring(raw: bytes) -> str:
    """OSTA's compressed Unicode: the first byte says 8 or 16 bits, the last one the length."""
    text = raw[1 : min(raw[-1], len(raw) - 1)]
    name = text.decode("utf-16-be", "replace") if raw[:1] == b"\x10" else text.decode("latin-1")
    return name.split("\0", 1)[0]


def _udf_uuid(volume_set: bytes) -> str:
    """As blkid makes it: the first 16 hexadecimal digits, bytes that are none as two digits each."""
    digits = next((n for n, byte in enumerate(volume_set[:16]) if byte not in b"0123456789abcdefABCDEF"), 16)
    if len(volume_set) < 8:
        return ""
    if digits < 8:
        return volume_set[:8].hex()
    if digits < 16:
        return volume_set[:8].decode().lower() + volume_set[8:12].hex()
    return volume_set[:16].decode().lower()


def _small_magics(place: Place) -> Found | None:
    """Kinds whose mark has two bytes: what stands around it must make sense too."""
    if (
        place.head[1030:1032] == b"\x34\x34"
        and place.head[1024:1028] == b"\2\0\0\0"
        and 256 <= place.head[1032] + 256 * place.head[1033] <= 1024
    ):
        return Found("nilfs2", _text(place.head[1192:1272]), _uuid(place.head[1176:1192]))
    if place.head[1024:1026] in (b"H+", b"HX") and struct.unpack_from(">H", place.head, 1026)[0] in (4, 5):
        return Found("hfsplus")
    if (
        place.head[1024:1026] == b"BD"
        and any(place.head[1044:1048])
        and struct.unpack_from(">I", place.head, 1044)[0] % 512 == 0
    ):
        wrapped = place.head[1024 + 124 : 1024 + 126] in (b"H+", b"HX")
        return (
            Found("hfsplus") if wrapped else Found("hfs", _text(place.head[1061 : 1061 + min(place.head[1060], 27)]))
        )
    return _minix(place.head, place.size)


def _minix(head: bytes, size: int) -> Found | None:
    for order in "<>":
        inodes, zones, inode_map, zone_map, first = struct.unpack_from(order + "5H", head, 1024)
        (old,) = struct.unpack_from(order + "H", head, 1040)
        fits = inodes and inode_map and zone_map and inode_map * 8192 > inodes and first > 2 + inode_map + zone_map
        if fits and old in (0x137F, 0x138F, 0x2468, 0x2478) and zones * 1024 <= size:
            return Found("minix")
        (inodes3, _, inode_map, zone_map, first) = struct.unpack_from(order + "IHHHH", head, 1024)
        (magic3,) = struct.unpack_from(order + "H", head, 1048)
        if magic3 == 0x4D5A and inodes3 and inode_map and zone_map and first:
            return Found("minix")
    return None


def _zfs(place: Place) -> Found | None:
    """A label of 256 KiB, whose second half is a ring of uberblocks: any of them tells."""
    ring = place.read(131072, 131072) if place.size >= 64 << 20 else b""
    for at in range(0, len(ring), 1024):
        if ring[at : at + 8] in (b"\x0c\xb1\xba\0\0\0\0\0", b"\0\0\0\0\0\xba\xb1\x0c"):
            return Found("zfs")
    return None


def _hyphenated(text: str, *widths: int) -> str:
    ends = accumulate(widths)
    return "-".join(text[end - width : end] for width, end in zip(widths, ends, strict=True))


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace").rstrip()


def _wide(raw: bytes) -> str:
    return raw[: len(raw) & ~1].decode("utf-16-le", "replace").split("\0", 1)[0]


def _uuid(raw: bytes) -> str:
    return str(uuid.UUID(bytes=bytes(raw))) if len(raw) == 16 and any(raw) else ""


_SPECIALS: tuple[Callable[[Place], Found | None], ...] = (
    _bitlocker,
    _ntfs,
    _exfat,
    _swap,
    _iso9660,
    _small_magics,
    _zfs,
)
