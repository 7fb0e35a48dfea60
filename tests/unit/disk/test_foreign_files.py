"""Archives, compressed files and disks of other products are recognised and named, never taken for raw disks."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import subprocess
import tarfile
import zipfile
from pathlib import Path

import lz4.frame
import pytest
import zstandard

from pipeline.base.errors import DiskError
from pipeline.disk.disk_formats import detect
from pipeline.disk.formats import recognize_foreign

DISK = bytes(1 << 20)


def tar(name: str, form: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        archive.addfile(tarfile.TarInfo(name))
    return out.getvalue()


def old_tar() -> bytes:
    """As Unix version 7 wrote it: no magic, its checksum alone."""
    header = bytearray(512)
    header[:8] = b"disk.raw"
    header[100:148] = b"0000644\0" + b"0000000\0" * 2 + b"00000000000\0" * 2
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("disk.raw", DISK)
    return out.getvalue()


def dmg(behind: int = 0) -> bytes:
    trailer = b"koly" + bytes([0, 0, 0, 4, 0, 0, 2, 0])
    return bytes(8192) + trailer.ljust(512, b"\0") + bytes(behind)


def begins(magic: bytes, at: int = 0) -> bytes:
    return (bytes(at) + magic).ljust(4096, b"\0")


#: What each is, by a word of the message.
FILES: dict[str, tuple[str, bytes]] = {
    "xz": ("xz", lzma.compress(DISK)),
    "gzip": ("gzip", gzip.compress(DISK)),
    "bzip2": ("bzip2", bz2.compress(DISK)),
    "an empty bzip2": ("bzip2", bz2.compress(b"")),
    "zstd": ("zstd", zstandard.compress(DISK)),
    "zstd behind a skippable frame": ("zstd", b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + zstandard.compress(DISK)),
    "lz4": ("lz4", lz4.frame.compress(DISK)),
    "lz4 of before frames": ("lz4", begins(b"\x02\x21\x4c\x18")),
    "lzma": ("lzma", lzma.compress(DISK, lzma.FORMAT_ALONE)),
    "lzip": ("lzip", begins(b"LZIP\x01")),
    "compress": ("compress", begins(b"\x1f\x9d\x90")),
    "zip": ("zip", zipped()),
    "an empty zip": ("zip", begins(b"PK\x05\x06")),
    "7z": ("7z", begins(b"7z\xbc\xaf\x27\x1c\0\4")),
    "rar 4": ("rar", begins(b"Rar!\x1a\x07\0")),
    "rar 5": ("rar", begins(b"Rar!\x1a\x07\1\0")),
    "cab": ("cabinet", begins(b"MSCF\0\0\0\0")),
    "cpio": ("cpio", begins(b"07070100000000")),
    "deb": ("ar archive", begins(b"!<arch>\ndebian-binary")),
    "rpm": ("rpm", begins(b"\xed\xab\xee\xdb\3\0")),
    "ustar": ("tar", tar("disk.raw", tarfile.USTAR_FORMAT)),
    "gnu tar": ("tar", tar("disk.raw", tarfile.GNU_FORMAT)),
    "pax tar": ("tar", tar("disk.raw", tarfile.PAX_FORMAT)),
    "old tar": ("tar", old_tar()),
    "ova": ("OVA", tar("machine.ovf", tarfile.USTAR_FORMAT)),
    "dmg": ("dmg", dmg()),
    "dmg of an odd length": ("dmg", dmg(300)),
    "encrypted dmg": ("dmg", begins(b"encrcdsa\0\0\0\2")),
    "old encrypted dmg": ("dmg", bytes(4096) + b"cdsaencr"),
    "bochs": ("bochs", begins(b"Bochs Virtual HD Image\0")),
    "cloop 2": ("cloop", begins(b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount")),
    "cloop 1": ("cloop", begins(b"#!/bin/sh\ninsmod cloop.o file=$0")),
    "parallels of old": ("Parallels", begins(b"WithoutFreeSpace")),
    "luks": ("LUKS", begins(b"LUKS\xba\xbe\0\2")),
    "wim": ("WIM", begins(b"MSWIM\0\0\0")),
    "pipable wim": ("WIM", begins(b"WLPWM\0\0\0")),
    "E01": ("EWF", begins(b"EVF\x09\r\n\xff\0\1")),
    "Ex01": ("EWF", begins(b"EVF2\r\n\x81\0")),
    "aff": ("AFF", begins(b"AFF10\r\n\0")),
    "sesparse": ("SESparse", begins(b"\xbe\xba\xfe\xca\0\0\0\0")),
    "android sparse": ("Android", begins(b"\x3a\xff\x26\xed\1\0")),
    "partclone": ("partclone", begins(b"partclone-image\0")),
    "ntfsclone": ("ntfsclone", begins(b"\0ntfsclone-image")),
    "vma": ("VMA", begins(b"VMA\0\0\0\0\1")),
    "sparse image of Apple": ("Apple", begins(b"sprs")),
    "migration": ("migration", begins(b"QEVM\0\0\0\3")),
}


@pytest.mark.parametrize("what", FILES)
@pytest.mark.parametrize("name", ["disk", "disk.img", "disk.raw"])
def test_named(tmp_path: Path, what: str, name: str) -> None:
    word, data = FILES[what]
    path = tmp_path / name
    # also where its length is a disk's
    for length in {len(data), -(-len(data) // 512) * 512} if "dmg" not in what else {len(data)}:
        path.write_bytes(data.ljust(length, b"\0"))
        with pytest.raises(DiskError) as caught:
            detect(path)
        assert caught.value.name in ("disk-packed", "disk-format") and word in caught.value.message, caught.value
        assert any(way in str(caught.value.hint) for way in ("FILE", "export", "unlock")), caught.value.hint


@pytest.mark.parametrize("fmt", ["vdi", "qed", "parallels", "qcow"])
def test_what_qemu_makes(tmp_path: Path, fmt: str) -> None:
    path = tmp_path / "disk"
    subprocess.run(["qemu-img", "create", "-q", "-f", fmt, path, "8M"], check=True)
    if fmt == "qcow":
        assert detect(path) == "qcow2"  # its version is refused where its header is judged
        return
    with pytest.raises(DiskError) as caught:
        detect(path)
    assert caught.value.name == "disk-format" and caught.value.hint


def test_raw_disks_stay_raw(tmp_path: Path) -> None:
    """What partitioners, file systems and boot loaders put first is none of these; a hybrid ISO is a raw disk too."""
    path = tmp_path / "disk.img"
    boots = (
        b"\xeb\x63\x90",
        b"\xfa\xb8\0\x10",
        b"\x33\xc0\x8e\xd0",
        b"\xeb\x58\x90mkfs.fat",
        b"\xeb\x52\x90NTFS    ",
    )
    for boot in (*boots, b"XFSB", b"\x5d\0\0", b"hsqs", b"\0"):
        path.write_bytes((boot.ljust(510, b"\0") + b"\x55\xaa" + bytes(4096))[:4096])
        assert detect(path) == "raw", boot
    for seed in range(200):
        # sectors of noise: none is a tar, an lzma file
        data = (seed.to_bytes(2, "big") * 512)[:512]
        path.write_bytes(b"\xfa" + data[1:] + random.randbytes(3584))
        assert detect(path) == "raw"
    iso = tmp_path / "medium.iso"
    iso.write_bytes(bytes(32768) + b"\1CD001\1" + bytes(2041) + bytes(20480))
    assert detect(iso) == "raw"
    iso.rename(tmp_path / "hybrid.img")
    assert detect(tmp_path / "hybrid.img") == "raw"
    assert recognize_foreign(lambda offset, length: b"", 0) is None
