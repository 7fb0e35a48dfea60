"""Deployments: the sets and endpoints of a file are brought to what the file says, by the operations of their verbs.

What there is is compared with the file each time, so a command that was interrupted, at any point, is finished by the
next one. The record is written first: it names what the deployment owns.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from pipeline.base.errors import CheckFailed, NotFound, UsageError
from pipeline.base.runs import now
from pipeline.definition.document import Place
from pipeline.instances.deployment_records import DeploymentRecord
from pipeline.instances.endpoint_records import EndpointRecord
from pipeline.instances.fleet import CERTIFICATE, CUSTOM_DATA, USER_DATA, Fleet
from pipeline.instances.record import Record
from pipeline.instances.set_records import SetRecord, members_of
from pipeline.operations.create import Creation, OnProgress, choose_master, files_of, plan, wait_ready
from pipeline.operations.create import Wishes as VmWishes
from pipeline.operations.delete import delete
from pipeline.operations.endpoints import EndpointWishes, add_endpoint, read_probe, remove_endpoint
from pipeline.operations.reimage import version_reference
from pipeline.operations.service_model import Service, WantedSet, refuse
from pipeline.operations.sets import change_files, delete_set, ensure_set, follow_golden, plan_growth, shrink
from pipeline.operations.start import start
from pipeline.operations.upgrade import Renew, is_behind, upgrade_set

#: The files that a deployment gives the VMs of its sets.
FILES = (CUSTOM_DATA, USER_DATA, CERTIFICATE)
#: The key of the file that an error of a VM's wishes is about.
_KEYS = {
    "gallery-unknown": "image",
    "image-withdrawn": "image",
    "disk-missing": "image",
    "generation-unsupported": "generation",
    "ssh-key-missing": "ssh_key",
    "vm-name": "name",
}


@dataclass(frozen=True)
class Step:
    """One change: a line for the user, and the VMs that are deleted with their disks."""

    text: str
    run: Callable[[], object] = field(repr=False)
    deletes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Means:
    """How VMs are made. `create` makes them and waits until they are Ready; `on_begun` gets each VM whose first boot
    has begun; `renew` reimages VMs, by default as `set upgrade` does.
    """

    create: Callable[[list[VmWishes]], object]
    on_progress: OnProgress = lambda _text: None
    on_begun: Callable[[Creation], None] = lambda _creation: None
    renew: Renew | None = None


# ---- what the host says of a file --------------------------------------------------------------------------------


def check_service(fleet: Fleet, service: Service) -> None:
    """Compare a file with what this host has: masters, names of others, options that cannot be changed.

    Raises DefinitionError with all faults.
    """
    own = fleet.deployments.find(service.name)
    faults: list[tuple[Place, str, str, str]] = []
    for wanted in service.sets:
        place: Place = ("sets", wanted.name)
        try:
            last = f"{wanted.wishes.name}-{max(0, wanted.count - 1)}"
            plan(fleet, replace(wanted.wishes, name=last, set=None))
        except (UsageError, CheckFailed) as error:
            key = _KEYS.get(error.name)
            faults.append(((*place, key) if key else place, error.message, error.hint or "", error.name))
        found = fleet.sets.find(wanted.name)
        if found is None:
            continue
        if own is None or wanted.name not in own.sets:
            faults.append((place, *_taken(fleet, service, "set", wanted.name)))
        for key, has, wish in _fixed(found, wanted):
            hint = f"goldsmith set delete {wanted.name}, and deploy makes it anew; or give the set another name"
            faults.append(((*place, key), f"is {has} for the VMs that exist, not {wish}", hint, "deploy-fixed"))
    for endpoint in service.endpoints:
        is_own = own is not None and endpoint.name in own.endpoints
        if fleet.endpoints.find(endpoint.name) is not None and not is_own:
            faults.append((("endpoints", endpoint.name), *_taken(fleet, service, "endpoint", endpoint.name)))
    refuse(service.document, faults)


def _taken(fleet: Fleet, service: Service, kind: str, name: str) -> tuple[str, str, str]:
    """Message, hint and name of the fault that something exists which the deployment did not make."""
    owner = next(
        (
            each.name
            for each in fleet.deployments.all()
            if each.name != service.name and name in (each.sets if kind == "set" else each.endpoints)
        ),
        None,
    )
    whose = f"belongs to the deployment {owner}" if owner else "was not made by this deployment"
    return f"the {kind} {name} exists, and {whose}", f"use another name for the {kind}", "deploy-conflict"


def _fixed(found: SetRecord, wanted: WantedSet) -> list[tuple[str, Any, Any]]:
    """The keys of a set that its VMs cannot change, where the file wants another value. What the file leaves out, and
    depends on the master or the caller, stays."""
    wishes, chosen = wanted.wishes, wanted.wishes.size
    rows: list[tuple[str, Any, Any]] = [
        ("name", found.prefix, wishes.name),
        ("user", found.user, wishes.user),
        ("secure_boot", found.secure, wishes.secure),
        ("network", found.network, wishes.network),
        ("outside", found.outside, wishes.outside),
        ("os_disk_caching", found.os_caching, wishes.os_caching),
        ("fault_domains", found.fault_domains, wanted.domains.fault),
        ("update_domains", found.update_domains, wanted.domains.update),
    ]
    if "ssh_key" in wanted.written:
        rows.append(("ssh_key", found.public_key, wishes.public_key))
    if "generation" in wanted.written:
        rows.append(("generation", found.generation, wishes.generation))
    if "os_disk_size" in wanted.written:
        rows.append(("os_disk_size", found.os_disk_size, wishes.os_disk_size))
    if "resource_disk" in wanted.written:
        rows.append(("resource_disk", found.resource_size, wishes.resource_size))
    if chosen is not None and chosen.name is not None:
        rows.append(("size", found.size, chosen.name))
    elif chosen is not None:
        rows += [("cpus", found.cpus, chosen.cpus), ("memory", found.memory, chosen.memory)]
    return [(key, _shown(has), _shown(wish)) for key, has, wish in rows if has != wish]


def _shown(value: object) -> str:
    return "not set" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


# ---- what is to be changed ---------------------------------------------------------------------------------------


def plan_deployment(fleet: Fleet, service: Service, means: Means) -> list[Step]:
    """The changes that bring the sets and endpoints to what the file says, in their order. None: all is as it says.

    Raises DefinitionError as `check_service` does.
    """
    check_service(fleet, service)
    own = fleet.deployments.find(service.name)
    steps: list[Step] = []
    kept = {endpoint.name for endpoint in service.endpoints}
    for name in own.endpoints if own is not None else ():
        if name not in kept and fleet.endpoints.find(name) is not None:
            steps.append(Step(f"endpoint {name}: remove it", partial(remove_endpoint, fleet, name)))
    for wanted in service.sets:
        found = fleet.sets.find(wanted.name)
        steps += _make_set(fleet, wanted, means) if found is None else _change_set(fleet, wanted, found, means)
    steps += _endpoint_steps(fleet, service)
    kept = {wanted.name for wanted in service.sets}
    for name in own.sets if own is not None else ():
        if name not in kept and fleet.sets.find(name) is not None:
            vms = tuple(record.name for record in members_of(name, fleet.instances.all()))
            run = partial(delete_set, fleet, name, _on_delete(means))
            steps.append(Step(f"set {name}: delete it{_with(vms)}", run, vms))
    return steps


def _with(vms: tuple[str, ...]) -> str:
    return f" with {', '.join(vms)}" if vms else ""


def _on_delete(means: Means) -> Callable[[str], None]:
    return lambda name: means.on_progress(f"{name}: deleted")


def _make_set(fleet: Fleet, wanted: WantedSet, means: Means) -> list[Step]:
    def run() -> None:
        ensure_set(fleet, wanted.name, wanted.wishes, wanted.domains)
        follow_golden(fleet, wanted.name, wanted.auto)
        _grow(fleet, wanted, means)

    vms = "1 VM" if wanted.count == 1 else f"{wanted.count} VMs"
    return [Step(f"set {wanted.name}: make it, {vms} from {wanted.wishes.image}", run)]


def _grow(fleet: Fleet, wanted: WantedSet, means: Means) -> None:
    if lacking := plan_growth(fleet, wanted.name, wanted.count):
        means.create(lacking)


def _change_set(fleet: Fleet, wanted: WantedSet, found: SetRecord, means: Means) -> list[Step]:
    """The changes of a set that exists: VMs whose creation was interrupted, too many, another image or data, VMs that
    are off, too few."""
    name, steps = wanted.name, list[Step]()
    target = version_reference(choose_master(fleet.gallery, wanted.wishes.image))
    vms = [
        current
        for record in members_of(name, fleet.instances.all())
        if (current := fleet.refresh(record)) is not None
    ]
    for record in [each for each in vms if _is_lost(fleet, each)]:
        run = partial(delete, fleet, record.name, running=True)
        steps.append(Step(f"set {name}: make {record.name} again, which was never provisioned", run))
        vms.remove(record)
    for record in [each for each in vms if each.provisioned is None and not each.drained]:
        wait = partial(wait_ready, fleet.store, record.name, None, means.on_progress, threading.Event())
        steps.append(Step(f"set {name}: wait for {record.name}, which is being provisioned", wait))
    if surplus := tuple(record.name for record in vms[wanted.count :]):
        smaller = partial(shrink, fleet, name, wanted.count, _on_delete(means))
        steps.append(Step(f"set {name}: delete {', '.join(surplus)}", smaller, surplus))
        vms = vms[: wanted.count]
    files = {**dict.fromkeys(FILES, b""), **files_of(wanted.wishes)}
    changed = [file for file, data in files.items() if fleet.sets.read_file(name, file) != data]
    if found.auto != wanted.auto:
        words = "follow golden at each refresh" if wanted.auto else "follow golden no longer"
        steps.append(Step(f"set {name}: {words}", partial(follow_golden, fleet, name, wanted.auto)))
    if changed:
        words = " and ".join(file.replace("-", " ") for file in changed)
        steps.append(Step(f"set {name}: change its {words}", partial(change_files, fleet, name, files)))
    behind = [
        record.name for record in vms if is_behind(fleet, record, target, ()) or _has_other(fleet, record, files)
    ]
    if behind or found.image != wanted.wishes.image:
        run_upgrade = partial(
            upgrade_set, fleet, name, wanted.wishes.image, means.on_progress,
            on_begun=means.on_begun, renew=means.renew, files=FILES, also_off=True,
        )  # fmt: skip
        words = f"reimage {', '.join(behind)} from {target}" if behind else f"follow {wanted.wishes.image}"
        steps.append(Step(f"set {name}: {words}", run_upgrade))
    for record in vms:
        if record.provisioned is not None and record.name not in behind and not fleet.is_on(record):
            steps.append(Step(f"set {name}: start {record.name}", partial(start, fleet, record.name)))
    if (missing := wanted.count - len(vms)) > 0:
        more = "1 VM" if missing == 1 else f"{missing} VMs"
        steps.append(Step(f"set {name}: add {more}", partial(_grow, fleet, wanted, means)))
    return steps


def _is_lost(fleet: Fleet, record: Record) -> bool:
    """Whether a VM was never provisioned, and will not be: its creation failed, or was interrupted before it ran.

    A drained one was being reimaged: the upgrade goes on with it.
    """
    busy = record.operation is not None and record.operation.is_alive
    if record.provisioned is not None or record.drained or busy:
        return False
    return record.failure is not None or record.disk is None or not fleet.is_on(record)


def _has_other(fleet: Fleet, record: Record, files: Mapping[str, bytes]) -> bool:
    return any(fleet.instances.read_file(record.name, file) != data for file, data in files.items())


def _endpoint_steps(fleet: Fleet, service: Service) -> list[Step]:
    """Endpoints that changed are removed before any is added: they may exchange their ports."""
    removals, additions = list[Step](), list[Step]()
    for wanted in service.endpoints:
        found = fleet.endpoints.find(wanted.name)
        if found is not None:
            differ = _differences(found, wanted)
            if not differ:
                continue
            text = f"endpoint {wanted.name}: remove it, to change {', '.join(differ)}"
            removals.append(Step(text, partial(remove_endpoint, fleet, wanted.name)))
        way = f"{wanted.address}:{wanted.public} leads to port {wanted.private} of {wanted.set}"
        additions.append(Step(f"endpoint {wanted.name}: add it, {way}", partial(add_endpoint, fleet, wanted)))
    return removals + additions


def _differences(found: EndpointRecord, wanted: EndpointWishes) -> list[str]:
    """The keys of an endpoint whose values are not those of the file."""
    pairs = {
        "protocol": (found.protocol, wanted.protocol),
        "address": (found.address, wanted.address),
        "public": (found.public, wanted.public),
        "private": (found.private, wanted.private),
        "set": (found.set, wanted.set),
        "probe": (found.probe, read_probe(wanted.probe)),
    }
    return [key for key, (has, wish) in pairs.items() if has != wish]


# ---- changing it -------------------------------------------------------------------------------------------------


def apply_deployment(fleet: Fleet, service: Service, steps: list[Step], on_step: OnProgress) -> DeploymentRecord:
    """Do the changes that `plan_deployment` found. `on_step` gets the line of each before it. The caller holds the
    deployment.

    Raises the errors of the verbs, after which the next call goes on, and DefinitionError as `check_service` does.
    """
    sets = {wanted.name: wanted.count for wanted in service.sets}
    endpoints = tuple(endpoint.name for endpoint in service.endpoints)
    old = fleet.deployments.find(service.name)
    created = old.created if old is not None else now()
    wanted = DeploymentRecord(service.name, created, service.file, service.digest, sets, endpoints, now())
    if old is not None and not steps and replace(wanted, applied=old.applied) == old and old.applied is not None:
        return old
    with fleet.instances.hold_budget():
        check_service(fleet, service)  # another deployment may have taken a name meanwhile
        both = {**(old.sets if old is not None else {}), **sets}
        names = dict.fromkeys((*(old.endpoints if old is not None else ()), *endpoints))
        fleet.deployments.put(replace(wanted, sets=both, endpoints=tuple(names), applied=None))
    for step in steps:
        on_step(step.text)
        step.run()
    return fleet.deployments.put(replace(wanted, applied=now()))


def delete_deployment(fleet: Fleet, name: str, on_step: OnProgress) -> None:
    """Delete a deployment: its endpoints, then its sets with their VMs and disks. The caller holds it. After an
    interruption the next call finishes it.

    Raises NotFound (deploy-unknown), UsageError (set-in-use) where an endpoint that is not its own leads to a set.
    """
    record = fleet.deployments.get(name)
    fleet.deployments.save(replace(record, applied=None))
    for endpoint in record.endpoints:
        with contextlib.suppress(NotFound):
            remove_endpoint(fleet, endpoint)
            on_step(f"endpoint {endpoint}: removed")
    for each in record.sets:
        with contextlib.suppress(NotFound):
            delete_set(fleet, each, lambda gone: on_step(f"{gone}: deleted"))
            on_step(f"set {each}: deleted")
    fleet.deployments.remove(name)
