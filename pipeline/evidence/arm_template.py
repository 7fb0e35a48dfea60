"""The ARM templates of a version: VMs from an image version in a gallery, and VMs with VHDs in a storage account.

Both follow from the manifest alone, so that they are the same wherever the version lies. The form with VHDs is what
the captures of the older Azure wrote. Azure has retired it, `goldsmith vm create --template` still deploys it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipeline.gallery import data_file, disk_file
from pipeline.gallery.manifest import format_of_disk
from pipeline.instances.sizes import smallest_size
from pipeline.systems import registry

SCHEMA = "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"
#: The API versions that the resources follow. The one of VMs is the last before unmanaged disks were removed.
COMPUTE_API, NETWORK_API = "2024-07-01", "2024-05-01"
MACHINE, CARD = "Microsoft.Compute/virtualMachines", "Microsoft.Network/networkInterfaces"
IMAGE_VERSION = "Microsoft.Compute/galleries/images/versions"
#: https://learn.microsoft.com/azure/virtual-machines/unmanaged-disks-deprecation
RETIRED = (
    "VMs with VHDs in a storage account (unmanaged disks). Azure has retired this form: use template.json there. "
    "Each VM needs a vhdContainerUri and vmName of its own, because its VHDs must not exist yet."
)
_MANAGED = "VMs from an image version in an Azure compute gallery, with managed disks."
_GIB = 1 << 30


def managed_template(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The template of VMs with managed disks; `metadata` describes the version and its disks."""
    name, generation = manifest["name"], max(manifest["generations"])
    parameters = {
        "galleryName": _text("The compute gallery."),
        "imageDefinition": _text("The image definition.", f"{name}-gen{generation}"),
        "imageVersion": _text("The image version.", manifest["version"]),
        "diskType": _text("The type of the managed disks.", "StandardSSD_LRS"),
    }
    ids = "parameters('galleryName'), parameters('imageDefinition'), parameters('imageVersion')"
    image = {"id": f"[resourceId('{IMAGE_VERSION}', {ids})]"}
    managed = {"managedDisk": {"storageAccountType": "[parameters('diskType')]"}}
    profile: dict[str, Any] = {
        "imageReference": image,
        "osDisk": {**_os_disk(manifest), **managed},
        "dataDisks": [{**_data_disk(disk), **managed} for disk in manifest.get("data_disks", ())],
    }
    return _template(manifest, parameters, profile, {"description": _MANAGED, **_described(manifest)})


def unmanaged_template(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The template of VMs with VHDs in a storage account. The defaults of the image URIs are relative to the file."""
    os_file = disk_file(format_of_disk(manifest["disk"]))
    parameters = {
        "vhdContainerUri": _text("The folder of a storage account in which the VHDs of the VM are made."),
        "osDiskImageUri": _text("The VHD of the OS disk of the image.", os_file),
    }
    profile: dict[str, Any] = {
        "osDisk": {
            **_os_disk(manifest),
            "image": {"uri": "[parameters('osDiskImageUri')]"},
            "vhd": _vhd("osDisk"),
        },
        "dataDisks": [],
    }
    for disk in manifest.get("data_disks", ()):
        lun = int(disk["lun"])
        parameter = f"dataDisk{lun}ImageUri"
        file = data_file(lun, format_of_disk(disk))
        parameters[parameter] = _text(f"The VHD of the data disk at LUN {lun} of the image.", file)
        image = {"uri": f"[parameters('{parameter}')]"}
        profile["dataDisks"].append({**_data_disk(disk), "image": image, "vhd": _vhd(f"dataDisk-{lun}")})
    described = {"goldsmith": 1, "name": manifest["name"], "version": manifest["version"]}
    return _template(manifest, parameters, profile, {"description": RETIRED, **described})


def as_text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=1) + "\n"


# ---- the parts -----------------------------------------------------------------------------------------------------


def _text(description: str, default: str | None = None, kind: str = "string") -> dict[str, Any]:
    """A parameter."""
    value = {} if default is None else {"defaultValue": default}
    return {"type": kind, **value, "metadata": {"description": description}}


def _os_disk(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "osType": _os_type(manifest),
        "name": "[concat(parameters('vmName'), '_OsDisk')]",
        "createOption": "FromImage",
        "caching": "ReadWrite",
    }


def _data_disk(disk: Mapping[str, Any]) -> dict[str, Any]:
    lun = int(disk["lun"])
    return {
        "lun": lun,
        "name": f"[concat(parameters('vmName'), '_DataDisk_{lun}')]",
        "createOption": "FromImage",
        "caching": disk["caching"],
    }


def _vhd(role: str) -> dict[str, str]:
    return {"uri": f"[concat(parameters('vhdContainerUri'), '/', parameters('vmName'), '-{role}.vhd')]"}


def _os_type(manifest: Mapping[str, Any]) -> str:
    return str(manifest["os"]).capitalize()


def _template(
    manifest: Mapping[str, Any],
    parameters: Mapping[str, Any],
    storage: Mapping[str, Any],
    metadata: Mapping[str, Any],
) -> dict[str, Any]:
    """A template with one VM and its network card."""
    by_password = registry.get(str(manifest["os"])).signs_in_by_password
    machine_of_image = manifest.get("machine") or {"cpus": 1, "memory": _GIB}
    size = smallest_size(machine_of_image["cpus"], machine_of_image["memory"])
    secret = (
        {"adminPassword": _text("The administrator's password.", kind="securestring")}
        if by_password
        else {"adminPublicKey": _text("The administrator's public SSH key.")}
    )
    machine = {
        "type": MACHINE,
        "apiVersion": COMPUTE_API,
        "name": "[parameters('vmName')]",
        "location": "[parameters('location')]",
        "dependsOn": [f"[resourceId('{CARD}', variables('cardName'))]"],
        "properties": {
            "hardwareProfile": {"vmSize": "[parameters('vmSize')]"},
            "osProfile": _os_profile(by_password),
            "storageProfile": storage,
            "networkProfile": {
                "networkInterfaces": [{"id": f"[resourceId('{CARD}', variables('cardName'))]"}],
            },
        },
    }
    address = "ipConfigurations[0].properties.privateIPAddress"
    return {
        "$schema": SCHEMA,
        "contentVersion": "1.0.0.0",
        "metadata": metadata,
        "parameters": {
            "vmName": _text("The VM's name, which is also its host name."),
            "location": _text("The region.", "[resourceGroup().location]"),
            "vmSize": _text("The size of the VM.", size.name or ""),
            "adminUsername": _text("The user that the guest creates.", "azureuser"),
            **secret,
            "subnetId": _text("The id of the subnet of the VM's network card."),
            **parameters,
        },
        "variables": {"cardName": "[concat(parameters('vmName'), '-nic')]"},
        "resources": [_card(), machine],
        "outputs": {
            "privateIPAddress": {
                "type": "string",
                "value": f"[reference(resourceId('{CARD}', variables('cardName'))).{address}]",
            }
        },
    }


def _card() -> dict[str, Any]:
    properties = {"privateIPAllocationMethod": "Dynamic", "subnet": {"id": "[parameters('subnetId')]"}}
    return {
        "type": CARD,
        "apiVersion": NETWORK_API,
        "name": "[variables('cardName')]",
        "location": "[parameters('location')]",
        "properties": {"ipConfigurations": [{"name": "ipconfig1", "properties": properties}]},
    }


def _os_profile(by_password: bool) -> dict[str, Any]:
    user = {"computerName": "[parameters('vmName')]", "adminUsername": "[parameters('adminUsername')]"}
    if by_password:
        return {**user, "adminPassword": "[parameters('adminPassword')]", "windowsConfiguration": {}}
    key = {
        "path": "[concat('/home/', parameters('adminUsername'), '/.ssh/authorized_keys')]",
        "keyData": "[parameters('adminPublicKey')]",
    }
    return {
        **user,
        "linuxConfiguration": {"disablePasswordAuthentication": True, "ssh": {"publicKeys": [key]}},
    }


def _described(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The version and its disks, for programs: sizes in bytes, URIs relative to the file."""
    disk = manifest["disk"]
    return {
        "goldsmith": 1,
        "name": manifest["name"],
        "version": manifest["version"],
        "hyperVGenerations": [f"V{number}" for number in manifest["generations"]],
        **_features(manifest),
        "storageProfile": {
            "osDisk": {
                "osType": _os_type(manifest),
                "osState": "Generalized",
                "createOption": "FromImage",
                "caching": "ReadWrite",
                "diskSizeGB": -(-int(disk["virtual_size"]) // _GIB),
                "sizeInBytes": disk["virtual_size"],
                "image": {"uri": disk_file(format_of_disk(disk))},
            },
            "dataDisks": [
                {
                    "lun": each["lun"],
                    "createOption": "FromImage",
                    "caching": each["caching"],
                    "diskSizeGB": -(-int(each["virtual_size"]) // _GIB),
                    "sizeInBytes": each["virtual_size"],
                    "image": {"uri": data_file(each["lun"], format_of_disk(each))},
                }
                for each in manifest.get("data_disks", ())
            ],
        },
        "created": manifest["created"],
        "summary": manifest["summary"],
        "run": manifest["run"],
        "state": manifest["state"],
        "suite": manifest["suite"],
        "agent": manifest["agent"],
        "sha256": disk["sha256"],
        "tree_sha256": disk["tree_sha256"],
        "firstBoot": manifest["first_boot"],
    }


def _features(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The features of an image definition that clones of this version have shown.

    An NVMe size refuses an image without DiskControllerTypes. SCSI stands first: the other order cannot be deployed
    twice (https://learn.microsoft.com/azure/virtual-machines/nvme-overview).
    """
    nvme = manifest["prove"].get("gen2-nvme")
    if nvme is None or nvme["failures"]:
        return {}
    return {"features": [{"name": "DiskControllerTypes", "value": "SCSI,NVMe"}]}
