"""The resource disk of a clone: made as Azure hands it over, named in the clone alone, and expected to be mounted."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
import yaml

from pipeline.instances.resource_disk import LABEL, SERIAL, START, WARNING
from pipeline.prove.result import CloneResult
from pipeline.systems.linux import resource_disk
from pipeline.systems.linux.resource_disk import CHECK, SIZE, create_resource_disk
from tests.tools import skip_without


def test_the_disk_has_one_ntfs_with_azures_label_and_warning(tmp_path: Path) -> None:
    skip_without("mkntfs")
    image = create_resource_disk(tmp_path / "disk.raw")
    create_resource_disk(tmp_path / "disk.raw")  # as for a second clone of this name
    assert [path.name for path in tmp_path.iterdir()] == ["disk.raw"]
    data = image.path.read_bytes()
    assert len(data) == SIZE
    kind, first, count = data[450], *struct.unpack_from("<II", data, 454)
    assert (kind, first * 512, (first + count) * 512) == (0x07, START, SIZE)
    part = tmp_path / "part"
    part.write_bytes(data[START:])
    # ntfscp's counterpart reads the file back
    read = subprocess.run(["ntfscat", "-f", part, WARNING], capture_output=True, text=True, check=True)
    assert "SUBJECT TO LOSS" in read.stdout
    label = subprocess.run(["ntfslabel", "-f", part], capture_output=True, text=True, check=True)
    assert label.stdout.strip() == LABEL


def test_the_name_is_written_into_the_clone_before_cloud_init_sets_up_disks() -> None:
    data = yaml.safe_load("#cloud-config\n" + resource_disk.custom_data())
    assert set(data) == {"bootcmd", "disk_setup", "fs_setup"}
    ((shell, option, script),) = data["bootcmd"]
    assert (shell, option) == ("sh", "-c")
    rule = script.split("<<'END'\n")[1].split("END\n")[0].replace("\\\n", " ")
    assert [line.rpartition("SYMLINK+=")[2] for line in rule.splitlines()] == [
        '"disk/cloud/azure_resource"',
        '"disk/cloud/azure_resource-part%n"',
    ]
    assert rule.count(f'ENV{{ID_SERIAL}}=="*{SERIAL}"') == 2


@pytest.mark.parametrize(
    ("seen", "message", "good"),
    [
        ({"cloud-init": "status: done", "resource-disk": "/dev/sdb1 /mnt ext4"}, "ext4 on /mnt", True),
        ({"cloud-init": "status: done", "resource-disk": "/dev/sdb1 "}, "/dev/sdb1 is not mounted", False),
        ({"cloud-init": "status: done", "resource-disk": " "}, "the clone gave it no name", False),
        ({}, "not tested: without cloud-init, waagent finds it on Hyper-V's bus alone", True),
    ],
)
def test_the_clone_must_have_mounted_it(seen: dict[str, str], message: str, good: bool) -> None:
    result = CloneResult("gen1-two-cards")
    resource_disk.judge_resource_disk(result, seen)
    assert result.checks[CHECK] == message
    assert result.failures == ([] if good else [f"{CHECK}: {message}"])
