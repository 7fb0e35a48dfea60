"""VMs made and changed by a PUT: wishes from a request's body, the first boot, data disks by their LUNs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.facade.errors import ArmError, invalid
from pipeline.facade.fields import Fields
from pipeline.facade.ids import DISKS, LOCATION, MACHINES, name_of, resource_id
from pipeline.facade.machines import current_state, describe_machine, find_machine
from pipeline.facade.power import free_machine, refuse_password, task_machine, wait_for
from pipeline.facade.routing import Answer, Request, Route, accepted
from pipeline.facade.session import Placement, Session
from pipeline.facade.tasks import Task
from pipeline.instances.record import Record
from pipeline.operations.arm_deployment import Resource
from pipeline.operations.attach_disk import attach, attach_new, detach, free_name
from pipeline.operations.create import LARGEST_DATA, Wishes, begin, plan
from pipeline.operations.create_disk import DiskWishes
from pipeline.operations.deploy_template import plan_machine

_BASE = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Compute/virtualMachines/{name}"
#: https://learn.microsoft.com/azure/virtual-machines/linux/faq : what the name of an administrator may be.
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", re.ASCII)
_KEY = re.compile(r"(?:ssh-|ecdsa-|sk-)[!-~]+ [!-~]+(?: [ -~]*)?", re.ASCII)
_GIB = 1 << 30
#: What a PUT of a VM that exists may not change, with the place of each in `properties`.
_FIXED = (("hardwareProfile", "vmSize"), ("osProfile", "computerName"), ("osProfile", "adminUsername"))


@dataclass(frozen=True)
class DataDisk:
    """A data disk of a request. `size` in bytes: a new, empty disk; None: an existing one."""

    name: str
    lun: int | None
    caching: str
    size: int | None

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "lun": self.lun, "caching": self.caching, "size": self.size}


@dataclass(frozen=True)
class MachineWishes:
    """A new VM as a client wants it: what goldsmith makes of it, the disks that follow, and what is only kept."""

    wishes: Wishes
    disks: tuple[DataDisk, ...]
    placement: Placement


def read_wishes(session: Session, group: str, name: str, body: Fields, metadata: Mapping[str, Any]) -> MachineWishes:
    """The wishes for a new VM. Raises ArmError (400), and errors of goldsmith for what cannot be made."""
    properties = body.part("properties")
    storage = properties.part("storageProfile")
    rows = storage.rows("dataDisks")
    # disks of the image are the template's own affair; others follow when the VM runs
    of_image = [row.values for row in rows if row.text("createOption").lower() == "fromimage"]
    more = tuple(_data_disk(row) for row in rows if row.text("createOption").lower() != "fromimage")
    cards = properties.part("networkProfile").rows("networkInterfaces")
    storage_values = {**storage.values, "dataDisks": [{**row, "createOption": "FromImage"} for row in of_image]}
    values = {**body.values, "properties": {**properties.values, "storageProfile": storage_values}}
    planned = plan_machine(
        session.fleet.gallery, metadata, Resource(MACHINES, name, resource_id(group, MACHINES, name), values)
    )
    wishes = planned.wishes
    if not _USER.fullmatch(wishes.user):
        raise ArmError(400, "InvalidParameter", f"{wishes.user[:80]!r} cannot be the name of an administrator")
    if wishes.public_key and not _KEY.fullmatch(wishes.public_key):
        raise ArmError(400, "InvalidParameter", "ssh.publicKeys[0].keyData is not an SSH public key")
    if max(len(wishes.custom_data), len(wishes.user_data)) > LARGEST_DATA:
        raise ArmError(400, "InvalidParameter", f"customData and userData have at most {LARGEST_DATA} bytes")
    reference = storage.part("imageReference").values
    placement = Placement(
        group=session.find_group(group)["name"],
        location=body.location() or LOCATION,
        tags=body.tags(),
        cards=tuple(card.text("id") for card in cards if card.text("id")),
        image={"id": reference["id"]} if isinstance(reference.get("id"), str) else None,
    )
    refuse_password(plan(session.fleet, wishes)[0])  # `plan` raises for wishes that cannot be met
    return MachineWishes(wishes, more, placement)


def begin_machine(session: Session, machine: MachineWishes) -> Record:
    """Make a VM and power it on. The task `create` waits for its guest. Raises as `create.begin` does."""
    creation = begin(session.fleet, machine.wishes)
    session.place(creation.record.id, machine.placement)
    return creation.record


def create_arguments(record: Record, disks: tuple[DataDisk, ...]) -> dict[str, Any]:
    """The arguments of the task `create`."""
    operation = record.operation.id if record.operation is not None else None
    rows = [disk.to_json() for disk in disks]
    return {"name": record.name, "vm": record.id, "operation": operation, "disks": rows}


def finish_machine(session: Session, arguments: Mapping[str, Any], again: bool) -> None:
    """Wait until a new VM is ready, then attach its data disks."""
    name = str(arguments["name"])
    record = session.fleet.instances.get(name)
    if current_state(session, record)[0].provisioned is None:
        wait_for(session, name, None if again else arguments.get("operation"))
    rows = [DataDisk(**row) for row in arguments.get("disks") or ()]
    change_disks(session, session.fleet.instances.get(name), rows, ())


# ---- requests ------------------------------------------------------------------------------------------------------


def put_machine(session: Session, request: Request) -> Answer:
    """A new VM, or new tags and data disks of one that exists."""
    session.need_root()
    group, name = request.parts["group"], request.parts["name"]
    session.find_group(group)
    existing = session.fleet.instances.find(name)
    if existing is not None:
        return _update(session, request)
    machine = read_wishes(session, group, name, request.body, {})
    session.tasks.refuse_excess()
    record = begin_machine(session, machine)
    place = resource_id(machine.placement.group, MACHINES, record.name)
    task = session.tasks.begin("create", place, create_arguments(record, machine.disks))
    return accepted(request, task, describe_machine(session, record, machine.placement), status=201)


def patch_machine(session: Session, request: Request) -> Answer:
    find_machine(session, request.parts["group"], request.parts["name"])
    return _update(session, request)


def _update(session: Session, request: Request) -> Answer:
    """Tags at once, data disks by a task. Raises ArmError (409) for what cannot be changed."""
    record, place = free_machine(session, request)
    placement = session.placement(record.id)
    properties = request.body.part("properties")
    described = describe_machine(session, record, placement)
    for part, field in _FIXED:
        wanted = properties.part(part).text(field)
        if wanted and wanted.lower() != str(described["properties"][part][field]).lower():
            raise ArmError(409, "PropertyChangeNotAllowed", f"{part}.{field} of a VM cannot be changed here")
    gone: tuple[str, ...] = ()
    disks: list[DataDisk] = []
    storage = properties.part("storageProfile")
    size, has = storage.part("osDisk").number("diskSizeGB"), described["properties"]["storageProfile"]["osDisk"]
    if size is not None and size != has.get("diskSizeGB", size):
        raise ArmError(409, "PropertyChangeNotAllowed", "osDisk.diskSizeGB of a VM cannot be changed here")
    if "dataDisks" in storage.values:
        disks, gone = _differences(record, storage.rows("dataDisks"))
    if "tags" in request.body.values:
        placement = replace(placement, tags=request.body.tags())
        session.place(record.id, placement)
    if not disks and not gone:
        return Answer(body=describe_machine(session, record, placement))
    task = session.tasks.begin("disks", place, _disk_arguments(record, disks, gone))
    return accepted(request, task, describe_machine(session, record, placement), status=200)


def attach_detach(session: Session, request: Request) -> Answer:
    """https://learn.microsoft.com/rest/api/compute/virtual-machines/attach-detach-data-disks"""
    attached = [_attached(row) for row in request.body.rows("dataDisksToAttach")]
    gone = tuple(name_of(row.text("diskId"), DISKS) for row in request.body.rows("dataDisksToDetach"))
    record, place = free_machine(session, request)
    for disk in attached:
        session.fleet.disks.get(disk.name)
    task = session.tasks.begin("disks", place, _disk_arguments(record, attached, gone))
    return accepted(request, task)


def _disk_arguments(record: Record, disks: list[DataDisk], gone: tuple[str, ...]) -> dict[str, Any]:
    rows = [disk.to_json() for disk in disks]
    return {"name": record.name, "vm": record.id, "disks": rows, "gone": list(gone)}


def _attached(row: Fields) -> DataDisk:
    return DataDisk(name_of(row.text("diskId"), DISKS), row.number("lun"), row.text("caching") or "None", None)


def _data_disk(row: Fields) -> DataDisk:
    """A disk that a VM is to have and its image does not bring: a new, empty one, or one that exists."""
    option, caching = row.text("createOption").lower(), row.text("caching") or "None"
    place = row.part("managedDisk").text("id")
    if option == "empty":
        size = row.number("diskSizeGB")
        if size is None or size <= 0:
            raise invalid(f"{row.place}.diskSizeGB must be the size of the new disk")
        return DataDisk(row.text("name"), row.number("lun"), caching, size * _GIB)
    if option == "attach":
        return DataDisk(name_of(place, DISKS), row.number("lun"), caching, None)
    raise ArmError(
        400, "InvalidParameter", f"{row.place}.createOption {option[:40]!r} is not Empty, Attach or FromImage"
    )


def _differences(record: Record, rows: list[Fields]) -> tuple[list[DataDisk], tuple[str, ...]]:
    """The disks to attach, and the names of those to detach, so that a VM has the disks of these rows."""
    attached = {each.disk for each in record.data_disks}
    kept, new = set(), []
    for row in rows:
        place = row.part("managedDisk").text("id")
        name = name_of(place, DISKS) if place else row.text("name")
        if row.values.get("toBeDetached") is True:
            continue
        if name in attached:
            kept.add(name)
        elif not name.startswith(f"{record.name}_DataDisk_"):  # those of its image are not changed
            new.append(_data_disk(row))
    return new, tuple(sorted(attached - kept))


# ---- tasks ---------------------------------------------------------------------------------------------------------


def change_disks(session: Session, record: Record, disks: list[DataDisk], gone: tuple[str, ...]) -> None:
    """Detach disks and attach others. What an interrupted task did already is left as it is."""
    present = {each.disk for each in record.data_disks}
    for name in gone:
        if name in present:
            detach(session.fleet, record.name, name)
    for disk in disks:
        if disk.name and disk.name in present:
            continue
        if disk.size is None:
            attach(session.fleet, record.name, disk.name, lun=disk.lun, caching=disk.caching)
            continue
        name = disk.name or free_name(session.fleet, record.name)
        made = attach_new(session.fleet, record.name, DiskWishes(name, disk.size), lun=disk.lun, caching=disk.caching)
        session.place(made.id, Placement(group=session.placement(record.id).group))


def run_create(session: Session, task: Task) -> None:
    task_machine(session, task)
    finish_machine(session, task.arguments, task.again)


def run_disks(session: Session, task: Task) -> dict[str, Any]:
    """Returns the storage profile, as Azure does."""
    record = task_machine(session, task)
    rows = [DataDisk(**row) for row in task.arguments["disks"]]
    change_disks(session, record, rows, tuple(task.arguments["gone"]))
    record = task_machine(session, task)
    described = describe_machine(session, record, session.placement(record.id))
    return dict(described["properties"]["storageProfile"])


RUNNERS = {"create": run_create, "disks": run_disks}
ROUTES = (
    Route("PUT", _BASE, "az vm create; az vm disk attach --new; az vm update --set tags", put_machine),
    Route("PATCH", _BASE, "az vm update", patch_machine),
    Route("POST", f"{_BASE}/attachDetachDataDisks", "az vm disk attach, az vm disk detach", attach_detach),
)
