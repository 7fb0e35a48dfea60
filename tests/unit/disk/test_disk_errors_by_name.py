"""Each name of an error about a disk, a medium, or what is on it, is raised by the code that reads such a disk."""

from __future__ import annotations

import errno
import gzip
import os
import struct
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.base.errors import GoldsmithError
from pipeline.checks.disk import boot as disk_boot
from pipeline.checks.windows import boot as windows_boot
from pipeline.disk import (
    accounts,
    ext4_files,
    fat,
    free_blocks,
    gpt,
    initramfs,
    media_reader,
    ntfs,
    packages,
    punch_holes,
    qcow2,
    registry,
    tools,
    transfer,
    vhdx,
    vmdk,
    windows,
)
from pipeline.disk.filesystem import Entry
from pipeline.disk.root import Root
from pipeline.systems import installed, listing
from pipeline.vhd import extents
from pipeline.vhd.extents import Extent, ExtentSource, ExtentTable, Reader
from pipeline.vhd.footer import DiskType, Footer, checksum
from tests.fakes import fake_hive
from tests.fakes.memory_files import MemoryFiles, memory_root

Patch = pytest.MonkeyPatch
Call = Callable[[Path, Patch], object]
HIVES = "Windows/System32/config"


def memory(data: bytes) -> Callable[[int, int], bytes]:
    """A reader of bytes in memory."""
    return lambda at, length: data[at : at + length]


# ---- formats -----------------------------------------------------------------------------------------------------


def qcow2_head(*, version: int = 3, crypt: int = 0, features: int = 0, bits: int = 16) -> bytes:
    head = bytearray(512)
    struct.pack_into(">4sIQII", head, 0, b"QFI\xfb", version, 0, 0, bits)
    struct.pack_into(">I", head, 32, crypt)
    struct.pack_into(">Q", head, 72, features)
    struct.pack_into(">I", head, 100, 104)
    return bytes(head)


def footer(**changes: int) -> bytes:
    """A fixed VHD's footer with other fields; its checksum is right."""
    made = Footer.build(1 << 20, disk_type=DiskType.FIXED, unique_id=uuid.UUID(int=1), timestamp=0)
    data = bytearray(made.pack())
    for name, value in changes.items():
        struct.pack_into(">I", data, {"version": 12, "disk_type": 60}[name], value)
    struct.pack_into(">I", data, 64, checksum(bytes(data)))
    return bytes(data)


def fragmented(_folder: Path, patch: Patch) -> None:
    patch.setattr(extents, "MAX_EXTENTS", 2)
    table = ExtentTable([Path("d")])
    for start in range(3):
        table.add(start * 1024, 512, 0, 0)


def fragmented_free_space(folder: Path, patch: Patch) -> None:
    patch.setattr(free_blocks, "MAX_RANGES", 1)
    patch.setattr(free_blocks, "_free", lambda _disk, _path: iter([(0, 512), (1024, 512)]))
    disk = folder / "d.raw"
    disk.write_bytes(bytes(1 << 20))
    free_blocks.free_ranges(disk, "raw")


def unwritable_target(folder: Path, patch: Patch) -> None:
    """qemu-img does not know the format."""
    source = ExtentSource(1 << 20, [])
    patch.setattr(transfer, "known_format", lambda _kind: SimpleNamespace(driver="no-such-driver"))
    transfer._convert_foreign(source, folder / "d.vhdx", "vhdx", False, None)


def endless_line(_folder: Path, patch: Patch) -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as stream, os.fdopen(write, "wb") as end:
        end.write(b"x" * 4096)
        end.close()
        patch.setattr(tools, "LINE_LIMIT", 4096)
        list(tools.Running(stream, "", lambda: None).lines())


def no_room_to_unpack(folder: Path, _patch: Patch) -> None:
    """No file system holds a file of so many bytes."""
    tools.Local(folder).start("unpack", {"files": ["d"], "fmt": "qcow2", "size": (1 << 63) - 1})


def refused_hole(folder: Path, _patch: Patch) -> None:
    """A descriptor that only reads punches no hole, as a file system without holes does not."""
    (folder / "d").write_bytes(bytes(8192))
    fd = os.open(folder / "d", os.O_RDONLY)
    try:
        punch_holes._punch(fd, 0, 4096)
    finally:
        os.close(fd)


FORMATS: dict[str, Call] = {
    "disk-extents": lambda *_: ExtentSource(1024, [Extent(512, 1024, Path("d"), 0)]),
    "disk-map": endless_line,
    "disk-outside": lambda *_: Reader(ExtentSource(1024, [])).read(-1, 4),
    "disk-too-fragmented": fragmented,
    "disk-unpacks-too-large": no_room_to_unpack,
    "gpt-size": lambda *_: gpt.move_backup(ExtentSource(1 << 20, []), (1 << 20) + 1),
    "no-holes": refused_hole,
    "qcow2-damaged": lambda *_: qcow2.judge(memory(qcow2_head(bits=40)), Path("d.qcow2")),
    "qcow2-encrypted": lambda *_: qcow2.judge(memory(qcow2_head(crypt=2)), Path("d.qcow2")),
    "vhd-type": lambda *_: Footer.parse(footer(disk_type=9)),
    "vhd-version": lambda *_: Footer.parse(footer(version=0x20000)),
    "vhdx-damaged": lambda *_: vhdx.refuse_parent(memory(b"vhdxfile".ljust(1 << 20, b"\0")), Path("d.vhdx")),
    "vmdk-damaged": lambda *_: vmdk.refuse_foreign(
        memory(struct.pack("<4sI", b"KDMV", 9).ljust(512, b"\0")), 512, Path("d.vmdk")
    ),
}

#: The other places that raise a name of FORMATS.
FORMATS_TOO: list[tuple[str, Call]] = [
    ("disk-extents", lambda *_: ExtentSource(1024, [Extent(0, 512, Path("d"), 0), Extent(256, 512, Path("d"), 0)])),
    ("disk-extents", lambda *_: ExtentTable([Path("d")]).add(1 << 62, 512, 0, 0)),
    ("disk-map", unwritable_target),
    ("disk-too-fragmented", fragmented_free_space),
    ("qcow2-damaged", lambda *_: qcow2.judge(memory(qcow2_head(features=2)), Path("d.qcow2"))),
    ("vhdx-damaged", lambda *_: vhdx.refuse_log(memory(bytes(1 << 20)), Path("d.vhdx"))),
    ("vhdx-damaged", lambda *_: vhdx._judge_metadata(memory(b"metadata".ljust(4096, b"\0")), 0, Path("d.vhdx"))),
]


# ---- files on a disk ---------------------------------------------------------------------------------------------


class ShortFiles(MemoryFiles):
    """A file system whose files are shorter than it says."""

    def read(self, inode: int, offset: int, length: int) -> bytes:
        return super().read(inode, offset, length)[:2]


def cpio_with(name: str, body: bytes = b"") -> bytes:
    return initramfs._member(name, 0o100644, body) + initramfs._member("TRAILER!!!", 0, b"")


def many_members(_folder: Path, patch: Patch) -> None:
    patch.setattr(initramfs, "MAX_NAMES", 1)
    initramfs.read_initramfs(initramfs._member("a", 0, b"") + cpio_with("b"))


def windows_root(**hives: bytes) -> windows.Windows:
    return windows.Windows(memory_root({f"{HIVES}/{name}": data for name, data in hives.items()}))


def large_hive(_folder: Path, patch: Patch) -> None:
    patch.setattr(registry, "LARGEST", 4096)
    registry.Hive(fake_hive.build({"Select": {"Current": 1}}))


def damaged_account(*_: object) -> None:
    tree = {"SAM": {"Domains": {"Account": {"Users": {"000001F4": {"V": b"short"}, "Names": {}}}}}}
    list(accounts.read_accounts(registry.Hive(fake_hive.build(tree, "SAM"))))


def long_list(_folder: Path, patch: Patch) -> None:
    patch.setattr(listing, "MAX_ROWS", 1)
    patch.setattr(listing, "_LISTS", {"files": lambda *_: [["a", "file", "1"], ["b", "file", "1"]]})
    listing.listing(SimpleNamespace(), "files")  # type: ignore[arg-type]  the list is made above


def long_rows(_folder: Path, patch: Patch) -> None:
    patch.setattr(listing, "MAX_BYTES", 10)
    patch.setattr(listing, "_LISTS", {"files": lambda *_: [["a-long-name", "file", "1"]]})
    listing.listing(SimpleNamespace(), "files")  # type: ignore[arg-type]


def no_boot_store(*_: object) -> None:
    windows_boot._bcd(SimpleNamespace(disk=SimpleNamespace(filesystems=[])))  # type: ignore[arg-type]


def no_efi_partition(*_: object) -> None:
    disk_boot._esp(SimpleNamespace(generations={1, 2}, esp=None))  # type: ignore[arg-type]


FILES: dict[str, Call] = {
    "dpkg-record-missing": lambda *_: list(packages.find_unfinished(memory_root({"usr/bin/dpkg": b""}))),
    "file-cut-short": lambda *_: Root(ShortFiles({"a": b"four"})).read("/a"),
    "file-too-large": lambda *_: memory_root({"a": bytes(11)}).read_whole("/a", 10),
    "fs-journal": lambda *_: listing._at_rest("the journal must be replayed"),
    "fs-too-many-names": lambda *_: list(memory_root({"a": b"", "b": b""})._walk("/", 1)),
    "hive-too-large": large_hive,
    "initramfs-compression": lambda *_: initramfs.read_initramfs(b"MZ" + bytes(64)),
    "initramfs-damaged": lambda *_: initramfs.read_initramfs(cpio_with("a", b"body")[:60]),
    "initramfs-too-large": many_members,
    "list-too-long": long_list,
    "no-bcd": no_boot_store,
    "no-control-set": lambda *_: windows_root(SYSTEM=fake_hive.build({"Select": {"Current": 1}})).control_sets,
    "no-esp": no_efi_partition,
    "no-known-system": lambda *_: installed.find_system(SimpleNamespace(path=Path("d")), []),  # type: ignore[arg-type]
    "no-such-hive": lambda *_: windows_root().hive("SYSTEM"),
    "sam-damaged": damaged_account,
}


def large_file(_folder: Path, patch: Patch) -> None:
    patch.setattr(initramfs, "IMAGE_LIMIT", 2)
    initramfs.reduced(cpio_with("a", b"body"), lambda _name: True, {})


def large_archive(_folder: Path, patch: Patch) -> None:
    patch.setattr(initramfs, "MAX_UNPACKED", 16)
    initramfs.read_initramfs(gzip.compress(cpio_with("a", b"body")))


def two_names() -> Any:
    return (Entry("a", 1, "file"), Entry("b", 2, "file"))


def many_in_ext4(_folder: Path, patch: Patch) -> None:
    patch.setattr(ext4_files, "MAX_ENTRIES", 1)
    reader = SimpleNamespace(
        _directory_data=lambda _inode: [b""], _inode=lambda number: number, _names=lambda _data, _inode: two_names()
    )
    ext4_files.Ext4FileSystem._read_directory(reader, 2)  # type: ignore[arg-type]


def many_in_ntfs(_folder: Path, patch: Patch) -> None:
    patch.setattr(ntfs, "MAX_ENTRIES", 1)
    reader = SimpleNamespace(
        _fs=SimpleNamespace(open_dir=lambda inode: two_names()), _listed=lambda file, _inode: file
    )
    ntfs.NtfsFileSystem._read_directory(reader, 5)  # type: ignore[arg-type]


def many_in_fat(_folder: Path, patch: Patch) -> None:
    patch.setattr(fat, "MAX_ENTRIES", 1)
    entries = [(1, b"A       TXT ".ljust(32, b"\0")), (2, b"B       TXT ".ljust(32, b"\0"))]
    reader = SimpleNamespace(stat=lambda _inode: SimpleNamespace(type="dir"), _raw_entries=lambda _inode: entries)
    fat.FatFileSystem._read_directory(reader, 1)  # type: ignore[arg-type]


FILES_TOO: list[tuple[str, Call]] = [
    ("fs-too-many-names", many_in_ext4),
    ("fs-too-many-names", many_in_fat),
    ("fs-too-many-names", many_in_ntfs),
    ("initramfs-damaged", lambda *_: initramfs.read_initramfs(b"\x1f\x8b" + bytes(64))),
    ("initramfs-too-large", large_archive),
    ("initramfs-too-large", large_file),
    ("list-too-long", long_rows),
]


# ---- media -------------------------------------------------------------------------------------------------------


class TornIso:
    """A medium whose directory can be read, and whose file cannot."""

    def has_udf(self) -> bool:
        return False

    has_joliet = has_rock_ridge = has_udf

    def list_children(self, iso_path: str) -> list[Any]:
        return [SimpleNamespace(file_identifier=lambda: b"A.WIM;1", rock_ridge=None)]

    def open_file_from_iso(self, iso_path: str) -> Any:
        raise OSError(errno.EIO, "Input/output error")


def no_boot_record(folder: Path, _patch: Patch) -> None:
    (folder / "m.iso").write_bytes(bytes(20 * 2048))
    media_reader._entry(folder / "m.iso", 300)


def without_drivers(*_: object) -> None:
    media_reader._drivers(Path("m.iso"), SimpleNamespace(label="X", find=lambda _path: None))  # type: ignore[arg-type]


MEDIA: list[tuple[str, Call]] = [
    ("medium-damaged", lambda *_: media_reader.Medium(TornIso(), "X").read("/a.wim", 0, 4)),
    ("medium-damaged", no_boot_record),
    ("no-drivers", without_drivers),
]


CASES = [*FORMATS.items(), *FORMATS_TOO, *FILES.items(), *FILES_TOO, *MEDIA]


@pytest.mark.parametrize(("name", "call"), CASES, ids=[name for name, _ in CASES])
def test_a_reader_of_disks_raises_the_error(name: str, call: Call, tmp_path: Path, monkeypatch: Patch) -> None:
    with pytest.raises(GoldsmithError) as caught:
        call(tmp_path, monkeypatch)
    assert (caught.value.name, bool(caught.value.hint)) == (name, True)
