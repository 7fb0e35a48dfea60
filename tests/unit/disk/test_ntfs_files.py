"""NTFS by The Sleuth Kit, and what our door adds: clusters of any size, no files of its own, files in many pieces."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from pipeline.base.errors import DiskError
from pipeline.disk import open_disk
from pipeline.disk.disk import Disk
from pipeline.disk.filesystem import FileSystem
from pipeline.disk.ntfs import NtfsFileSystem
from tests.fakes import fake_disk
from tests.tools import skip_without

MIB = 1 << 20


@pytest.fixture(autouse=True)
def tools() -> None:
    skip_without("mkfs.ntfs", "ntfscp")


def made(folder: Path, size: int, *words: str) -> Path:
    disk = folder / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(size)
    fake_disk.tool("mkfs.ntfs", "-q", "-F", "-f", "-L", "Vol", *words, disk)
    return disk


def only(disk: Disk) -> FileSystem:
    (volume,) = disk.filesystems
    assert (volume.kind, volume.label) == ("ntfs", "Vol")
    return disk.filesystem(volume)


@pytest.mark.parametrize("cluster", [512, 4096, 65536, 131072, 1 << 20, 2 << 20])
def test_files_with_clusters_of_every_size(cluster: int, tmp_path: Path) -> None:
    disk = made(tmp_path, max(16 * MIB, cluster * 300), "-c", str(cluster))
    files = {"resident.txt": b"few bytes", "large.bin": random.Random(5).randbytes(3 * MIB + 17), "$own": b"a user's"}
    for name, data in files.items():
        (tmp_path / "data").write_bytes(data)
        fake_disk.tool("ntfscp", "-q", disk, tmp_path / "data", name)
    with open_disk(disk, "raw") as opened:
        found = only(opened)
        names = found.entries(found.root)
        # neither the file system's own ($MFT, $Extend) nor the library's ($OrphanFiles)
        assert set(names) == set(files)
        for name, data in files.items():
            inode = names[name].inode
            assert found.stat(inode).size == len(data) and found.read(inode, 0, len(data) + 9) == data
        runs = found.runs(names["large.bin"].inode)
        assert runs and all(start % cluster == length % cluster == 0 for start, length in runs)
        assert opened.read(runs[0][0], 4096) == files["large.bin"][:4096]
        # asked again, a file that is kept open says the same
        assert found.runs(names["large.bin"].inode) == runs and found.attribute(3, 0x60) == "Vol".encode("utf-16-le")


def test_a_file_is_opened_once(tmp_path: Path) -> None:
    """The library walks over all pieces of a file when it opens it: two thousand questions cost that once."""
    disk = made(tmp_path, 16 * MIB, "-c", "512")
    data = random.Random(6).randbytes(2 * MIB)
    (tmp_path / "data").write_bytes(data)
    fake_disk.tool("ntfscp", "-q", disk, tmp_path / "data", "file")
    raw, asked = disk.read_bytes(), []

    def read(offset: int, length: int) -> bytes:
        asked.append(offset)
        return raw[offset : offset + length]

    found = NtfsFileSystem(read, len(raw), 0)
    inode = found.entries(found.root)["file"].inode
    runs = found.runs(inode)
    before = len(asked)
    for _ in range(2000):
        assert found.stat(inode).size == len(data) and found.find(found.root, "FILE") is not None
        assert found.runs(inode) == runs
    assert len(asked) == before


@pytest.mark.parametrize(
    ("at", "value", "name"),
    [(13, 0, "fs-damaged"), (48, 0xFFFFFF, "fs-damaged"), (13, 0xF3, "fs-unsupported")],
)
def test_no_source_line_of_a_library_reaches_a_person(at: int, value: int, name: str, tmp_path: Path) -> None:
    disk = made(tmp_path, 16 * MIB)
    with disk.open("r+b") as file:
        file.seek(at)
        file.write(bytes([value]) if at == 13 else struct.pack("<Q", value))
    with open_disk(disk, "raw") as opened, pytest.raises(DiskError) as caught:
        opened.filesystem(opened.filesystems[0])
    message = caught.value.message + (caught.value.hint or "")
    assert caught.value.name == name and caught.value.hint
    assert not any(word in message for word in ("tsk", ".cpp", "FS_Info", "pytsk", "0x"))
