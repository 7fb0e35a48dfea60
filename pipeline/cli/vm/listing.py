"""`goldsmith vm list`, `show`: the VMs and their states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from pipeline.base.errors import GoldsmithError
from pipeline.cli.vm.options import AsJson, Name, open_fleet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.instances.fleet import Fleet
    from pipeline.instances.record import Record
    from pipeline.instances.state import Reality


def register(noun: typer.Typer) -> None:
    noun.command("list")(list_all)
    noun.command("show")(show)
    noun.command("budget")(budget)


def list_all(as_json: AsJson = False) -> None:
    """List the VMs with their states.

    Example:
      goldsmith vm list
    """
    from pipeline.cli.show import print_json, table

    fleet = open_fleet("list")
    found = fleet.survey()
    if as_json:
        print_json([to_json(fleet, record, reality) for record, reality in found])
        return
    rows = [_row(fleet, record, reality) for record, reality in found]
    header = ("name", "image", "version", "size", "status", "agent", "address")
    table(rows, header, empty="there are no VMs; goldsmith vm create NAME --image IMAGE makes one")


def _row(fleet: Fleet, record: Record, reality: Reality) -> tuple[str, ...]:
    from pipeline.instances.state import describe

    return (
        record.name,
        record.image,
        record.version,
        _size(record),
        describe(record, reality),
        str(reality.agent.state) if reality.is_on else "",
        address_of(fleet, record) or "",
    )


def _size(record: Record) -> str:
    return record.size or _amounts(record)


def _amounts(record: Record) -> str:
    from pipeline.cli.show import size

    return f"{record.cpus} cpu, {size(record.memory)}"


def address_of(fleet: Fleet, record: Record) -> str | None:
    from pipeline.fabric import service

    link = service.read_link(fleet.store, record.id) if record.allocated else None
    return link.address if link is not None else None


def to_json(fleet: Fleet, record: Record, reality: Reality) -> dict[str, Any]:
    """A VM's fields in `--json`; `instanceView` has Azure's form."""
    from pipeline.instances.fleet import CERTIFICATE
    from pipeline.instances.state import describe, instance_view, power_state, provisioning_state
    from pipeline.operations.certificates import describe_certificate

    return {
        "name": record.name,
        "vmId": record.id,
        "image": record.image,
        "version": record.version,
        "size": record.size,
        "cpus": record.cpus,
        "memory": record.memory,
        "generation": record.generation,
        "secureBoot": record.secure,
        "system": record.system,
        "adminUser": record.user,
        "created": record.created,
        "provisioned": record.provisioned,
        "allocated": record.allocated,
        "address": address_of(fleet, record),
        "network": record.network,
        "set": record.set,
        "faultDomain": record.fault_domain,
        "updateDomain": record.update_domain,
        "drained": record.drained,
        "certificate": describe_certificate(fleet.instances.read_file(record.name, CERTIFICATE)),
        "outside": record.outside,
        "status": describe(record, reality),
        "provisioningState": provisioning_state(record),
        "powerState": power_state(record, reality),
        "instanceView": instance_view(record, reality),
        "folder": str(fleet.folder(record)),
        "storageProfile": storage_profile(fleet, record),
    }


def storage_profile(fleet: Fleet, record: Record) -> dict[str, Any]:
    """A VM's disks as Azure's storage profile has them; sizes in GiB, and `resourceDisk` in bytes beside them."""
    from pipeline.instances.disks import os_disk_name

    if record.disk is None:
        return {"osDisk": None, "dataDisks": [], "resourceDisk": None}
    os_disk = {
        "name": os_disk_name(record),
        "createOption": "FromImage",
        "caching": record.os_caching,
        "diskSizeGB": _os_disk_gibibytes(fleet, record),
        "path": str(record.image_of_disk.path),
    }
    try:
        data = [
            {
                "lun": disk.lun,
                "name": disk.name,
                "createOption": disk.create_option,
                "caching": disk.caching,
                "diskSizeGB": -(-disk.size // (1 << 30)),
                "path": str(disk.image.path),
            }
            for disk in fleet.attached_disks(record)
        ]
    except GoldsmithError:
        # its master or a disk cannot be read: the list of VMs is shown all the same
        data = [
            {
                "lun": each.lun,
                "name": each.disk,
                "createOption": each.create_option,
                "caching": each.caching,
                "diskSizeGB": None,
                "path": None,
            }
            for each in record.data_disks
        ]
    return {"osDisk": os_disk, "dataDisks": data, "resourceDisk": {"size": record.resource_size}}


def _gibibytes(disk: Mapping[str, Any]) -> str:
    return "size unknown" if disk["diskSizeGB"] is None else f"{disk['diskSizeGB']} GiB"


def _os_disk_gibibytes(fleet: Fleet, record: Record) -> int | None:
    """Rounded up, as Azure has it; None where it is the size of a master that cannot be read."""
    from pipeline.instances.disks import os_disk_size

    try:
        size = os_disk_size(fleet.gallery.get(record.reference), record.os_disk_size)
    except GoldsmithError:
        size = record.os_disk_size
    return -(-size // (1 << 30)) or None


def show(name: Name, as_json: AsJson = False) -> None:
    """Show one VM: its identity, its machine, and its statuses as Azure's instance view has them.

    Example:
      goldsmith vm show web
    """
    from pipeline.cli.show import print_json
    from pipeline.instances.fleet import CERTIFICATE
    from pipeline.instances.state import describe, instance_view
    from pipeline.operations.certificates import describe_certificate

    fleet = open_fleet("show")
    fleet.keep_fabric()
    record = fleet.refresh(fleet.instances.get(name)) or fleet.instances.get(name)
    reality = fleet.look(record)
    if as_json:
        print_json(to_json(fleet, record, reality))
        return
    view = instance_view(record, reality)
    secure = ", Secure Boot and TPM" if record.secure else ""
    named = f"{record.size}: " if record.size else ""
    rows = [
        ("", f"{record.name}  {describe(record, reality)}"),
        ("id", record.id),
        ("image", f"{record.image} {record.version} ({record.system})"),
        ("machine", f"{named}{_amounts(record)}, generation {record.generation}{secure}"),
        ("user", record.user),
        ("address", address_of(fleet, record) or "none: it is deallocated"),
        ("created", record.created),
    ]
    if record.set is not None:
        drained = ", drained" if record.drained else ""
        domains = f"fault domain {record.fault_domain}, update domain {record.update_domain}"
        rows.append(("set", f"{record.set}, {domains}{drained}"))
    if (found := describe_certificate(fleet.instances.read_file(name, CERTIFICATE))) is not None:
        rows.append(("certificate", f"{found['subject']}, {found['thumbprint']}, until {found['notAfter']}"))
    profile = storage_profile(fleet, record)
    if profile["osDisk"] is not None:
        os_disk = profile["osDisk"]
        rows.append(("os disk", f"{os_disk['name']}, {_gibibytes(os_disk)}, caching {os_disk['caching']}"))
    for disk in profile["dataDisks"]:
        place = f"LUN {disk['lun']}, {_gibibytes(disk)}, caching {disk['caching']}, {disk['createOption']}"
        rows.append(("data disk", f"{disk['name']}, {place}"))
    if record.resource_size:
        rows.append(("temporary", f"{record.resource_size >> 20} MiB, lost by deallocate and redeploy"))
    ways = [f"network {record.network}"] if record.network else []
    ways += ["the outside"] if record.outside else []
    rows += [("reaches", ", ".join(ways))] if ways else []
    for status in (*view["statuses"], *view["vmAgent"]["statuses"]):
        what = "agent" if status in view["vmAgent"]["statuses"] else "status"
        words = "  ".join(str(status[key]) for key in ("code", "displayStatus", "message", "time") if status.get(key))
        rows.append((what, words))
    if record.failure is not None:
        rows.append(("failure", f"{record.failure.name}: {record.failure.message}"))
        rows += [("hint", record.failure.hint)] if record.failure.hint else []
    if operation := view.get("operation"):
        rows.append(("operation", f"{operation['kind']} {operation['id']} since {operation['started']}"))
    rows.append(("in", str(fleet.folder(record))))
    print("\n".join(f"  {key:10} {value}" if key else value for key, value in rows))


def budget(
    processors_per_core: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--processors-per-core",
            min=1,
            max=64,
            metavar="N",
            help="Set the number of VM processors per processor of this host (default: show the budget).",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show which part of this host VMs may use and do use, or set how many VM processors share a processor.

    Examples:
      goldsmith vm budget
      goldsmith vm budget --processors-per-core 4
    """
    from dataclasses import asdict

    from pipeline.cli.show import print_json, size, table
    from pipeline.instances.budget import read_processors_per_core, set_processors_per_core

    fleet = open_fleet("budget")
    with fleet.instances.hold_budget():
        if processors_per_core is not None:
            set_processors_per_core(fleet.instances, processors_per_core)
        found = fleet.measure_budget(fleet.instances.all())
        share = read_processors_per_core(fleet.instances)
    if as_json:
        print_json({**asdict(found), "processors_per_core": share})
        return
    free = max(0, found.memory - found.memory_taken)
    rows = [
        ("processors", str(found.cpus), str(found.cpus_taken), str(max(0, found.cpus - found.cpus_taken))),
        ("memory", size(found.memory), size(found.memory_taken), size(free)),
        ("disk", "", "", size(max(0, found.disk))),
    ]
    table(rows, ("", "all", "taken", "free"))
    print(
        f"one processor of this host carries {share} of VMs; goldsmith vm budget --processors-per-core N changes that"
    )
