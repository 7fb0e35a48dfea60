"""Data disks: built, filled by steps, captured, inherited, and attached to the clones that prove them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.harness import Lab

MIB = 1 << 20

PARENT = """\
goldsmith: 1
summary: with two data disks
os: linux
source: {master: debian-12@golden}
machine: {cpus: 1}
steps:
  - {script: scripts/fill.sh, network: none}
  - {script: scripts/more.sh, network: none}
data_disks:
  - {lun: 0, size: 64 MiB, caching: ReadOnly, filesystem: ext4, label: data}
  - {lun: 9, size: 32 MiB, caching: None}
prove: [gen1]
expect:
  - command: test "$(cat /srv/data/first /srv/data/second)" = "firstsecond"
"""
CHILD = """\
goldsmith: 1
summary: one more
os: linux
source: {master: parent@golden}
machine: {cpus: 1}
steps:
  - {script: scripts/child.sh, network: none}
data_disks:
  - {lun: 2, size: 48 MiB, caching: ReadWrite, filesystem: ext4, label: logs}
prove: [gen2-nocloud]
expect:
  - command: test "$(cat /srv/data/first /srv/data/second)" = "firstsecond"
"""
FILL = """\
#!/bin/sh
set -e
mkdir -p /srv/data
echo 'LABEL=data /srv/data ext4 defaults,nofail 0 2' >>/etc/fstab
mount /srv/data
printf first >/srv/data/first
head -c 8M /dev/urandom >/srv/data/secret
rm /srv/data/secret
"""
MORE = "#!/bin/sh\nset -e\nmountpoint /srv/data\nprintf second >/srv/data/second\n"


@pytest.fixture(scope="module")
def parent(lab: Lab) -> Lab:
    lab.write("images/parent.yaml", PARENT)
    lab.write("images/child.yaml", CHILD)
    lab.write("scripts/fill.sh", FILL)
    lab.write("scripts/more.sh", MORE)
    lab.write("scripts/child.sh", "#!/bin/sh\nset -e\ntest -e /dev/disk/by-label/logs\n")
    done = lab.run("build", "parent")
    assert done.returncode == 0, done.stdout + done.stderr
    return lab


def test_two_data_disks_are_captured_proven_and_in_the_template(parent: Lab) -> None:
    manifest = parent.manifest("parent")
    result = [(item["lun"], item["caching"], item["virtual_size"], item["label"]) for item in manifest["data_disks"]]
    assert result == [(0, "ReadOnly", 64 * MIB, "data"), (9, "None", 32 * MIB, None)]
    checks = {check["id"]: check["status"] for check in manifest["checks"]}
    assert (checks["data-disk-0"], checks["data-disk-9"]) == ("pass", "pass")
    # on AHCI too (prove: [foreign]), by hand: it takes an emulated clone two minutes more
    seen = manifest["prove"]["gen1"]["checks"]
    assert (seen["data disk LUN 0"], seen["data disk LUN 9"]) == ("64 MiB, ext4 data", "32 MiB, blank")
    folder = Path(parent.master("parent")["path"]).parent
    template = json.loads((folder / "template.json").read_text())["metadata"]
    disks = template["storageProfile"]["dataDisks"]
    assert [(disk["lun"], disk["caching"], disk["image"]["uri"]) for disk in disks] == [
        (0, "ReadOnly", "data-0.vhd"),
        (9, "None", "data-9.vhd"),
    ]
    for disk in disks:
        # a second reader agrees on the format and the size
        path = folder / disk["image"]["uri"]
        shown = json.loads(subprocess.check_output(["qemu-img", "info", "-f", "vpc", "--output=json", path]))
        assert shown["virtual-size"] == disk["sizeInBytes"]
    # what a step deleted does not ship
    assert (folder / "data-0.vhd").stat().st_blocks * 512 < 8 * MIB
    assert parent.run("gallery", "verify", "parent").returncode == 0
    assert parent.leftovers() == []


def test_a_child_has_its_parents_data_disks_and_its_own(parent: Lab) -> None:
    done = parent.run("build", "child")
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = parent.manifest("child")
    assert [(item["lun"], item["label"]) for item in manifest["data_disks"]] == [(0, "data"), (2, "logs"), (9, None)]
    assert parent.leftovers() == []


def test_another_disk_at_a_parents_lun_is_refused(parent: Lab) -> None:
    parent.write("images/other.yaml", CHILD.replace("lun: 2", "lun: 0"))
    done = parent.run("build", "other")
    assert done.returncode == 2
    assert "LUN 0 is another disk in parent@golden" in done.stderr
