"""`goldsmith refresh`: builds, tests and promotes every image whose inputs have changed."""

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
        bool, typer.Option("--all", help="Select all definitions of the project, parents first.")
    ] = False,
    patch: Annotated[
        bool, typer.Option("--patch", help="Update the golden version itself if only packages have changed.")
    ] = False,
    max_size: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--max-size",
            metavar="SIZE",
            help="Afterwards delete layers and snapshots, least recently used first, until the rest fits: 20G, 500M.",
        ),
    ] = None,
    max_size_old: Annotated[Optional[str], typer.Option("--keep", metavar="SIZE", hidden=True)] = None,  # noqa: UP045
    as_json: Annotated[bool, json_option("Print the summary as JSON.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the output of the steps while they run.")
    ] = False,
) -> None:
    """Rebuild and test images whose inputs have changed, promote those that pass, delete versions beyond `keep:`."""
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
        report = night.refresh(
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
        print_json(report.to_json())
    else:
        _print(report)
    bad = [image for image in report.images if image.failed]
    if bad:
        error = CheckFailed(
            f"{len(bad)} of {len(report.images)} images were not refreshed: {', '.join(image.name for image in bad)}",
            name="refresh-failed",
            hint=f"their golden versions are unchanged; the summary is in {report.path}",
        )
        error.exit_code = max(image.exit_code for image in bad)
        raise error


def _print(report: Night) -> None:
    from pipeline.cli.show import table

    rows: list[tuple[Any, ...]] = [
        (image.name, image.outcome, image.golden or "none", f"{image.seconds:.1f} s", image.why)
        for image in report.images
    ]
    print()
    table(rows, ("image", "outcome", "golden", "took", "why"))
    for line in report.layers:
        print(f"deleted layer: {line.strip()}")
    print(f"{report.seconds:.1f} s in total; {report.path}")
