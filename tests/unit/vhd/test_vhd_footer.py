"""The footer: fields, creators, geometry, faults."""

from __future__ import annotations

import struct
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.base.errors import DiskError
from pipeline.vhd.footer import (
    EPOCH,
    MAX_SIZE,
    MIB,
    DiskType,
    Footer,
    Geometry,
    checksum,
    geometry,
    read_footer,
    verify_fixed,
)

ID = uuid.UUID("0123456789abcdef0123456789abcdef")
GIB = 1 << 30


def footer(size: int = 50 * GIB) -> Footer:
    return Footer.build(size, disk_type=DiskType.FIXED, unique_id=ID, timestamp=EPOCH + 7)


@pytest.mark.parametrize(
    ("size", "want"),
    [
        (1 * MIB, (30, 4, 17)),
        (20 * MIB, (602, 4, 17)),
        (GIB, (2080, 16, 63)),
        (10 * GIB, (20805, 16, 63)),
        (50 * GIB, (25700, 16, 255)),
        (130050 * MIB, (65280, 16, 255)),
        (127 * GIB, (65278, 16, 255)),
        (MAX_SIZE, (65535, 16, 255)),
        (65535 * 16 * 63 * 512, (16191, 16, 255)),
        (65535 * 16 * 63 * 512 - 512, (65534, 16, 63)),
    ],
)
def test_geometry(size: int, want: tuple[int, int, int]) -> None:
    assert geometry(size) == Geometry(*want)
    assert geometry(size).size <= size


def test_field_by_field() -> None:
    data = footer().pack()
    assert len(data) == 512
    assert data[:8] == b"conectix"
    assert struct.unpack_from(">IIQI", data, 8) == (2, 0x10000, 0xFFFFFFFFFFFFFFFF, 7)
    assert data[28:32] == b"qem2" and data[36:40] == b"Wi2k"
    assert struct.unpack_from(">QQ", data, 40) == (50 * GIB, 50 * GIB)
    assert struct.unpack_from(">HBB", data, 56) == (25700, 16, 255)
    assert struct.unpack_from(">I", data, 60) == (2,)
    (stored,) = struct.unpack_from(">I", data, 64)
    assert stored == ~sum(data[:64] + data[68:]) & 0xFFFFFFFF == checksum(data)
    assert data[68:84] == ID.bytes and data[84] == 0 and not any(data[85:])
    assert Footer.parse(data) == footer()


@pytest.mark.parametrize(
    ("creator", "by_geometry_now", "by_geometry_before"),
    [
        (b"win ", False, False),
        (b"qem2", False, False),
        (b"d2v ", False, False),
        (b"tap\0", False, False),
        (b"CTXS", False, False),
        (b"wa\0\0", False, True),
        (b"vs  ", False, True),
        (b"vbox", False, True),
        (b"vpc ", True, True),
        (b"qemu", True, True),
    ],
)
def test_each_creators_size(creator: bytes, by_geometry_now: bool, by_geometry_before: bool) -> None:
    here = replace(footer(5 * GIB), creator=creator)
    lost = 5 * GIB - here.geometry.size
    # measured: what qemu 7.2 loses of a 5 GiB Azure export
    assert lost == 278528
    assert here.virtual_size == 5 * GIB - lost * by_geometry_now
    assert here.old_qemu_size == 5 * GIB - lost * by_geometry_before
    largest = replace(here, geometry=Geometry(65535, 16, 255))
    assert largest.virtual_size == largest.old_qemu_size == 5 * GIB


@pytest.mark.parametrize(
    ("at", "value", "name"),
    [(0, b"X", "vhd-no-footer"), (200, b"\1", "vhd-checksum"), (66, b"\0", "vhd-checksum")],
)
def test_damage(at: int, value: bytes, name: str) -> None:
    data = bytearray(footer().pack())
    data[at : at + 1] = value
    with pytest.raises(DiskError) as caught:
        Footer.parse(bytes(data))
    assert caught.value.name == name


def test_virtual_pc_footer_of_511_bytes(tmp_path: Path) -> None:
    path = tmp_path / "old.vhd"
    path.write_bytes(bytes(MIB) + footer(MIB).pack()[:511])
    assert read_footer(path) == footer(MIB)


@pytest.mark.parametrize("size", [0, 511, MAX_SIZE + MIB, 2041 * GIB])
def test_sizes_no_vhd_has(size: int) -> None:
    with pytest.raises(DiskError) as caught:
        footer(size)
    assert caught.value.name == ("vhd-too-large" if size > MAX_SIZE else "vhd-size")


FAULTS = {
    "vhd-not-fixed": {"disk_type": 3, "data_offset": 512},
    "vhd-features": {"features": 0},
    "vhd-data-offset": {"data_offset": 512},
    "vhd-file-size": {"current_size": 2 * MIB},
    "vhd-size-by-creator": {"creator": b"wa\0\0"},
    "vhd-saved-state": {"saved_state": 1},
    "vhd-reserved": {"reserved": b"\1" + bytes(426)},
}


@pytest.mark.parametrize("name", FAULTS)
def test_verify_fixed_names_each_fault(tmp_path: Path, name: str) -> None:
    path = tmp_path / "disk.vhd"
    path.write_bytes(bytes(MIB) + replace(footer(MIB), **FAULTS[name]).pack())  # type: ignore[arg-type]
    with pytest.raises(DiskError) as caught:
        verify_fixed(path)
    assert caught.value.name == name


def test_verify_fixed_wants_whole_mib(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhd"
    path.write_bytes(bytes(MIB + 512) + footer(MIB + 512).pack())
    with pytest.raises(DiskError, match="whole number of MiB"):
        verify_fixed(path)
    path.write_bytes(bytes(MIB) + footer(MIB).pack())
    assert verify_fixed(path).current_size == MIB
    path.write_bytes(b"")
    with pytest.raises(DiskError) as caught:
        verify_fixed(path)
    assert caught.value.name == "vhd-truncated"
