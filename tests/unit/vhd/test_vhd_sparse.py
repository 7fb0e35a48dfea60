"""Dynamic and differencing VHDs: bit-exact by independent readers, chains proven, damage named."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import uuid
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base.errors import DiskError
from pipeline.base.process import find
from pipeline.disk.disk_formats import extents
from pipeline.vhd.chain import overlay, vhd_extents
from pipeline.vhd.extents import Extent, ExtentSource, Reader, file_extents
from pipeline.vhd.fixed import write_fixed, write_raw
from pipeline.vhd.footer import EPOCH, MIB, checksum
from pipeline.vhd.sparse import open_sparse
from pipeline.vhd.write import write_differencing, write_dynamic

SIZE = 40 * MIB
WHEN = EPOCH + 5
EDGES = {
    0: b"first",
    512 * 9: b"x" * 512,
    2 * MIB - 3: b"across a block",
    6 * MIB: random.Random(3).randbytes(2 * MIB),
    SIZE - 7: b"the end",
}


def sparse(path: Path, data: dict[int, bytes], size: int = SIZE) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        for at, value in data.items():
            file.seek(at)
            file.write(value)
    return path


def content(source: ExtentSource) -> bytes:
    reader = Reader(source)
    try:
        return reader.read(0, source.size)
    finally:
        reader.close()


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return sparse(tmp_path / "disk.raw", EDGES)


def dynamic(raw: Path, target: Path, number: int = 1) -> Path:
    write_dynamic(file_extents(raw), target, unique_id=uuid.UUID(int=number), timestamp=WHEN)
    return target


def test_dynamic_by_independent_readers(raw: Path, tmp_path: Path) -> None:
    path = dynamic(raw, tmp_path / "disk.vhd")
    assert content(vhd_extents(path)) == content(extents(path)) == raw.read_bytes()
    subprocess.run(["qemu-img", "compare", "-f", "vpc", "-F", "raw", str(path), str(raw)], check=True)
    assert path.stat().st_size < 12 * MIB and open_sparse(path).blocks_present == 4
    if find("vhdiinfo"):
        output = subprocess.run(["vhdiinfo", str(path)], check=True, capture_output=True, text=True).stdout
        assert "Dynamic" in output and f"({SIZE} bytes)" in output


def test_dynamic_written_by_qemu(raw: Path, tmp_path: Path) -> None:
    path = tmp_path / "disk.vhd"
    options = ["-O", "vpc", "-o", "subformat=dynamic,force_size=on"]
    subprocess.run(["qemu-img", "convert", "-f", "raw", *options, str(raw), str(path)], check=True)
    assert content(vhd_extents(path)) == raw.read_bytes()


def test_large_and_sparse(tmp_path: Path) -> None:
    size = 2040 << 30
    raw = sparse(tmp_path / "disk.raw", {0: b"a", (127 << 30) + 2 * MIB - 1: b"bc", size - 1: b"z"}, size)
    path = dynamic(raw, tmp_path / "disk.vhd")
    with vhd_extents(path) as source:
        reader = Reader(source)
        assert source.size == size and reader.read(size - 2, 9) == b"\0z"
        assert reader.read((127 << 30) + 2 * MIB - 2, 4) == b"\0bc\0"
        reader.close()


def chain(tmp_path: Path, raw: Path, base_kind: str) -> tuple[Path, Path, Path, bytes]:
    base = tmp_path / "base.vhd"
    if base_kind == "fixed":
        write_fixed(file_extents(raw), base, unique_id=uuid.UUID(int=1), timestamp=WHEN)
    else:
        dynamic(raw, base)
    new = shutil.copy(raw, tmp_path / "new.raw")
    with new.open("r+b") as file:
        for at, value in {1000: b"changed", 6 * MIB + 700: bytes(2000), 20 * MIB: b"fresh" * 999}.items():
            file.seek(at)
            file.write(value)
    child = tmp_path / "child.vhd"
    write_differencing(file_extents(new), vhd_extents(base), base, child, unique_id=uuid.UUID(int=2), timestamp=WHEN)
    with new.open("r+b") as file:
        file.seek(30 * MIB)
        file.write(b"grandchild")
    grand = tmp_path / "grand.vhd"
    write_differencing(
        file_extents(new), vhd_extents(child), child, grand, unique_id=uuid.UUID(int=3), timestamp=WHEN
    )
    return base, child, grand, new.read_bytes()


@pytest.mark.parametrize("base_kind", ["fixed", "dynamic"])
def test_chain_bit_for_bit(raw: Path, tmp_path: Path, base_kind: str) -> None:
    _, child, grand, want = chain(tmp_path, raw, base_kind)
    assert content(vhd_extents(grand)) == want
    # the sectors that changed, 1 + 5 + 10 of them, not their blocks
    assert sum(extent.length for extent in open_sparse(child).ranges()) == 16 * 512
    header = open_sparse(child).header
    assert [locator.code for locator in header.locators] == [b"W2ru", b"W2ku"]
    if find("vhdiinfo"):
        output = subprocess.run(["vhdiinfo", str(child)], check=True, capture_output=True, text=True).stdout
        assert "Differential" in output and "base.vhd" in output and "00000000-0000-0000-0000-000000000001" in output


def test_parents_are_proven(raw: Path, tmp_path: Path) -> None:
    base, child, grand, want = chain(tmp_path, raw, "dynamic")
    with pytest.raises(DiskError) as refused:
        extents(grand)
    assert refused.value.name == "vhd-differencing"

    def fault(path: Path, **options: object) -> str:
        with pytest.raises(DiskError) as caught:
            vhd_extents(path, **options)  # type: ignore[arg-type]
        return caught.value.name

    os.utime(base, (1, 1))
    # the parent's own footer vouches for it, too; another time there is a change
    header = open_sparse(child).header
    patch(child, 512 + 56, struct.pack(">I", header.parent_timestamp + 100))
    assert fault(child) == "vhd-parent-changed"
    assert content(vhd_extents(grand, check_time=False)) == want
    moved = base.rename(tmp_path / "elsewhere.vhd")
    assert fault(child) == "vhd-parent-missing"
    vhd_extents(child, parent=moved, check_time=False)
    dynamic(raw, base, number=9)
    assert fault(child) == "vhd-wrong-parent"
    # a child that is its own parent
    patch(child, 512 + 40, uuid.UUID(int=2).bytes)
    assert fault(child, parent=child, check_time=False) == "vhd-chain-cycle"


def patch(path: Path, at: int, data: bytes) -> None:
    """Change bytes of the header and make its checksum right again."""
    raw = bytearray(path.read_bytes())
    raw[at : at + len(data)] = data
    raw[512 + 36 : 512 + 40] = struct.pack(">I", checksum(bytes(raw[512:1536]), 36))
    path.write_bytes(raw)


DAMAGE = {
    "vhd-header": (512, b"X"),
    "vhd-block-outside": (1536, struct.pack(">I", 0x00FFFFFF)),
    "vhd-blocks-overlap": (1540, None),
    "vhd-table-outside": (512 + 16, struct.pack(">Q", 1 << 50)),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(raw: Path, tmp_path: Path, name: str) -> None:
    path = dynamic(raw, tmp_path / "disk.vhd")
    before = path.read_bytes()
    at, data = DAMAGE[name]
    patch(path, at, before[1536:1540] if data is None else data)
    with pytest.raises(DiskError) as caught:
        vhd_extents(path)
    assert caught.value.name == name


def test_a_torn_footer_is_recovered_from_its_copy(raw: Path, tmp_path: Path) -> None:
    path = dynamic(raw, tmp_path / "disk.vhd")
    for torn in (b"\xff" * 512, b""):
        with path.open("r+b") as file:
            file.seek(-512, 2)
            file.truncate()
            file.write(torn)
        assert open_sparse(path).recovered
        assert content(vhd_extents(path)) == content(extents(path)) == raw.read_bytes()
        path.write_bytes(path.read_bytes() + bytes(512) * (not torn))


def test_overlay() -> None:
    base, top = Path("base"), Path("top")
    got = overlay(
        [Extent(0, 100, base, 1000), Extent(200, 50, base, 2000)],
        [Extent(10, 20, top, 0), Extent(90, 120, top, 50), Extent(300, 1, top, 500)],
    )
    assert got == [
        Extent(0, 10, base, 1000),
        Extent(10, 20, top, 0),
        Extent(30, 60, base, 1030),
        Extent(90, 120, top, 50),
        Extent(210, 40, base, 2010),
        Extent(300, 1, top, 500),
    ]


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12))),
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12))),
)
def test_overlay_is_what_a_byte_by_byte_overlay_is(first: list[tuple[int, int]], two: list[tuple[int, int]]) -> None:
    layers = []
    for name, ranges in (("base", first), ("top", two)):
        extents, at = [], 0
        for start, length in sorted(ranges):
            if start >= at:
                extents.append(Extent(start, length, Path(name), 1000 + start))
                at = start + length
        layers.append(extents)
    want = {
        place: (e.path, e.offset + place - e.start)
        for layer in layers
        for e in layer
        for place in range(e.start, e.end)
    }
    got = overlay(*layers)
    assert {p: (e.path, e.offset + p - e.start) for e in got for p in range(e.start, e.end)} == want
    assert all(a.end <= b.start for a, b in pairwise(got))


def test_smaller_cannot_stand_on_larger(raw: Path, tmp_path: Path) -> None:
    base = dynamic(raw, tmp_path / "base.vhd")
    small = sparse(tmp_path / "small.raw", {}, MIB)
    with pytest.raises(DiskError) as caught:
        write_differencing(
            file_extents(small), vhd_extents(base), base, tmp_path / "x", unique_id=uuid.UUID(int=1), timestamp=WHEN
        )
    assert caught.value.name == "vhd-diff-size"
    write_raw(vhd_extents(base), tmp_path / "back.raw")
    assert (tmp_path / "back.raw").read_bytes() == raw.read_bytes()
