"""Deployments of ARM templates to a resource group: networks become records, VMs become VMs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.base.errors import GoldsmithError
from pipeline.facade.creation import (
    MachineWishes,
    begin_machine,
    create_arguments,
    finish_machine,
    read_wishes,
)
from pipeline.facade.errors import ArmError, arm_error, invalid, not_found
from pipeline.facade.fields import Fields
from pipeline.facade.ids import DEPLOYMENTS, MACHINES, check_resource_name, resource_id
from pipeline.facade.machines import address_of, find_machine
from pipeline.facade.network import KINDS, keep_record, make_record
from pipeline.facade.routing import RETRY_AFTER, Answer, Request, Route
from pipeline.facade.session import Session
from pipeline.facade.tasks import Task
from pipeline.operations.arm_deployment import Deployment, Resource, make_deployment

_ALL = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Resources/deployments"
_BASE = f"{_ALL}/{{name}}"
#: Resources of a template, at most: https://learn.microsoft.com/azure/azure-resource-manager/templates/best-practices
_MOST = 800


@dataclass(frozen=True)
class _Plan:
    """A template whose every resource can be made here."""

    deployment: Deployment
    records: list[dict[str, Any]]
    machines: list[tuple[Resource, MachineWishes]]
    existing: list[Resource]


def _read(session: Session, request: Request) -> _Plan:
    """Raises ArmError (400, 501), and errors of goldsmith: then nothing is made."""
    group = session.find_group(request.parts["group"])
    properties = request.body.part("properties")
    if properties.text("mode").lower() not in ("incremental", ""):
        raise ArmError(501, "NotImplemented", "goldsmith does not implement deployments of the mode Complete")
    if properties.part("templateLink") or properties.part("parametersLink"):
        raise ArmError(501, "NotImplemented", "goldsmith does not implement links to templates: send the template")
    # the result of a capture is a template with an id
    template = {key: value for key, value in properties.part("template").values.items() if key != "id"}
    parameters = properties.part("parameters")
    deployment = make_deployment(
        template, parameters.values, "the template", group=group["name"], location=group["location"]
    )
    resources = deployment.resources()
    if len(resources) > _MOST:
        raise invalid(f"a template has at most {_MOST} resources")
    records, machines, existing = [], [], []
    for each in resources:
        kind = next((kind for kind in (*KINDS, MACHINES) if kind.lower() == each.kind.lower()), None)
        if kind is None:
            raise ArmError(
                501, "NotImplemented", f"goldsmith does not deploy resources of the type {each.kind[:160]}"
            )
        if kind != MACHINES:
            records.append(_record(group["name"], kind, each))
        elif session.fleet.instances.find(each.name) is not None:
            find_machine(session, group["name"], each.name)  # raises where it is in another group
            existing.append(each)
        else:
            wishes = read_wishes(session, group["name"], each.name, Fields(each.body), deployment.metadata)
            machines.append((each, wishes))
    names = [each.name for each, _ in machines]
    if len(set(names)) != len(names):
        raise invalid("two VMs of the template have the same name")
    return _Plan(deployment, records, machines, existing)


def _record(group: str, kind: str, resource: Resource) -> dict[str, Any]:
    fields = Fields(resource.body)
    fields.part("properties")
    body = {**resource.body, "tags": fields.tags(), "location": fields.location()}
    return make_record(group, kind, resource.name, body)


def validate(session: Session, request: Request) -> Answer:
    plan = _read(session, request)
    rows = [each["id"] for each in plan.records] + [
        each.id for each in (*(row for row, _ in plan.machines), *plan.existing)
    ]
    properties = {
        "provisioningState": "Succeeded",
        "mode": "Incremental",
        "parameters": {},
        "validatedResources": [{"id": each} for each in rows],
    }
    return Answer(body={**_head(request), "properties": properties})


def put_deployment(session: Session, request: Request) -> Answer:
    """Make all that the template names. The VMs' first boots go on behind the answer."""
    session.need_root()
    name = check_resource_name(request.parts["name"])
    plan = _read(session, request)
    properties = request.body.part("properties")
    secrets = _secret_names(properties.part("template").values)
    kept = _kept_template(properties.part("template").values, secrets)  # the last that can be refused
    given = {key: value for key, value in properties.part("parameters").values.items() if key.lower() not in secrets}
    session.tasks.refuse_excess()
    for each in plan.records:
        keep_record(session, each)
    arguments: dict[str, Any] = {
        "vms": [],
        "machines": {each.id: each.name for each in (*(row for row, _ in plan.machines), *plan.existing)},
        "template": kept,
        "parameters": given,
        "group": plan.deployment.group,
    }
    place = resource_id(plan.deployment.group, DEPLOYMENTS, name)
    try:
        for _, wishes in plan.machines:
            arguments["vms"].append(create_arguments(begin_machine(session, wishes), wishes.disks))
    except GoldsmithError:
        # the VMs that were begun before stay, and are waited for
        session.tasks.begin("deploy", place, {**arguments, "machines": {}})
        raise
    resources = [*(each["id"] for each in plan.records), *arguments["machines"]]
    task = session.tasks.begin("deploy", place, arguments)
    record = {
        "task": task.id,
        "started": task.started,
        "parameters": {
            key: {"type": "String", **(value if isinstance(value, Mapping) else {})} for key, value in given.items()
        },
        "resources": resources,
    }
    session.records.put(place, record)
    headers = {
        "Azure-AsyncOperation": request.link(f"{place}/operationStatuses/{task.id}"),
        "Retry-After": RETRY_AFTER,
    }
    return Answer(201, _describe(session, request, record), headers)


def _secret_names(template: Mapping[str, Any]) -> set[str]:
    declared = template.get("parameters")
    rows = declared.items() if isinstance(declared, Mapping) else ()
    return {
        name.lower()
        for name, row in rows
        if isinstance(row, Mapping) and str(row.get("type", "")).lower().startswith("secure")
    }


def _kept_template(template: Mapping[str, Any], secrets: set[str]) -> dict[str, Any]:
    """What the outputs need of a template. A secure parameter is never kept, nor its default."""
    parameters, variables, outputs = (
        Fields(template).part(key).values for key in ("parameters", "variables", "outputs")
    )
    return {
        "$schema": "",
        "resources": [],
        "parameters": {name: row for name, row in parameters.items() if name.lower() not in secrets},
        "variables": dict(variables),
        "outputs": dict(outputs),
    }


def get_deployment(session: Session, request: Request) -> Answer:
    name = request.parts["name"]
    record = session.records.get(resource_id(request.parts["group"], DEPLOYMENTS, name))
    if record is None:
        error = not_found(f"the deployment {name[:80]!r}")
        error.code = "DeploymentNotFound"
        raise error
    return Answer(body=_describe(session, request, record))


def list_operations(session: Session, request: Request) -> Answer:
    """Azure lists each step; here a deployment is one step."""
    get_deployment(session, request)
    return Answer(body={"value": []})


def get_status(session: Session, request: Request) -> Answer:
    task = session.tasks.find(request.parts["operation"])
    if task is None:
        raise not_found("the operation")
    body: dict[str, Any] = {"status": task.status}
    if task.error is not None:
        body["error"] = dict(task.error)
    return Answer(200, body, {} if task.is_over else {"Retry-After": RETRY_AFTER})


def _head(request: Request) -> dict[str, Any]:
    name = request.parts["name"]
    return {"id": resource_id(request.parts["group"], DEPLOYMENTS, name), "name": name, "type": DEPLOYMENTS}


def _describe(session: Session, request: Request, record: Mapping[str, Any]) -> dict[str, Any]:
    task = session.tasks.find(str(record["task"]))
    state = "Succeeded" if task is None else {"InProgress": "Running"}.get(task.status, task.status)
    properties: dict[str, Any] = {
        "provisioningState": state,
        "mode": "Incremental",
        "timestamp": (task.ended if task is not None else None) or record["started"],
        "correlationId": str(record["task"])[:32],
        "parameters": record["parameters"],
        "outputs": dict(task.output or {}) if task is not None else {},
        "outputResources": [{"id": each} for each in record["resources"]],
        "providers": [],
        "dependencies": [],
        "duration": "PT0S",
    }
    if task is not None and task.error is not None:
        properties["error"] = dict(task.error)
    return {**_head(request), "properties": properties}


def run_deploy(session: Session, task: Task) -> dict[str, Any]:
    """Wait for all VMs; the outputs. The first failure is raised after all have been waited for."""
    errors: list[ArmError] = []
    for row in task.arguments["vms"]:
        try:
            finish_machine(session, row, task.again)
        except ArmError as error:
            errors.append(error)
        except GoldsmithError as error:
            errors.append(arm_error(error))
    if errors:
        raise errors[0]
    return _outputs(session, task)


def _outputs(session: Session, task: Task) -> dict[str, Any]:
    """The outputs, but those that need a secure parameter or what is not deployed here."""
    template, group = task.arguments["template"], str(task.arguments["group"])
    runtime: dict[str, Mapping[str, Any]] = {}
    for place, name in task.arguments["machines"].items():
        record, placement = find_machine(session, None, str(name))
        runtime[place] = {"vmId": record.id, "provisioningState": "Succeeded"}
        address = address_of(session, record)
        for card in placement.cards:
            runtime[card] = {"ipConfigurations": [{"properties": {"privateIPAddress": address}}]}
    found: dict[str, Any] = {}
    for name, row in template["outputs"].items():
        deployment = make_deployment(
            {**template, "outputs": {name: row}}, task.arguments["parameters"], "the template", group=group
        )
        deployment.runtime.update(runtime)
        with contextlib.suppress(GoldsmithError):
            found.update(deployment.outputs())
    return {name: {"type": _kind(value), "value": value} for name, value in found.items()}


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "Bool"
    return {int: "Int", str: "String", list: "Array"}.get(type(value), "Object")


RUNNERS = {"deploy": run_deploy}
ROUTES = (
    Route("PUT", _BASE, "az deployment group create, az vm create", put_deployment),
    Route("GET", _BASE, "az deployment group show", get_deployment),
    Route("POST", f"{_BASE}/validate", "az deployment group validate", validate),
    Route("GET", f"{_BASE}/operations", "az deployment operation group list", list_operations),
    Route("GET", f"{_BASE}/operationStatuses/{{operation}}", "the state of a deployment", get_status),
)
