"""VMs from an ARM template: what `goldsmith vm create --template` makes of the template's resources on this host."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pipeline.base.errors import UsageError
from pipeline.definition.units import LARGEST_DISK
from pipeline.evidence.arm_template import CARD, MACHINE
from pipeline.gallery import Gallery, Version
from pipeline.instances.disks import CACHE_MODES
from pipeline.instances.sizes import find_size
from pipeline.operations.arm_deployment import Deployment, Resource
from pipeline.operations.arm_expressions import bad_value
from pipeline.operations.create import Wishes, choose_master

#: Resources of a network, whose part the fabric of this host plays.
_PLAYED = (
    "Microsoft.Network/virtualNetworks",
    "Microsoft.Network/networkSecurityGroups",
    "Microsoft.Network/publicIPAddresses",
)
_MANAGED_ID = re.compile(r".*/providers/Microsoft\.Compute/images/(?P<name>[^/]+)", re.IGNORECASE)
_IMAGE_ID = re.compile(r".*/galleries/[^/]+/images/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?", re.IGNORECASE)
_GENERATIONS = {"-gen1": 1, "-gen2": 2}


@dataclass(frozen=True)
class DeployedMachine:
    """A VM of a template: the wishes that create it. `notes` are what this host does in another way."""

    resource: Resource
    wishes: Wishes
    cards: tuple[str, ...]
    notes: tuple[str, ...]


def plan_machines(gallery: Gallery, deployment: Deployment) -> list[DeployedMachine]:
    """The VMs of a template. Raises UsageError (template-resource, template-value, template-image, size-unknown),
    NotFound (gallery-unknown): then nothing was made.
    """
    resources = deployment.resources()
    for each in resources:
        if each.kind not in (MACHINE, CARD, *_PLAYED):
            raise UsageError(
                f"goldsmith does not deploy resources of the type {each.kind}",
                name="template-resource",
                hint=f"remove it; known types are {', '.join((MACHINE, CARD, *_PLAYED))}",
            )
    machines = [each for each in resources if each.kind == MACHINE]
    if not machines:
        raise UsageError(
            "the template has no VM", name="template-resource", hint=f"add a resource of the type {MACHINE}"
        )
    return [plan_machine(gallery, deployment.metadata, each) for each in machines]


def plan_machine(gallery: Gallery, metadata: Mapping[str, Any], machine: Resource) -> DeployedMachine:
    """One VM, from a template or from a request of its own. `metadata` is the template's. Raises as above."""
    properties = machine.properties
    profile, storage = _part(properties, "osProfile"), _part(properties, "storageProfile")
    if profile.get("computerName", machine.name) != machine.name:
        raise bad_value(f"computerName of {machine.name} is another name", "a VM of goldsmith has its host name")
    version, generation = _image(gallery, metadata, storage)
    _need_same_disks(version, storage)
    notes = []
    if profile.get("adminPassword"):
        notes.append("adminPassword is not used: a Linux gets the key, a Windows a random password")
    cards = _part(properties, "networkProfile").get("networkInterfaces") or []
    if not isinstance(cards, list):
        raise bad_value("networkInterfaces is not a list")
    wishes = Wishes(
        name=machine.name,
        image=f"{version.name}@{version.version}",
        user=str(profile.get("adminUsername") or "azureuser"),
        public_key=_key(_part(profile, "linuxConfiguration")),
        size=_size(properties),
        custom_data=_decoded(profile.get("customData"), "customData"),
        user_data=_decoded(properties.get("userData"), "userData"),
        generation=generation,
        secure=_secure(properties),
        os_caching=_caching(storage),
        os_disk_size=_os_disk_size(storage),
    )
    ids = tuple(str(each.get("id", "")) for each in cards if isinstance(each, Mapping))
    return DeployedMachine(machine, wishes, ids, tuple(notes))


def _part(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key) or {}
    if not isinstance(found, Mapping):
        raise bad_value(f"{key} is not an object")
    return found


def _size(properties: Mapping[str, Any]) -> Any:
    name = _part(properties, "hardwareProfile").get("vmSize")
    return find_size(str(name)) if name else None


def _caching(storage: Mapping[str, Any]) -> str:
    caching = _part(storage, "osDisk").get("caching", "ReadWrite")
    if caching not in CACHE_MODES:
        raise bad_value(f"{caching!r} is not a caching of the OS disk", f"write {', '.join(CACHE_MODES)}")
    return str(caching)


def _os_disk_size(storage: Mapping[str, Any]) -> int | None:
    """Bytes of the OS disk, which templates give in GiB; None where it is the image's."""
    size = _part(storage, "osDisk").get("diskSizeGB")
    if size is None:
        return None
    if isinstance(size, str) and re.fullmatch(r"[0-9]{1,6}", size, re.ASCII):
        size = int(size)
    if isinstance(size, bool) or not isinstance(size, int) or not 0 < size << 30 <= LARGEST_DISK:
        raise bad_value(
            f"{size!r} is not a size of the OS disk", f"osDisk.diskSizeGB: 1 to {LARGEST_DISK >> 30}, in GiB"
        )
    return size << 30


def _secure(properties: Mapping[str, Any]) -> bool:
    return bool(_part(_part(properties, "securityProfile"), "uefiSettings").get("secureBootEnabled", False))


def _key(settings: Mapping[str, Any]) -> str:
    keys = _part(settings, "ssh").get("publicKeys") or []
    if not isinstance(keys, list):
        raise bad_value("ssh.publicKeys is not a list")
    if not keys:
        return ""
    data = keys[0].get("keyData") if len(keys) == 1 and isinstance(keys[0], Mapping) else None
    if not isinstance(data, str):
        raise bad_value("ssh.publicKeys needs one key with keyData", "give one public key")
    return data.strip()


def _decoded(value: object, what: str) -> bytes:
    if not value:
        return b""
    try:
        return base64.b64decode(str(value), validate=True)
    except (binascii.Error, ValueError):
        raise bad_value(f"{what} is not base64", "encode it: base64 -w0 FILE") from None


# ---- the image -----------------------------------------------------------------------------------------------------


def _image(gallery: Gallery, metadata: Mapping[str, Any], storage: Mapping[str, Any]) -> tuple[Version, int | None]:
    """The master that a storage profile names, and the generation if it names one."""
    reference = _part(storage, "imageReference").get("id")
    if isinstance(reference, str) and reference:
        return _by_id(gallery, reference)
    uri = _part(_part(storage, "osDisk"), "image").get("uri")
    if isinstance(uri, str) and uri:
        return _by_uri(gallery, metadata, uri), None
    raise _no_image("the storage profile names no image", "imageReference.id, or osDisk.image.uri")


def _by_id(gallery: Gallery, reference: str) -> tuple[Version, int | None]:
    """`.../galleries/GALLERY/images/NAME-genN[/versions/VERSION]`, or `.../images/NAME` for the golden version."""
    managed = _MANAGED_ID.fullmatch(reference)
    if managed is not None:
        return choose_master(gallery, managed["name"]), None
    found = _IMAGE_ID.fullmatch(reference)
    if found is None:
        raise _no_image(f"{reference} is not the id of an image version", "galleries/G/images/NAME-gen2/versions/V")
    name, number = found["name"], found["version"]
    generation = next((value for end, value in _GENERATIONS.items() if name.endswith(end)), None)
    image = name if gallery.find(name) is not None or generation is None else name[: -len("-gen1")]
    which = image if number is None or number.lower() == "latest" else f"{image}@{number}"
    return choose_master(gallery, which), generation if image != name else None


def find_master(gallery: Gallery, reference: str) -> Version:
    """The master of the id of an image or of an image version. Raises UsageError (template-image), NotFound."""
    return _by_id(gallery, reference)[0]


def _by_uri(gallery: Gallery, metadata: Mapping[str, Any], uri: str) -> Version:
    """The OS disk's VHD of the version that the template was written for."""
    name, number = metadata.get("name"), metadata.get("version")
    if not isinstance(name, str) or not isinstance(number, str):
        raise _no_image(
            "the template does not say which version its image URI is",
            "deploy the template-vhd.json of a version in this gallery",
        )
    version = choose_master(gallery, f"{name}@{number}")
    if PurePosixPath(uri.partition("?")[0]).name != version.disk.name:
        raise _no_image(f"{uri} is not the OS disk of {name} {number}", f"give the parameter as {version.disk.name}")
    return version


def _no_image(why: str, hint: str) -> UsageError:
    return UsageError(why, name="template-image", hint=hint)


def _need_same_disks(version: Version, storage: Mapping[str, Any]) -> None:
    """A VM gets the data disks of its image. Raises UsageError (template-disk) for any other."""
    rows = storage.get("dataDisks") or []
    known = {disk.lun for disk in version.data_disks}
    for row in rows if isinstance(rows, list) else [rows]:
        option = row.get("createOption") if isinstance(row, Mapping) else None
        lun = row.get("lun") if isinstance(row, Mapping) else None
        if option != "FromImage" or not isinstance(lun, int) or lun not in known:
            luns = ", ".join(map(str, sorted(known))) or "none"
            raise UsageError(
                f"the data disk at LUN {lun} with createOption {option} is not a disk of {version.name} "
                f"{version.version} (its LUNs: {luns})",
                name="template-disk",
                hint="remove it from the template, and attach a disk after the deployment",
            )
