"""`goldsmith vm`: virtual machines from masters."""

from __future__ import annotations

import typer

from pipeline.cli.vm import access, create, disk, images, listing, looks, ports, power, trial
from pipeline.cli.vm.options import FleetGroup


def register(app: typer.Typer) -> None:
    noun = typer.Typer(
        help="Create, run and observe virtual machines from masters.",
        no_args_is_help=True,
        rich_markup_mode=None,
        cls=FleetGroup,
    )
    for module in (create, listing, power, disk, images, access, looks, ports):
        module.register(noun)
    app.add_typer(noun, name="vm")
    trial.register(app)
