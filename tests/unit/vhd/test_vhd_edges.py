"""Data at the edges of small and very large disks, through every pair of kinds, read back by independent readers.

qemu-img reads each result whole; libvhdi reads every data extent of each VHD, 1 MiB around it, and 1,000 holes.
"""

from __future__ import annotations

import os
import random
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.disk import disk_formats, transfer
from pipeline.vhd.extents import Reader, file_extents
from pipeline.vhd.fixed import round_up_mib
from pipeline.vhd.footer import MAX_SIZE, MIB
from pipeline.vhd.write import write_differencing

GIB = 1 << 30
BLOCK = 2 * MIB
SIZES = {
    "one block": BLOCK,
    "odd data": 5 * MIB + 512,
    "2 GiB + 1 MiB": 2 * GIB + MIB,
    "127 GiB + 2 MiB": 127 * GIB + 2 * MIB,
    "2040 GiB": MAX_SIZE,
}
KINDS = ("fixed", "dynamic", "raw", "qcow2", "vhdx", "vmdk")
VHDS = ("fixed", "dynamic", "differencing")
FORMATS = {"fixed": "vpc", "dynamic": "vpc", "differencing": "vpc"}
WHEN = 1_700_000_000
HOLES = 1000


def make(path: Path, size: int) -> Path:
    """First and last sector, both sides of a block and of 2 GiB, lengths that are not whole sectors."""
    places = {0, 512, BLOCK - 1, BLOCK, 2 * GIB - 3, 2 * GIB, 127 * GIB - 1, size // 3, size - 512, size - 1}
    dice = random.Random(size)
    with path.open("wb") as file:
        file.truncate(size)
        for at in sorted(place for place in places if place < size):
            file.seek(at)
            file.write(dice.randbytes(min(777, size - at)))
    return path


def convert(source: Path, target: Path, kind: str, fmt: str) -> transfer.Made:
    """`differencing`: on a parent that has other data in some places and zeros in others."""
    with transfer.open_source(source, fmt) as disk:
        if kind != "differencing":
            return transfer.convert(disk, target, kind, timestamp=WHEN)
        parent, other = target.with_suffix(".parent.vhd"), target.with_suffix(".other")
        size = round_up_mib(disk.size)
        with other.open("wb") as file:
            file.truncate(size)
            for at in (0, size // 2, size - 700):
                file.seek(at)
                file.write(b"other" * 100)
        with transfer.open_source(other, "raw") as before:
            transfer.convert(before, parent, "dynamic", timestamp=WHEN)
        with transfer.open_source(parent) as before:
            whole = transfer.ExtentSource(size, disk.extents)
            report = write_differencing(whole, before, parent, target, unique_id=uuid.uuid4(), timestamp=WHEN)
        other.unlink()
        status = target.stat()
        return transfer.Made(target, kind, report.size, status.st_size, status.st_blocks * 512)


@contextmanager
def libvhdi(disk: Path, kind: str) -> Iterator[Any]:
    pyvhdi = pytest.importorskip("pyvhdi")
    opened, above = pyvhdi.file(), None
    opened.open(str(disk))
    if kind == "differencing":
        above = pyvhdi.file()
        above.open(str(disk.with_suffix(".parent.vhd")))
        opened.set_parent(above)
    try:
        yield opened
    finally:
        opened.close()
        if above is not None:
            above.close()


def same_by_libvhdi(disk: Path, kind: str, raw: Path) -> None:
    source = file_extents(raw)
    reader = Reader(source)
    size = round_up_mib(source.size)
    dice = random.Random(4)
    with libvhdi(disk, kind) as opened:
        assert opened.get_media_size() == size
        near = [(max(0, each.start - MIB), min(size, each.end + MIB)) for each in source.extents]
        far = [(at, min(size, at + 4096)) for at in (dice.randrange(size // 512) * 512 for _ in range(HOLES))]
        for begin, end in near + far:
            for at in range(begin, end, BLOCK):
                length = min(BLOCK, end - at)
                want = reader.read(at, length).ljust(length, b"\0")
                assert opened.read_buffer_at_offset(length, at) == want, (disk.name, at)
    reader.close()


def same(disk: Path, kind: str, raw: Path) -> None:
    if kind in VHDS:
        same_by_libvhdi(disk, kind, raw)
    if kind == "differencing":
        # qemu-img shows nothing of a parent: our own reader's copy is what it compares
        back = disk.with_suffix(".back")
        with transfer.open_source(disk) as source:
            transfer.convert(source, back, "raw", timestamp=WHEN)
        disk, kind = back, "raw"
    # a whole MiB may be more than the source had: qemu-img takes zeros past the end as no difference
    words = ["qemu-img", "compare", "-q", "-f", FORMATS.get(kind, kind), "-F", "raw", str(disk), str(raw)]
    subprocess.run(words, check=True, timeout=TIMEOUT)


#: qemu-img itself walks the holes of these: minutes each, with GOLDSMITH_SLOW=1.
SLOW = {("127 GiB + 2 MiB", "vhdx"), ("2040 GiB", "vhdx"), ("2040 GiB", "vmdk")}
TIMEOUT = 3600 if os.environ.get("GOLDSMITH_SLOW") else 120


@pytest.mark.parametrize(
    ("size", "kind"),
    [
        (size, kind)
        for size in SIZES
        for kind in (*VHDS, "qcow2", "vhdx", "vmdk")
        if TIMEOUT > 120 or (size, kind) not in SLOW
    ],
)
def test_bit_exact(tmp_path: Path, size: str, kind: str) -> None:
    raw, disk = make(tmp_path / "disk.raw", SIZES[size]), tmp_path / "disk.vhd"
    made = convert(raw, disk, kind, "raw")
    assert made.size == round_up_mib(SIZES[size])
    if kind in VHDS:
        # a fixed disk takes its data, a dynamic one its blocks' places too, and 4 bytes of table a block
        assert made.allocated < MIB + SIZES[size] // BLOCK * 4
    same(disk, kind, raw)
    back = tmp_path / "back.raw"
    convert(disk, back, "raw", FORMATS.get(kind, kind))
    same(back, "raw", raw)


@pytest.mark.parametrize("second", [*KINDS, "differencing"])
@pytest.mark.parametrize("first", [*KINDS, "differencing"])
def test_every_pair_of_kinds(tmp_path: Path, first: str, second: str) -> None:
    size = "odd data" if "vhdx" in (first, second) else "2 GiB + 1 MiB"
    raw = make(tmp_path / "disk.raw", SIZES[size])
    single, two = tmp_path / "one.disk", tmp_path / "two.disk"
    if first == "raw":
        subprocess.run(["cp", "--sparse=always", str(raw), str(single)], check=True)
    else:
        convert(raw, single, first, "raw")
    before = disk_formats.tail(single), single.stat().st_mtime_ns
    convert(single, two, second, FORMATS.get(first, first))
    same(two, second, raw)
    assert (disk_formats.tail(single), single.stat().st_mtime_ns) == before
