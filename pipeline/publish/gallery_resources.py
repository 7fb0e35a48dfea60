"""Resources of an Azure compute gallery, in the words of its REST interface: image definitions and versions.

A definition has one generation, so a master of two generations has two definitions with the same disk. What a
definition promises follows from the checks that the master has passed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.publish.targets import ImageGallery

#: Tags of resources, by which goldsmith knows its own.
IMAGE, VERSION, TREE, STATE = "goldsmith_image", "goldsmith_version", "goldsmith_tree", "goldsmith_state"
#: What a definition cannot change once it exists.
FIXED = ("osType", "osState", "hyperVGeneration", "architecture", "identifier")
#: A feature, the generation that it needs (None: any), and the checks that prove it.
_FEATURES: tuple[tuple[str, str, int | None, tuple[str, ...]], ...] = (
    # the other order of the two cannot be deployed twice
    ("DiskControllerTypes", "SCSI,NVMe", 2, ("initramfs-nvme", "nvme-names")),
    ("IsAcceleratedNetworkSupported", "True", None, ("network-sriov",)),
    ("SecurityType", "TrustedLaunchSupported", 2, ("boot-efi-signed",)),
)


def definition_name(image: str, generation: int) -> str:
    return f"{image}-gen{generation}"


def features(manifest: Mapping[str, Any], generation: int) -> list[dict[str, str]]:
    """What the master's checks have proven of a generation; a check that is missing proves nothing."""
    passed = {check["id"] for check in manifest["checks"] if check["status"] == "pass"}
    return [
        {"name": name, "value": value}
        for name, value, needs, checks in _FEATURES
        if needs in (None, generation) and passed.issuperset(checks)
    ]


def definition(target: ImageGallery, manifest: Mapping[str, Any], generation: int) -> dict[str, Any]:
    """An image definition of one generation."""
    image = manifest["name"]
    properties: dict[str, Any] = {
        "description": manifest.get("summary") or image,
        "osType": str(manifest.get("os", "linux")).capitalize(),
        "osState": "Generalized",
        "hyperVGeneration": f"V{generation}",
        "architecture": "x64",
        "identifier": {"publisher": target.publisher, "offer": image, "sku": f"gen{generation}"},
    }
    if found := features(manifest, generation):
        properties["features"] = found
    return {"location": target.place.location, "tags": {IMAGE: image}, "properties": properties}


def publishing(
    target: ImageGallery, *, candidate: bool, keep_days: int | None, now: datetime | None = None
) -> dict[str, Any]:
    """Where a version is, and who gets it without naming it. `keep_days` is the definition's `keep:`."""
    profile: dict[str, Any] = {
        "targetRegions": [{"name": region, "regionalReplicaCount": 1} for region in target.regions],
        "excludeFromLatest": candidate,
    }
    if keep_days is not None:
        end = (now or datetime.now(UTC)) + timedelta(days=keep_days)
        profile["endOfLifeDate"] = end.strftime("%Y-%m-%dT%H:%M:%SZ")
    return profile


def version(
    target: ImageGallery, manifest: Mapping[str, Any], tree: str, urls: Sequence[tuple[int | None, str]], profile: Any
) -> dict[str, Any]:
    """An image version. `urls` has the LUN and the page blob's URL of each disk; the OS disk has no LUN."""

    def source(url: str) -> dict[str, Any]:
        return {"source": {"storageAccountId": target.storage_account, "uri": url}}

    os_disk = next(url for lun, url in urls if lun is None)
    data = [{"lun": lun, "hostCaching": "None", **source(url)} for lun, url in urls if lun is not None]
    storage = {"osDiskImage": {"hostCaching": "ReadWrite", **source(os_disk)}}
    return {
        "location": target.place.location,
        "tags": {IMAGE: manifest["name"], VERSION: manifest["version"], TREE: tree},
        "properties": {
            "publishingProfile": profile,
            "storageProfile": {**storage, **({"dataDiskImages": data} if data else {})},
            "safetyProfile": {"allowDeletionOfReplicatedLocations": True},
        },
    }
