"""What the Resource Manager does to VMs: its requests, and the long operations that they begin.

Each verb is the command line's own operation. A state that is reached already is a success, as on Azure.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from pipeline.base.errors import GoldsmithError
from pipeline.base.files import AnyObject, read_json
from pipeline.base.store import IMAGE_NAME
from pipeline.facade.captured import capture_result
from pipeline.facade.errors import ArmError, not_found
from pipeline.facade.ids import MACHINES, resource_id
from pipeline.facade.machines import (
    current_state,
    describe_machine,
    describe_view,
    find_machine,
    list_machines,
)
from pipeline.facade.routing import Answer, Request, Route, accepted
from pipeline.facade.session import Placement, Session
from pipeline.facade.tasks import Task
from pipeline.instances.record import Record
from pipeline.operations.create import system_of

_BASE = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Compute/virtualMachines"
_ALL = "/subscriptions/{subscription}/providers/Microsoft.Compute/virtualMachines"
#: goldsmith's names of errors for a state that was asked for and is reached already.
_REACHED = {
    "start": ("vm-running",),
    "stop": ("vm-stopped", "vm-deallocated"),
    "deallocate": ("vm-deallocated",),
    "delete": ("vm-unknown",),
}


# ---- looking -------------------------------------------------------------------------------------------------------


def get_machine(session: Session, request: Request) -> Answer:
    record, placement = find_machine(session, request.parts["group"], request.parts["name"])
    view = request.query.get("$expand", "").lower() == "instanceview"
    return Answer(body=describe_machine(session, record, placement, view=view))


def get_view(session: Session, request: Request) -> Answer:
    record, _ = find_machine(session, request.parts["group"], request.parts["name"])
    return Answer(body=describe_view(*current_state(session, record)))


def list_all(session: Session, request: Request) -> Answer:
    group = request.parts.get("group")
    if group is not None:
        session.find_group(group)
    view = (
        request.query.get("statusOnly", "").lower() == "true"
        or "instanceview" in request.query.get("$expand", "").lower()
    )
    rows = [describe_machine(session, *each, view=view) for each in list_machines(session, group)]
    return Answer(body={"value": rows})


def get_boot_data(session: Session, request: Request) -> Answer:
    """Links to the console's log and the screen, which need no header and expire."""
    record, _ = find_machine(session, request.parts["group"], request.parts["name"])
    links = {}
    for field, file in (("serialConsoleLogBlobUri", "serial.log"), ("consoleScreenshotBlobUri", "screen.png")):
        path = f"/boot/{record.id}/{file}"
        links[field] = f"{request.base}{path}?sig={session.tokens.issue_link(path)}"
    return Answer(body=links)


# ---- changing ------------------------------------------------------------------------------------------------------


def free_machine(session: Session, request: Request) -> tuple[Record, str]:
    """A VM that is not busy, and its id. Raises ArmError (404, 409), HostError (root-needed)."""
    session.need_root()
    record, placement = find_machine(session, request.parts["group"], request.parts["name"])
    session.fleet.refuse_busy(current_state(session, record)[0])
    return record, resource_id(placement.group, MACHINES, record.name)


def _begin(verb: str) -> Callable[[Session, Request], Answer]:
    """The handler of a verb that ends later."""

    def handle(session: Session, request: Request) -> Answer:
        record, place = free_machine(session, request)
        force = request.query.get("skipShutdown", "").lower() == "true"
        task = session.tasks.begin(verb, place, {"name": record.name, "vm": record.id, "force": force})
        return accepted(request, task)

    return handle


def delete_machine(session: Session, request: Request) -> Answer:
    """Also a VM that is being created: as `goldsmith vm delete --yes`. One that is not there is deleted."""
    session.need_root()
    try:
        record, placement = find_machine(session, request.parts["group"], request.parts["name"])
    except ArmError:
        return Answer(204)
    place = resource_id(placement.group, MACHINES, record.name)
    return accepted(request, session.tasks.begin("delete", place, {"name": record.name, "vm": record.id}))


def generalize_machine(session: Session, request: Request) -> Answer:
    """Azure only marks a VM as generalized; goldsmith looks at its disk first."""
    from pipeline.operations.generalize import generalize

    record, _ = free_machine(session, request)
    generalize(session.fleet, record.name, run=False, on_progress=lambda _text: None)
    return Answer(200)


def capture_machine(session: Session, request: Request) -> Answer:
    """The prefix of the VHDs is the name of the image. Azure's container and overwriteVhds have no meaning here."""
    image = request.body.text("vhdPrefix")
    if not IMAGE_NAME.fullmatch(image):
        raise ArmError(
            400, "InvalidParameter", f"vhdPrefix {image[:80]!r} cannot be the name of an image: use a-z, 0-9, . and -"
        )
    record, place = free_machine(session, request)
    refuse_capture(record)
    return accepted(
        request, session.tasks.begin("capture", place, {"name": record.name, "vm": record.id, "image": image})
    )


def refuse_capture(record: Record) -> None:
    """Raise ArmError (409) for a VM that is not generalized: a capture takes minutes, and would fail."""
    if not record.generalized:
        raise ArmError(
            409,
            "OperationNotAllowed",
            f"{record.name} is not generalized: VMs of its image would be copies of this machine",
            own_name="vm-not-generalized",
            hint=f"generalize its guest, stop it, then az vm generalize --name {record.name}",
        )


def refuse_password(record: Record) -> None:
    """Raise ArmError (501) for a system whose first boot draws a password: it is shown once, on a terminal."""
    if system_of(record).signs_in_by_password:
        raise ArmError(
            501,
            "NotImplemented",
            f"goldsmith shows the password of a {record.system} once, on a terminal: use goldsmith vm",
        )


def reimage_machine(session: Session, request: Request) -> Answer:
    record, place = free_machine(session, request)
    refuse_password(record)
    return accepted(request, session.tasks.begin("reimage", place, {"name": record.name, "vm": record.id}))


# ---- tasks ---------------------------------------------------------------------------------------------------------


def run_start(session: Session, task: Task) -> None:
    from pipeline.operations.start import start

    _reach(session, task, "start", lambda name: start(session.fleet, name))


def run_stop(session: Session, task: Task) -> None:
    from pipeline.operations.stop import stop

    _reach(session, task, "stop", lambda name: stop(session.fleet, name, force=bool(task.arguments.get("force"))))


def run_deallocate(session: Session, task: Task) -> None:
    from pipeline.operations.stop import deallocate

    _reach(session, task, "deallocate", lambda name: deallocate(session.fleet, name))


def run_restart(session: Session, task: Task) -> None:
    from pipeline.operations.stop import restart

    name = task_machine(session, task).name
    if task.again and not session.fleet.is_on(session.fleet.instances.get(name)):
        run_start(session, task)  # the interrupted one had switched it off
        return
    restart(session.fleet, name)


def run_redeploy(session: Session, task: Task) -> None:
    from pipeline.operations.redeploy import redeploy

    redeploy(session.fleet, task_machine(session, task).name)


def run_delete(session: Session, task: Task) -> None:
    from pipeline.operations.delete import delete

    record = session.fleet.instances.find(str(task.arguments["name"]))
    if record is not None and record.id == task.arguments["vm"]:
        _reach(session, task, "delete", lambda name: delete(session.fleet, name, running=True))
    session.displace(str(task.arguments["vm"]))


def run_reimage(session: Session, task: Task) -> None:
    """A new OS disk, and the wait for its guest. An interrupted one goes on with what it has reached."""
    from pipeline.operations.reimage import begin

    record = task_machine(session, task)
    if task.again and current_state(session, record)[0].provisioned is None and session.fleet.is_on(record):
        wait_for(session, record.name, None)
        return
    creation = begin(session.fleet, record.name)
    wait_for(session, record.name, creation.operation)


def run_capture(session: Session, task: Task) -> dict[str, Any]:
    """Returns the ARM template of the new version, as Azure's capture does."""
    from pipeline.operations.capture import CaptureWishes, capture

    if task.again:
        raise ArmError(
            409,
            "OperationInterrupted",
            "the capture was interrupted",
            own_name="interrupted",
            hint="capture it again: the layers that were finished are used",
        )
    name, image = task_machine(session, task).name, str(task.arguments["image"])
    command = f"az vm capture --name {name} --vhd-name-prefix {image}"
    wishes = CaptureWishes(image, generations=task.arguments.get("generations") or ())
    outcome = capture(session.fleet, name, wishes, command, lambda _text: None)
    if (group := task.arguments.get("group")) is not None:
        session.place(f"image:{image}", Placement(group=str(group)))
    version = outcome.version
    wanted = task.arguments.get("version")
    if version is not None and wanted not in (None, version.version):
        raise ArmError(409, "Conflict", f"the disk of {name} is {image} {version.version}; {wanted} was not made")
    template = read_json(version.path / "template.json", AnyObject) if version is not None else None
    return capture_result(template, task.target) if template is not None else {"id": task.target}


def wait_for(session: Session, name: str, operation: str | None) -> None:
    """Wait until a VM's agent has reported Ready. Raises as `wait_ready` does; the VM stays."""
    from pipeline.operations.create import forget, wait_ready

    try:
        wait_ready(session.store, name, operation, lambda _text: None, threading.Event())
    finally:
        if operation is not None and session.fleet.instances.find(name) is not None:
            forget(session.fleet, name, operation)


def task_machine(session: Session, task: Task) -> Record:
    """The VM of a task. Raises ArmError (404) where it was deleted, or replaced by another of its name."""
    record = session.fleet.instances.find(str(task.arguments["name"]))
    if record is None or record.id != task.arguments["vm"]:
        raise not_found(f"the VM {task.arguments['name']!r}")
    return record


def _reach(session: Session, task: Task, verb: str, change: Callable[[str], object]) -> None:
    name = str(task.arguments["name"]) if verb == "delete" else task_machine(session, task).name
    try:
        change(name)
    except GoldsmithError as error:
        if error.name not in _REACHED[verb]:
            raise


RUNNERS: dict[str, Callable[[Session, Task], Any]] = {
    "start": run_start,
    "stop": run_stop,
    "deallocate": run_deallocate,
    "restart": run_restart,
    "redeploy": run_redeploy,
    "delete": run_delete,
    "reimage": run_reimage,
    "capture": run_capture,
}
ROUTES = (
    Route("GET", _ALL, "az vm list", list_all),
    Route("GET", _BASE, "az vm list -g", list_all),
    Route("GET", f"{_BASE}/{{name}}", "az vm show", get_machine),
    Route("GET", f"{_BASE}/{{name}}/instanceView", "az vm get-instance-view", get_view),
    Route("DELETE", f"{_BASE}/{{name}}", "az vm delete", delete_machine),
    Route("POST", f"{_BASE}/{{name}}/start", "az vm start", _begin("start")),
    Route("POST", f"{_BASE}/{{name}}/powerOff", "az vm stop", _begin("stop")),
    Route("POST", f"{_BASE}/{{name}}/deallocate", "az vm deallocate", _begin("deallocate")),
    Route("POST", f"{_BASE}/{{name}}/restart", "az vm restart", _begin("restart")),
    Route("POST", f"{_BASE}/{{name}}/redeploy", "az vm redeploy", _begin("redeploy")),
    Route("POST", f"{_BASE}/{{name}}/reimage", "az vm reimage", reimage_machine),
    Route("POST", f"{_BASE}/{{name}}/generalize", "az vm generalize", generalize_machine),
    Route("POST", f"{_BASE}/{{name}}/capture", "az vm capture", capture_machine),
    Route(
        "POST", f"{_BASE}/{{name}}/retrieveBootDiagnosticsData", "az vm boot-diagnostics get-boot-log", get_boot_data
    ),
)
