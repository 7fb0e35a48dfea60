"""What goldsmith says of a brought disk when it takes it, and not after minutes of a boot that cannot be."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pipeline.base.errors import DiskError
from pipeline.checks.disk.source_disk import SourceDisk, judge_size, judge_source, look_at_source
from pipeline.disk import open_disk
from tests.fakes import fake_disk
from tests.fixtures.sparse import unpack

ROOTS = Path(__file__).parents[2] / "fixtures/roots"
GIB = 1 << 30
GOOD = SourceDisk({}, direct=False, agent=True, cloud_init=True)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_disk.build(tmp_path_factory.mktemp("source"))


def look(disk: Path, *generations: int) -> SourceDisk:
    return look_at_source(disk, "raw", profile="azure-linux", generations=generations)


def refused(disk: SourceDisk, *generations: int, waived: tuple[str, ...] = (), builds: bool = True) -> DiskError:
    with pytest.raises(DiskError) as caught:
        judge_source(disk, "x.vhd", generations=generations, waived=waived, builds=builds)
    assert caught.value.hint
    return caught.value


def test_a_disk_that_boots_in_both_is_taken_but_for_its_agent(disk: Path) -> None:
    found = look(disk, 1, 2)
    assert found == SourceDisk({}, direct=False, agent=False, cloud_init=found.cloud_init)
    error = refused(found, 1, 2)
    assert (error.name, error.exit_code) == ("source-no-agent", 2)
    assert "no qemu-guest-agent" in error.message


def test_a_uefi_only_disk_is_refused_for_generation_1_and_built_for_2(disk: Path, tmp_path: Path) -> None:
    """It was built under BIOS for seven minutes, and then `guest-no-agent`."""
    only = fake_disk.copy(disk, tmp_path / "uefi.raw")
    with only.open("r+b") as file:
        file.write(bytes(440))
    for generations in ((1,), (1, 2)):
        error = refused(look(only, *generations), *generations)
        assert error.name == "source-no-boot"
        assert "does not boot as generation 1: the first sector has no boot code" in error.message
    assert "generations: [2]" in str(refused(look(only, 1, 2), 1, 2).hint)
    assert look(only, 2).faults == {}


def test_a_bios_only_disk_is_refused_for_generation_2_and_noted_for_both(disk: Path, tmp_path: Path) -> None:
    only = fake_disk.copy(disk, tmp_path / "bios.raw")
    fake_disk.put_esp(only, "EFI/BOOT/BOOTX64.EFI", None, tmp_path)
    error = refused(look(only, 2), 2)
    assert error.name == "source-no-boot" and "BOOTX64.EFI" in error.message
    # a step may install what generation 2 lacks: the build boots as generation 1
    found = look(only, 1, 2)
    ready = SourceDisk(found.faults, direct=False, agent=True, cloud_init=True)
    (line,) = judge_source(ready, "x.vhd", generations=(1, 2), waived=(), builds=True)
    assert "does not boot as generation 2" in line


def test_a_root_that_nobody_can_read_is_said_at_once(disk: Path, tmp_path: Path) -> None:
    torn = fake_disk.copy(disk, tmp_path / "torn.raw")
    with torn.open("r+b") as file:
        file.seek(fake_disk.ROOT_AT)
        file.write(bytes(1 << 16))
    assert refused(look(torn, 1, 2), 1, 2).name == "source-no-root"
    # nor can one be proven that no guest is started on: nothing changes the disk before inspect
    assert refused(look(torn, 1, 2), 1, 2, builds=False).name == "source-no-root"


@pytest.mark.parametrize(
    ("at", "data", "name", "words"),
    [
        (0, b"LUKS\xba\xbe\0\2", "source-encrypted", "luks"),
        (
            4096,
            b"\xfc\x4e\x2b\xa9\1\0\0\0" + bytes(136) + struct.pack("<Q", 8) + bytes(104),
            "source-on-raid",
            "raid",
        ),
        (4096 + 24, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81"), "source-in-cache", "bcache"),
        (512, b"LABELONE" + struct.pack("<QII", 1, 0, 32) + b"LVM2 001" + bytes(480), "source-lvm-damaged", "lvm"),
    ],
)
def test_what_holds_the_root_is_named(
    disk: Path, tmp_path: Path, at: int, data: bytes, name: str, words: str
) -> None:
    """Before any step; whatever is waived, nothing of such a disk could be checked."""
    inside = fake_disk.copy(disk, tmp_path / "inside.raw")
    with inside.open("r+b") as file:
        file.seek(fake_disk.ROOT_AT)
        file.write(bytes(1 << 17))
        file.seek(fake_disk.ROOT_AT + at)
        file.write(data)
    found = look(inside, 1, 2)
    error = refused(found, 1, 2, builds=False)
    assert error.name == name and f"cannot read {words}" in error.message and "what may be its root" in error.message


def test_volume_groups_on_several_disks_and_of_other_kinds_are_named(tmp_path: Path) -> None:
    path = unpack(ROOTS / "lvm.disk.zst", tmp_path / "lvm.raw")
    found = look(path, 1, 2)
    assert "linux-root" not in found.faults and found.closed == ()
    with open_disk(path, "raw") as opened:
        second = opened.partitions[2].start
    with path.open("r+b") as file:
        file.seek(second)
        file.write(bytes(4096))
    error = refused(look(path, 1, 2), 1, 2)
    assert error.name == "source-lvm-incomplete" and "other disks" in error.message
    thin = SourceDisk({"linux-root": "no root"}, direct=False, agent=None, cloud_init=None, closed=("lvm-thin",))
    assert refused(thin, 1).name == "source-lvm-kind" and "lvconvert" in str(refused(thin, 1).hint)


def test_what_is_waived_or_started_by_goldsmith_itself_is_no_reason() -> None:
    faults = {"boot-bios": "the first sector has no boot code"}
    plain = SourceDisk(faults, direct=False, agent=True, cloud_init=True)
    assert judge_source(plain, "x", generations=(1, 2), waived=("boot-bios",), builds=True) == []
    direct = SourceDisk(faults, direct=True, agent=True, cloud_init=False)
    assert len(judge_source(direct, "x", generations=(1, 2), waived=(), builds=True)) == 1
    assert judge_source(GOOD, "x", generations=(1, 2), waived=(), builds=True) == []
    assert "cloud-init" in refused(SourceDisk({}, direct=False, agent=True, cloud_init=False), 1).message


@pytest.mark.parametrize(
    ("size", "wanted", "name"),
    [(2041 * GIB, None, "vhd-too-large"), (10 * GIB, 8 * GIB, "disk-smaller-than-source")],
)
def test_sizes_are_judged_before_a_byte_is_copied(size: int, wanted: int | None, name: str) -> None:
    with pytest.raises(DiskError) as caught:
        judge_size("x.vhd", size, wanted)
    assert caught.value.name == name
    assert caught.value.hint
    judge_size("x.vhd", 2040 * GIB, None)
    judge_size("x.vhd", 8 * GIB, 8 * GIB)
