"""Resource groups: kept as records. With a group all that was made in it is deleted, but no master."""

from __future__ import annotations

from pipeline.base.errors import GoldsmithError
from pipeline.facade.errors import ArmError
from pipeline.facade.ids import GROUP, check_group, group_id
from pipeline.facade.machines import list_machines
from pipeline.facade.routing import Answer, Request, Route, accepted
from pipeline.facade.session import Session
from pipeline.facade.tasks import Task
from pipeline.operations.change_disk import delete_disk
from pipeline.operations.delete import delete
from pipeline.operations.find_disks import ListedDisk, recorded_disks

_PLACE = "/subscriptions/{subscription}/resourceGroups/{group}"


def put_group(session: Session, request: Request) -> Answer:
    name = check_group(request.parts["group"])
    location, tags = request.body.location(), request.body.tags()
    if not location:
        raise ArmError(400, "LocationRequired", "a resource group needs a location")
    found = session.records.get(group_id(name))
    body = {
        "id": group_id(name),
        "name": name,
        "type": "Microsoft.Resources/resourceGroups",
        "location": location,
        "tags": tags,
        "properties": {"provisioningState": "Succeeded"},
    }
    return Answer(200 if found is not None else 201, session.records.put(group_id(name), body))


def get_group(session: Session, request: Request) -> Answer:
    return Answer(body=session.find_group(request.parts["group"]))


def head_group(session: Session, request: Request) -> Answer:
    try:
        session.find_group(request.parts["group"])
    except ArmError:
        return Answer(404)
    return Answer(204)


def list_groups(session: Session, _request: Request) -> Answer:
    found = [
        each for each in session.records.below("/subscriptions/") if each.get("type", "").endswith("/resourceGroups")
    ]
    names = {each["name"].lower() for each in found}
    return Answer(body={"value": found if GROUP in names else [session.find_group(GROUP), *found]})


# ---- deleting ------------------------------------------------------------------------------------------------------


def delete_group(session: Session, request: Request) -> Answer:
    """Refused as a whole, before anything is deleted, where a disk of the group is in use outside it.

    Raises ArmError (404, 409).
    """
    session.need_root()
    group = session.find_group(request.parts["group"])["name"]
    if group.lower() == GROUP:
        raise ArmError(
            409,
            "ResourceGroupDeletionBlocked",
            f"the group {GROUP} has the masters and all that was made without az: delete its VMs and disks by name",
        )
    inside = {record.name for record, _ in list_machines(session, group)}
    for disk in _disks(session, group):
        if disk.vm is not None and disk.vm not in inside:
            raise ArmError(
                409,
                "ResourceGroupDeletionBlocked",
                f"the disk {disk.name} of {group} is attached to the VM {disk.vm} of another group: detach it first",
            )
    return accepted(request, session.tasks.begin("delete-group", group_id(group), {"group": group}))


def _disks(session: Session, group: str) -> list[ListedDisk]:
    """The disks of a group; those that were made with a VM go with it."""
    found = [disk for disk in recorded_disks(session.fleet) if disk.id is not None and disk.owned]
    return [disk for disk in found if session.placement(str(disk.id)).is_in(group)]


def run_delete_group(session: Session, task: Task) -> None:
    """VMs, then disks, then what is only recorded. An interrupted one goes on with what is left.

    A managed image is a golden master, which is never deleted in passing: it belongs to no group afterwards.
    """
    group = str(task.arguments["group"])
    for record, _ in list_machines(session, group):
        try:
            delete(session.fleet, record.name, running=True)
        except GoldsmithError as error:
            if error.name != "vm-unknown":
                raise
        session.displace(record.id)
    for disk in _disks(session, group):
        delete_disk(session.fleet, disk.name)
        session.displace(str(disk.id))
    for name in session.fleet.gallery.names():
        if session.placement(f"image:{name}").is_in(group):
            session.displace(f"image:{name}")
    session.records.remove_below(f"{group_id(group)}/")
    session.records.remove(group_id(group))


RUNNERS = {"delete-group": run_delete_group}
ROUTES = (
    Route("PUT", _PLACE, "az group create", put_group),
    Route("GET", _PLACE, "az group show", get_group),
    Route("HEAD", _PLACE, "az group exists", head_group),
    Route("GET", "/subscriptions/{subscription}/resourceGroups", "az group list", list_groups),
    Route("DELETE", _PLACE, "az group delete", delete_group),
)
