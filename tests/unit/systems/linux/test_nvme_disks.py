"""NVMe disks: what the clone prints is judged, its rules are prepared, and a blank disk has a free LUN."""

from __future__ import annotations

import collections
import re
import subprocess
from pathlib import Path

import pytest

from pipeline.definition import DataDisk
from pipeline.prove.result import CloneResult
from pipeline.systems.debian.tree import DISK_NAMES, files
from pipeline.systems.linux import nvme_disks
from pipeline.systems.linux.nvme_disks import DISKS, NAMES, blank_disk, judge_nvme_disks, look_script

DATA = (DataDisk(0, 1 << 20), DataDisk(5, 1 << 20))
GOOD = {"root": "1", "os": "1", "lun0": "2", "lun5": "7"}


@pytest.mark.parametrize(
    ("change", "failure"),
    [
        ({}, None),
        ({"root": ""}, f"{DISKS}: the root file system is not on the OS disk"),
        ({"root": "2"}, f"{DISKS}: the root file system is not on the OS disk"),
        ({"os": ""}, f"{NAMES}: /dev/disk/azure/os is missing"),
        ({"lun5": "2"}, f"{NAMES}: /dev/disk/azure/data/by-lun/5 is namespace 2, not 7"),
    ],
)
def test_every_disk_has_its_name_of_azure(change: dict[str, str], failure: str | None) -> None:
    result = CloneResult("gen2-nvme")
    judge_nvme_disks(result, {**GOOD, **change}, DATA)
    assert result.failures == ([failure] if failure else [])


def test_a_name_that_is_not_there_is_missed() -> None:
    result = CloneResult("gen2-nvme")
    judge_nvme_disks(result, {"root": "1", "os": "1"}, DATA)
    missing = "/dev/disk/azure/data/by-lun/0 is missing; /dev/disk/azure/data/by-lun/5 is missing"
    assert result.failures == [f"{NAMES}: {missing}"]


@pytest.mark.parametrize(("luns", "free"), [((), 0), ((0, 1), 2), ((1, 2), 0), ((0, 2), 1)])
def test_a_blank_disk_has_the_first_free_lun(luns: tuple[int, ...], free: int) -> None:
    disk = blank_disk([DataDisk(lun, 1 << 20) for lun in luns])
    assert (disk.lun, disk.filesystem) == (free, None)


def test_rules_for_azures_controller_hold_for_the_one_that_stands_in(tmp_path: Path) -> None:
    rules = tmp_path / "etc/udev/rules.d/80-azure-disk.rules"
    rules.parent.mkdir(parents=True)
    rules.write_text('KERNEL=="nvme*", ENV{ID_MODEL}=="MSFT NVMe Accelerator v1.0", GOTO="x"\n')
    (tmp_path / "etc/hosts").write_text("127.0.0.1 MSFT NVMe Accelerator v1.0\n")
    script = look_script(5)
    script = re.sub(r"in /etc /run /usr/lib /lib;", f"in {tmp_path}/etc;", script)
    subprocess.run(["sh", "-s"], input=script[: script.index("udevadm")], text=True, check=True)
    assert rules.read_text() == 'KERNEL=="nvme*", ENV{ID_MODEL}=="QEMU NVMe Ctrl", GOTO="x"\n'
    assert "MSFT" in (tmp_path / "etc/hosts").read_text()


def test_the_base_of_debian_has_rules_for_the_model_that_is_stood_in_for() -> None:
    text = files(collections.defaultdict(str), ())[DISK_NAMES]
    assert f'ENV{{ID_MODEL}}=="{nvme_disks.AZURE_MODEL}"' in text
    labels = re.findall(r'^LABEL="(\w+)"', text, re.MULTILINE)
    assert set(re.findall(r'GOTO="(\w+)"', text)) == set(labels), "every jump has its label"
