"""What a file is by its content, and what its name promises: archives, compressed files and disks of other products.

A file that is none of these, and no disk format that goldsmith reads, is a raw disk. So everything that is commonly
given in place of a disk must be known here, or its bytes would be taken for the disk's. Pure functions over
`read(offset, length)`; magic numbers by each format's own document, or by file(1), util-linux and qemu.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath

from pipeline.base.disk_format import by_suffix

Read = Callable[[int, int], bytes]


@dataclass(frozen=True)
class Foreign:
    """A kind of file that goldsmith does not read as a disk. `unpacks`: `--unpack` does; `hint`: what else helps."""

    title: str
    hint: str
    unpacks: str = ""


def _compressed(title: str, tool: str, unpacks: str = "") -> Foreign:
    own = "use --unpack, or run " if unpacks else ""
    return Foreign(title, f"{own}{tool} FILE, then the file that it leaves", unpacks)


def _archive(title: str, tool: str) -> Foreign:
    return Foreign(title, f"unpack it ({tool} FILE), then take the disk that is in it")


def _disk(title: str, driver: str = "") -> Foreign:
    if driver:
        return Foreign(title, f"qemu-img convert -f {driver} -O qcow2 FILE NEW.qcow2, where the file is trusted")
    return Foreign(title, "export it as VHD, VHDX, qcow2, VMDK or raw with the product that made it")


_XZ = _compressed("an xz file", "xz -dk", "xz")
_GZ = _compressed("a gzip file", "gunzip -k", "gz")
_BZ2 = _compressed("a bzip2 file", "bunzip2 -k", "bz2")
_ZST = _compressed("a zstd file", "zstd -dk", "zst")
_LZ4 = _compressed("an lz4 file", "lz4 -dk", "lz4")
_LZMA = _compressed("an lzma file", "xz -dk", "lzma")
_TAR = _archive("a tar archive", "tar -xf")
_OVA = _archive("an OVA (a tar archive)", "tar -xf")
_ZIP = _archive("a zip archive", "unzip")
_DMG = _disk("a dmg (an Apple disk image)", "dmg")
_CLOOP = _disk("a cloop image", "cloop")
_EWF = Foreign("an EWF (EnCase) image", "ewfexport -f raw FILE")
_LUKS = Foreign("LUKS", "unlock it on the host that has its key, and store it without encryption")

#: (offset, magic, what begins with it).
_MAGICS: tuple[tuple[int, bytes, Foreign], ...] = (
    (0, b"\xfd7zXZ\0", _XZ),
    (0, b"\x1f\x8b\x08", _GZ),
    (0, b"\x28\xb5\x2f\xfd", _ZST),
    (0, b"\x04\x22\x4d\x18", _LZ4),
    (0, b"\x02\x21\x4c\x18", _LZ4),
    (0, b"LZIP\x01", _compressed("an lzip file", "lzip -dk")),
    (0, b"\x89LZO\0\r\n\x1a\n", _compressed("an lzop file", "lzop -d")),
    (0, b"\x1f\x9d", _compressed("a file of compress(1)", "uncompress -k")),
    (0, b"PK\x03\x04", _ZIP),
    (0, b"PK\x05\x06", _ZIP),
    (0, b"PK\x07\x08", _ZIP),
    (0, b"PK00PK\x03\x04", _ZIP),
    (0, b"7z\xbc\xaf\x27\x1c", _archive("a 7z archive", "7z x")),
    (0, b"Rar!\x1a\x07", _archive("a rar archive", "unrar x")),
    (0, b"MSCF\0\0\0\0", _archive("a cabinet file", "cabextract")),
    (0, b"xar!", _archive("a xar archive", "xar -xf")),
    (0, b"!<arch>\n", _archive("an ar archive", "ar x")),
    (0, b"070701", _archive("a cpio archive", "cpio -id -F")),
    (0, b"070702", _archive("a cpio archive", "cpio -id -F")),
    (0, b"070707", _archive("a cpio archive", "cpio -id -F")),
    (0, b"\xc7\x71", _archive("a cpio archive", "cpio -id -F")),
    (0, b"\xed\xab\xee\xdb", _archive("an rpm package", "rpm2cpio")),
    (0, b"MSWIM\0\0\0", Foreign("a WIM", "wimlib-imagex apply FILE 1 TARGET, or install from its medium")),
    (0, b"WLPWM\0\0\0", Foreign("a WIM", "wimlib-imagex apply FILE 1 TARGET, or install from its medium")),
    (0, b"koly\0\0\0\x04", _DMG),
    (0, b"encrcdsa", _DMG),
    (0, b"sprs", _disk("an Apple sparse image")),
    (0, b"Bochs Virtual HD Image\0", _disk("a bochs image", "bochs")),
    (0, b"WithoutFreeSpace", _disk("a Parallels image", "parallels")),
    (0, b"WithouFreSpacExt", _disk("a Parallels image", "parallels")),
    (0, b"QED\0", _disk("a QED image", "qed")),
    (0x40, b"\x7f\x10\xda\xbe", _disk("a VDI (VirtualBox image)", "vdi")),
    (0, b"\xbe\xba\xfe\xca\0\0\0\0", _disk("a VMware SESparse extent")),
    (0, b"LUKS\xba\xbe", _LUKS),
    (0, b"ER\x02\0", _disk("an Apple partition map")),
    (0, b"EVF\x09\r\n\xff\0", _EWF),
    (0, b"EVF2\r\n\x81\0", _EWF),
    (0, b"LVF\x09\r\n\xff\0", _EWF),
    (0, b"LEF2\r\n\x81\0", _EWF),
    (0, b"AFF10\r\n\0", Foreign("an AFF image", "affconvert -r FILE")),
    (0, b"ADSEGMENTEDFILE\0", _disk("an AD1 image")),
    (0, b"CISO", _disk("a CISO image")),
    (0, b"IsZ!", _disk("an ISZ image")),
    (0, b"DAA\0", _disk("a DAA image")),
    (0, b"\x3a\xff\x26\xed", Foreign("an Android sparse image", "simg2img FILE NEW.raw")),
    (0, b"partclone-image", Foreign("a partclone image", "partclone.restore -C -s FILE -o NEW.raw")),
    (0, b"PaRtImAgE-VoLuMe", Foreign("a partimage image", "partimage restore NEW.raw FILE")),
    (0, b"\0ntfsclone-image", Foreign("an ntfsclone image", "ntfsclone -r -O NEW.raw FILE")),
    (0, b"FsArCh_0", _archive("an fsarchiver archive", "fsarchiver restfs")),
    (0, b"VMA\0\0\0\0\x01", Foreign("a Proxmox VMA archive", "vma extract FILE TARGET")),
    (0, b"LibvirtQemudSave", _disk("a saved guest of libvirt")),
    (0, b"LibvirtQemudPart", _disk("a saved guest of libvirt")),
    (0, b"QEVM\0\0\0", _disk("a migration stream of qemu")),
)
#: zstd and lz4 may begin with skippable frames, which share their magics (zstd's format, 3.1.2).
_SKIPPABLE_HEAD = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18", re.DOTALL)
_BZIP2_HEAD = re.compile(rb"BZh[1-9](?:\x31\x41\x59\x26\x53\x59|\x17\x72\x45\x38\x50\x90)", re.DOTALL)
_CLOOP_HEAD = re.compile(rb"#!/bin/sh\n(?:#V\d+\.\d+ Format|.{0,100}cloop)", re.DOTALL)
_PATTERNS = ((_BZIP2_HEAD, _BZ2), (_SKIPPABLE_HEAD, _ZST), (_CLOOP_HEAD, _CLOOP))
#: A udif trailer has version 4 and 512 bytes; images of odd lengths have it up to 511 bytes further on (qemu: dmg.c).
_KOLY = b"koly\0\0\0\x04\0\0\x02\0"
_HEAD, _TAIL = 2048, 1024


def recognize_foreign(read: Read, size: int) -> Foreign | None:
    """What a file is if it is an archive, compressed, or another product's disk; None if it is none that is known."""
    head = read(0, _HEAD)
    for at, magic, foreign in _MAGICS:
        if head[at : at + len(magic)] == magic:
            return foreign
    for pattern, foreign in _PATTERNS:
        if pattern.match(head):
            return foreign
    if _is_lzma(head):
        return _LZMA
    if _is_tar(head):
        # an OVA's first member describes the machine (DMTF DSP0243)
        return _OVA if head[:100].split(b"\0", 1)[0].lower().endswith(b".ovf") else _TAR
    tail = read(max(0, size - _TAIL), _TAIL)
    return _DMG if _KOLY in tail or tail.endswith(b"cdsaencr") else None


def _is_lzma(head: bytes) -> bool:
    """The 13 bytes of an .lzma header, judged as xz does: a likely dictionary, a believable size."""
    if len(head) < 18 or head[0] != 0x5D or head[13] != 0:
        return False
    dictionary, length = struct.unpack_from("<IQ", head, 1)
    likely: bool = dictionary >= 4096 and (dictionary & (dictionary - 1) == 0 or dictionary % 3 == 0)
    return likely and bool(length == 0xFFFFFFFFFFFFFFFF or 0 < length < 1 << 42)


def _is_tar(head: bytes) -> bool:
    """A tar of before POSIX has no magic, but a checksum of its header."""
    if head[257:262] == b"ustar":
        return True
    if len(head) < 512 or not head[0]:
        return False
    stored = re.fullmatch(rb" *([0-7]{1,7})[ \0]*", head[148:156])
    return stored is not None and int(stored[1], 8) == sum(head[:148]) + 8 * 0x20 + sum(head[156:512])


#: Names that promise a file of another kind; what they hold is recognised above, or is not what the name says.
_FOREIGN_NAMES = {
    ".xz": "an xz file",
    ".txz": "an xz file",
    ".gz": "a gzip file",
    ".tgz": "a gzip file",
    ".bz2": "a bzip2 file",
    ".zst": "a zstd file",
    ".lz4": "an lz4 file",
    ".lzma": "an lzma file",
    ".zip": "a zip archive",
    ".tar": "a tar archive",
    ".ova": "an OVA",
    ".box": "a Vagrant box",
    ".7z": "a 7z archive",
    ".rar": "a rar archive",
    ".cab": "a cabinet file",
    ".wim": "a WIM",
    ".esd": "a WIM",
    ".dmg": "a dmg",
    ".vdi": "a VDI",
    ".qed": "a QED image",
    ".cloop": "a cloop image",
    ".bochs": "a bochs image",
    ".e01": "an EWF image",
    ".ex01": "an EWF image",
    ".aff": "an AFF image",
    ".aff4": "an AFF4 image",
    ".vhds": "a VHD set",
}
#: Where a medium says what it is: the first volume descriptor of ISO 9660, and of UDF (ECMA-167).
_MEDIUM_AT, _MEDIUM = 32769, (b"CD001", b"BEA01", b"NSR02", b"NSR03", b"CDW02")


def promised(name: str) -> tuple[str, str] | None:
    """What a file name promises: (the format's key or '', its title); None where it promises nothing."""
    suffix = PurePath(name).suffix.lower()
    if row := by_suffix().get(suffix):
        return row.key, row.title
    if suffix == ".iso":
        return "", "an ISO"
    return ("", _FOREIGN_NAMES[suffix]) if suffix in _FOREIGN_NAMES else None


def is_medium(read: Read) -> bool:
    """Whether an ISO 9660 or UDF file system begins where media have it; a hybrid ISO is a raw disk too."""
    return read(_MEDIUM_AT, 5) in _MEDIUM
