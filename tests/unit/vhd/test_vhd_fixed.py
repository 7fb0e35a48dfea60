"""Fixed VHDs: bit-exact, sparse, read by qemu-img and libvhdi alike; from raw disks and qcow2 chains."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import struct
import subprocess
import threading
import uuid
from pathlib import Path

import pytest

from pipeline.base.errors import DiskError, HostError
from pipeline.base.process import find
from pipeline.disk.disk_formats import extents
from pipeline.vhd import copy as copy_module
from pipeline.vhd.cached import is_cached
from pipeline.vhd.extents import Extent, ExtentSource, Reader, file_extents
from pipeline.vhd.fixed import round_up_mib, write_fixed, write_raw
from pipeline.vhd.footer import EPOCH, MIB, verify_fixed

ID = uuid.UUID(int=5)
WHEN = EPOCH + 1000


def sparse(path: Path, size: int, data: dict[int, bytes]) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        for at, value in data.items():
            file.seek(at)
            file.write(value)
    return path


def qemu_img(*words: object) -> str:
    return subprocess.run(["qemu-img", *map(str, words)], check=True, capture_output=True, text=True).stdout


EDGES = {0: b"first sector", 512 * 9: b"x" * 512, 2 * MIB - 3: b"across a block", 40 * MIB - 7: b"the end"}


def test_round_up_mib_only_rounds_up() -> None:
    assert [round_up_mib(size) for size in (0, 1, MIB, MIB + 1)] == [0, MIB, MIB, 2 * MIB]


def test_round_trip_by_independent_readers(tmp_path: Path) -> None:
    raw = sparse(tmp_path / "disk.raw", 40 * MIB, EDGES)
    target = tmp_path / "disk.vhd"
    calls: list[tuple[int, int]] = []
    report = write_fixed(
        file_extents(raw),
        target,
        unique_id=ID,
        timestamp=WHEN,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert target.stat().st_size == report.file_size == 40 * MIB + 512
    assert report.allocated <= MIB and calls[-1][0] == calls[-1][1]
    assert verify_fixed(target) == report.footer and report.footer.timestamp == 1000
    assert target.read_bytes()[:-512] == raw.read_bytes()
    assert json.loads(qemu_img("info", "-f", "vpc", "--output=json", target))["virtual-size"] == 40 * MIB
    qemu_img("compare", "-f", "vpc", "-F", "raw", target, raw)
    if find("vhdiinfo"):
        seen = subprocess.run(["vhdiinfo", str(target)], check=True, capture_output=True, text=True).stdout
        assert re.search(r"Disk type\s*:\s*Fixed", seen) and re.search(rf"\({40 * MIB} bytes\)", seen)


def test_a_tebibyte_of_holes_costs_nothing(tmp_path: Path) -> None:
    raw = sparse(tmp_path / "disk.raw", 1 << 40, {0: b"a", (1 << 40) - 1: b"z", (1 << 31) - 1: b"bc"})
    report = write_fixed(file_extents(raw), tmp_path / "disk.vhd", unique_id=ID, timestamp=WHEN)
    assert report.seconds < 60 and report.allocated < MIB
    with file_extents(tmp_path / "disk.vhd", 1 << 40) as source:
        reader = Reader(source)
        assert reader.read((1 << 31) - 2, 4) == b"\0bc\0" and reader.read((1 << 40) - 2, 9) == b"\0z"
        reader.close()


def test_size_must_be_whole_and_may_grow(tmp_path: Path) -> None:
    raw = sparse(tmp_path / "odd.raw", MIB + 512, {MIB: b"tail"})
    target = tmp_path / "disk.vhd"
    with pytest.raises(DiskError) as caught:
        write_fixed(file_extents(raw), target, unique_id=ID, timestamp=WHEN)
    assert caught.value.name == "vhd-not-whole-mib" and not target.exists()
    write_fixed(file_extents(raw), target, unique_id=ID, timestamp=WHEN, size=round_up_mib(MIB + 512))
    assert verify_fixed(target).current_size == 2 * MIB
    with pytest.raises(DiskError) as caught:
        write_fixed(file_extents(raw), target, unique_id=ID, timestamp=WHEN, size=MIB)
    assert caught.value.name == "vhd-shrink"


def test_qcow2_chain_compressed_and_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    raw = sparse(tmp_path / "disk.raw", 40 * MIB, EDGES)
    base, top = tmp_path / "base.qcow2", tmp_path / "top.qcow2"
    qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, base)
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top)
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write -P 7 3M 64k", "-c", "write -z 0 64k", str(top)],
        check=True,
        capture_output=True,
    )
    qemu_img("convert", "-f", "qcow2", "-O", "raw", top, tmp_path / "want.raw")
    with extents(top, "qcow2", allow_backing_within=tmp_path) as source:
        assert {extent.path.name for extent in source.extents} == {"base.qcow2", "top.qcow2"}
        write_fixed(source, tmp_path / "disk.vhd", unique_id=ID, timestamp=WHEN)
    assert (tmp_path / "disk.vhd").read_bytes()[:-512] == (tmp_path / "want.raw").read_bytes()
    packed = tmp_path / "packed.qcow2"
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", raw, packed)
    with extents(packed) as source:
        write_raw(source, tmp_path / "unpacked.raw")
        assert [each for each in tmp_path.iterdir() if each.name.endswith("-unpacked")]
    assert not [each for each in tmp_path.iterdir() if each.name.endswith("-unpacked")]
    assert (tmp_path / "unpacked.raw").read_bytes() == raw.read_bytes()


@pytest.mark.parametrize("options", [("vhdx",), ("vmdk",), ("vpc", "-o", "subformat=fixed,force_size=on")])
def test_other_formats(tmp_path: Path, options: tuple[str, ...]) -> None:
    raw = sparse(tmp_path / "disk.raw", 40 * MIB, EDGES)
    qemu_img("convert", "-f", "raw", "-O", *options, raw, tmp_path / "disk.img")
    with extents(tmp_path / "disk.img") as source:
        assert source.size == 40 * MIB
        write_raw(source, tmp_path / "back.raw")
    assert (tmp_path / "back.raw").read_bytes() == raw.read_bytes()


@pytest.mark.parametrize("way", ["past the cache", "from a cold source", "through the cache"])
def test_ways_of_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Runs that begin and end anywhere, joined in the target from two files, across chunks."""
    dice = random.Random(way)
    first, two = tmp_path / "one", tmp_path / "two"
    for path in (first, two):
        path.write_bytes(dice.randbytes(12 * MIB))
        if way == "from a cold source":
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                assert not is_cached(file.fileno(), [(0, 12 * MIB)])
    if way == "through the cache":
        monkeypatch.setattr(copy_module, "_direct", lambda *_: None)
    want, found, at = bytearray(32 * MIB), [], 0
    while True:
        at += dice.choice((0, 0, 1, 512, 4096, 300_000))
        length = dice.choice((1, 511, 4096, 70_000, 262_144, 262_145, MIB, 5 * MIB + 3))
        path, offset = dice.choice((first, two)), dice.randrange(12 * MIB - length)
        if at + length > len(want):
            break
        found.append(Extent(at, length, path, offset))
        want[at : at + length] = path.read_bytes()[offset : offset + length]
        at += length
    messages: list[int] = []
    source = ExtentSource(len(want), tuple(found))
    write_raw(source, tmp_path / "copy", progress=lambda done, _: messages.append(done))
    assert (tmp_path / "copy").read_bytes() == bytes(want)
    assert messages == sorted(messages) and messages[-1] == source.data_bytes


def test_shared_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system clones, only ragged ends are copied; the call is played here."""
    raw = sparse(tmp_path / "disk.raw", 40 * MIB, {MIB: random.randbytes(MIB), 9 * MIB: b"x" * 5000})
    calls = []

    def clone(fd: int, request: int, argument: bytes) -> int:
        assert request == 0x4020940D
        source, at, length, to = struct.unpack("qQQQ", argument)
        assert not (at | length | to) % 4096
        calls.append(length)
        return os.pwrite(fd, os.pread(source, length, at), to)

    monkeypatch.setattr(copy_module.fcntl, "ioctl", clone)
    write_raw(file_extents(raw), tmp_path / "copy.raw")
    assert sum(calls) == MIB + 8192 and (tmp_path / "copy.raw").read_bytes() == raw.read_bytes()
    odd = ExtentSource(4 * MIB, (Extent(512, MIB, raw, MIB + 512), Extent(2 * MIB, 4096, raw, MIB + 1)))
    calls.clear()
    write_raw(odd, tmp_path / "odd.raw")
    data = raw.read_bytes()
    want = bytearray(4 * MIB)
    want[512 : 512 + MIB] = data[MIB + 512 : 2 * MIB + 512]
    want[2 * MIB : 2 * MIB + 4096] = data[MIB + 1 : MIB + 4097]
    assert sum(calls) == MIB - 4096 and (tmp_path / "odd.raw").read_bytes() == bytes(want)


def test_an_interrupt_ends_the_copy(tmp_path: Path) -> None:
    raw = sparse(tmp_path / "disk.raw", 40 * MIB, {0: random.randbytes(30 * MIB)})
    before = set(threading.enumerate())

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_raw(file_extents(raw), tmp_path / "copy.raw", progress=interrupt)
    assert not (tmp_path / "copy.raw").exists()
    # one that an earlier test has left may end meanwhile
    assert set(threading.enumerate()) <= before


def test_failures_leave_nothing_and_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = sparse(tmp_path / "disk.raw", 2 * MIB, {0: b"a" * 8192})
    target = tmp_path / "disk.vhd"
    past = ExtentSource(4 * MIB, (Extent(0, 4 * MIB, raw, 0),))
    with pytest.raises(DiskError) as short:
        write_fixed(past, target, unique_id=ID, timestamp=WHEN)
    assert short.value.name == "disk-truncated" and not target.exists()
    with pytest.raises(DiskError) as same:
        write_fixed(file_extents(raw), raw, unique_id=ID, timestamp=WHEN)
    assert same.value.name == "same-file" and raw.stat().st_size == 2 * MIB

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(copy_module.os, "pwrite", full)
    with pytest.raises(HostError) as space:
        write_fixed(file_extents(raw), target, unique_id=ID, timestamp=WHEN)
    assert space.value.name == "no-space" and not target.exists()

    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(copy_module.os, "pwrite", broken)
    with pytest.raises(HostError) as lost:
        write_fixed(file_extents(raw), target, unique_id=ID, timestamp=WHEN)
    assert lost.value.name == "cannot-write" and not target.exists()  # the source is good
