"""`goldsmith set`: VMs that do the same work, in fault domains and update domains."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from pipeline.base.errors import UsageError
from pipeline.cli import completion
from pipeline.cli.hooks import notifying
from pipeline.cli.removals import count_of
from pipeline.cli.vm.options import AsJson, FleetGroup, open_fleet, print_password

if TYPE_CHECKING:
    from pipeline.instances.fleet import Fleet
    from pipeline.instances.record import Record
    from pipeline.instances.set_records import SetRecord
    from pipeline.instances.state import Reality
    from pipeline.operations.create import Creation

SetName = Annotated[str, typer.Argument(metavar="SET", help="The set.", autocompletion=completion.complete_set)]


def register(app: typer.Typer) -> None:
    noun = typer.Typer(
        help="Show, enlarge, fail and delete sets of VMs that do the same work.",
        no_args_is_help=True,
        rich_markup_mode=None,
        cls=FleetGroup,
    )
    noun.command("list")(list_all)
    noun.command("show")(show)
    noun.command("scale")(scale)
    noun.command("start")(start)
    noun.command("fail-domain")(fail_domain)
    noun.command("upgrade")(upgrade)
    noun.command("auto")(auto)
    noun.command("delete")(delete)
    app.add_typer(noun, name="set")


def list_all(as_json: AsJson = False) -> None:
    """List the sets with the number of their VMs and the versions that these run from.

    Example:
      goldsmith set list
    """
    from pipeline.cli.show import print_json, table

    fleet = open_fleet("list", noun="set ")
    vms = fleet.survey()
    found = [to_json(fleet, record, vms) for record in fleet.sets.all()]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each["name"],
            each["image"],
            ", ".join(each["versions"]),
            f"{each['running']} of {len(each['vms'])}",
            f"{each['faultDomains']}, {each['updateDomains']}",
        )
        for each in found
    ]
    header = ("name", "image", "versions", "running", "fault, update domains")
    table(rows, header, empty="there are no sets; goldsmith vm create NAME --set SET --count N makes one")


def to_json(fleet: Fleet, found: SetRecord, vms: list[tuple[Record, Reality]]) -> dict[str, Any]:
    """A set's fields in `--json`, with its VMs. `vms`: all VMs with their states."""
    from pipeline.cli.vm.listing import address_of
    from pipeline.instances.fleet import CERTIFICATE
    from pipeline.instances.set_records import number_of
    from pipeline.instances.state import describe
    from pipeline.operations.certificates import describe_certificate

    members = sorted(
        ((record, reality) for record, reality in vms if record.set == found.name),
        key=lambda pair: number_of(pair[0]),
    )
    return {
        "name": found.name,
        "image": found.image,
        "created": found.created,
        "faultDomains": found.fault_domains,
        "updateDomains": found.update_domains,
        "auto": found.auto,
        "versions": sorted({f"{record.image}@{record.version}" for record, _ in members}),
        "certificate": describe_certificate(fleet.sets.read_file(found.name, CERTIFICATE)),
        "running": sum(reality.is_on for _, reality in members),
        "vms": [
            {
                "name": record.name,
                "vmId": record.id,
                "image": record.image,
                "version": record.version,
                "faultDomain": record.fault_domain,
                "updateDomain": record.update_domain,
                "status": describe(record, reality),
                "agent": str(reality.agent.state) if reality.is_on else "",
                "drained": record.drained,
                "certificate": describe_certificate(fleet.instances.read_file(record.name, CERTIFICATE)),
                "address": address_of(fleet, record),
            }
            for record, reality in members
        ],
    }


def show(name: SetName, as_json: AsJson = False) -> None:
    """Show a set and its VMs, with the domains, the version and the state of each.

    Example:
      goldsmith set show shop
    """
    from pipeline.cli.show import print_json, table

    fleet = open_fleet("show", noun="set ")
    record = fleet.sets.get(name)
    found = to_json(fleet, record, fleet.survey())
    if as_json:
        print_json(found)
        return
    domains = f"{count_of(record.fault_domains, 'fault domain')}, {count_of(record.update_domains, 'update domain')}"
    auto = ", follows golden" if record.auto else ""
    print(f"{name}  {record.image}{auto}, {count_of(len(found['vms']), 'VM')}, {domains}")
    if (certificate := found["certificate"]) is not None:
        print(f"certificate {certificate['thumbprint']}, {certificate['subject']}, until {certificate['notAfter']}")
    rows = [
        (
            each["name"],
            str(each["faultDomain"]),
            str(each["updateDomain"]),
            each["version"],
            each["status"] + (", drained" if each["drained"] else ""),
            each["agent"],
            each["address"] or "",
        )
        for each in found["vms"]
    ]
    header = ("vm", "fault", "update", "version", "status", "agent", "address")
    table(rows, header, empty=f"it has no VMs; goldsmith set scale {name} N makes some")


def scale(
    name: SetName,
    count: Annotated[
        int, typer.Argument(min=0, max=100, metavar="N", help="The number of VMs that the set has then.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before VMs are deleted.")] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Return at once; goldsmith vm wait NAME waits for a VM.")
    ] = False,
) -> None:
    """Create VMs of a set, or delete those with the highest numbers, until it has N.

    Examples:
      goldsmith set scale shop 4
      goldsmith set scale shop 2 --yes
    """
    from pipeline.cli.vm.create import create_all
    from pipeline.operations.sets import members, plan_growth, shrink

    fleet = open_fleet("scale", noun="set ")
    lacking = plan_growth(fleet, name, count)
    surplus = [record.name for record in members(fleet, name)[count:]]
    if surplus:
        _confirm(f"the VMs {', '.join(surplus)} with their disks", f"goldsmith set scale {name} {count} --yes", yes)
        shrink(fleet, name, count, lambda gone: print(f"{gone}: deleted", flush=True))
    if lacking:
        create_all(fleet, lacking, no_wait=no_wait)
    print(f"{name}: {count_of(len(members(fleet, name)), 'VM')}")


def _confirm(what: str, command: str, yes: bool) -> None:
    """Ask before something is deleted. Raises UsageError (set-delete-unconfirmed)."""
    from pipeline.cli.vm.power import confirm

    if not yes and not confirm(f"delete {what}? [y/N] "):
        raise UsageError(f"{what} would be deleted", name="set-delete-unconfirmed", hint=command)


def start(name: SetName) -> None:
    """Start the VMs of a set that do not run.

    Example:
      goldsmith set start shop
    """
    from pipeline.operations.sets import start_members

    _print_changed(name, start_members(open_fleet("start", noun="set "), name), "Running", "all its VMs run already")


def fail_domain(
    name: SetName,
    domain: Annotated[int, typer.Argument(min=0, metavar="N", help="The number of the fault domain, from 0.")],
) -> None:
    """Cut the power of all VMs in a fault domain, as a failed rack does; goldsmith set start starts them again.

    Example:
      goldsmith set fail-domain shop 0
    """
    from pipeline.operations.sets import fail_domain as fail

    stopped = fail(open_fleet("fail-domain", noun="set "), name, domain)
    _print_changed(name, stopped, "Stopped", f"no VM runs in fault domain {domain}")


def _print_changed(name: str, changed: list[str], state: str, nothing: str) -> None:
    for each in changed:
        print(f"{each}: {state}")
    if not changed:
        print(f"{name}: {nothing}")


def upgrade(
    name: SetName,
    to: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--to",
            metavar="IMAGE[@VERSION|CHANNEL]",
            help="The version; without IMAGE@ one of the set's image (default: what the set was made from).",
            autocompletion=completion.complete_reference,
        ),
    ] = None,
    certificate: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--certificate",
            metavar="FILE",
            help="A new certificate with its private key, PEM or PKCS#12, for all VMs (default: the set's).",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Reimage the VMs of a set from another version, one update domain after the other, without lost requests.

    A domain whose VMs do not come up goes back to the version that it had, and the upgrade stops.

    Examples:
      goldsmith set upgrade shop
      goldsmith set upgrade shop --to golden
      goldsmith set upgrade shop --certificate shop.pem
    """
    from dataclasses import asdict

    from pipeline.cli.show import print_json
    from pipeline.cli.vm.option_values import read_certificate
    from pipeline.instances.fleet import CERTIFICATE
    from pipeline.operations.sets import change_files
    from pipeline.operations.upgrade import choose_target, renewed_files, upgrade_set

    fleet = open_fleet("upgrade", noun="set ")
    fleet.keep_fabric()
    with notifying("vm", name):
        if certificate is not None:
            content = read_certificate(certificate)
            choose_target(fleet, name, to)  # raises, before anything is changed
            change_files(fleet, name, {CERTIFICATE: content})
        done = upgrade_set(
            fleet,
            name,
            to,
            lambda text: print(f"{name}: {text}", flush=True),
            on_begun=_print_new_password,
            files=renewed_files(fleet, name),
        )
    if as_json:
        print_json(asdict(done))
        return
    for vm, why in done.left.items():
        print(f"{vm}: not upgraded: {why}")
    counts = f"{len(done.upgraded)} upgraded, {len(done.current)} current before, {len(done.left)} left"
    print(f"{name}: {done.reference}: {counts}")


class Switch(StrEnum):
    ON = "on"
    OFF = "off"


def auto(
    name: SetName, switch: Annotated[Switch, typer.Argument(metavar="on|off", help="Whether it follows golden.")]
) -> None:
    """Let each refresh of a set's image upgrade its VMs to golden, as set upgrade does, or not (the default).

    Example:
      goldsmith set auto shop on
    """
    from pipeline.operations.sets import follow_golden

    record = follow_golden(open_fleet("auto", noun="set "), name, switch is Switch.ON)
    image = record.image.partition("@")[0]
    if record.auto:
        print(f"{name}: each refresh of {image} upgrades its VMs to golden")
    else:
        print(f"{name}: its VMs stay on their version until goldsmith set upgrade {name}")


def _print_new_password(creation: Creation) -> None:
    if creation.password is not None:
        print_password(creation.record, creation.password)


def delete(
    name: SetName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, and stop running VMs first.")] = False,
) -> None:
    """Delete a set with its VMs and their disks.

    Example:
      goldsmith set delete shop
    """
    from pipeline.operations.sets import delete_set, members

    fleet = open_fleet("delete", noun="set ")
    what = f"the set {name} with {count_of(len(members(fleet, name)), 'VM')}"
    _confirm(what, f"goldsmith set delete {name} --yes", yes)
    delete_set(fleet, name, lambda gone: print(f"{gone}: deleted", flush=True))
    print(f"{name}: deleted")
