"""The root of the command line."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from pipeline import __version__
from pipeline.base import surroundings
from pipeline.cli import (
    build,
    capture,
    completion,
    context,
    definitions,
    deploy,
    disk,
    doctor,
    endpoints,
    gallery,
    inspect,
    iso,
    key,
    manual,
    packer,
    plan,
    prove,
    publish,
    refresh,
    runs,
    serve,
    sets,
    suite,
    vhd,
    vm,
    worker,
)
from pipeline.cli.completion import completed_words
from pipeline.cli.leases import refuse_protected
from pipeline.cli.usage import CONTEXT, RootGroup


class RootApp(typer.Typer):
    """All verbs. If the command line begins with a verb's name, the parser gets only that verb.

    The parser reads the signatures of all its verbs, which takes a tenth of a short command's time.
    """

    def __call__(self, *words: Any, **options: Any) -> Any:
        narrowed = copy.copy(self)
        named = _first_verb(words[0] if words else completed_words() or sys.argv[1:])
        narrowed.registered_groups = [each for each in self.registered_groups if each.name == named]
        narrowed.registered_commands = [each for each in self.registered_commands if _name_of(each) == named]
        # `help` shows the others
        known = named != "help" and (narrowed.registered_groups or narrowed.registered_commands)
        return typer.Typer.__call__(narrowed if known else self, *words, **options)


def _first_verb(line: Sequence[str]) -> str:
    """The first word behind the root's options that take a value; it may not be a verb."""
    if line[:1] == ["--project"]:
        line = line[2:]
    elif line and line[0].startswith("--project="):
        line = line[1:]
    return line[0] if line else ""


def _name_of(verb: Any) -> str:
    """A verb's registered name, or else the name of its function."""
    return str(verb.name or verb.callback.__name__.replace("_", "-"))


app = RootApp(
    name="goldsmith",
    cls=RootGroup,
    context_settings=CONTEXT,
    help="Build, test and store golden master images as fixed VHDs.",
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
        typer.Option(
            "--project",
            metavar="FOLDER",
            help="The folder that contains images/ (default: the current folder or one above it).",
        ),
    ] = None,
    _version_asked: Annotated[
        bool, typer.Option("--version", "-V", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    from pipeline.cli.show import show_damage, show_waits

    show_damage()
    show_waits()
    surroundings.hand_in_guard(refuse_protected)
    context.set_project(project)


for noun in (
    build,
    plan,
    capture,
    prove,
    suite,
    publish,
    refresh,
    definitions,
    packer,
    gallery,
    key,
    inspect,
    iso,
    runs,
    vm,
    serve,
    sets,
    endpoints,
    deploy,
    disk,
    vhd,
    doctor,
    completion,
    manual,
    worker,
):
    noun.register(app)


@app.command("help")
def show_help(
    context: typer.Context,
    verb: Annotated[
        list[str] | None,
        typer.Argument(metavar="[VERB]...", help="A verb, such as: gallery list (default: all verbs)."),
    ] = None,
) -> None:
    """Show the help of a command, as COMMAND --help does.

    Example:
      goldsmith help gallery list
    """
    app([*(verb or []), "--help"], standalone_mode=False, prog_name=context.find_root().info_name)
