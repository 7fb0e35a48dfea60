"""Roots on XFS, btrfs and LVM: the same files as a Linux kernel read, of disks that it has written.

The disks and the kernel's own lists are made by tests/fixtures/make_roots.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard

from pipeline.base.errors import DiskError
from pipeline.base.process import find
from pipeline.checks import run_checks
from pipeline.disk import btrfs, lvm, lvm_text, lzo, xfs
from pipeline.disk.btrfs_files import unpack_lzo
from pipeline.disk.disk import Disk, open_disk
from pipeline.disk.facts import read_files
from pipeline.disk.punch_holes import free_extents, punch_free
from pipeline.disk.root import device_name
from pipeline.disk.search import windows
from pipeline.disk.value_question import search_disk
from pipeline.disk.volumes import closed_kinds
from pipeline.systems.questions import list_disk
from tests.fakes import fuzz, fuzz_roots
from tests.fixtures.sparse import unpack
from tests.harness import rotation

FOLDER = Path(__file__).parents[2] / "fixtures/roots"
MIB = 1 << 20
#: Each disk, the volume that is its root, and the subvolume.
ROOTS = {
    "xfs": ("partition 0", ""),
    "xfs-large-counts": ("partition 0", ""),
    "xfs-old": ("partition 0", ""),
    "btrfs": ("partition 0", "@"),
    "btrfs-default": ("partition 0", "@/first"),
    "lvm": ("volume my-group/root", ""),
}
#: A block that only deleted files had, and a line of files that stay (make_roots.py).
GONE = b"".join(hashlib.sha256(b"gone %d" % number).digest() for number in range(256, 384))
KEPT = b"a line of a file that stays\n"
Row = list[object]


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("roots")
    return {name: unpack(FOLDER / f"{name}.disk.zst", folder / name) for name in ROOTS}


def wanted(name: str) -> list[Row]:
    rows: list[Row] = json.loads(zstandard.ZstdDecompressor().decompress((FOLDER / f"{name}.tree.zst").read_bytes()))
    return rows


def tree(disk: Disk, *, times: bool = True) -> list[Row]:
    """The files of a disk's root as make_roots.py has the kernel's."""
    root, rows = disk.root, []
    for path, kind in root.walk():
        stat = root.stat(path, follow=False)
        assert stat is not None and stat.type == kind
        content = ""
        if kind == "link":
            content = os.fsencode(root.read_link(path) or "").hex()
        elif kind == "file":
            content = hashlib.sha256(root.read_whole(path) or b"").hexdigest()
        size = 0 if kind == "dir" else stat.size
        time = stat.mtime if times else None
        rows.append([os.fsencode(path[1:]).hex(), kind, stat.mode, stat.uid, stat.gid, size, time, content])
    return sorted(rows, key=str)


def of_kernel(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=str)


@pytest.mark.parametrize("name", ROOTS)
def test_every_file_is_as_the_kernel_read_it(disks: dict[str, Path], name: str) -> None:
    rows = wanted(name)
    with open_disk(disks[name], "raw") as disk:
        assert (disk.root_volume.title, disk.root_subvolume) == ROOTS[name]
        assert tree(disk, times=rows[0][6] is not None) == of_kernel(rows) and len(rows) > 200


@pytest.mark.parametrize("name", ROOTS)
def test_the_bytes_of_a_file_are_where_its_runs_say(disks: dict[str, Path], name: str) -> None:
    found = 0
    with open_disk(disks[name], "raw") as disk:
        compressed = {path for path, _ in disk.root.compressed()}
        for path, runs in disk.root.places():
            data = disk.root.read(path) or b""
            on_disk = b"".join(disk.read(at, length) for at, length in runs)
            if len(data) < 4096 and runs and path not in compressed:
                assert on_disk.startswith(data), path
                found += 1
    assert found or name == "xfs-large-counts"


def test_offsets_within_files(disks: dict[str, Path]) -> None:
    for name in ("xfs", "btrfs", "lvm"):
        with open_disk(disks[name], "raw") as disk:
            files = disk.filesystem(disk.root_volume)
            for path in ("/dir/text", "/dir/sparse", "/dir/pieces", "/dir/reserved"):
                stat = disk.root.stat(path)
                whole = disk.root.read(path)
                assert stat is not None and whole is not None
                for at in (0, 1, 4095, 4096, 50_001, 131_071, 2_999_998, stat.size - 1, stat.size, stat.size + 5):
                    assert files.read(stat.inode, at, 5000) == whole[at : at + 5000], (name, path, at)
                assert b"".join(disk.root.pieces(path, 70_001)) == whole


def without_tool(name: str) -> None:
    if find(name) is None:
        pytest.skip(f"{name} is not installed")


CHECKERS = {
    "xfs": ["xfs_repair", "-n"],
    "btrfs": ["btrfs", "check", "--readonly", "--check-data-csum"],
    "ext4": ["e2fsck", "-fn"],
}


def assert_whole(path: Path, folder: Path) -> None:
    """Each file system of a disk is without fault by its own program; a logical volume is copied out first."""
    with open_disk(path, "raw") as disk:
        for volume in disk.filesystems:
            if volume.kind not in CHECKERS:
                continue
            copy = folder / "volume"
            with copy.open("wb") as file:
                for at in range(0, volume.size, MIB):
                    data = disk.read_volume(volume, at, MIB)
                    if data.count(0) != len(data):
                        file.seek(at)
                        file.write(data)
                file.truncate(volume.size)
            words = CHECKERS[volume.kind]
            without_tool(words[0])
            done = subprocess.run([find(words[0]) or "", *words[1:], copy], capture_output=True, check=False)
            assert done.returncode == 0, (volume.title, done.stdout[-2000:], done.stderr[-2000:])


def holds(path: Path, data: bytes) -> bool:
    """Whether a block of a file's data is anywhere on a disk."""
    with open_disk(path, "raw") as disk:
        return any(data in window.data for window in windows(disk))


@pytest.mark.parametrize("name", [name for name in ROOTS if name != "xfs-old"])
def test_freed_blocks_become_holes_and_nothing_else(disks: dict[str, Path], tmp_path: Path, name: str) -> None:
    disk = unpack(FOLDER / f"{name}.disk.zst", tmp_path / "disk")
    assert holds(disk, GONE)
    assert punch_free(disk, "raw") > len(GONE)
    assert not holds(disk, GONE)
    with open_disk(disk, "raw") as opened:
        assert tree(opened) == of_kernel(wanted(name))
    assert_whole(disk, tmp_path)


@pytest.mark.parametrize("name", ROOTS)
def test_no_free_range_meets_a_file_or_another(disks: dict[str, Path], name: str) -> None:
    ranges = free_extents(disks[name], "raw")
    assert ranges and all(at + length <= later for (at, length), (later, _) in pairwise(ranges))
    with open_disk(disks[name], "raw") as disk:
        runs = sorted({run for _, runs in disk.root.places() for run in runs})
        free = iter(ranges)
        at, length = next(free)
        for start, size in runs:
            while at + length <= start:
                at, length = next(free, (1 << 62, 1))
            assert start + size <= at, (start, size, at)
        volume = disk.root_volume
        assert volume.facts is not None and volume.facts.clean and 0 < volume.facts.free < volume.facts.size


def test_a_root_in_the_sandbox_and_in_a_list(disks: dict[str, Path]) -> None:
    for name in ("xfs", "btrfs", "lvm"):
        assert read_files(disks[name], "raw", ["/etc/os-release", "/none"], limit=14) == [b"ID=debian\nVERS", None]
        assert ["PRETTY_NAME", "Toy"] in list_disk(disks[name], "raw", what="os")
    volumes = list_disk(disks["lvm"], "raw", what="volumes")
    assert [(row[0], row[1], row[4]) for row in volumes] == [
        ("1", "ext4", "clean"), ("2", "lvm", ""), ("3", "lvm", ""), ("my-group/root", "xfs", "clean"),
        ("my-group/var", "ext4", "clean"), ("my-group/home", "btrfs", "clean"),
    ]  # fmt: skip


def test_mounts_of_fstab_by_every_name(disks: dict[str, Path]) -> None:
    with open_disk(disks["lvm"], "raw") as disk:
        # /boot by label, /var by /dev/group/volume, /home by UUID; the root itself by /dev/mapper
        assert disk.root.read("/boot/vmlinuz") == b"kernel" and disk.root.read("/home/user/notes") == KEPT
        assert disk.root.is_dir("/var/lib") and disk.boot_path("/vmlinuz") == "/boot/vmlinuz"
        assert closed_kinds(disk.filesystems) == []
    with open_disk(disks["btrfs"], "raw") as disk:
        assert disk.root.read("/home/in-home") == KEPT and not disk.root.exists("/etc/only-in-snapshot")
        assert disk.boot_path("/@/etc/fstab") == "/etc/fstab" and disk.boot_path("/@/none") is None
        files = disk.filesystem(disk.root_volume)
        assert files.find_subvolume(["rw", "subvol=/@home/"]) == files.find_subvolume(["subvol=@home"]) is not None
        assert files.find_subvolume(["subvol=@none"]) is files.find_subvolume(["subvolid=9999"]) is None
        assert files.find_subvolume(["subvolid=0"]) == files.find_subvolume(["subvolid=5"]) == files.root
        assert [each.path for each in files.subvolumes()] == ["", "@", "@home", "@log", "@snapshot"]
    for text, name in (
        ("UUID=AB", "UUID=ab"), ('LABEL="Tree"', "LABEL=tree"), ("/dev/disk/by-uuid/AB", "UUID=ab"),
        ("/dev/mapper/my--group-a--b", "lv=my-group/a-b"), ("/dev/g/v", "lv=g/v"), ("/dev/sda1", ""),
        ("/dev/mapper/control", ""), ("tmpfs", ""),
    ):  # fmt: skip
        assert device_name(text) == name


def test_a_logical_volume_that_fstab_names_and_that_is_not_there(disks: dict[str, Path], tmp_path: Path) -> None:
    with open_disk(disks["lvm"], "raw") as disk:
        assert results(disk)["fstab-targets"] == "pass"
        place = disk.root.runs("/etc/fstab")[0][0] + disk.root.text("/etc/fstab").index("my-group/var")
    path = changed(disks, "lvm", tmp_path, (place, b"my-group/vax"))
    with open_disk(path, "raw") as disk:
        assert results(disk)["fstab-targets"] == "fail" and not disk.root.is_dir("/var/lib")


def results(disk: Disk) -> dict[str, str]:
    return {each.id: each.status for each in run_checks(disk, profile="any", only={"fstab-targets"})}


def changed(disks: dict[str, Path], name: str, folder: Path, *edits: tuple[int, bytes]) -> Path:
    path = unpack(FOLDER / f"{name}.disk.zst", folder / "changed")
    with path.open("r+b") as file:
        for at, data in edits:
            file.seek(at)
            file.write(data)
    return path


def refused(path: Path) -> DiskError:
    with open_disk(path, "raw") as disk, pytest.raises(DiskError) as error:
        tree(disk)
    return error.value


def sealed(path: Path, at: int, edit: tuple[int, bytes]) -> tuple[int, bytes]:
    """A superblock with one field changed and its checksum right again: of XFS at 0, of btrfs at 65,536."""
    size = 4096 if at else 512
    with path.open("rb") as file:
        file.seek(at)
        data = bytearray(file.read(size))
    data[edit[0] : edit[0] + len(edit[1])] = edit[1]
    if at:
        data[:4] = struct.pack("<I", btrfs.crc32c(bytes(data[32:])) ^ 0xFFFFFFFF)
    else:
        data[224:228] = bytes(4)
        data[224:228] = struct.pack("<I", xfs.crc32c(bytes(data)) ^ 0xFFFFFFFF)
    return at, bytes(data)


def test_features_that_are_not_read_are_named(disks: dict[str, Path], tmp_path: Path) -> None:
    for name, at, field, value, words in (
        ("xfs", 0, 216, struct.pack(">I", 0x100), "metadir"),
        ("xfs", 0, 216, struct.pack(">I", 0x80000000), "incompat 0x80000000"),
        ("btrfs", 65536, 188, struct.pack("<Q", 0x1341), "zones"),
        ("btrfs", 65536, 188, struct.pack("<Q", 1 << 40), "incompat 0x10000000000"),
        ("btrfs", 65536, 136, struct.pack("<Q", 2), "2 devices"),
    ):
        error = refused(changed(disks, name, tmp_path, sealed(disks[name], at, (field, value))))
        assert error.name == "fs-unsupported" and words in error.message


def test_a_file_system_that_was_not_unmounted_is_named_and_not_punched(
    disks: dict[str, Path], tmp_path: Path
) -> None:
    with open_disk(disks["xfs"], "raw") as disk:
        facts = disk.filesystems[0].facts
        assert isinstance(facts, xfs.XfsFacts) and facts.clean
        log = facts.superblock.place(facts.superblock.log_start) or 0
        length = facts.superblock.log_blocks * 4096
        data = disk.read(log, length)
    records = [at for at in range(0, length, 512) if data[at : at + 4] == b"\xfe\xed\xba\xbe"]
    last = max(records, key=lambda at: struct.unpack_from(">Q", data, at + 16)[0])
    # the flag of the operation that says "unmounted", behind the header of its record
    for path in (
        changed(disks, "xfs", tmp_path, (log + last + 512 + 9, b"\0")),
        changed(disks, "btrfs", tmp_path, sealed(disks["btrfs"], 65536, (96, struct.pack("<Q", 1 << 20)))),
    ):
        with open_disk(path, "raw") as disk:
            facts = disk.filesystems[0].facts
            assert facts is not None and facts.faults == ("its journal must be replayed",)
        with pytest.raises(DiskError) as error:
            free_extents(path, "raw")
        assert error.value.name == "fs-not-clean" and "must be replayed" in error.value.message
    # a log of zeros is empty
    with open_disk(changed(disks, "xfs", tmp_path, (log, bytes(length))), "raw") as disk:
        facts = disk.filesystems[0].facts
        assert facts is not None and facts.clean
    for field, value, words in ((126, b"\1", "mkfs"), (216, struct.pack(">I", 0x1B), "xfs_repair")):
        path = changed(disks, "xfs", tmp_path, sealed(disks["xfs"], 0, (field, value)))
        with open_disk(path, "raw") as disk:
            facts = disk.filesystems[0].facts
            assert facts is not None and words in facts.faults[0]
    with open_disk(changed(disks, "xfs", tmp_path, (108, b"TREE")), "raw") as disk:
        facts = disk.filesystems[0].facts
        assert facts is not None and facts.faults == ("the superblock's checksum is wrong",)


def test_a_second_copy_is_read_where_the_first_is_damaged(disks: dict[str, Path], tmp_path: Path) -> None:
    with open_disk(disks["btrfs"], "raw") as disk:
        files = disk.filesystem(disk.root_volume)
        trees = files._trees  # type: ignore[attr-defined]
        copies = trees.copies(trees.facts.root, trees.facts.node_size)
    assert len(copies) == 2
    once = changed(disks, "btrfs", tmp_path, (copies[0][0][0], bytes(512)))
    with open_disk(once, "raw") as disk:
        assert tree(disk) == of_kernel(wanted("btrfs"))
    twice = changed(disks, "btrfs", tmp_path, *((copy[0][0], bytes(512)) for copy in copies))
    assert refused(twice).name == "fs-damaged"


def test_values_in_compressed_files_are_found_whole(disks: dict[str, Path]) -> None:
    numbers = b"".join(b"%d\n" % number for number in range(50_000, 80_000))
    # where btrfs begins another piece, and in files so small that they stand compressed within other records
    across, small = numbers[(128 << 10) - 15 : (128 << 10) + 16], KEPT * 2
    needles = [("across", "plain", across), ("small", "plain", small)]
    found, gaps = search_disk(disks["btrfs"], "raw", needles)
    places = {(each.name, each.path) for each in found if each.layers == ("compressed file",)}
    assert gaps == []
    assert {("across", "/dir/lzo"), ("across", "/dir/zlib"), ("small", "/dir/lzo-small")} <= places
    assert ("small", "/dir/zlib-small") in places and ("small", "/var/log/messages") in places


def test_lvm_that_cannot_be_read_is_named(disks: dict[str, Path], tmp_path: Path) -> None:
    with open_disk(disks["lvm"], "raw") as disk:
        second = disk.partitions[2].start
        members = [lvm.read_physical_volume(disk.read, p.start, p.size) for p in disk.partitions[1:]]
    (group,) = lvm.read_groups(members)
    assert [each.path for each in group.volumes] == ["my-group/root", "my-group/var", "my-group/home"]
    # a volume in pieces of which one is on another disk
    (alone,) = lvm.read_groups(members[:1])
    assert [each.obstacle for each in alone.volumes] == ["incomplete", "incomplete", "incomplete"]
    path = changed(disks, "lvm", tmp_path, (second, bytes(4096)))
    with open_disk(path, "raw") as disk:
        assert closed_kinds(disk.filesystems) == ["lvm-incomplete"]
        with pytest.raises(DiskError, match="lvm-incomplete"):
            _ = disk.root
    # a label whose checksum is wrong: nothing of the group is believed
    with open_disk(changed(disks, "lvm", tmp_path, (second + 512 + 40, b"x")), "raw") as disk:
        assert closed_kinds(disk.filesystems) == ["lvm"]
        assert [volume.title for volume in disk.filesystems] == ["partition 1", "partition 2", "partition 3"]


def test_other_kinds_of_logical_volumes_are_named() -> None:
    text = lvm_text.parse_text(
        b"""g { id = "i" seqno = 1 extent_size = 8 status = ["RESIZEABLE"] # a comment
        physical_volumes { pv0 { id = "aa-bb" pe_start = 8 pe_count = 100 } }
        logical_volumes {
          thin { status = ["READ", "VISIBLE"] segment_count = 1
            segment1 { start_extent = 0 extent_count = 5 type = "thin" thin_pool = "pool" } }
          plain { status = ["READ", "VISIBLE"] segment_count = 1
            segment1 { start_extent = 0 extent_count = 5 type = "striped" stripe_count = 1
              stripes = ["pv0", 10] } } } }
        contents = "Text Format Volume Group" version = 1 creation_time = 1795718507"""
    )
    member = lvm.PhysicalVolume("aabb", 1 << 20, 1 << 20, "g", text["g"])
    (group,) = lvm.read_groups([member])
    assert [(each.name, each.obstacle) for each in group.volumes] == [("thin", "thin"), ("plain", "")]
    # what a pool has is not known: nothing of the group is free
    assert group.free == () and group.volumes[1].space is not None
    assert group.volumes[1].space.start == (1 << 20) + 4096 + 10 * 4096
    for wrong in (b"a {", b"}", b"a = ", b"a = [1, ", b"a", b"{", b"a = [[1]]", b"\x01", b"a { " * 40):
        with pytest.raises(ValueError, match=r"\w"):
            lvm_text.parse_text(wrong)


END = bytes([17, 0, 0])


def literals(data: bytes) -> bytes:
    """A run of literals at the start of a stream, of more than 18 + 255 bytes."""
    zeros, last = divmod(len(data) - 18 - 1, 255)
    return bytes(1 + zeros) + bytes([last + 1]) + data


def test_lzo_streams() -> None:
    """By the kernel's Documentation/staging/lzo.rst, instruction by instruction."""
    assert lzo.decompress(bytes([17 + 5]) + b"hello" + END, 99) == b"hello"
    # a match that overlaps what it makes: 5 literals, then 8 bytes from a distance of 2
    stream = bytes([17 + 5]) + b"hello" + bytes([32 + 6, (2 - 1) << 2 & 0xFF, 0]) + END
    assert lzo.decompress(stream, 99) == b"hellolololololo"[:13]
    data = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(600))
    assert lzo.decompress(literals(data) + END, 1 << 20) == data
    # right behind literals: three bytes from 2,049 + 1 on, and one literal that follows
    near = literals(data) + bytes([1 << 2 | 1, 0]) + b"x"
    whole = data + data[-2050:][:3] + b"x"
    assert lzo.decompress(near + END, 1 << 20) == whole
    # behind that one: two bytes from 4 * 9 + 2 + 1 back, without a literal
    assert lzo.decompress(near + bytes([2 << 2, 9]) + END, 1 << 20) == whole + whole[-39:][:2]
    # five bytes from 8 * 3 + 2 + 1 back; three of them from a distance behind 16 KiB
    assert lzo.decompress(literals(data) + bytes([128 | 2 << 2, 3]) + END, 1 << 20) == data + data[-27:][:5]
    far = bytes([16 | 1, 5 << 2, 0])
    assert lzo.decompress(literals(data) + far + END, 1 << 20) == data + data[-16389:][:3]
    for wrong, limit in ((b"", 9), (bytes([30]) + b"abc", 99), (stream, 6), (bytes([64, 255]) + END, 99)):
        with pytest.raises(lzo.LzoError):
            lzo.decompress(wrong, limit)


@pytest.mark.parametrize("left", range(5))
def test_no_length_of_an_lzo_segment_crosses_a_sector(left: int) -> None:
    """`left` bytes of the first sector stay behind the first segment; a length has four."""
    size = 4096 - left - 4 - 4
    extra = len(literals(bytes(size))) + len(END) - size
    first, second = bytes(range(256)) * 16, KEPT * 20
    raw = literals(first[: size - extra]) + END
    raw += bytes(size - len(raw))
    body = struct.pack("<I", len(raw)) + raw
    body += bytes(left) if left < 4 else b""
    packed = literals(second) + END
    body += struct.pack("<I", len(packed)) + packed
    stream = struct.pack("<I", 4 + len(body)) + body
    assert unpack_lzo(stream, 1 << 17, 4096) == first[: size - extra] + second
    with pytest.raises(ValueError, match="segment"):
        unpack_lzo(stream[:4] + struct.pack("<I", 1 << 20) + stream[8:], 1 << 17, 4096)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, fuzz.Kind]:
    return fuzz_roots.kinds(tmp_path_factory.mktemp("damaged"))


@pytest.mark.parametrize("name", ["XFS", "btrfs", "LVM"])
def test_damaged_disks_are_read_or_named(damaged: dict[str, fuzz.Kind], tmp_path: Path, name: str) -> None:
    """A part of `make campaign-roots`, another one each time that the tree's turn changes."""
    batches = 20_000 // 3 // fuzz.BATCH
    tally = fuzz.try_kind(damaged[name], fuzz.BATCH, tmp_path, first_seed=rotation(batches))
    assert tally.failures == [] and tally.crashes == []
    assert tally.tried >= fuzz.BATCH and tally.accepted
