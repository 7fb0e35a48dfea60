"""`goldsmith runs`, `shell` and `clean`: records of runs, a shell in a guest, removal of leftovers."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from pipeline.base.errors import HostError, UsageError
from pipeline.cli import completion, context
from pipeline.cli.removals import Row, print_removals
from pipeline.cli.usage import VerbGroup, json_option

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.maintenance.gc import Removed


def register(app: typer.Typer) -> None:
    noun = typer.Typer(
        help="List, show and delete the records of runs.", no_args_is_help=True, rich_markup_mode=None, cls=VerbGroup
    )
    noun.command("list")(list_all)
    noun.command("show")(show)
    noun.command("prune")(prune)
    app.add_typer(noun, name="runs")
    app.command("shell")(shell)
    app.command("clean")(clean)


def list_all(as_json: Annotated[bool, json_option()] = False) -> None:
    """List the runs, newest first.

    Example:
      goldsmith runs list
    """
    from pipeline.base.runs import list_runs
    from pipeline.cli.environment import locate_store
    from pipeline.cli.show import print_json, table

    runs = list_runs(locate_store().runs)
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
    table(rows, ("run", "image", "outcome", "started", "took", "error"), empty="there are no runs")


def show(
    run_id: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="The run's id, as `goldsmith runs list` shows it.",
            autocompletion=completion.complete_run,
        ),
    ],
    as_json: Annotated[bool, json_option()] = False,
) -> None:
    """Show one run: its stages, its error, its files.

    Example:
      goldsmith runs show R42
    """
    from pathlib import Path

    from pipeline.base.files import walk_files
    from pipeline.base.runs import find_run
    from pipeline.cli.environment import locate_store
    from pipeline.cli.show import print_json

    run = find_run(locate_store().runs, run_id)
    folder = Path(run["folder"])
    files = sorted(str(p.relative_to(folder)) for p, _ in walk_files(folder) if not p.name.startswith("lock"))
    if as_json:
        print_json({**run, "files": files})
        return
    by = "".join(f"  {word} {run[key]}" for key, word in (("user", "by"), ("host", "on")) if run.get(key))
    print(f"{run['id']}  {run['image']}  {run['outcome']}  {run['started']} to {run['ended'] or '-'}{by}")
    print(f"  {run['command']}")
    for stage in run["stages"]:
        title, detail = stage.get("title") or "", stage["detail"]
        # the detail of a step is its title
        what = detail if title in detail else f"{title} {detail}".strip()
        print(f"  {stage['stage']:12} {stage['state']:12} {stage['seconds']:7.1f} s  {what}")
    if error := run.get("error"):
        print(f"  error  {error['name']}: {error['message']}")
        if error.get("hint"):
            print(f"  hint   {error['hint']}")
    print(f"  in     {folder}")
    for name in files:
        print(f"         {name}")


def shell(
    run_id: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="The run's id, as `goldsmith runs list` shows it.",
            autocompletion=completion.complete_run,
        ),
    ],
) -> None:
    """Open a shell in the guest of a running build or of a failed one (--keep-failed). The guest keeps running.

    Example:
      goldsmith shell R42
    """
    from pipeline.base.runs import find_run
    from pipeline.cli.environment import locate_store
    from pipeline.guest.access import Access

    run = find_run(locate_store().runs, run_id)
    kept = run.get("kept_guest") or run.get("guest")
    if not kept or not kept.get("folder") or not Access.from_json(kept).key.exists():
        raise UsageError(
            f"{run_id} has no running guest",
            name="guest-gone",
            hint="only a running build, or a failed build with --keep-failed, has a guest",
        )
    access = Access.from_json(kept)
    print(describe_shell(run, access.user), file=sys.stderr, flush=True)
    argv = access.ssh(tty=True)
    # the shell takes this process's place: it must own the terminal
    os.execvp(argv[0], argv)  # noqa: S606


def describe_shell(run: Mapping[str, Any], user: str) -> str:
    """The notes for a user who opens a shell in a guest: the user's name, the way to root, the end of the guest."""
    ends = (
        "the guest runs until `goldsmith clean`"
        if run.get("kept_guest")
        else "the build continues and ends the guest"
    )
    lines = [
        f"{run['id']}, a guest of {run['image']}: you are {user}; sudo -i makes you root, without a password",
        f"exit leaves the guest: {ends}",
    ]
    if run.get("kept_guest"):
        lines.append("do not restart the guest: goldsmith started it with its own kernel, so it would not boot again")
    return "\n".join(lines)


def prune(
    names: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            metavar="NAME...", help="Only runs of these images.", autocompletion=completion.complete_image
        ),
    ] = None,
    keep: Annotated[
        int, typer.Option("--keep", min=0, metavar="N", help="The number of runs to keep of each image, the newest.")
    ] = 100,
    dry: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    as_json: Annotated[bool, json_option()] = False,
) -> None:
    """Delete the records of old runs. Running runs and runs that made a version are kept.

    Every build also deletes all but the newest 100 runs of each image.

    Example:
      goldsmith runs prune --keep 20 --dry-run
    """
    from pipeline.base.errors import NotFound
    from pipeline.base.runs import list_runs
    from pipeline.cli.environment import locate_store
    from pipeline.maintenance.gc import prune_runs

    store = locate_store()
    known = {str(run["image"]).partition(" ")[0] for run in list_runs(store.runs)} if names else set()
    for name in names or ():
        if name not in known:
            raise NotFound(f"image {name} has no runs", name="run-unknown", hint="goldsmith runs list shows all runs")
    gone = prune_runs(store, keep, names or (), dry=dry)
    print_removals([_row(each) for each in gone], dry=dry, as_json=as_json)


def _row(removed: Removed) -> Row:
    return Row(removed.kind, removed.name, removed.bytes, removed.why)


def clean(
    max_size: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--max-size",
            metavar="SIZE",
            help="Also delete layers and snapshots, least recently used first, until the rest fits: 20G, 500M "
            "(default: delete none).",
        ),
    ] = None,
    max_size_old: Annotated[Optional[str], typer.Option("--keep", metavar="SIZE", hidden=True)] = None,  # noqa: UP045
    layers: Annotated[
        bool, typer.Option("--layers", help="Also delete all layers; the next build starts from the beginning.")
    ] = False,
    dry: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    as_json: Annotated[bool, json_option()] = False,
) -> None:
    """Remove leftovers of dead runs: guests (also those of --keep-failed), keys, scratch files. Masters are kept.

    Example:
      goldsmith clean --max-size 20G --dry-run
    """
    from pipeline.base import scratch
    from pipeline.cli.environment import locate_store
    from pipeline.maintenance.gc import clean_up
    from pipeline.maintenance.gc import prune as prune_layers

    # a size that cannot be meant is refused before anything goes
    wanted = context.chosen_size(max_size, max_size_old)
    if os.geteuid() != 0:
        mine = [Row("scratch", path) for path in scratch.sweep(dry=dry)]
        if mine or as_json:
            print_removals(mine, dry=dry, as_json=as_json)
        raise HostError(
            "without root, goldsmith clean removes only your own scratch files",
            name="root-needed",
            hint="sudo goldsmith clean also ends guests and removes files of root",
        )
    store = locate_store().ensure()
    gone = clean_up(store, layers=layers, dry=dry)
    if wanted is not None and not layers:
        gone += prune_layers(store, wanted, dry=dry)
    print_removals([_row(each) for each in gone], dry=dry, as_json=as_json)
