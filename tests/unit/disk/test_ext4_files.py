"""ext2 to ext4 with every feature that mke2fs has: the same files as e2fsprogs and The Sleuth Kit read."""

from __future__ import annotations

import os
import random
import struct
import time
from pathlib import Path

import pytest
import pytsk3

from pipeline.base.errors import DiskError
from pipeline.disk import open_disk
from pipeline.disk.disk import Disk
from pipeline.systems.questions import list_disk
from tests.cases import unpacked
from tests.fakes import fake_disk

MIB = 1 << 20


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("tree")
    numbers = random.Random(17)
    (top / "many").mkdir()
    for number in range(400):
        (top / "many" / f"a file with a long name, number {number:04}").write_text(str(number))
    for size in (0, 1, 59, 60, 61, 100, 156, 1023, 1024, 4096, 12 * 1024 + 1, 300_000, 2_000_000):
        (top / f"size-{size}").write_bytes(numbers.randbytes(size))
    with (top / "sparse").open("wb") as file:
        for at in (0, 40_000, 9_000_000, 70_000_000):
            file.seek(at)
            file.write(numbers.randbytes(5000))
    for name in ("été", "Ω", "a\tb", "x" * 255):
        (top / name).write_text(name)
    (top / os.fsdecode(b"raw-\xff")).write_text("raw")
    (top / "short").symlink_to("size-1")
    (top / "long").symlink_to("many/../" * 20 + "size-1")
    (top / "deep").mkdir()
    (top / "deep/er").mkdir()
    (top / "deep/er/file").write_text("deep")
    (top / "size-59").chmod(0o4755)
    os.utime(top / "size-60", (5_000_000_000, 5_000_000_000))
    return top


FEATURES = {
    "ext2": "-t ext2",
    "ext2 without types": "-t ext2 -O ^filetype",
    "ext3": "-t ext3",
    "ext4": "-t ext4",
    "blocks of 64 KiB": "-t ext4 -b 65536",
    "ext2, blocks of 1 KiB": "-t ext2 -b 1024",
    "inline data": "-t ext4 -O inline_data -I 256",
    "meta_bg": "-t ext4 -b 1024 -O meta_bg,^resize_inode -g 1024",
    "meta_bg, 64 bits": "-t ext4 -b 1024 -O meta_bg,^resize_inode,64bit,sparse_super2 -g 1024",
    "32 bits": "-t ext4 -O ^64bit,^metadata_csum,uninit_bg",
    "no groups together": "-t ext4 -O ^flex_bg,^sparse_super,^resize_inode",
    "large directories": "-t ext4 -O large_dir,ea_inode,metadata_csum_seed",
    "quota and project": "-t ext4 -O quota,project",
    "small inodes": "-t ext4 -I 128",
}


def made(words: str, tree: Path, folder: Path) -> Path:
    disk = folder / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(80 * MIB)
    fake_disk.tool("mke2fs", "-q", "-F", *words.split(), "-d", tree, disk)
    return disk


@pytest.mark.parametrize("name", FEATURES)
def test_files_of_every_kind_of_ext(name: str, tree: Path, tmp_path: Path) -> None:
    disk = made(FEATURES[name], tree, tmp_path)
    with open_disk(disk, "raw") as opened:
        compare(opened, tree)


def compare(disk: Disk, tree: Path) -> None:
    (volume,) = disk.filesystems
    found = disk.filesystem(volume)
    todo = [(tree, found.root)]
    while todo:
        folder, inode = todo.pop()
        entries = found.entries(inode)
        names = {each.name: each for each in folder.iterdir()}
        assert set(entries) - {"lost+found"} == set(names)
        for name, path in names.items():
            entry, here = entries[name], path.lstat()
            stat = found.stat(entry.inode)
            assert entry.type == stat.type == ("link" if path.is_symlink() else "dir" if path.is_dir() else "file")
            assert (stat.mode, stat.uid, stat.gid) == (here.st_mode & 0o7777, here.st_uid, here.st_gid)
            if path.is_symlink():
                assert found.read_link(entry.inode) == str(path.readlink())
            elif path.is_dir():
                todo.append((path, entry.inode))
            else:
                data = path.read_bytes()
                assert stat.size == len(data) and found.read(entry.inode, 0, len(data) + 9) == data
                assert found.read(entry.inode, 11, 5000) == data[11:5011]
                pieces = b"".join(disk.read(at, length) for at, length in found.runs(entry.inode))
                assert not pieces or pieces[: min(len(data), 1000)] == data[:1000]


def test_times_beyond_2038(tree: Path, tmp_path: Path) -> None:
    disk = made("-t ext4 -I 256", tree, tmp_path)
    fake_disk.tool("debugfs", "-w", "-R", "set_inode_field size-60 mtime_extra 1", disk)
    with open_disk(disk, "raw") as opened:
        found = opened.filesystem(opened.filesystems[0])
        entry = found.find(found.root, "size-60")
        assert entry is not None and found.stat(entry.inode).mtime == 5_000_000_000


def test_the_sleuth_kit_says_the_same(tree: Path, tmp_path: Path) -> None:
    disk = made("-t ext4 -b 1024", tree, tmp_path)
    other = pytsk3.FS_Info(pytsk3.Img_Info(str(disk)))
    with open_disk(disk, "raw") as opened:
        found = opened.filesystem(opened.filesystems[0])
        for name in ("size-2000000", "many"):
            entry = found.find(found.root, name)
            assert entry is not None
            file = other.open_meta(entry.inode)
            runs = [
                (run.addr * 1024, run.len * 1024)
                for attribute in file
                if int(attribute.info.type)
                not in (int(pytsk3.TSK_FS_ATTR_TYPE_UNIX_INDIR), int(pytsk3.TSK_FS_ATTR_TYPE_UNIX_EXTENT))
                for run in attribute
                if not int(run.flags) & int(pytsk3.TSK_FS_ATTR_RUN_FLAG_SPARSE)
            ]
            assert sum(length for _, length in found.runs(entry.inode)) == sum(length for _, length in runs)
            assert found.runs(entry.inode)[0][0] == runs[0][0]
            meta, stat = file.info.meta, found.stat(entry.inode)
            assert (stat.size, stat.uid, stat.gid, stat.mtime) == (meta.size, meta.uid, meta.gid, meta.mtime)


def test_bigalloc_is_named(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(64 * MIB)
    fake_disk.tool("mke2fs", "-q", "-F", "-t", "ext4", "-O", "bigalloc", disk)
    for each in (disk, unpacked("files/ext4-bigalloc.img.xz", tmp_path)):
        with pytest.raises(DiskError, match="the feature bigalloc") as caught:
            list_disk(each, what="files")
        assert caught.value.name == "fs-unsupported" and "guestfish" in (caught.value.hint or "")


def test_an_encrypted_file_is_named_and_the_others_read(tree: Path, tmp_path: Path) -> None:
    disk = made("-t ext4 -O encrypt", tree, tmp_path)
    for name in ("size-1024", "deep"):
        fake_disk.tool("debugfs", "-w", "-R", f"set_inode_field {name} flags 0x80800", disk)
    with open_disk(disk, "raw") as opened:
        found = opened.filesystem(opened.filesystems[0])
        names = found.entries(found.root)
        assert found.read(names["size-1"].inode, 0, 9) == (tree / "size-1").read_bytes()
        for act in (lambda: found.read(names["size-1024"].inode, 0, 9), lambda: found.entries(names["deep"].inode)):
            with pytest.raises(DiskError, match="encrypted") as caught:
                act()
            assert caught.value.name == "fs-unsupported"


def fragmented(folder: Path, pieces: int, kind: str = "ext4") -> Path:
    """A file of `pieces` blocks of 1 KiB, no two of which are neighbours: every second block is somebody else's."""
    disk, data = folder / "disk.raw", folder / "data"
    size = pieces * 2 * 1024 + 24 * MIB
    with disk.open("wb") as file:
        file.truncate(size)
    fake_disk.tool(
        "mke2fs",
        "-q",
        "-F",
        "-t",
        kind,
        "-b",
        "1024",
        "-O",
        "^has_journal,^resize_inode,^metadata_csum,^uninit_bg",
        disk,
    )
    commands, at = [], 40_000
    # every second block is taken, and given back at the end
    commands += [f"setb {block}" for block in range(2, size // 1024, 2)]
    (folder / "commands").write_text("\n".join(commands) + "\n")
    fake_disk.tool("debugfs", "-w", "-f", folder / "commands", disk)
    numbers = random.Random(at)
    data.write_bytes(numbers.randbytes(pieces * 1024))
    fake_disk.tool("debugfs", "-w", "-R", f"write {data} file", disk)
    return disk


@pytest.mark.parametrize("kind", ["ext2", "ext4"])
def test_a_fragmented_file_costs_its_length(kind: str, tmp_path: Path) -> None:
    """20,000 pieces: a reader that walks the list of pieces for each piece takes 200 million steps, for each call."""
    disk = fragmented(tmp_path, 20_000, kind)
    data = (tmp_path / "data").read_bytes()
    with open_disk(disk, "raw") as opened:
        found = opened.filesystem(opened.filesystems[0])
        begin = time.process_time()
        entry = found.entries(found.root)["file"]
        assert found.stat(entry.inode).size == len(data)
        runs = found.runs(entry.inode)
        assert len(runs) >= 19_000
        assert found.read(entry.inode, 0, len(data)) == data
        for number in range(2000):
            at = number * 7919 % (len(data) - 4096)
            assert found.read(entry.inode, at, 4096) == data[at : at + 4096]
            found.stat(entry.inode)
        assert time.process_time() - begin < 20


@pytest.mark.parametrize("loop", ["tree", "map"])
def test_pointers_that_lead_in_circles_end(loop: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(8 * MIB)
    kind = "ext4" if loop == "tree" else "ext2"
    fake_disk.tool(
        "mke2fs", "-q", "-F", "-t", kind, "-b", "1024", "-O", "^metadata_csum" if loop == "tree" else "none", disk
    )
    (tmp_path / "data").write_bytes(b"x" * 1024)
    fake_disk.tool("debugfs", "-w", "-R", f"write {tmp_path / 'data'} file", disk)
    with open_disk(disk, "raw") as opened:
        found = opened.filesystem(opened.filesystems[0])
        inode = found.entries(found.root)["file"].inode
        (place,) = [at for at, _ in found.runs(inode)]
    block = place // 1024
    raw = disk.read_bytes()
    # the inode: its map, which begins with the block's number
    needle = (
        struct.pack("<HHHHIIHHI", 0xF30A, 1, 4, 0, 0, 0, 1, 0, block)
        if loop == "tree"
        else struct.pack("<II", block, 0)
    )
    at = raw.index(needle)
    with disk.open("r+b") as file:
        if loop == "tree":
            # an index that has the same block in both of its leaves
            file.seek(at)
            file.write(struct.pack("<HHHHI", 0xF30A, 2, 4, 1, 0) + struct.pack("<IIHH", 0, block, 0, 0) * 2)
            file.seek(place)
            file.write(struct.pack("<HHHHI", 0xF30A, 0, 4, 0, 0))
        else:
            # a block of pointers, all of which point at itself, by the threefold indirect pointer
            file.seek(at)
            file.write(bytes(56) + struct.pack("<I", block))
            file.seek(place)
            file.write(struct.pack("<I", block) * 256)
    with open_disk(disk, "raw") as opened:
        found = opened.filesystem(opened.filesystems[0])
        with pytest.raises(DiskError, match="pointed at twice") as caught:
            found.runs(inode)
        assert caught.value.name == "fs-damaged" and "e2fsck" in (caught.value.hint or "")


def test_an_extent_outside_of_the_file_system_is_damage(tree: Path, tmp_path: Path) -> None:
    """Also for whoever asks only where a file's data lies."""
    image = made("-t ext4 -O ^metadata_csum", tree, tmp_path)
    with open_disk(image, "raw") as disk:
        inode = disk.only_filesystem.stat("/size-4096")
        assert inode is not None and len(disk.only_filesystem.runs("/size-4096")) == 1
    fake_disk.tool("debugfs", "-w", "-R", f"set_inode_field <{inode.inode}> block[5] 4294967040", image)
    with open_disk(image, "raw") as disk:
        for ask in (disk.only_filesystem.runs, disk.only_filesystem.read):
            with pytest.raises(DiskError) as caught:
                ask("/size-4096")
            assert caught.value.name == "fs-damaged"


def test_no_source_line_of_a_library_reaches_a_person(tree: Path, tmp_path: Path) -> None:
    disk = made("-t ext4 -b 4096", tree, tmp_path)
    # the inode table's place, in the first group's descriptor
    with disk.open("r+b") as file:
        file.seek(4096 + 8)
        file.write(b"\xff\xff\xff\x0f")
    with open_disk(disk, "raw") as opened, pytest.raises(DiskError) as caught:
        opened.filesystem(opened.filesystems[0]).entries(2)
    assert caught.value.name == "fs-damaged" and "tsk" not in caught.value.message.lower() and caught.value.hint
