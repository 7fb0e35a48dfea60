"""The gallery as the Resource Manager describes it: one compute gallery, and each golden version as an image."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from pipeline.base.errors import GoldsmithError
from pipeline.base.store import IMAGE_NAME
from pipeline.facade.errors import ArmError, not_found
from pipeline.facade.ids import GALLERIES, GROUP, IMAGES, LOCATION, MACHINES, name_of, resource_id
from pipeline.facade.machines import GALLERY, GIB, STORAGE_TYPE, current_state, find_machine
from pipeline.facade.power import refuse_capture
from pipeline.facade.routing import Answer, Request, Route, accepted
from pipeline.facade.session import Session
from pipeline.gallery import GOLDEN, Version
from pipeline.gallery.retention import withdrawn
from pipeline.gallery.versions import next_version

_BASE = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Compute"
_GALLERY = f"{_BASE}/galleries/{{gallery}}"
_DEFINITION = f"{_GALLERY}/images/{{image}}"
_NAME = re.compile(r"(?P<image>.+)-gen(?P<generation>[12])", re.ASCII)


# ---- the gallery ---------------------------------------------------------------------------------------------------


def _gallery(group: str, name: str) -> str:
    """The id of the gallery. Raises ArmError (404) for any other one."""
    if group.lower() != GROUP or name.lower() != GALLERY:
        raise not_found(f"the gallery {name[:80]!r} in {group[:80]!r}: this store is {GALLERY!r} in {GROUP!r}")
    return resource_id(GROUP, GALLERIES, GALLERY)


def _describe_gallery() -> dict[str, Any]:
    return {
        "id": resource_id(GROUP, GALLERIES, GALLERY),
        "name": GALLERY,
        "type": GALLERIES,
        "location": LOCATION,
        "tags": {},
        "properties": {
            "description": "The golden masters of this host",
            "identifier": {"uniqueName": f"goldsmith-{GALLERY}"},
            "provisioningState": "Succeeded",
        },
    }


def list_galleries(session: Session, request: Request) -> Answer:
    group = request.parts.get("group")
    if group is not None:
        session.find_group(group)
    return Answer(body={"value": [_describe_gallery()] if group is None or group.lower() == GROUP else []})


def get_gallery(_session: Session, request: Request) -> Answer:
    _gallery(request.parts["group"], request.parts["gallery"])
    return Answer(body=_describe_gallery())


# ---- definitions ---------------------------------------------------------------------------------------------------


def _newest(session: Session, image: str) -> Version | None:
    """The golden version of an image, or else its newest."""
    golden = session.fleet.gallery.find(image)
    if golden is not None:
        return golden
    versions = session.fleet.gallery.versions(image)
    return versions[-1] if versions else None


def _describe_definition(version: Version, generation: int) -> dict[str, Any]:
    machine = version.manifest.get("machine") or {}
    name = f"{version.name}-gen{generation}"
    properties: dict[str, Any] = {
        "osType": str(version.manifest.get("os", "linux")).capitalize(),
        "osState": "Generalized",
        "hyperVGeneration": f"V{generation}",
        "architecture": "x64",
        "identifier": {"publisher": "goldsmith", "offer": version.name, "sku": f"gen{generation}"},
        "provisioningState": "Succeeded",
    }
    if machine:
        properties["recommended"] = {
            "vCPUs": {"min": int(machine["cpus"])},
            "memory": {"min": -(-int(machine["memory"]) // GIB)},
        }
    if generation == 2:
        properties["features"] = [{"name": "SecurityType", "value": "TrustedLaunchSupported"}]
    return {
        "id": f"{resource_id(GROUP, GALLERIES, GALLERY)}/images/{name}",
        "name": name,
        "type": f"{GALLERIES}/images",
        "location": LOCATION,
        "tags": {},
        "properties": properties,
    }


def list_definitions(session: Session, request: Request) -> Answer:
    _gallery(request.parts["group"], request.parts["gallery"])
    rows = []
    for name in session.fleet.gallery.names():
        version = _newest(session, name)
        if version is not None:
            rows += [_describe_definition(version, int(each)) for each in sorted(version.manifest["generations"])]
    return Answer(body={"value": rows})


def _definition(session: Session, request: Request) -> tuple[Version, int]:
    """The newest version of the image of a definition, and the definition's generation. Raises ArmError (404)."""
    _gallery(request.parts["group"], request.parts["gallery"])
    name = request.parts["image"].lower()
    found = _NAME.fullmatch(name)
    version = (
        _newest(session, found["image"])
        if found is not None and found["image"] in session.fleet.gallery.names()
        else None
    )
    if found is None or version is None or int(found["generation"]) not in version.manifest["generations"]:
        raise not_found(f"the image definition {name[:80]!r}")
    return version, int(found["generation"])


def get_definition(session: Session, request: Request) -> Answer:
    return Answer(body=_describe_definition(*_definition(session, request)))


# ---- versions ------------------------------------------------------------------------------------------------------


def describe_version(session: Session, version: Version, generation: int) -> dict[str, Any]:
    """https://learn.microsoft.com/rest/api/compute/gallery-image-versions/get"""
    gone = version.version in withdrawn(session.fleet.gallery, version.name)
    size = -(-int(version.manifest["disk"]["virtual_size"]) // GIB)
    definition = f"{version.name}-gen{generation}"
    profile: dict[str, Any] = {"osDiskImage": {"sizeInGB": size, "hostCaching": "ReadWrite"}}
    if version.data_disks:
        profile["dataDiskImages"] = [
            {"lun": disk.lun, "sizeInGB": -(-disk.size // GIB), "hostCaching": str(disk.caching)}
            for disk in version.data_disks
        ]
    return {
        "id": f"{resource_id(GROUP, GALLERIES, GALLERY)}/images/{definition}/versions/{version.version}",
        "name": version.version,
        "type": f"{GALLERIES}/images/versions",
        "location": LOCATION,
        "tags": dict.fromkeys(version.channels, "true"),
        "properties": {
            "publishingProfile": {
                "publishedDate": version.manifest["created"],
                "excludeFromLatest": gone or GOLDEN not in version.channels,
                "replicaCount": 1,
                "storageAccountType": STORAGE_TYPE,
                "targetRegions": [{"name": LOCATION, "regionalReplicaCount": 1, "storageAccountType": STORAGE_TYPE}],
            },
            "storageProfile": profile,
            "safetyProfile": {"reportedForPolicyViolation": False, "allowDeletionOfReplicatedLocations": True},
            "provisioningState": "Succeeded",
        },
    }


def list_versions(session: Session, request: Request) -> Answer:
    newest, generation = _definition(session, request)
    rows = [
        describe_version(session, version, generation)
        for version in session.fleet.gallery.versions(newest.name)
        if generation in version.manifest["generations"]
    ]
    return Answer(body={"value": rows})


def get_version(session: Session, request: Request) -> Answer:
    newest, generation = _definition(session, request)
    wanted = request.parts["version"]
    name = newest.version if wanted.lower() == "latest" else wanted
    version = next((each for each in session.fleet.gallery.versions(newest.name) if each.version == name), None)
    if version is None or generation not in version.manifest["generations"]:
        raise not_found(f"the version {wanted[:80]!r} of {newest.name}")
    return Answer(body=describe_version(session, version, generation))


def put_version(session: Session, request: Request) -> Answer:
    """A capture of a generalized VM as a version of an image. The number must be the one that goldsmith gives next.

    Raises ArmError (400, 409, 501).
    """
    session.need_root()
    _gallery(request.parts["group"], request.parts["gallery"])
    definition, number = request.parts["image"].lower(), request.parts["version"]
    found = _NAME.fullmatch(definition)
    if found is None or not IMAGE_NAME.fullmatch(found["image"]):
        raise ArmError(400, "InvalidParameter", f"{definition[:80]!r} is not the name of an image and -gen1 or -gen2")
    source = request.body.part("properties").part("storageProfile").part("source")
    machine = source.text("virtualMachineId") or source.text("id")
    if f"/{MACHINES}/".lower() not in machine.lower():
        raise ArmError(501, "NotImplemented", "goldsmith makes versions of VMs alone; docs/az.md lists what it does")
    image, generation = found["image"], int(found["generation"])
    given = session.fleet.gallery.given_numbers(image)
    if number in given:
        raise ArmError(409, "Conflict", f"{image} {number} was made already, and versions are never changed")
    wanted = next_version(given, datetime.now(UTC).date())
    if number != wanted:
        raise ArmError(
            400, "InvalidParameter", f"versions are numbered by their day: the next one of {image} is {wanted}"
        )
    record, _ = find_machine(session, None, name_of(machine, MACHINES))
    session.fleet.refuse_busy(current_state(session, record)[0])
    refuse_capture(record)
    newest = _newest(session, image) if image in session.fleet.gallery.names() else None
    # the image's other definition keeps its latest version
    generations = sorted({generation, *(newest.manifest["generations"] if newest is not None else ())})
    name = f"{image}-gen{generation}"
    place = f"{resource_id(GROUP, GALLERIES, GALLERY)}/images/{name}/versions/{number}"
    arguments = {"name": record.name, "vm": record.id, "image": image, "generations": generations, "version": number}
    properties = {"provisioningState": "Creating", "storageProfile": {"source": dict(source.values)}}
    kind = f"{GALLERIES}/images/versions"
    body = {"id": place, "name": number, "type": kind, "location": LOCATION, "properties": properties}
    return accepted(request, session.tasks.begin("capture", place, arguments), body, status=201)


# ---- managed images ------------------------------------------------------------------------------------------------


def describe_image(version: Version, group: str = GROUP) -> dict[str, Any]:
    """The golden version of an image as a managed image: https://learn.microsoft.com/rest/api/compute/images/get"""
    row = {
        "osType": str(version.manifest.get("os", "linux")).capitalize(),
        "osState": "Generalized",
        "diskSizeGB": -(-int(version.manifest["disk"]["virtual_size"]) // GIB),
        "caching": "ReadWrite",
        "storageAccountType": STORAGE_TYPE,
    }
    data = [
        {
            "lun": disk.lun,
            "diskSizeGB": -(-disk.size // GIB),
            "caching": str(disk.caching),
            "storageAccountType": STORAGE_TYPE,
        }
        for disk in version.data_disks
    ]
    return {
        "id": resource_id(group, IMAGES, version.name),
        "name": version.name,
        "type": IMAGES,
        "location": LOCATION,
        "tags": {"version": version.version},
        "properties": {
            "storageProfile": {"osDisk": row, "dataDisks": data, "zoneResilient": False},
            "hyperVGeneration": f"V{max(version.manifest['generations'])}",
            "provisioningState": "Succeeded",
        },
    }


def list_images(session: Session, request: Request) -> Answer:
    group = request.parts.get("group")
    if group is not None:
        session.find_group(group)
    found = [session.fleet.gallery.find(name) for name in session.fleet.gallery.names()]
    rows = [(version, _image_group(session, version.name)) for version in found if version is not None]
    return Answer(
        body={
            "value": [
                describe_image(version, where)
                for version, where in rows
                if group is None or where.lower() == group.lower()
            ]
        }
    )


def _image_group(session: Session, name: str) -> str:
    """The group of a managed image: that of `az image create`, or the store's own."""
    return session.placement(f"image:{name}").group


def put_image(session: Session, request: Request) -> Answer:
    """A capture of a generalized VM. Raises ArmError (400, 409, 501)."""
    session.need_root()
    group, name = session.find_group(request.parts["group"])["name"], request.parts["image"]
    if not IMAGE_NAME.fullmatch(name):
        raise ArmError(
            400, "InvalidParameter", f"{name[:80]!r} cannot be the name of an image: use a-z, 0-9, . and -"
        )
    source = request.body.part("properties").part("sourceVirtualMachine").text("id")
    if not source:
        raise ArmError(501, "NotImplemented", "goldsmith makes images of VMs alone; docs/az.md lists what it does")
    record, _ = find_machine(session, None, name_of(source, MACHINES))
    session.fleet.refuse_busy(current_state(session, record)[0])
    refuse_capture(record)
    place = resource_id(group, IMAGES, name)
    arguments = {"name": record.name, "vm": record.id, "image": name, "group": group}
    properties = {"provisioningState": "Creating", "sourceVirtualMachine": {"id": source}}
    body = {"id": place, "name": name, "type": IMAGES, "location": LOCATION, "properties": properties}
    return accepted(request, session.tasks.begin("capture", place, arguments), body, status=201)


def get_image(session: Session, request: Request) -> Answer:
    name = request.parts["image"].lower()
    try:
        version = session.fleet.gallery.find(name) if name in session.fleet.gallery.names() else None
    except GoldsmithError:
        version = None
    if version is None or _image_group(session, name).lower() != request.parts["group"].lower():
        raise not_found(f"the image {name[:80]!r} in {request.parts['group'][:80]!r}")
    return Answer(body=describe_image(version, _image_group(session, name)))


ROUTES = (
    Route(
        "GET", "/subscriptions/{subscription}/providers/Microsoft.Compute/galleries", "az sig list", list_galleries
    ),
    Route("GET", f"{_BASE}/galleries", "az sig list -g", list_galleries),
    Route("GET", _GALLERY, "az sig show", get_gallery),
    Route("GET", f"{_GALLERY}/images", "az sig image-definition list", list_definitions),
    Route("GET", _DEFINITION, "az sig image-definition show", get_definition),
    Route("GET", f"{_DEFINITION}/versions", "az sig image-version list", list_versions),
    Route("GET", f"{_DEFINITION}/versions/{{version}}", "az sig image-version show", get_version),
    Route("PUT", f"{_DEFINITION}/versions/{{version}}", "az sig image-version create", put_version),
    Route("GET", "/subscriptions/{subscription}/providers/Microsoft.Compute/images", "az image list", list_images),
    Route("GET", f"{_BASE}/images", "az image list -g", list_images),
    Route("GET", f"{_BASE}/images/{{image}}", "az image show", get_image),
    Route("PUT", f"{_BASE}/images/{{image}}", "az image create", put_image),
)
