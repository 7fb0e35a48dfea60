"""FAT of every width and cluster size: the names and bytes that mtools shows, and nothing else."""

from __future__ import annotations

import os
import random
import struct
import subprocess
from pathlib import Path

import pytest

from pipeline.base.errors import DiskError
from pipeline.disk import fat, open_disk, punch_holes
from pipeline.disk.disk import Disk
from pipeline.disk.filesystem import FileSystem
from tests.cases import unpacked
from tests.fakes import fake_disk

MIB = 1 << 20
#: How mkfs.vfat is called, and the disk's size in KiB.
FORMS = {
    "FAT12, a floppy": ("-F12", 1440),
    "FAT12, clusters of 4 KiB": ("-F12 -s8", 12000),
    "FAT16": ("-F16 -s1", 8 * 1024),
    "FAT16, clusters of 32 KiB": ("-F16 -s64", 200 * 1024),
    "FAT16, one table": ("-F16 -f1 -r64", 16 * 1024),
    "FAT32": ("-F32 -s1", 40 * 1024),
    "FAT32, few clusters": ("-F32 -s1", 40 * 1024),
    "FAT32, sectors of 4 KiB": ("-F32 -S4096 -s1", 300 * 1024),
}
#: mtools takes a FAT32 with few clusters for a FAT16: it is written while it has many, then cut down to so many.
FEW = 3000
NAMES = (
    "README.TXT",
    "lower.txt",
    "Mixed Case with spaces.text",
    "LOWER.ext",
    "noext",
    "ümläut-Ω-名前.txt",
    "a.b.c.d",
    "x" * 200 + ".txt",
    "exact-13-char",
    "+,;=[].txt",
)


def made(form: str, folder: Path) -> Path:
    words, size = FORMS[form]
    disk = folder / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(size * 1024)
    fake_disk.tool("mkfs.vfat", *words.split(), "-n", "GOLD LABEL", "-i", "cafe1234", disk)
    return disk


def cut_down(form: str, disk: Path) -> None:
    if "few" not in form:
        return
    boot = disk.read_bytes()[:512]
    sector, per_cluster, reserved, tables = struct.unpack_from("<HBHB", boot, 11)
    (table,) = struct.unpack_from("<I", boot, 36)
    total = reserved + tables * table + FEW * per_cluster
    with disk.open("r+b") as file:
        for copy in (0, 6):
            file.seek(copy * sector + 32)
            file.write(struct.pack("<I", total))
        file.truncate(total * sector)


def mtools(*words: object) -> bytes:
    """mtools in UTF-8: names outside ASCII go through as they are."""
    env = {**os.environ, "LC_ALL": "C.UTF-8", "MTOOLS_SKIP_CHECK": "1"}
    done = subprocess.run([str(word) for word in words], env=env, capture_output=True, check=False)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def everything(disk: Disk) -> dict[str, bytes | None]:
    """Every path with its bytes, None for folders."""
    (volume,) = disk.filesystems
    assert (volume.number, volume.kind, volume.label, volume.uuid) == (0, "vfat", "GOLD LABEL", "CAFE-1234")
    return dict(below(disk.filesystem(volume), disk.filesystem(volume).root, ""))


def below(found: FileSystem, inode: int, above: str) -> list[tuple[str, bytes | None]]:
    here: list[tuple[str, bytes | None]] = []
    for entry in found.entries(inode).values():
        path = f"{above}/{entry.name}"
        stat = found.stat(entry.inode)
        assert stat.type == entry.type
        if entry.type == "dir":
            here += [(path, None), *below(found, entry.inode, path)]
        else:
            here.append((path, found.read(entry.inode, 0, stat.size + 9)))
    return here


@pytest.mark.parametrize("form", FORMS)
def test_what_mtools_shows(form: str, tmp_path: Path) -> None:
    disk = made(form, tmp_path)
    with open_disk(disk, "raw") as opened:
        assert everything(opened) == {}
    numbers = random.Random(form)
    tree = tmp_path / "tree"
    (tree / "Folder/below/it").mkdir(parents=True)
    wanted: dict[str, bytes | None] = {"/Folder": None, "/Folder/below": None, "/Folder/below/it": None}
    for number, name in enumerate(NAMES):
        above = ("", "/Folder", "/Folder/below/it")[number % 3]
        data = numbers.randbytes(numbers.choice((0, 1, 511, 512, 513, 5000, 20_000)))
        (tree / f"{above}/{name}".lstrip("/")).write_bytes(data)
        wanted[f"{above}/{name}"] = data
    for number in range(80):
        (tree / f"Folder/a file of many {number}").write_bytes(b"%d" % number)
        wanted[f"/Folder/a file of many {number}"] = b"%d" % number
    mtools("mcopy", "-i", disk, "-s", *sorted(tree.iterdir()), "::/")
    with open_disk(disk, "raw") as opened:
        assert everything(opened) == wanted
    # what was deleted is gone, its long name's pieces too, and its place is used by another
    gone = ["/Folder/a file of many 7", "/README.TXT", "/Folder/below/it/" + NAMES[2]]
    mtools("mdel", "-i", disk, *(f"::{path}" for path in gone))
    for path in gone:
        del wanted[path]
    (tree / "new").write_bytes(numbers.randbytes(30_000))
    mtools("mcopy", "-i", disk, tree / "new", "::/NEW.BIN")
    wanted["/NEW.BIN"] = (tree / "new").read_bytes()
    listed = mtools("mdir", "-i", disk, "-b", "-/", "::/").decode().splitlines()
    assert {line.removeprefix("::").rstrip("/") for line in listed} == set(wanted)
    cut_down(form, disk)
    with open_disk(disk, "raw") as opened:
        assert everything(opened) == wanted


@pytest.mark.parametrize("form", ["FAT12, a floppy", "FAT16", "FAT32, few clusters"])
def test_free_clusters_are_those_of_no_file(form: str, tmp_path: Path) -> None:
    """A FAT32 with few clusters has entries of 32 bits all the same: read as 12 bits, live data would be punched."""
    disk = made(form, tmp_path)
    data = random.Random(3).randbytes(300_000)
    (tmp_path / "data").write_bytes(data)
    mtools("mcopy", "-i", disk, tmp_path / "data", "::/KEPT")
    mtools("mcopy", "-i", disk, tmp_path / "data", "::/GONE")
    mtools("mdel", "-i", disk, "::/GONE")
    cut_down(form, disk)
    with open_disk(disk, "raw") as opened:
        found = opened.filesystem(opened.filesystems[0])
        kept = found.runs(found.entries(found.root)["KEPT"].inode)
    free = punch_holes.free_extents(disk)
    # counted entry by entry
    layout = fat.parse_layout(disk.read_bytes()[:512])
    assert layout is not None
    table = fat.Table(lambda at, length: disk.read_bytes()[at : at + length], 0, layout)
    empty = sum(not table[cluster] for cluster in range(2, layout.clusters + 2))
    assert sum(length for _, length in free) == empty * layout.cluster
    assert free and not any(a < d + e and d < a + b for a, b in free for d, e in kept)
    punch_holes.punch_free(disk)
    if "few" not in form:
        fake_disk.tool("fsck.vfat", "-n", disk)
    with open_disk(disk, "raw") as opened:
        found = opened.filesystem(opened.filesystems[0])
        assert found.read(found.entries(found.root)["KEPT"].inode, 0, len(data)) == data
    assert disk.read_bytes().count(data[:64]) == 1


def test_a_strangers_fat32_with_few_clusters(tmp_path: Path) -> None:
    with open_disk(unpacked("files/small-fat32.img.xz", tmp_path)) as disk:
        (volume,) = disk.filesystems
        assert (volume.kind, volume.label) == ("vfat", "TESTVFAT")
        found = disk.filesystem(volume)
        assert found.entries(found.root) == {} and found.stat(found.root).type == "dir"


def entry(name: bytes, attributes: int, cluster: int, size: int, case: int = 0) -> bytes:
    return struct.pack("<11sBB7xHHHHI", name, attributes, case, cluster >> 16, 0, 0x21, cluster & 0xFFFF, size)


def long_name(name: str, short: bytes) -> bytes:
    """The pieces of a long name of up to 13 units, for an entry with this short name."""
    units = (name.encode("utf-16-le") + b"\0\0").ljust(26, b"\xff")
    checksum = 0
    for byte in short:
        checksum = ((checksum & 1) << 7 | checksum >> 1) + byte & 0xFF
    return b"\x41" + units[:10] + b"\x0f\0" + bytes([checksum]) + units[10:22] + b"\0\0" + units[22:26]


def in_root(disk: Path, *raw: bytes) -> None:
    """Entries written behind the label into the top directory of a FAT16."""
    boot = disk.read_bytes()[:512]
    sector, _, reserved, tables, _ = struct.unpack_from("<HBHBH", boot, 11)
    (table,) = struct.unpack_from("<H", boot, 22)
    with disk.open("r+b") as file:
        file.seek((reserved + tables * table) * sector + 32)
        file.write(b"".join(raw))


def test_names_that_no_tool_here_writes(tmp_path: Path) -> None:
    disk = made("FAT16", tmp_path)
    in_root(
        disk,
        entry(b"BOTH    TXT", 0x20, 0, 0, 0x18),
        entry(b"\x05TEST   TXT", 0x20, 0, 0),
        entry(b"F\x81R     BIN", 0x21, 0, 0),
        entry(b"\xe5ELETED TXT", 0x20, 0, 0),
        # pieces of a long name whose checksum is another name's
        long_name("orphaned", b"OTHER   TXT"),
        entry(b"ALONE      ", 0x20, 0, 0),
        # mtools cuts what UTF-16 needs two units for
        long_name("😀.txt", b"X~1     TXT") + entry(b"X~1     TXT", 0x20, 0, 0),
        entry(b"SECOND LABE", 0x08, 0, 0),
    )
    with open_disk(disk, "raw") as opened:
        found = opened.filesystem(opened.filesystems[0])
        names = found.entries(found.root)
        assert set(names) == {"both.txt", "σTEST.TXT", "FüR.BIN", "ALONE", "😀.txt"}
        assert found.stat(names["FüR.BIN"].inode).mode == 0o555
        assert found.find(found.root, "BOTH.TXT") == names["both.txt"]


def test_chains_that_lead_nowhere_are_damage(tmp_path: Path) -> None:
    disk = made("FAT16", tmp_path)
    in_root(
        disk,
        entry(b"LOOP       ", 0x10, 5, 0),
        entry(b"OUTSIDE    ", 0x20, 0xFFF0, 9),
        entry(b"FREE       ", 0x20, 7, 5000),
        entry(b"HUGE       ", 0x20, 5, 0xFFFFFFFF),
    )
    boot = disk.read_bytes()[:512]
    with disk.open("r+b") as file:
        file.seek(struct.unpack_from("<H", boot, 14)[0] * 512 + 10)
        file.write(struct.pack("<H", 5))
        # a cluster of names, so that the directory does not end in its first one
        file.seek(disk.stat().st_size - 1)
    with open_disk(disk, "raw") as opened:
        found = opened.filesystem(opened.filesystems[0])
        for name, entry_ in found.entries(found.root).items():
            with pytest.raises(DiskError) as caught:
                found.entries(entry_.inode) if name == "LOOP" else found.read(entry_.inode, 0, 10)
            assert caught.value.name == "fs-damaged" and "fsck.vfat" in (caught.value.hint or "")
