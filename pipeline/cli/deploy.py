"""`goldsmith deploy`: sets of VMs and their endpoints, as a file describes them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.base.errors import UsageError
from pipeline.cli import completion
from pipeline.cli.hooks import notifying
from pipeline.cli.removals import count_of
from pipeline.cli.vm.option_values import read_public_key
from pipeline.cli.vm.options import AsJson, FleetGroup, align, open_fleet, print_password

if TYPE_CHECKING:
    from pipeline.instances.deployment_records import DeploymentRecord
    from pipeline.instances.fleet import Fleet
    from pipeline.operations.create import Creation, Wishes

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="The deployment.", autocompletion=completion.complete_deployment)
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before VMs are deleted.")]


class DeployGroup(FleetGroup):
    """The verbs of deployments; `deploy FILE` is `deploy apply FILE`."""

    default_verb = "apply"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [self.default_verb, *args]
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    noun = typer.Typer(
        help="Bring sets of VMs and their endpoints to what a file says: goldsmith deploy FILE.",
        no_args_is_help=True,
        rich_markup_mode=None,
        cls=DeployGroup,
    )
    noun.command("apply")(apply)
    noun.command("list")(list_all)
    noun.command("show")(show)
    noun.command("delete")(delete)
    app.add_typer(noun, name="deploy")


def apply(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="The deployment's file, NAME.yaml.")
    ],
    dry: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Bring sets and endpoints to what a file says; `deploy FILE` is short for `deploy apply FILE`.

    What is as the file says is left alone. After an interruption the next call goes on.

    Examples:
      goldsmith deploy apply shop.yaml --dry-run
      goldsmith deploy apply shop.yaml
    """
    from pipeline.cli.show import print_json
    from pipeline.operations.deploy import Means, apply_deployment, plan_deployment
    from pipeline.operations.service_model import load_service

    fleet = open_fleet("apply", noun="deploy ")
    service = load_service(file, read_public_key(None))
    means = Means(
        create=lambda wanted: _create(fleet, wanted),
        on_progress=lambda text: print(text, flush=True),
        on_begun=_print_new_password,
    )
    fleet.keep_fabric()
    if dry:
        steps = plan_deployment(fleet, service, means)
    else:
        with fleet.deployments.hold(service.name):
            steps = plan_deployment(fleet, service, means)
            gone = [vm for step in steps for vm in step.deletes]
            if gone:
                _confirm(f"the VMs {', '.join(gone)} with their disks", f"goldsmith deploy {file} --yes", yes)
            with notifying("vm", service.name):
                apply_deployment(fleet, service, steps, lambda text: print(text, flush=True))
    if as_json:
        rows = [{"text": step.text, "deletes": list(step.deletes)} for step in steps]
        print_json({"name": service.name, "dryRun": dry, "steps": rows})
        return
    if dry:
        for step in steps:
            print(step.text)
    if not steps:
        print(f"{service.name}: everything is as {file} says")
    else:
        print(f"{service.name}: {count_of(len(steps), 'change')} {'to make' if dry else 'made'}")


def _create(fleet: Fleet, wanted: list[Wishes]) -> None:
    from pipeline.cli.vm.create import create_all

    create_all(fleet, wanted, no_wait=False)


def _print_new_password(creation: Creation) -> None:
    if creation.password is not None:
        print_password(creation.record, creation.password)


def _confirm(what: str, command: str, yes: bool) -> None:
    """Ask before something is deleted. Raises UsageError (deploy-unconfirmed)."""
    from pipeline.cli.vm.power import confirm

    if not yes and not confirm(f"delete {what}? [y/N] "):
        raise UsageError(f"{what} would be deleted", name="deploy-unconfirmed", hint=command)


def list_all(as_json: AsJson = False) -> None:
    """List the deployments with their sets and endpoints.

    Example:
      goldsmith deploy list
    """
    from pipeline.cli.show import print_json, table

    fleet = open_fleet("list", noun="deploy ")
    records = fleet.deployments.all()
    if as_json:
        print_json([_summary(record) for record in records])
        return
    rows = [
        (record.name, ", ".join(record.sets), ", ".join(record.endpoints), _summary(record)["status"], record.file)
        for record in records
    ]
    header = ("name", "sets", "endpoints", "status", "file")
    table(rows, header, empty="there are no deployments; goldsmith deploy FILE makes one")


def _summary(record: DeploymentRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "file": record.file,
        "created": record.created,
        "applied": record.applied,
        "status": "deployed" if record.applied is not None else "unfinished",
        "sets": [{"name": each, "wanted": count} for each, count in record.sets.items()],
        "endpoints": list(record.endpoints),
    }


def show(name: Name, as_json: AsJson = False) -> None:
    """Show a deployment: its sets with their VMs, and its endpoints with the state of each VM behind them.

    Example:
      goldsmith deploy show shop
    """
    from pipeline.cli.endpoints import to_json as endpoint_to_json
    from pipeline.cli.sets import to_json as set_to_json
    from pipeline.cli.show import print_json, table

    fleet = open_fleet("show", noun="deploy ")
    record = fleet.deployments.get(name)
    vms = fleet.survey()
    sets = [
        {**set_to_json(fleet, found, vms), "wanted": count}
        for each, count in record.sets.items()
        if (found := fleet.sets.find(each)) is not None
    ]
    outcomes = [each for each in align(fleet) if each.endpoint.name in record.endpoints]
    endpoints = [endpoint_to_json(fleet, each) for each in outcomes]
    if as_json:
        print_json({**_summary(record), "sets": sets, "endpoints": endpoints})
        return
    status = "deployed" if record.applied is not None else f"unfinished; goldsmith deploy {record.file} goes on"
    print(f"{name}  {record.file}, {status}")
    rows = [
        (
            f"set {each['name']}",
            each["image"],
            ", ".join(each["versions"]),
            f"{each['running']} of {each['wanted']} run",
        )
        for each in sets
    ]
    rows += [
        (
            f"endpoint {each['name']}",
            f"{each['address']}:{each['public']} -> {each['set']}:{each['private']}",
            each["status"],
            f"{sum(backend['state'] == 'up' for backend in each['backends'])} of {len(each['backends'])} up",
        )
        for each in endpoints
    ]
    table(rows, ("what", "from", "is", "VMs"), empty="it has nothing yet")


def delete(name: Name, yes: Yes = False) -> None:
    """Delete a deployment: its endpoints, and its sets with their VMs and their disks.

    Example:
      goldsmith deploy delete shop
    """
    from pipeline.instances.set_records import members_of
    from pipeline.operations.deploy import delete_deployment

    fleet = open_fleet("delete", noun="deploy ")
    with fleet.deployments.hold(name):
        record = fleet.deployments.get(name)
        vms = [vm for each in record.sets for vm in members_of(each, fleet.instances.all())]
        what = f"the deployment {name} with {count_of(len(vms), 'VM')}"
        _confirm(what, f"goldsmith deploy delete {name} --yes", yes)
        delete_deployment(fleet, name, lambda text: print(text, flush=True))
    print(f"{name}: deleted")
