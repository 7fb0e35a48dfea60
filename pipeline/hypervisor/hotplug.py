"""Data disks of a running machine: read, plugged and unplugged."""

from __future__ import annotations

import time
from pathlib import Path

import libvirt
from lxml import etree

from pipeline.base.errors import BuildError, UsageError
from pipeline.hypervisor.connection import Connection, translated
from pipeline.hypervisor.domain import DATA_CONTROLLER, Disk, disk_xml, free_target, qemu_image_files
from pipeline.hypervisor.file_access import need_access

#: Seconds that a machine may take to give a disk up: a virtio-scsi disk goes at once, whatever its guest does.
UNPLUG = 30.0
#: Seconds between two looks.
LOOK = 0.2


def _tree(domain: libvirt.virDomain) -> etree._Element:
    with translated("reading a machine's disks"):
        return etree.fromstring(domain.XMLDesc(0).encode())


def read_disks(domain: libvirt.virDomain) -> set[Path]:
    """The files of the disks that a running machine has. Raises BuildError (libvirt-failed)."""
    sources = _tree(domain).iterfind("devices/disk[@device='disk']/source")
    return {Path(file) for source in sources if (file := source.get("file"))}


def plug(connection: Connection, domain: libvirt.virDomain, disk: Disk, name: str) -> None:
    """Plug a data disk into a running machine, and into its definition.

    Raises UsageError (disk-no-controller) for a machine that was switched on without a controller for data disks,
    BuildError (libvirt-failed), HostError (qemu-access-denied).
    """
    tree = _tree(domain)
    if tree.find(f"devices/controller[@type='scsi'][@index='{DATA_CONTROLLER}']") is None:
        raise UsageError(
            f"this machine was switched on without a controller for data disks: {name} cannot be plugged now",
            name="disk-no-controller",
            hint="stop the VM (goldsmith vm stop), attach the disk, and start it",
        )
    need_access([], qemu_image_files(disk), connection.qemu_owner)
    taken = {target.get("dev", "") for target in tree.iterfind("devices/disk/target")}
    text = disk_xml(disk, free_target("sd", taken))
    with translated(f"plugging the disk {name}"):
        domain.attachDeviceFlags(text, libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG)


def unplug(domain: libvirt.virDomain, path: Path, name: str, *, deadline: float = UNPLUG) -> None:
    """Take a data disk out of a running machine and out of its definition; one that is not there is fine.

    Raises BuildError (disk-not-detached) if the machine still has it after `deadline` s, and (libvirt-failed).
    """
    until = time.monotonic() + deadline
    for flag, flags in (
        (libvirt.VIR_DOMAIN_AFFECT_CONFIG, libvirt.VIR_DOMAIN_XML_INACTIVE),
        (libvirt.VIR_DOMAIN_AFFECT_LIVE, 0),
    ):
        with translated(f"unplugging the disk {name}"):
            root = etree.fromstring(domain.XMLDesc(flags).encode())
            element = _find(root, path)
            if element is not None:
                domain.detachDeviceFlags(etree.tostring(element, encoding="unicode"), flag)
    while path in read_disks(domain):
        if time.monotonic() >= until:
            raise BuildError(
                f"the machine still uses the disk {name} {deadline:.0f} s after it was unplugged",
                name="disk-not-detached",
                hint="unmount it inside, or stop the VM and try again",
            )
        time.sleep(LOOK)


def _find(root: etree._Element, path: Path) -> etree._Element | None:
    for element in root.iterfind("devices/disk[@device='disk']"):
        source = element.find("source")
        if source is not None and source.get("file") == str(path):
            return element
    return None
