"""Reading a disk that is not running: table, file systems, paths, packages, initramfs; and free blocks."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from pipeline.base.errors import DiskError
from pipeline.disk import initramfs, punch_holes
from pipeline.disk.disk import open_disk
from pipeline.disk.packages import parse_status, read_dpkg
from tests.fakes import fake_disk


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_disk.build(tmp_path_factory.mktemp("good"))


@pytest.fixture
def disk(good: Path, tmp_path: Path) -> Path:
    return fake_disk.copy(good, tmp_path / "disk.raw")


def test_table_volumes_and_root(good: Path) -> None:
    with open_disk(good) as disk:
        assert disk.table.kind == "gpt" and disk.table.backup is not None and disk.table.backup.fault is None
        assert [(volume.number, volume.kind, volume.label) for volume in disk.filesystems] == [
            (1, "", ""),
            (2, "vfat", "ESP"),
            (3, "ext4", "root"),
        ]
        facts = disk.root_volume.facts
        assert facts is not None and facts.clean and facts.checksum_ok and 0 < facts.used < facts.size
        root = disk.root
        assert root.text("/etc/os-release").startswith("ID=debian")
        assert root.stat("/lib/systemd/../systemd/system/ssh.service").type == "file"  # type: ignore[union-attr]
        # across the mount that fstab names, in FAT's way of names
        assert root.exists("/boot/efi/efi/boot/bootx64.efi")
        assert root.listdir("/etc/sudoers.d") == ["README"]
        assert ("/boot/efi/EFI/BOOT/BOOTX64.EFI", "file") in set(root.walk("/boot"))
        assert root.read("/etc/mtab") is None and root.read_link("/etc/mtab") == "../proc/self/mounts"
        assert [package.name for package in read_dpkg(root)][:2] == ["cloud-init", "libssl3"]


def test_links_stay_inside_and_end(disk: Path) -> None:
    fake_disk.debugfs(
        disk, "symlink /a /b", "symlink /b /a", "symlink /up ../../../../../etc/passwd", "symlink /abs /etc/shadow"
    )
    with open_disk(disk) as opened:
        assert opened.root.read("/a") is None
        assert opened.root.text("/up").startswith("root:x:0:0") and "nobody" in opened.root.text("/abs")
        assert opened.root.stat("/a", follow=False).type == "link"  # type: ignore[union-attr]


def test_a_journal_to_replay_is_seen_first(disk: Path) -> None:
    fake_disk.debugfs(disk, "feature needs_recovery")
    with open_disk(disk) as opened:
        facts = opened.root_volume.facts
        assert facts is not None and facts.needs_recovery and not facts.clean
    with pytest.raises(DiskError) as caught:
        punch_holes.free_extents(disk)
    assert caught.value.name == "fs-not-clean"


@pytest.mark.parametrize("which", ["primary", "backup", "both"])
def test_gpt_copies(disk: Path, which: str) -> None:
    headers = {"primary": [512], "backup": [fake_disk.SIZE - 512], "both": [512, fake_disk.SIZE - 512]}[which]
    fake_disk.flip_bits(disk, *(at + 40 for at in headers))
    if which == "both":
        with pytest.raises(DiskError) as caught:
            open_disk(disk)
        assert caught.value.name == "gpt-damaged"
        return
    with open_disk(disk) as opened:
        table = opened.table
        assert table.primary is not None and table.backup is not None
        assert (table.primary.fault is None, table.backup.fault is None) == (which == "backup", which == "primary")
        assert len(opened.partitions) == 3


def test_mbr_with_logical_partitions(tmp_path: Path) -> None:
    path = tmp_path / "mbr.raw"
    entry = struct.Struct("<B3xB3xII")
    first = entry.pack(0x80, 0x83, 2048, 20480) + entry.pack(0, 5, 22528, 100000)
    logical = entry.pack(0, 0x82, 2048, 4096) + entry.pack(0, 5, 0, 8)  # the chain bites its tail
    with path.open("wb") as file:
        file.truncate(64 << 20)
        for at, entries in ((0, first), (22528, logical)):
            file.seek(at * 512 + 446)
            file.write(entries.ljust(64, b"\0") + b"\x55\xaa")
    with open_disk(path) as disk:
        assert [(p.number, p.start // 512, p.size // 512, p.type) for p in disk.partitions] == [
            (1, 2048, 20480, "0x83"),
            (5, 24576, 4096, "0x82"),
        ]
        assert disk.partitions[0].bootable
        with pytest.raises(DiskError) as caught:
            _ = disk.root
        assert caught.value.name == "no-linux-root"


@pytest.mark.parametrize("pack", ["gzip", "xz", "zstd", "lz4", "none"])
def test_initramfs(pack: str) -> None:
    found = initramfs.read_initramfs(fake_disk.initramfs(pack=pack))
    assert found.compression == pack
    assert "kernel/x86/microcode/GenuineIntel.bin" in found.names
    assert {"hv_vmbus", "hid_hyperv", "virtio_blk"} <= found.modules()


@pytest.mark.parametrize("pack", ["gzip", "xz", "zstd", "lz4"])
def test_initramfs_damage_is_named(pack: str) -> None:
    data = fake_disk.initramfs(pack=pack)
    for broken in (data[:-60], b"garbage" * 9):
        with pytest.raises(DiskError) as caught:
            initramfs.read_initramfs(broken)
        assert caught.value.name.startswith("initramfs-")


def test_dpkg_states() -> None:
    (half, whole) = parse_status(
        "Package: b\nStatus: install ok installed\nVersion: 1\nDescription: x\n more: y\n\n"
        "Package: a\nStatus: install ok half-configured\nVersion: 2\n"
    )
    assert (half.name, half.installed, whole.name, whole.installed) == ("a", False, "b", True)


def journal_block(disk: Path, number: int) -> int:
    """Where a block of the journal lies, in bytes of the disk, by e2fsprogs."""
    output = fake_disk.debugfs(disk, f"bmap <8> {number}")
    return fake_disk.ROOT_AT + int(output.split()[-1]) * 1024


def test_an_empty_journal_ships_nothing_but_its_head(disk: Path, tmp_path: Path) -> None:
    stale = journal_block(disk, 700)
    with disk.open("r+b") as file:
        file.seek(stale)
        file.write(b"systemd-private-8c1f")
    vhd = fake_disk.as_vhd(disk, tmp_path / "disk.vhd")
    head = vhd.read_bytes()[journal_block(disk, 0) :][:1024]
    assert b"systemd-private-8c1f" in vhd.read_bytes()
    punch_holes.punch_free(vhd)
    assert b"systemd-private-8c1f" not in vhd.read_bytes()
    assert vhd.read_bytes()[journal_block(disk, 0) :][:1024] == head
    fake_disk.tool("e2fsck", "-fn", f"{vhd}?offset={fake_disk.ROOT_AT}")


def test_a_journal_that_has_something_left_is_not_touched(disk: Path, tmp_path: Path) -> None:
    with disk.open("r+b") as file:
        file.seek(journal_block(disk, 700))
        file.write(b"systemd-private-8c1f")
        file.seek(journal_block(disk, 0) + 28)
        file.write(b"\0\0\0\1")
    vhd = fake_disk.as_vhd(disk, tmp_path / "disk.vhd")
    punch_holes.punch_free(vhd)
    assert b"systemd-private-8c1f" in vhd.read_bytes()


def test_no_freed_block_is_shipped(good: Path, disk: Path, tmp_path: Path) -> None:
    canary = b"canary-8c1f" * 40000
    fake_disk.put(disk, "/root/secret", canary, tmp_path)
    fake_disk.put(disk, "/root/kept", b"kept-55aa" * 9000, tmp_path)
    fake_disk.put_esp(disk, "EFI/secret", canary[:300000], tmp_path)
    vhd = fake_disk.as_vhd(disk, tmp_path / "full.vhd")
    assert punch_holes.punch_free(vhd) >= 0
    assert canary in vhd.read_bytes()
    fake_disk.debugfs(disk, "rm /root/secret")
    fake_disk.put_esp(disk, "EFI/secret", None, tmp_path)
    vhd = fake_disk.as_vhd(disk, tmp_path / "disk.vhd")
    assert b"canary-8c1f" in vhd.read_bytes()
    before = vhd.stat().st_blocks
    assert punch_holes.punch_free(vhd) >= 700000
    assert b"canary-8c1f" not in vhd.read_bytes() and b"kept-55aa" * 9000 in vhd.read_bytes()
    assert vhd.stat().st_blocks < before and vhd.stat().st_size == fake_disk.SIZE + 512
    # blocks of 1 KiB: what shares a block of the host with live data is zeroed, and stays
    assert punch_holes.punch_free(vhd) < 65536
    fake_disk.tool("e2fsck", "-fn", f"{vhd}?offset={fake_disk.ROOT_AT}")
    fake_disk.tool("fsck.vfat", "-n", _part(vhd, fake_disk.ESP_AT, fake_disk.ROOT_AT - fake_disk.ESP_AT, tmp_path))
    with open_disk(vhd) as opened:
        assert opened.root.read("/root/kept") == b"kept-55aa" * 9000
        assert opened.root_volume.facts == opened.filesystems[2].facts


def _part(disk: Path, start: int, size: int, folder: Path) -> Path:
    with disk.open("rb") as file:
        file.seek(start)
        (folder / "part").write_bytes(file.read(size))
    return folder / "part"


def test_reads_the_same_through_every_format(good: Path, tmp_path: Path) -> None:
    for fmt in ("qcow2", "vmdk", "vhdx"):
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", fmt, str(good), str(tmp_path / fmt)], check=True)
        with open_disk(tmp_path / fmt) as disk:
            assert disk.fmt == fmt and disk.root.text("/etc/debian_version") == "12.8\n"
