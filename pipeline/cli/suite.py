"""`goldsmith suite`: test suites of others, which `goldsmith prove --suite` runs against a clone."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli import completion
from pipeline.cli.environment import locate_store
from pipeline.cli.usage import VerbGroup, json_option

SuiteName = Annotated[
    str, typer.Argument(metavar="SUITE", help="Such as: lisa.", autocompletion=completion.complete_suite)
]


def register(app: typer.Typer) -> None:
    noun = typer.Typer(
        help="Install test suites of others for goldsmith prove --suite.",
        no_args_is_help=True,
        rich_markup_mode=None,
        cls=VerbGroup,
    )
    noun.command("install")(install)
    noun.command("list")(list_suites)
    app.add_typer(noun, name="suite")


def install(name: SuiteName) -> None:
    """Install a test suite, or its newest version, into a Python environment of its own in the store.

    Example:
      goldsmith suite install lisa
    """
    from pipeline.prove import suites
    from pipeline.prove.lisa import SUITES

    suite = suites.find_suite(SUITES, name)
    store = locate_store().ensure()
    print(f"{suite.name} {suites.install(store, suite)} is installed in {store.suites / suite.name}")


def list_suites(as_json: Annotated[bool, json_option()] = False) -> None:
    """List the test suites that goldsmith can run, and which of them are installed.

    Example:
      goldsmith suite list
    """
    from pipeline.cli.show import print_json, table
    from pipeline.prove import suites
    from pipeline.prove.lisa import SUITES

    store = locate_store()
    found = {suite: suites.installed_version(store, suite) for suite in SUITES.values()}
    if as_json:
        print_json([{"name": s.name, "installed": version, "summary": s.summary} for s, version in found.items()])
        return
    table([(s.name, version or "-", s.summary) for s, version in found.items()], ("suite", "installed", "summary"))
