"""`goldsmith refresh`: the night's work. What changed is built, proven, promoted; what did not costs a look."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from pipeline.base.errors import CheckFailed
from pipeline.cli import completion, context
from pipeline.cli.build import choose, need_root
from pipeline.cli.usage import json_option

if TYPE_CHECKING:
    from pipeline.nightly.refresh import Night


def register(app: typer.Typer) -> None:
    app.command("refresh")(refresh)


def refresh(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="Images to refresh.", autocompletion=completion.complete_definition),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every definition of the project, parents first.")
    ] = False,
    patch: Annotated[
        bool, typer.Option("--patch", help="Update golden itself where only packages have changed.")
    ] = False,
    max_size: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--max-size",
            metavar="SIZE",
            help="Then remove layers and saved guests, longest unused first, until the rest fits: 20G, 500M.",
        ),
    ] = None,
    max_size_old: Annotated[Optional[str], typer.Option("--keep", metavar="SIZE", hidden=True)] = None,  # noqa: UP045
    as_json: Annotated[bool, json_option("Print the summary as JSON.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the steps' output as it comes.")] = False,
) -> None:
    """Build what changed since golden was made, promote what passes, let go what is too old; one summary for all."""
    from dataclasses import replace

    from pipeline.base.store import Store
    from pipeline.cli.show import Progress, print_error, print_json
    from pipeline.nightly import refresh as night

    size = context.chosen_size(max_size, max_size_old)
    need_root("refresh")
    store = Store.locate().ensure()
    chosen = choose(names or [], everything, store.gallery)
    if patch:
        chosen = [replace(each, refresh=replace(each.refresh, mode="patch")) for each in chosen]
    progress = Progress(verbose=verbose)
    try:
        told = night.refresh(
            chosen,
            store,
            command=" ".join(["goldsmith", *sys.argv[1:]]),
            keep=size,
            listeners=[] if as_json else [progress],
            begin=lambda name: None if as_json else print(f"== {name}", flush=True),
            failed=print_error,
        )
    finally:
        progress.close()
    if as_json:
        print_json(told.to_json())
    else:
        _print(told)
    bad = [one for one in told.images if one.failed]
    if bad:
        error = CheckFailed(
            f"{len(bad)} of {len(told.images)} images were not refreshed: {', '.join(one.name for one in bad)}",
            name="refresh-failed",
            hint=f"golden is what it was; the summary is in {told.path}",
        )
        error.exit_code = max(one.exit_code for one in bad)
        raise error


def _print(told: Night) -> None:
    from pipeline.cli.show import table

    rows: list[tuple[Any, ...]] = [
        (one.name, one.outcome, one.golden or "none", f"{one.seconds:.1f} s", one.why) for one in told.images
    ]
    print()
    table(rows, ("image", "outcome", "golden", "took", "why"))
    for line in told.layers:
        print(f"layer let go: {line.strip()}")
    print(f"{told.seconds:.1f} s in all; {told.path}")
