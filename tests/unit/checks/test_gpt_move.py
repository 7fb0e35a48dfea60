"""A disk whose second GPT is not at its end is mended with goldsmith alone, as the remedy of the check says."""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from pipeline.base.errors import GoldsmithError
from pipeline.checks import inspect_disk
from pipeline.checks.model import REGISTRY
from pipeline.cli.app import app
from pipeline.disk import open_disk
from pipeline.vhd.footer import MIB, verify_fixed
from tests.fakes import fake_disk

SECTOR = 512


def call(*words: object) -> None:
    app([str(word) for word in words], standalone_mode=False)


def fault(*words: object) -> str:
    with pytest.raises(GoldsmithError) as caught:
        call(*words)
    assert caught.value.hint
    return caught.value.name


def verdict(disk: Path, check: str) -> str:
    return next(result.status for result in inspect_disk(disk, profile="any") if result.id == check)


def patch(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A raw GPT disk of a whole number of MiB."""
    folder = tmp_path / "made"
    folder.mkdir()
    return Path(shutil.copy(fake_disk.build(folder), tmp_path / "disk.raw"))


def problems(path: Path) -> str:
    """What sgdisk, which is nobody's friend here, says of a raw disk."""
    return subprocess.run(["sgdisk", "-v", str(path)], capture_output=True, text=True, check=False).stdout


def test_the_remedy_of_a_disk_made_without_force_size(disk: Path, tmp_path: Path) -> None:
    """qemu-img rounds up to whole cylinders: the second GPT is no longer at the end, the size is not a whole number
    of MiB.
    """
    odd, mended, plain = tmp_path / "odd.vhd", tmp_path / "mended.vhd", tmp_path / "plain.raw"
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", "subformat=fixed", str(disk), str(odd)], check=True
    )
    assert verdict(odd, "gpt-backup") == "fail" and "--move-gpt" in REGISTRY["gpt-backup"].remedy
    call("vhd", "convert", odd, mended, "--move-gpt")
    assert verdict(mended, "gpt-backup") == verdict(mended, "partition-table") == "pass"
    assert verdict(mended, "vhd-size") == verdict(mended, "vhd-footer") == "pass"
    assert verify_fixed(mended).current_size % MIB == 0
    call("vhd", "convert", mended, plain)
    assert "No problems found" in problems(plain)
    with open_disk(odd, "vpc") as old, open_disk(mended) as new:
        assert [(p.start, p.size, p.uuid) for p in old.partitions] == [
            (p.start, p.size, p.uuid) for p in new.partitions
        ]
        begin, end = old.partitions[0].start, old.partitions[-1].end
        assert old.read(begin, end - begin) == new.read(begin, end - begin)
    # without the switch the bytes are the source's
    call("vhd", "convert", odd, tmp_path / "same.vhd")
    assert verdict(tmp_path / "same.vhd", "gpt-backup") == "fail"


def test_what_is_right_stays_as_it_is(disk: Path, tmp_path: Path) -> None:
    call("vhd", "convert", disk, tmp_path / "copy.raw", "--move-gpt")
    assert (tmp_path / "copy.raw").read_bytes() == disk.read_bytes()


@pytest.mark.parametrize("kind", ["raw", "fixed", "dynamic", "qcow2", "vhdx"])
def test_a_lost_second_table_is_made_anew(disk: Path, tmp_path: Path, kind: str) -> None:
    size = disk.stat().st_size
    patch(disk, size - 33 * SECTOR, bytes(33 * SECTOR))
    out, plain = tmp_path / "out", tmp_path / "plain.raw"
    call("vhd", "convert", disk, out, "--to", kind, "--move-gpt")
    call("vhd", "convert", out, plain, *(["--format", "raw"] if kind == "raw" else []))
    assert "No problems found" in problems(plain)


@pytest.mark.parametrize("more", [1, 20, 33, 66, 2048, 5 * 2048])
def test_growth_of_any_length_leaves_no_second_copy(disk: Path, tmp_path: Path, more: int) -> None:
    size = disk.stat().st_size + more * SECTOR
    with disk.open("r+b") as file:
        file.truncate(size)
    out = tmp_path / "out.raw"
    call("vhd", "convert", disk, out, "--move-gpt")
    assert "No problems found" in problems(out)
    # two headers: the first, and the one at the end
    assert out.read_bytes().count(b"EFI PART") == 2


def test_a_disk_that_was_cut_behind_its_partitions(disk: Path, tmp_path: Path) -> None:
    with open_disk(disk) as opened:
        end = opened.partitions[-1].end
    with disk.open("r+b") as file:
        file.truncate(end + 33 * SECTOR)
    out = tmp_path / "out.raw"
    call("vhd", "convert", disk, out, "--move-gpt")
    assert "No problems found" in problems(out)
    with disk.open("r+b") as file:
        file.truncate(end + 32 * SECTOR)
    assert fault("vhd", "convert", disk, out, "--move-gpt", "--force") == "gpt-no-room"
    call("vhd", "convert", disk, tmp_path / "room.vhd", "--move-gpt")


def test_no_first_table_no_second(disk: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.vhd"
    good = disk.read_bytes()
    fake_disk.flip_bits(disk, SECTOR + 60)
    assert fault("vhd", "convert", disk, out, "--move-gpt") == "gpt-missing"
    disk.write_bytes(good)
    fake_disk.flip_bits(disk, 2 * SECTOR + 20)
    assert fault("vhd", "convert", disk, out, "--move-gpt") == "gpt-missing"
    patch(disk, 0, bytes(MIB))
    assert fault("vhd", "convert", disk, out, "--move-gpt") == "gpt-missing"
    assert not out.exists()
    # a header that asks for a gigabyte of entries is none
    disk.write_bytes(good)
    header = bytearray(good[SECTOR : SECTOR + 92])
    struct.pack_into("<I", header, 80, 1 << 23)
    struct.pack_into("<I", header, 16, 0)
    struct.pack_into("<I", header, 16, zlib.crc32(header))
    patch(disk, SECTOR, bytes(header))
    assert fault("vhd", "convert", disk, out, "--move-gpt") == "gpt-missing"


def test_resize_moves_it_too(disk: Path, tmp_path: Path) -> None:
    fixed = tmp_path / "fixed.vhd"
    call("vhd", "convert", disk, fixed)
    call("vhd", "resize", fixed, f"{disk.stat().st_size // MIB + 16} MiB", "--move-gpt")
    assert verdict(fixed, "gpt-backup") == "pass"


def test_the_remedy_of_a_damaged_first_table(disk: Path, tmp_path: Path) -> None:
    """As partition-table says: on a raw copy, which has no footer to lose."""
    vhd, copy, new = tmp_path / "disk.vhd", tmp_path / "copy.raw", tmp_path / "new.vhd"
    call("vhd", "convert", disk, vhd)
    fake_disk.flip_bits(vhd, SECTOR + 60)
    assert verdict(vhd, "partition-table") == "fail"
    call("vhd", "convert", vhd, copy)
    subprocess.run(["sgdisk", "-e", str(copy)], check=False, capture_output=True)
    call("vhd", "convert", copy, new)
    assert verdict(new, "partition-table") == verdict(new, "gpt-backup") == "pass"
    assert "sgdisk -e COPY.raw" in REGISTRY["partition-table"].remedy
