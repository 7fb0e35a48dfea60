"""What stands in a partition: kinds, labels and UUIDs by the file systems' own tools, with blkid as the measure."""

from __future__ import annotations

import random
import struct
import zlib
from pathlib import Path

import pytest

from pipeline.base.errors import DiskError
from pipeline.checks import inspect_disk
from pipeline.disk import open_disk
from pipeline.disk.volumes import Volume
from pipeline.systems.questions import list_disk
from tests.cases import unpacked
from tests.fakes import fake_disk
from tests.tools import skip_without

MIB = 1 << 20
#: What blkid calls the kinds that goldsmith has shorter words for.
BLKID = {
    "crypto_LUKS": "luks",
    "linux_raid_member": "raid",
    "LVM2_member": "lvm",
    "ddf_raid_member": "raid",
    "isw_raid_member": "raid",
    "zfs_member": "zfs",
    "BitLocker": "bitlocker",
    "VMFS": "vmfs",
    "ReFS": "refs",
}


def volume(path: Path) -> Volume:
    with open_disk(path, "raw") as disk:
        (found,) = disk.filesystems
        return found


def by_blkid(path: Path) -> tuple[str, str, str]:
    """(type, label, UUID) by blkid, its words turned into goldsmith's."""
    words = fake_disk.tool("blkid", "-p", "-o", "udev", path).decode().splitlines()
    facts = dict(word.partition("=")[::2] for word in words)
    kind = facts.get("ID_FS_TYPE", "")
    # encoded as \x20; the plain one has replaced characters
    label = facts.get("ID_FS_LABEL_ENC", "").encode().decode("unicode_escape").encode("latin-1").decode()
    return BLKID.get(kind, kind), label, facts.get("ID_FS_UUID", "")


def empty(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


MAKERS = {
    "xfs": (320, "mkfs.xfs -q -L xlabel DISK"),
    "btrfs": (128, "mkfs.btrfs -q -L label DISK"),
    "exfat": (16, "mkfs.exfat -L ExLäbel DISK"),
    "ntfs": (16, "mkfs.ntfs -q -F -L Lübel DISK"),
    "swap": (16, "mkswap -L swp DISK"),
    "f2fs": (64, "mkfs.f2fs -l flabel DISK"),
    "jfs": (32, "mkfs.jfs -q -L jlabel DISK"),
    "reiserfs": (64, "mkreiserfs -q -f -l rlabel DISK"),
    "nilfs2": (160, "mkfs.nilfs2 -L nlabel DISK"),
    "udf": (16, "mkudffs -l ulabel DISK"),
    "udf 512": (16, "mkudffs -b 512 -l ulabel --vsid=Sixteen+chars+and+more DISK"),
    "minix": (8, "mkfs.minix DISK"),
    "minix 3": (8, "mkfs.minix -3 DISK"),
    "fat 12": (2, "mkfs.vfat -F12 -n LABEL12 DISK"),
    "fat 16": (16, "mkfs.vfat -F16 DISK"),
    "fat 32": (64, "mkfs.vfat -F32 -S4096 -n LABEL32 DISK"),
    "bcache": (16, "make-bcache -B DISK"),
    "ext2": (8, "mke2fs -q -F -L elabel DISK"),
    "ext4 journal": (8, "mke2fs -q -F -O journal_dev -L jlabel DISK"),
}


@pytest.mark.parametrize("name", MAKERS)
def test_kind_label_and_uuid_are_blkids(name: str, tmp_path: Path) -> None:
    size, words = MAKERS[name]
    disk = empty(tmp_path / "disk.raw", size * MIB)
    skip_without(words.split()[0], "blkid")
    fake_disk.tool(*[disk if word == "DISK" else word for word in words.split()])
    found = volume(disk)
    assert (found.kind, found.label, found.uuid) == by_blkid(disk) and found.kind
    if not found.readable:
        with open_disk(disk, "raw") as opened, pytest.raises(DiskError) as caught:
            opened.filesystem(found)
        assert caught.value.name == "fs-unsupported" and caught.value.hint


@pytest.mark.parametrize("name", ["squashfs", "erofs", "cramfs", "iso9660", "iso and udf"])
def test_kinds_made_from_a_folder(name: str, tmp_path: Path) -> None:
    words = {
        "squashfs": "mksquashfs TREE DISK -noappend -quiet",
        "erofs": "mkfs.erofs DISK TREE",
        "cramfs": "mkfs.cramfs -n clabel TREE DISK",
        "iso9660": "genisoimage -quiet -V ILABEL -o DISK TREE",
        "iso and udf": "genisoimage -quiet -udf -V ILABEL -o DISK TREE",
    }[name].split()
    skip_without(words[0], "blkid")
    tree, disk = tmp_path / "tree", tmp_path / "disk.raw"
    tree.mkdir()
    (tree / "file").write_bytes(random.randbytes(100_000))
    fake_disk.tool(*[{"DISK": disk, "TREE": tree}.get(word, word) for word in words])
    with disk.open("r+b") as file:
        file.truncate(-(-disk.stat().st_size // 4096) * 4096)
    found = volume(disk)
    assert (found.kind, found.label, found.uuid) == by_blkid(disk) and found.kind


def raid_1(at: int) -> bytes:
    """A superblock of version 1 with its checksum, for byte `at` of a member."""
    block = bytearray(256)
    struct.pack_into("<II", block, 0, 0xA92B4EFC, 1)
    block[16:32], block[32:38] = bytes(range(1, 17)), b"host:0"
    struct.pack_into("<Q", block, 144, at // 512)
    total = sum(struct.unpack("<64I", block))
    struct.pack_into("<I", block, 216, (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF)
    return bytes(block)


def raid_0() -> bytes:
    """A superblock of version 0.90."""
    block = bytearray(4096)
    struct.pack_into("<III", block, 0, 0xA92B4EFC, 0, 90)
    struct.pack_into("<I", block, 20, 0x01020304)
    struct.pack_into("<III", block, 52, 0x05060708, 0x090A0B0C, 0x0D0E0F10)
    return bytes(block)


def lvm() -> bytes:
    label = bytearray(512)
    label[:8], label[24:32], label[32:64] = b"LABELONE", b"LVM2 001", b"abcdefghijklmnopqrstuvwxyz012345"
    struct.pack_into("<QII", label, 8, 1, 0, 32)
    struct.pack_into("<I", label, 16, zlib.crc32(label[20:], 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF)
    return bytes(label)


SIZE = 16 * MIB
WRITTEN = {
    "lvm": [(512, lvm())],
    "raid 1.0": [(SIZE - 8192, raid_1(SIZE - 8192))],
    "raid 1.1": [(0, raid_1(0))],
    "raid 1.2": [(4096, raid_1(4096))],
    "raid 0.90": [(SIZE - 65536, raid_0())],
    "drbd": [(SIZE - 4096 + 60, b"\x83\x74\x02\x6b")],
    "apfs": [(32, b"NXSB")],
    "vmfs": [(2097152, b"\x5e\xf1\xab\x2f")],
    "ufs": [(65536 + 1372, b"\x19\x01\x54\x19")],
    "refs": [(0, b"\0\0\0ReFS\0"), (510, b"\x55\xaa")],
    "hfsplus": [(1024, b"H+\0\4")],
    "bitlocker": [(0, b"\xeb\x58\x90-FVE-FS-"), (510, b"\x55\xaa")],
    "swsuspend": [(4086, b"S1SUSPEND\0")],
    "squashfs": [(0, b"hsqs")],
}


@pytest.mark.parametrize("name", WRITTEN)
def test_marks_written_by_hand(name: str, tmp_path: Path) -> None:
    """For kinds that no tool here makes. A member of a mirror whose record is at the end looks like its content."""
    disk = empty(tmp_path / "disk.raw", SIZE)
    if name in ("raid 1.0", "raid 0.90", "drbd"):
        fake_disk.tool("mke2fs", "-q", "-F", disk, str((SIZE - 128 * 1024) >> 10))
    with disk.open("r+b") as file:
        for at, data in WRITTEN[name]:
            file.seek(at)
            file.write(data)
    found = volume(disk)
    assert found.kind == name.split()[0] and not found.readable
    if name.split()[0] in ("lvm", "raid"):
        kind, label, uuid = by_blkid(disk)
        assert (found.kind, found.uuid) == (kind, uuid) and found.label == label


def test_bitlocker_to_go_is_no_fat(tmp_path: Path) -> None:
    disk = empty(tmp_path / "disk.raw", 64 * MIB)
    fake_disk.tool("mkfs.vfat", "-F32", disk)
    assert volume(disk).kind == "vfat"
    with disk.open("r+b") as file:
        file.seek(3)
        file.write(b"MSWIN4.1")
        file.seek(424)
        file.write(bytes.fromhex("3bd66749292ed84a8399f6a339e3d001"))
    assert volume(disk).kind == "bitlocker"


def test_a_fat_without_its_type_text(tmp_path: Path) -> None:
    disk = empty(tmp_path / "disk.raw", 16 * MIB)
    fake_disk.tool("mkfs.vfat", "-F16", "-n", "OLD", disk)
    with disk.open("r+b") as file:
        file.seek(54)
        file.write(b"        ")
        # boot code where a table of partitions would stand
        file.seek(446)
        file.write(b"\xb4\x0e\xcd\x10" * 16)
    found = volume(disk)
    assert (found.number, found.kind, found.label) == (0, "vfat", "OLD")


def test_a_gpt_for_larger_sectors_is_named(tmp_path: Path) -> None:
    """The same disk for sectors of 512 bytes has its headers elsewhere, and another number of them fits."""
    for sector in (4096, 2048):
        disk = empty(tmp_path / "disk.raw", 16 * MIB)
        header = bytearray(92)
        struct.pack_into("<8sIIIIQQQQ", header, 0, b"EFI PART", 0x10000, 92, 0, 0, 1, 4095, 6, 4000)
        struct.pack_into("<QII", header, 72, 2, 128, 128)
        struct.pack_into("<I", header, 88, zlib.crc32(bytes(128 * 128)))
        struct.pack_into("<I", header, 16, zlib.crc32(header))
        with disk.open("r+b") as file:
            file.seek(446 + 4)
            file.write(b"\xee")
            file.seek(510)
            file.write(b"\x55\xaa")
            file.seek(sector)
            file.write(header)
        with pytest.raises(DiskError, match=f"{sector:,} bytes") as caught:
            open_disk(disk, "raw")
        assert caught.value.name == "gpt-sector-size" and "512 bytes" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("mark", "finding"),
    [
        ([(0, b"XFSB"), (32, bytes.fromhex("0123456789abcdef0123456789abcdef"))], ""),
        ([(65600, b"_BHRfS_M"), (65568, bytes.fromhex("0123456789abcdef0123456789abcdef"))], ""),
        ([(0, b"LUKS\xba\xbe")], "which is not in a partition, and the content of luks cannot be read"),
        ([], "which is not on this disk"),
    ],
)
def test_grub_finds_a_file_system_that_is_only_named(
    mark: list[tuple[int, bytes]], finding: str, tmp_path: Path
) -> None:
    disk = fake_disk.build(tmp_path)
    wanted = "01234567-89ab-cdef-0123-456789abcdef"
    fake_disk.put_esp(disk, "EFI/debian/grub.cfg", f"search.fs_uuid {wanted} root\n".encode(), tmp_path)
    with disk.open("r+b") as file:
        for at, data in mark:
            # the first partition, where nothing that is read stands
            file.seek(fake_disk.CORE_AT + at)
            file.write(data)
    result = next(each for each in inspect_disk(disk) if each.id == "boot-efi-config")
    assert (result.status, finding in result.evidence) == ("fail" if finding else "pass", True), result.evidence


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("exfat.img.xz", ["0", "exfat", "", "9C23-8877", ""]),
        ("jbd.img.xz", ["0", "jbd", "", "0d7a07df-7b06-4829-bce7-3b9c3ece570c", ""]),
        ("small-fat32.img.xz", ["0", "vfat", "TESTVFAT", "1423-AAE1", ""]),
    ],
)
def test_volumes_of_strangers_disks(name: str, row: list[str], tmp_path: Path) -> None:
    assert list_disk(unpacked(f"files/{name}", tmp_path), what="volumes") == [row]


def test_a_strangers_gpt(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="4,096 bytes") as caught:
        list_disk(unpacked("files/gpt-4096.raw.xz", tmp_path), what="volumes")
    assert caught.value.name == "gpt-sector-size"
