"""`goldsmith runs`, `shell` and `clean`: what happened, a look inside, and order."""

from __future__ import annotations

import os
from typing import Annotated, Optional

import typer

from pipeline.cli import context
from pipeline.cli.usage import VerbGroup, json_option
from pipeline.errors import HostError, UsageError


def register(app: typer.Typer) -> None:
    noun = typer.Typer(
        help="Every run, its record and its black box.", no_args_is_help=True, rich_markup_mode=None, cls=VerbGroup
    )
    noun.command("list")(list_all)
    noun.command("show")(show)
    app.add_typer(noun, name="runs")
    app.command("shell")(shell)
    app.command("clean")(clean)


def list_all(as_json: Annotated[bool, json_option()] = False) -> None:
    """List the runs, newest first."""
    from pipeline.cli.show import print_json, table
    from pipeline.record import list_runs
    from pipeline.store import Store

    runs = list_runs(Store.locate().runs)
    if as_json:
        print_json(runs)
        return
    rows = [
        (
            run["id"],
            run["image"],
            run["outcome"],
            run["started"] or "",
            f"{sum(stage['seconds'] for stage in run['stages']):.0f} s",
            (run.get("error") or {}).get("name", ""),
        )
        for run in runs
    ]
    table(rows, ("run", "image", "outcome", "started", "took", "error"))


def show(
    run_id: Annotated[str, typer.Argument(metavar="RUN")],
    as_json: Annotated[bool, json_option()] = False,
) -> None:
    """Show one run: its stages, its error, its files."""
    from pathlib import Path

    from pipeline.cli.show import print_json
    from pipeline.record import find_run
    from pipeline.store import Store

    run = find_run(Store.locate().runs, run_id)
    folder = Path(run["folder"])
    files = sorted(
        str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and not p.name.startswith("lock")
    )
    if as_json:
        print_json({**run, "files": files})
        return
    print(f"{run['id']}  {run['image']}  {run['outcome']}  {run['started']} to {run['ended'] or '-'}")
    print(f"  {run['command']}")
    for stage in run["stages"]:
        what = " ".join(filter(None, (stage.get("title"), stage["detail"])))
        print(f"  {stage['stage']:12} {stage['state']:12} {stage['seconds']:7.1f} s  {what}")
    if error := run.get("error"):
        print(f"  error  {error['name']}: {error['message']}")
        if error.get("hint"):
            print(f"  hint   {error['hint']}")
    print(f"  in     {folder}")
    for name in files:
        print(f"         {name}")


def shell(run_id: Annotated[str, typer.Argument(metavar="RUN")]) -> None:
    """Open a shell in a guest that is building, or that --keep-failed kept. Leaving it does not end it."""
    from pipeline.guests.access import Access
    from pipeline.record import find_run
    from pipeline.store import Store

    run = find_run(Store.locate().runs, run_id)
    kept = run.get("kept_guest") or run.get("guest")
    if not kept or not Access.from_json(kept).key.exists():
        raise UsageError(
            f"{run_id} has no guest to log in to",
            name="guest-gone",
            hint="only a running build, or one that failed under --keep-failed, has one",
        )
    argv = Access.from_json(kept).ssh(tty=True)
    # the shell takes this process's place: it must own the terminal
    os.execvp(argv[0], argv)  # noqa: S606


def clean(
    keep: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--keep", metavar="SIZE", help="Prune layers and saved guests, longest unused first, down to 20G, 500M..."
        ),
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Also forget all layers: the next build starts over.")
    ] = False,
) -> None:
    """Remove what dead runs left: guests (kept ones too), keys, scratch. Masters are never touched."""
    from pipeline import scratch
    from pipeline.care import clean_up, prune
    from pipeline.store import Store

    if os.geteuid() != 0:
        for path in scratch.sweep():
            print(f"scratch {path}")
        raise HostError(
            "goldsmith clean needs root for all but your own scratch files",
            name="root-needed",
            hint="sudo make clean",
        )
    wanted = context.to_bytes(keep) if keep is not None else None
    store = Store.locate().ensure()
    gone = clean_up(store, layers=layers)
    if wanted is not None:
        gone += prune(store, wanted)
    for line in gone or ["nothing to remove"]:
        print(line)
