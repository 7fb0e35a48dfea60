"""`goldsmith vm create --template`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.vm.options import caller_keys, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.instances.fleet import Fleet
    from pipeline.operations.create import Wishes


def deploy(
    fleet: Fleet, template: Path, parameters: Path | None, create: Callable[[Fleet, list[Wishes]], None]
) -> tuple[list[str], dict[str, Any]]:
    """Create the VMs of a template: their names, and the template's outputs."""
    from dataclasses import replace

    from pipeline.fabric import service
    from pipeline.operations.arm_deployment import read_deployment
    from pipeline.operations.deploy_template import plan_machines

    deployment = read_deployment(template, parameters)
    machines = plan_machines(fleet.gallery, deployment)
    for each in machines:
        for note in each.notes:
            say(each.wishes.name, note)
    own = caller_keys()
    key = own[0].read_text().strip() if own else ""
    create(fleet, [replace(each.wishes, public_key=each.wishes.public_key or key) for each in machines])
    for each in machines:
        record = fleet.instances.get(each.wishes.name)
        link = service.read_link(fleet.store, record.id)
        deployment.runtime[each.resource.id] = {**each.resource.properties, "vmId": record.id}
        address = link.address if link is not None else None
        for card in each.cards:
            addresses = [{"properties": {"privateIPAddress": address}}]
            deployment.runtime[card] = {"ipConfigurations": addresses}
    return [each.wishes.name for each in machines], deployment.outputs()
