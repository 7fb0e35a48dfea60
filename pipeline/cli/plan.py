"""`goldsmith plan`: what a build would do, for a person, for a program, for a CI system."""

from __future__ import annotations

import sys
from typing import Annotated, Optional

import typer

from pipeline.base.errors import UsageError
from pipeline.cli import completion
from pipeline.cli.build import choose
from pipeline.cli.environment import locate_store
from pipeline.cli.usage import json_option, set_option


def register(app: typer.Typer) -> None:
    app.command("plan")(plan)


def plan(
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            metavar="[NAME]", help="The image; or use --all.", autocompletion=completion.complete_definition
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Plan all definitions of the project, parents first.")
    ] = False,
    from_stage: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--from",
            metavar="STAGE|STEP",
            help="Plan a build that runs again from this stage or step on (default: from the first change on).",
            autocompletion=completion.complete_stage,
        ),
    ] = None,
    warm: Annotated[bool, typer.Option("--warm", help="Plan a build that starts from a snapshot.")] = False,
    as_json: Annotated[bool, json_option()] = False,
    form: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="With --all, print a CI system's pipeline: github (a workflow to commit), github-outputs (what "
            "its first job asks for), gitlab (a child pipeline). (default: a table)",
        ),
    ] = None,
    _settings: Annotated[Optional[list[str]], set_option()] = None,  # noqa: UP045
) -> None:
    """Show for each unit of a build whether it would be kept or run, and why.

    Examples:
      goldsmith plan debian-13
      goldsmith plan --all --json
      goldsmith plan --all --format gitlab
    """
    from pipeline.base.reading import reading_once
    from pipeline.cli.show import print_json, table
    from pipeline.engine.image_plan import plan_images
    from pipeline.engine.preconditions import require_buildable

    if form is not None:
        _check_format(form, everything=everything, as_json=as_json)
    store = locate_store()
    chosen = choose([name] if name else [], everything, store.gallery)
    with reading_once():
        require_buildable(chosen, store)
        plans = plan_images(chosen, store, warm=warm, again=from_stage)
    if form is not None:
        from pipeline.engine.ci_matrix import FORMATS

        sys.stdout.write(FORMATS[form](plans))
    elif as_json:
        # the image itself comes last, behind the parents that a build would make first
        print_json([each.to_json() for each in plans] if everything else plans[-1].rows)
    else:
        for each in plans:
            if len(plans) > 1 or everything:
                print(f"== {each.definition.name}")
            rows = [(row["stage"], row["title"], row["action"], row["why"]) for row in each.rows]
            table(rows, ("stage", "unit", "", "why"))


def _check_format(form: str, *, everything: bool, as_json: bool) -> None:
    from pipeline.engine.ci_matrix import FORMATS

    if form not in FORMATS:
        raise UsageError(
            f"--format must be {', '.join(FORMATS)}, not {form}", name="usage", hint="goldsmith plan --help"
        )
    if not everything or as_json:
        raise UsageError(
            "--format plans all images, and prints no JSON",
            name="usage",
            hint=f"goldsmith plan --all --format {form}",
        )
