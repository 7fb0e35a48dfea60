"""`goldsmith endpoint`: a port of this host that leads to the VMs of a set."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli import completion
from pipeline.cli.gallery.options import DryRun
from pipeline.cli.removals import Row, print_removals
from pipeline.cli.vm.options import AsJson, FleetGroup, align, open_fleet

if TYPE_CHECKING:
    from pipeline.instances.endpoints import Outcome
    from pipeline.instances.fleet import Fleet
    from pipeline.instances.record import Record
    from pipeline.network.balancer import ServerState

Name = Annotated[
    str, typer.Argument(metavar="ENDPOINT", help="The endpoint.", autocompletion=completion.complete_endpoint)
]


class Protocol(StrEnum):
    TCP = "tcp"
    HTTP = "http"


def register(app: typer.Typer) -> None:
    noun = typer.Typer(
        help="Add, list and remove endpoints: ports of this host that lead to the VMs of a set.",
        no_args_is_help=True,
        rich_markup_mode=None,
        cls=FleetGroup,
    )
    noun.command("add")(add)
    noun.command("list")(list_all)
    noun.command("show")(show)
    noun.command("remove")(remove)
    app.add_typer(noun, name="endpoint")


def add(
    name: Annotated[str, typer.Argument(metavar="ENDPOINT", help="The new endpoint's name.")],
    public: Annotated[int, typer.Option("--public", min=1, max=65535, metavar="PORT", help="The port of this host.")],
    private: Annotated[int, typer.Option("--private", min=1, max=65535, metavar="PORT", help="The port of the VMs.")],
    in_set: Annotated[
        str, typer.Option("--set", metavar="SET", help="The set.", autocompletion=completion.complete_set)
    ],
    protocol: Annotated[
        Protocol, typer.Option("--protocol", help="http repeats a GET whose VM failed; tcp passes bytes on.")
    ] = Protocol.TCP,
    probe: Annotated[
        str,
        typer.Option(
            "--probe",
            metavar="http:/PATH|tcp",
            help="What a VM must answer: a page with status 200, or a connection.",
        ),
    ] = "tcp",
    address: Annotated[
        str, typer.Option("--address", metavar="ADDRESS", help="The address of this host; 0.0.0.0: all of them.")
    ] = "127.0.0.1",
    as_json: AsJson = False,
) -> None:
    """Add an endpoint. It passes requests to each VM of the set that is Ready and whose probe passes.

    Examples:
      goldsmith endpoint add web --protocol http --public 8080 --private 80 --set shop --probe http:/health
      goldsmith endpoint add db --public 5432 --private 5432 --set db
    """
    from pipeline.cli.show import print_json
    from pipeline.operations.endpoints import EndpointWishes, add_endpoint

    fleet = open_fleet("add", noun="endpoint ")
    fleet.keep_fabric()
    outcome = add_endpoint(fleet, EndpointWishes(name, protocol, public, private, in_set, probe, address))
    if as_json:
        print_json(to_json(fleet, outcome))
        return
    served = "" if outcome.endpoint.serving else "; it is served once a VM of the set has an address"
    print(f"{name}: {address}:{public} leads to port {private} of {in_set}{served}")


def list_all(as_json: AsJson = False) -> None:
    """List the endpoints with the number of VMs that get requests.

    Example:
      goldsmith endpoint list
    """
    from pipeline.cli.show import print_json, table

    fleet = open_fleet("list", noun="endpoint ")
    fleet.survey()
    found = [to_json(fleet, each) for each in align(fleet)]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each["name"],
            f"{each['address']}:{each['public']}",
            each["protocol"],
            each["set"],
            str(each["private"]),
            each["probe"],
            f"{sum(backend['state'] == 'up' for backend in each['backends'])} of {len(each['backends'])}",
            each["status"],
        )
        for each in found
    ]
    header = ("name", "listens on", "protocol", "set", "port", "probe", "up", "status")
    table(rows, header, empty="there are no endpoints; goldsmith endpoint add NAME makes one")


def to_json(fleet: Fleet, outcome: Outcome) -> dict[str, Any]:
    """An endpoint's fields in `--json`, with the state of each VM."""
    from pipeline.instances.endpoints import read_states
    from pipeline.operations.sets import members

    endpoint, error = outcome.endpoint, outcome.error
    states = read_states(fleet, endpoint)
    vms = members(fleet, endpoint.set) if fleet.sets.find(endpoint.set) is not None else []
    status = "failed" if error is not None else "serving" if endpoint.serving else "no VM has an address"
    return {
        "name": endpoint.name,
        "protocol": endpoint.protocol,
        "address": endpoint.address,
        "public": endpoint.public,
        "private": endpoint.private,
        "set": endpoint.set,
        "probe": f"http:{endpoint.probe}" if endpoint.probe is not None else "tcp",
        "created": endpoint.created,
        "status": status,
        "error": {"name": error.name, "message": error.message, "hint": error.hint} if error is not None else None,
        "mended": outcome.mended,
        "backends": [_backend(record, states.get(record.name)) for record in vms],
    }


def _backend(record: Record, state: ServerState | None) -> dict[str, Any]:
    """`state` is up, down, drained, or out: it is not provisioned, is being switched off, or has no address."""
    from pipeline.network.balancer import Admission

    word = "out"
    if state is not None and state.admission is Admission.DRAIN:
        word = "drained"
    elif state is not None and state.admission is Admission.READY:
        word = "up" if state.is_up else "down"
    return {
        "vm": record.name,
        "address": state.address if state is not None else None,
        "state": word,
        "sessions": state.sessions if state is not None else 0,
        "requests": state.requests if state is not None else 0,
        "lastProbe": state.check if state is not None else None,
    }


def show(name: Name, as_json: AsJson = False) -> None:
    """Show an endpoint and the state of each VM behind it.

    Example:
      goldsmith endpoint show web
    """
    from pipeline.cli.show import print_json, table
    from pipeline.instances.endpoints import Outcome

    fleet = open_fleet("show", noun="endpoint ")
    record = fleet.endpoints.get(name)
    fleet.survey()
    # another command may have removed it meanwhile
    outcome = next((each for each in align(fleet) if each.endpoint.name == name), Outcome(record))
    found = to_json(fleet, outcome)
    if as_json:
        print_json(found)
        return
    way = f"{found['address']}:{found['public']} -> {found['set']}:{found['private']}"
    print(f"{name}  {way}, {found['protocol']}, probe {found['probe']}, {found['status']}")
    rows = [
        (
            each["vm"],
            each["state"],
            each["address"] or "",
            str(each["sessions"]),
            str(each["requests"]),
            each["lastProbe"],
        )
        for each in found["backends"]
    ]
    header = ("vm", "state", "address", "open", "requests", "last probe")
    table([tuple(cell or "" for cell in row) for row in rows], header, empty="its set has no VMs")


def remove(name: Name, dry: DryRun = False, as_json: AsJson = False) -> None:
    """Remove an endpoint; open connections end. Its set stays.

    Example:
      goldsmith endpoint remove web
    """
    from pipeline.operations.endpoints import remove_endpoint

    remove_endpoint(open_fleet("remove", noun="endpoint "), name, dry=dry)
    print_removals([Row("endpoint", name, 0, "its set and its VMs stay")], dry=dry, as_json=as_json)
