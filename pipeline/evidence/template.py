"""What stands beside a master to start machines from: a template as Azure's captures had one, and a libvirt domain.

Both follow from the manifest and from where the master lies, so that an import can write them again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lxml import etree

from pipeline.base.disk_format import QCOW2
from pipeline.cache.layers import Image
from pipeline.gallery import data_file, disk_file, disks_of
from pipeline.gallery.manifest import format_of_disk, manifest_of
from pipeline.hypervisor.domain import Spec, attached, domain_xml

TEMPLATE, DOMAIN = "template.json", "domain.xml"
#: Where the domain looks for the clone's disk, log and UEFI variables, unless its user writes other paths.
CLONES = Path("/var/lib/libvirt/images")
GIB = 1 << 30


def write_template(folder: Path) -> None:
    """Write the capture template of the version in `folder`. It is the same wherever the version lies."""
    _write(folder / TEMPLATE, template(manifest_of(folder)))


def write_domain(folder: Path, final: Path) -> None:
    """Write the domain of the version in `folder`, which will be `final`."""
    _write(folder / DOMAIN, domain(manifest_of(folder), final))


def _write(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o444)


def template(manifest: Mapping[str, Any]) -> str:
    """The capture template: disks with caching and size in the words of Azure's storage profile, what was captured.

    Image URIs are relative to the template, so that the folder can be copied whole.
    """
    disk = manifest["disk"]
    document = {
        "goldsmith": 1,
        "name": manifest["name"],
        "version": manifest["version"],
        "hyperVGenerations": [f"V{number}" for number in manifest["generations"]],
        **_features(manifest),
        "storageProfile": {
            "osDisk": {
                "osType": str(manifest["os"]).capitalize(),
                "osState": "Generalized",
                "createOption": "FromImage",
                "caching": "ReadWrite",
                "diskSizeGB": -(-int(disk["virtual_size"]) // GIB),
                "sizeInBytes": disk["virtual_size"],
                "image": {"uri": disk_file(format_of_disk(disk))},
            },
            "dataDisks": [
                {
                    "lun": disk["lun"],
                    "createOption": "FromImage",
                    "caching": disk["caching"],
                    "diskSizeGB": -(-int(disk["virtual_size"]) // GIB),
                    "sizeInBytes": disk["virtual_size"],
                    "image": {"uri": data_file(disk["lun"], format_of_disk(disk))},
                }
                for disk in manifest.get("data_disks", ())
            ],
        },
        "metadata": {
            "created": manifest["created"],
            "summary": manifest["summary"],
            "run": manifest["run"],
            "state": manifest["state"],
            "suite": manifest["suite"],
            "agent": manifest["agent"],
            "sha256": disk["sha256"],
            "tree_sha256": disk["tree_sha256"],
            "firstBoot": manifest["first_boot"],
        },
    }
    return json.dumps(document, indent=1) + "\n"


def _features(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The features of an image definition that clones of this version have shown.

    An NVMe size refuses an image without DiskControllerTypes. SCSI stands first: the other order cannot be deployed
    twice (https://learn.microsoft.com/azure/virtual-machines/nvme-overview).
    """
    nvme = manifest["prove"].get("gen2-nvme")
    if nvme is None or nvme["failures"]:
        return {}
    return {"features": [{"name": "DiskControllerTypes", "value": "SCSI,NVMe"}]}


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
