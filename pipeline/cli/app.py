"""The root of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from pipeline import __version__
from pipeline.cli import (
    build,
    capture,
    completion,
    context,
    definitions,
    doctor,
    gallery,
    inspect,
    iso,
    key,
    prove,
    refresh,
    runs,
    vhd,
)
from pipeline.cli.usage import CONTEXT, VerbGroup

app = typer.Typer(
    name="goldsmith",
    cls=VerbGroup,
    context_settings=CONTEXT,
    help="Builds, generalizes, proves and keeps golden master images as fixed VHDs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"goldsmith {__version__}")
        raise typer.Exit


@app.callback()
def root(
    project: Annotated[
        Optional[Path],  # noqa: UP045  typer reads this at run time
        typer.Option("--project", help="The folder that holds images/ (default: here or above)."),
    ] = None,
    _version_asked: Annotated[
        bool, typer.Option("--version", "-V", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    from pipeline.cli.show import show_damage, show_waits

    show_damage()
    show_waits()
    context.set_project(project)


for noun in (build, capture, prove, refresh, definitions, gallery, key, inspect, iso, runs, vhd, doctor, completion):
    noun.register(app)


@app.command("help")
def show_help(
    context: typer.Context,
    verb: Annotated[Optional[list[str]], typer.Argument(metavar="[VERB]...", help="Such as: gallery list.")] = None,  # noqa: UP045
) -> None:
    """Show the help of a verb, as VERB --help does."""
    app([*(verb or []), "--help"], standalone_mode=False, prog_name=context.find_root().info_name)
