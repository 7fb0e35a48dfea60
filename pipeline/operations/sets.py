"""Sets of VMs: made with their first VM, made larger and smaller, a fault domain failed, deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from pipeline.base.errors import GoldsmithError, UsageError
from pipeline.base.runs import now
from pipeline.instances.disks import os_disk_size
from pipeline.instances.endpoints import drain, endpoints_of, wait_drained
from pipeline.instances.fleet import CERTIFICATE, CUSTOM_DATA, USER_DATA, Fleet
from pipeline.instances.record import Record
from pipeline.instances.set_records import (
    FAULT_DOMAINS,
    UPDATE_DOMAINS,
    SetRecord,
    check_set_name,
    members_of,
    number_of,
)
from pipeline.instances.sizes import Size
from pipeline.operations.create import Wishes, choose_master, files_of, plan
from pipeline.operations.delete import delete
from pipeline.operations.start import start
from pipeline.operations.stop import stop

#: The most VMs of a set, as of a classic deployment.
MOST_VMS = 100
#: Seconds that a drained VM has to answer the requests that it got before.
DRAIN = 60.0


@dataclass(frozen=True)
class Domains:
    """The user's wishes for the domains of a set; None: those of the set, by default Azure's."""

    fault: int | None = None
    update: int | None = None


def ensure_set(fleet: Fleet, name: str, wishes: Wishes, domains: Domains | None = None) -> bool:
    """Make a set whose VMs are made by these wishes; `wishes.name` is the beginning of their names. A set that exists
    stays as it is. Returns whether it was made.

    Raises UsageError (set-name, set-differs) and the errors of `plan`.
    """
    wanted = domains or Domains()
    check_set_name(name)
    with fleet.instances.hold_budget():
        found = fleet.sets.find(name)
        if found is not None:
            _refuse_other_domains(found, wanted)
            return False
        # what cannot be a VM is refused before there is a set
        record, _ = plan(fleet, replace(wishes, set=None))
        made = SetRecord(
            name=name,
            created=now(),
            prefix=wishes.name,
            image=wishes.image,
            user=record.user,
            public_key=record.public_key,
            size=record.size,
            cpus=record.cpus,
            memory=record.memory,
            generation=record.generation,
            secure=record.secure,
            network=record.network,
            outside=record.outside,
            os_caching=record.os_caching,
            os_disk_size=record.os_disk_size,
            resource_size=record.resource_size,
            fault_domains=wanted.fault or FAULT_DOMAINS,
            update_domains=wanted.update or UPDATE_DOMAINS,
        )
        fleet.sets.add(made, files_of(wishes))
        return True


def _refuse_other_domains(found: SetRecord, wanted: Domains) -> None:
    for what, has, wish in (
        ("fault", found.fault_domains, wanted.fault),
        ("update", found.update_domains, wanted.update),
    ):
        if wish is not None and wish != has:
            raise UsageError(
                f"the set {found.name} has {has} {what} domains, not {wish}",
                name="set-differs",
                hint=f"leave --{what}-domains out; goldsmith set show {found.name} shows the set",
            )


def drop_empty_set(fleet: Fleet, name: str) -> None:
    """Remove a set that has no VM: the creation of its first one failed."""
    with fleet.instances.hold_budget():
        if not members_of(name, fleet.instances.all()):
            fleet.sets.remove(name)


def members(fleet: Fleet, name: str) -> list[Record]:
    """The VMs of a set. Raises NotFound (set-unknown)."""
    fleet.sets.get(name)
    return members_of(name, fleet.instances.all())


def wishes_of(fleet: Fleet, found: SetRecord, name: str) -> Wishes:
    """The wishes for another VM of a set."""
    return Wishes(
        name=name,
        image=found.image,
        user=found.user,
        public_key=found.public_key,
        size=Size(found.size, found.cpus, found.memory),
        custom_data=fleet.sets.read_file(found.name, CUSTOM_DATA),
        user_data=fleet.sets.read_file(found.name, USER_DATA),
        certificate=fleet.sets.read_file(found.name, CERTIFICATE),
        generation=found.generation,
        secure=found.secure,
        network=found.network,
        outside=found.outside,
        os_caching=found.os_caching,
        os_disk_size=_os_disk_size(fleet, found),
        resource_size=found.resource_size,
        set=found.name,
    )


def _os_disk_size(fleet: Fleet, found: SetRecord) -> int | None:
    """Bytes of the OS disk of another VM of a set: the set's, or those of a master that has become larger."""
    if not found.os_disk_size:
        return None
    return os_disk_size(choose_master(fleet.gallery, found.image), found.os_disk_size)


def change_files(fleet: Fleet, name: str, files: Mapping[str, bytes]) -> None:
    """Change the files that VMs of a set are made with. VMs that exist get them by an upgrade.

    Raises NotFound (set-unknown).
    """
    with fleet.instances.hold_budget():
        fleet.sets.get(name)
        for file, data in files.items():
            fleet.sets.write_file(name, file, data)


def follow_golden(fleet: Fleet, name: str, auto: bool) -> SetRecord:
    """Decide whether each refresh of a set's image upgrades its VMs to golden. Raises NotFound (set-unknown)."""
    with fleet.instances.hold_budget():
        return fleet.sets.save(replace(fleet.sets.get(name), auto=auto))


def plan_growth(fleet: Fleet, name: str, count: int) -> list[Wishes]:
    """The VMs that a set lacks to have `count`: the lowest numbers that are free. Raises UsageError (set-size)."""
    found = fleet.sets.get(name)
    if not 0 <= count <= MOST_VMS:
        raise UsageError(f"a set has 0 to {MOST_VMS} VMs, not {count}", name="set-size", hint=f"use 0 to {MOST_VMS}")
    missing = count - len(members(fleet, name))
    taken = set(fleet.instances.names())
    names = (f"{found.prefix}-{number}" for number in range(len(taken) + count))
    free = [each for each in names if each not in taken]
    return [wishes_of(fleet, found, each) for each in free[: max(0, missing)]]


def shrink(fleet: Fleet, name: str, count: int, on_delete: Callable[[str], None]) -> None:
    """Delete the VMs of a set beyond `count`, those with the highest numbers. `on_delete` gets each name.

    They get no new requests first, and have time to answer those that they got.
    """
    surplus = members(fleet, name)[count:]
    if endpoints_of(fleet, name) and surplus:
        names = [record.name for record in surplus]
        drain(fleet, names)
        wait_drained(fleet, name, names, DRAIN)
    for record in reversed(surplus):
        delete(fleet, record.name, running=True)
        on_delete(record.name)


def fail_domain(fleet: Fleet, name: str, domain: int) -> list[str]:
    """Cut the power of all VMs of a fault domain, as a failed rack does. Returns the names of those that ran.

    Raises UsageError (domain-unknown), NotFound (set-unknown).
    """
    found = fleet.sets.get(name)
    if not 0 <= domain < found.fault_domains:
        last = found.fault_domains - 1
        raise UsageError(
            f"the set {name} has no fault domain {domain}",
            name="domain-unknown",
            hint=f"use 0 to {last}; goldsmith set show {name} shows the domains of its VMs",
        )
    affected = [record for record in members(fleet, name) if record.fault_domain == domain]
    return _apply(affected, ("vm-stopped", "vm-deallocated"), lambda record: stop(fleet, record.name, force=True))


def start_members(fleet: Fleet, name: str) -> list[str]:
    """Start the VMs of a set that do not run. Returns their names."""
    return _apply(members(fleet, name), ("vm-running",), lambda record: start(fleet, record.name))


def _apply(records: Iterable[Record], fine: tuple[str, ...], change: Callable[[Record], object]) -> list[str]:
    """Change each VM; the errors named in `fine` say that nothing was to be done. The first other error is raised
    after the last VM."""
    changed, errors = [], []
    for record in records:
        try:
            change(record)
            changed.append(record.name)
        except GoldsmithError as error:
            if error.name not in fine:
                errors.append(error)
    if errors:
        raise errors[0]
    return changed


def delete_set(fleet: Fleet, name: str, on_delete: Callable[[str], None]) -> None:
    """Delete a set with all its VMs. After an interruption the next call finishes it.

    Raises NotFound (set-unknown), UsageError (set-in-use).
    """
    fleet.sets.get(name)
    if used := endpoints_of(fleet, name):
        raise UsageError(
            f"the endpoint {used[0].name} leads to the set {name}",
            name="set-in-use",
            hint=f"goldsmith endpoint remove {used[0].name}, then delete the set",
        )
    for record in sorted(members(fleet, name), key=number_of):
        delete(fleet, record.name, running=True)
        on_delete(record.name)
    with fleet.instances.hold_budget():
        left = members_of(name, fleet.instances.all())
        if left:
            raise UsageError(
                f"the set {name} has got another VM meanwhile: {left[0].name}",
                name="set-in-use",
                hint=f"run goldsmith set delete {name} again",
            )
        fleet.sets.remove(name)
