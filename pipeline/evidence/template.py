"""Files beside a master from which machines are started: templates for Azure, and a libvirt domain.

Both follow from the manifest and from where the master lies, so that an import can write them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lxml import etree

from pipeline.base.disk_format import QCOW2
from pipeline.cache.layers import Image
from pipeline.evidence import arm_template
from pipeline.gallery import disks_of
from pipeline.gallery.manifest import format_of_disk, manifest_of
from pipeline.hypervisor.domain import Spec, attached, domain_xml

TEMPLATE, UNMANAGED, DOMAIN = "template.json", "template-vhd.json", "domain.xml"
#: Where the domain looks for the clone's disk, log and UEFI variables, unless its user writes other paths.
CLONES = Path("/var/lib/libvirt/images")


def write_templates(folder: Path) -> None:
    """Write the templates of the version in `folder`. They are the same wherever the version lies."""
    manifest = manifest_of(folder)
    _write(folder / TEMPLATE, arm_template.as_text(arm_template.managed_template(manifest)))
    _write(folder / UNMANAGED, arm_template.as_text(arm_template.unmanaged_template(manifest)))


def write_domain(folder: Path, final: Path) -> None:
    """Write the domain of the version in `folder`, which will be `final`."""
    _write(folder / DOMAIN, domain(manifest_of(folder), final))


def _write(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o444)


def domain(manifest: Mapping[str, Any], folder: Path) -> str:
    """A libvirt domain of a clone, and how to make the clone's disks. Its user adds a network and a seed.

    `folder` is where the master's disks lie.
    """
    name = f"{manifest['name']}-clone"
    disks = disks_of(manifest)
    os_disk = next(iter(disks))
    clones = {
        file: Image(
            CLONES / f"{name}{'' if file == os_disk else '-' + Path(file).stem}.qcow2",
            QCOW2,
            backing=Image(folder / file, format_of_disk(disk), size=int(disk["virtual_size"])),
        )
        for file, disk in disks.items()
    }
    data = tuple((int(disks[file]["lun"]), clone) for file, clone in clones.items() if file != os_disk)
    efi = 2 in manifest["generations"]
    spec = Spec(
        name=name,
        run=str(manifest["run"]),
        role="clone",
        kvm=manifest["accelerator"] == "kvm",
        cpus=int(manifest["machine"]["cpus"]),
        memory=int(manifest["machine"]["memory"]),
        disks=attached(replace(clones[os_disk], data=data), "scsi"),
        serial_log=CLONES / f"{name}.log",
        firmware="efi" if efi else "bios",
        machine="q35" if efi else "pc",
    )
    root = etree.fromstring(domain_xml(spec))
    how = etree.Element("description")
    made = "  ".join(
        f"qemu-img create -f qcow2 -F {format_of_disk(disks[file]).driver} -b {folder / file} {clone.path}"
        for file, clone in clones.items()
    )
    how.text = (
        f"A clone of {manifest['name']} {manifest['version']}, by hand. The master is only read; the clone's "
        f"{'disks' if data else 'disk'}: {made}  Then: virsh create {DOMAIN}  "
        "A generalized image must be provisioned: add a network card, and a medium for NoCloud or Azure."
    )
    for metadata in root.findall("metadata"):
        root.remove(metadata)  # it would be swept with the build's own guests
    for driver in root.findall("devices/disk/driver"):
        driver.attrib.pop("cache")  # the clone's disk is to outlive its host's crash
    for label in root.findall("devices/disk/source/seclabel"):
        # libvirt gives the clone's disk to its qemu, but never the master, which is below
        source = label.getparent()
        assert source is not None
        source.remove(label)
    root.insert(1, how)
    etree.indent(root)
    return etree.tostring(root, encoding="unicode", pretty_print=True)
