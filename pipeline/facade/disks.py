"""Managed disks: those of the store, as the Resource Manager describes them."""

from __future__ import annotations

from typing import Any

from pipeline.facade.errors import ArmError, invalid, not_found
from pipeline.facade.ids import DISKS, IMAGES, LOCATION, MACHINES, resource_id
from pipeline.facade.machines import GIB, STORAGE_TYPE, list_machines
from pipeline.facade.routing import Answer, Request, Route, accepted
from pipeline.facade.session import Placement, Session
from pipeline.facade.tasks import Task
from pipeline.operations.change_disk import delete_disk, refuse_delete
from pipeline.operations.create_disk import DiskWishes, create_disk
from pipeline.operations.deploy_template import find_master
from pipeline.operations.find_disks import ListedDisk, recorded_disks

_BASE = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Compute/disks"


def _placement(session: Session, disk: ListedDisk) -> Placement:
    """A disk of its own has a placement; one that was made with a VM is where its VM is."""
    if disk.id is not None:
        return session.placement(disk.id)
    record = session.fleet.instances.find(disk.vm or "")
    return session.placement(record.id) if record is not None else Placement()


def describe_disk(session: Session, disk: ListedDisk) -> dict[str, Any]:
    """https://learn.microsoft.com/rest/api/compute/disks/get"""
    placement = _placement(session, disk)
    options = {"Empty": "Empty", "FromImage": "FromImage", "Import": "Import"}
    creation: dict[str, Any] = {"createOption": options.get(disk.create_option, "Empty")}
    if disk.create_option == "FromImage" and disk.source:
        creation["imageReference"] = {"id": resource_id(Placement().group, IMAGES, disk.source.partition("@")[0])}
    properties: dict[str, Any] = {
        "creationData": creation,
        "diskSizeGB": -(-disk.size // GIB),
        "diskSizeBytes": disk.size,
        "timeCreated": disk.created,
        "provisioningState": "Succeeded",
        "diskState": "Attached" if disk.lease["owner"] is not None else "Unattached",
        "encryption": {"type": "EncryptionAtRestWithPlatformKey"},
        "networkAccessPolicy": "DenyAll",
        **({"uniqueId": disk.id} if disk.id is not None else {}),
    }
    body: dict[str, Any] = {
        "id": resource_id(placement.group, DISKS, disk.name),
        "name": disk.name,
        "type": DISKS,
        "location": placement.location,
        "tags": dict(placement.tags or {}) if disk.owned else {},
        "sku": {"name": STORAGE_TYPE, "tier": "Premium"},
        "properties": properties,
    }
    if disk.vm is not None:
        found = {record.name: where for record, where in list_machines(session, None)}
        where = found.get(disk.vm, Placement())
        body["managedBy"] = resource_id(where.group, MACHINES, disk.vm)
    return body


def _find(session: Session, group: str, name: str) -> ListedDisk:
    """A disk of a group. Raises ArmError (404)."""
    for disk in recorded_disks(session.fleet):
        if disk.name.lower() == name.lower() and _placement(session, disk).is_in(group):
            return disk
    raise not_found(f"the disk {name[:80]!r} in the resource group {group[:90]!r}")


def get_disk(session: Session, request: Request) -> Answer:
    return Answer(body=describe_disk(session, _find(session, request.parts["group"], request.parts["name"])))


def list_disks(session: Session, request: Request) -> Answer:
    group = request.parts.get("group")
    if group is not None:
        session.find_group(group)
    found = sorted(recorded_disks(session.fleet), key=lambda disk: disk.name)
    return Answer(
        body={"value": [describe_disk(session, disk) for disk in found if _placement(session, disk).is_in(group)]}
    )


def put_disk(session: Session, request: Request) -> Answer:
    """A new disk: empty, or from an image. One that exists keeps its size; its tags are replaced."""
    session.need_root()
    group, name, body = request.parts["group"], request.parts["name"], request.body
    where = Placement(session.find_group(group)["name"], body.location() or LOCATION, body.tags())
    properties = body.part("properties")
    creation, gibibytes = properties.part("creationData"), properties.number("diskSizeGB")
    size = gibibytes * GIB if gibibytes is not None else None
    known = session.fleet.disks.find(name)
    if known is not None:
        if not session.placement(known.id).is_in(group):
            raise ArmError(409, "Conflict", f"there is a disk {name} in another resource group")
        if size is not None and -(-known.size // GIB) != gibibytes:
            raise ArmError(409, "PropertyChangeNotAllowed", "goldsmith disk resize changes the size of a disk")
        session.place(known.id, where)
        return Answer(body=describe_disk(session, _find(session, group, name)))
    made = create_disk(session.fleet, DiskWishes(name, size, _source(session, creation)))
    session.place(made.id, where)
    # a qcow2 file is made in a moment, so that the disk is there with the answer
    return Answer(body=describe_disk(session, _find(session, group, name)))


def _source(session: Session, creation: Any) -> str | None:
    """The master of a new disk; None for an empty one. Raises ArmError (400, 501)."""
    option = creation.text("createOption").lower()
    if option == "empty":
        return None
    if option != "fromimage":
        raise ArmError(
            501,
            "NotImplemented",
            f"goldsmith does not make disks with createOption {option[:40]!r}; docs/az.md lists what it does",
        )
    reference = creation.part("imageReference") or creation.part("galleryImageReference")
    if not reference.text("id"):
        raise invalid("creationData needs imageReference.id or galleryImageReference.id")
    version = find_master(session.fleet.gallery, reference.text("id"))
    lun = reference.number("lun")
    return f"{version.name}@{version.version}" + (f":{lun}" if lun is not None else "")


def delete(session: Session, request: Request) -> Answer:
    session.need_root()
    try:
        disk = _find(session, request.parts["group"], request.parts["name"])
    except ArmError:
        return Answer(204)
    refuse_delete(session.fleet, disk.name)
    task = session.tasks.begin(
        "delete-disk",
        resource_id(_placement(session, disk).group, DISKS, disk.name),
        {"name": disk.name, "disk": disk.id},
    )
    return accepted(request, task)


def run_delete(session: Session, task: Task) -> None:
    found = session.fleet.disks.find(str(task.arguments["name"]))
    if found is not None and found.id == task.arguments["disk"]:
        delete_disk(session.fleet, found.name)
    session.displace(str(task.arguments["disk"]))


RUNNERS = {"delete-disk": run_delete}
ROUTES = (
    Route("GET", "/subscriptions/{subscription}/providers/Microsoft.Compute/disks", "az disk list", list_disks),
    Route("GET", _BASE, "az disk list -g", list_disks),
    Route("GET", f"{_BASE}/{{name}}", "az disk show", get_disk),
    Route("PUT", f"{_BASE}/{{name}}", "az disk create", put_disk),
    Route("DELETE", f"{_BASE}/{{name}}", "az disk delete", delete),
)
