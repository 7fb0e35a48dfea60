"""What a machine refuses when a data disk is plugged or unplugged; tests with guests see the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import libvirt
import pytest
from lxml import etree

from pipeline.base.disk_format import QCOW2, VHD
from pipeline.base.errors import BuildError, UsageError
from pipeline.cache.layers import Image
from pipeline.hypervisor import hotplug
from pipeline.hypervisor.domain import Disk, disk_xml, free_target
from tests.fakes.libvirt_host import open_host


class Stubborn:
    """A machine that does not give its disk up, as libvirt shows it."""

    def __init__(self, path: Path) -> None:
        self.detached: list[int] = []
        self._xml = f"<domain><devices><disk device='disk'><source file='{path}'/></disk></devices></domain>"

    def XMLDesc(self, _flags: int) -> str:
        return self._xml

    def detachDeviceFlags(self, _xml: str, flags: int) -> None:
        self.detached.append(flags)


def test_a_machine_that_keeps_its_disk_is_named(tmp_path: Path) -> None:
    domain: Any = Stubborn(tmp_path / "disk.qcow2")
    with pytest.raises(BuildError) as error:
        hotplug.unplug(domain, tmp_path / "disk.qcow2", "data1", deadline=0)
    assert error.value.name == "disk-not-detached" and "data1" in error.value.message
    assert domain.detached == [libvirt.VIR_DOMAIN_AFFECT_CONFIG, libvirt.VIR_DOMAIN_AFFECT_LIVE]


def test_a_disk_that_is_not_there_is_not_unplugged(tmp_path: Path) -> None:
    domain: Any = Stubborn(tmp_path / "other.qcow2")
    hotplug.unplug(domain, tmp_path / "disk.qcow2", "data1", deadline=0)
    assert domain.detached == []


def test_a_machine_of_an_older_goldsmith_has_no_controller(tmp_path: Path) -> None:
    """libvirt's test driver has such a machine."""
    connection = open_host()
    domain = connection.raw.lookupByName("test")
    with pytest.raises(UsageError) as error:
        hotplug.plug(connection, domain, Disk(Image(tmp_path / "d.qcow2", QCOW2), "scsi", lun=0), "data1")
    assert error.value.name == "disk-no-controller" and "goldsmith vm stop" in (error.value.hint or "")


def test_the_xml_of_a_plugged_disk(tmp_path: Path) -> None:
    disk = Disk(Image(tmp_path / "d.vhd", VHD, size=1 << 20), "scsi", lun=63, cache="directsync")
    element = etree.fromstring(disk_xml(disk, free_target("sd", {"sda", "sdb", "sdd"})).encode())
    assert element.find("target").attrib == {"dev": "sdc", "bus": "scsi"}
    assert dict(element.find("driver").attrib)["cache"] == "directsync"
    assert element.find("driver").get("type") == "raw"  # a slice of it: the footer is no data
    assert dict(element.find("address").attrib) == {
        "type": "drive",
        "controller": "1",
        "bus": "0",
        "target": "0",
        "unit": "63",
    }
