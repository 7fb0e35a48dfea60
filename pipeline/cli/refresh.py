"""`goldsmith refresh`: builds, tests and promotes every image whose inputs have changed."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from pipeline.base.errors import CheckFailed
from pipeline.base.printable import listed
from pipeline.cli import completion, context, events
from pipeline.cli.build import choose, need_root, print_line_of_child
from pipeline.cli.events import events_option
from pipeline.cli.slurm import LOCAL, SLURM, executor_option, slurm_executor
from pipeline.cli.usage import json_option, set_option

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from pipeline.base.store import Store
    from pipeline.definition import Definition
    from pipeline.engine.executors import Executor
    from pipeline.nightly.publication import Publisher
    from pipeline.nightly.refresh import RefreshReport
    from pipeline.nightly.running_sets import SetResult, SetUpgrader
    from pipeline.operations.create import Creation


def register(app: typer.Typer) -> None:
    app.command("refresh")(refresh)


def refresh(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME...", help="Images to refresh; or use --all.", autocompletion=completion.complete_definition
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Select all definitions of the project, parents first.")
    ] = False,
    patch: Annotated[
        bool, typer.Option("--patch", help="Update the golden version itself if only packages have changed.")
    ] = False,
    sets: Annotated[
        bool,
        typer.Option(
            "--sets",
            help="Afterwards upgrade every set of the images to golden, not only sets that follow it (set auto).",
        ),
    ] = False,
    max_size: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--max-size",
            metavar="SIZE",
            help="Afterwards delete layers and snapshots, least recently used first, until the rest fits: 20G, 500M "
            "(default: delete none).",
        ),
    ] = None,
    max_size_old: Annotated[Optional[str], typer.Option("--keep", metavar="SIZE", hidden=True)] = None,  # noqa: UP045
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            metavar="N",
            help="The maximum number of images that are refreshed at once, if processors and memory suffice.",
        ),
    ] = 1,
    executor_name: Annotated[str, executor_option()] = LOCAL,
    image_result: Annotated[Optional[Path], typer.Option("--image-result", hidden=True)] = None,  # noqa: UP045
    no_publish: Annotated[bool, typer.Option("--no-publish", hidden=True)] = False,
    as_json: Annotated[bool, json_option("Print the summary as JSON.")] = False,
    as_events: Annotated[bool, events_option()] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the output of the steps while they run.")
    ] = False,
    settings: Annotated[Optional[list[str]], set_option()] = None,  # noqa: UP045
) -> None:
    """Rebuild and test images whose inputs have changed, promote those that pass, delete versions beyond `keep:`.

    Examples:
      goldsmith refresh --all --max-size 40G
      goldsmith refresh debian-13 --patch --sets
      goldsmith refresh --all --executor slurm
    """
    from dataclasses import replace

    from pipeline.cli.environment import locate_store
    from pipeline.cli.show import follow, print_error, print_json
    from pipeline.nightly import refresh as nightly
    from pipeline.nightly.publication import publish_nothing

    size = context.chosen_size(max_size, max_size_old)
    distributed = executor_name == SLURM
    if not distributed:
        need_root("refresh")
    store = locate_store().ensure()
    with _notifying(image_result):
        chosen = choose(names or [], everything, store.gallery)
    if patch:
        chosen = [replace(each, refresh=replace(each.refresh, mode="patch")) for each in chosen]
    command = " ".join(["goldsmith", *sys.argv[1:]])

    def begin(name: str) -> None:
        if isinstance(progress, events.EventListener) and stream is not None:
            progress.image = name
            stream.emit("begin", image=name)
        elif not as_json:
            print(f"== {name}", flush=True)

    stream = events.current()
    progress = follow(verbose=verbose, image=", ".join(names or []))
    try:
        if image_result is not None:
            # one image of a refresh that another process runs, and reports
            (definition,) = (each for each in chosen if each.name in (names or []))
            result = nightly.refresh_image(
                definition,
                store,
                command=command,
                listeners=[progress],
                on_failure=print_error,
                publish=publish_nothing if no_publish else _publisher(store, chosen),
            )
            nightly.write_result(image_result, result)
            raise typer.Exit(result.exit_code)
        with _notifying(image_result):
            report = nightly.refresh(
                chosen,
                store,
                command=command,
                executor=_executor(store, distributed, jobs > 1 and len(chosen) > 1, _print_line(as_json)),
                at_once=jobs,
                options=[
                    *(["-v"] if verbose else []),
                    *(["--events"] if as_events else []),
                    *(["--no-publish"] if distributed else []),
                    *(word for each in settings or () for word in ("--set", each)),
                ],
                keep=size,
                listeners=[] if as_json and stream is None else [progress],
                on_begin=begin,
                on_failure=print_error,
                publish=_publisher(store, chosen),
                upgrade_sets=_set_upgrader(store, sets, _print_line(as_json)),
            )
    finally:
        progress.close()
    if stream is not None:
        stream.emit("result", document=report.to_json())
    elif as_json:
        print_json(report.to_json())
    else:
        _print(report)
    _run_hooks(report)
    _raise_what_failed(report)


def _raise_what_failed(report: RefreshReport) -> None:
    """Raise CheckFailed (refresh-failed, sets-not-upgraded), PublishError (publish-incomplete) for what failed."""
    from pipeline.publish.errors import PublishError

    bad = [each for each in report.images if each.failed]
    if bad:
        error = CheckFailed(
            f"{len(bad)} of {len(report.images)} images were not refreshed: {listed(each.name for each in bad)}",
            name="refresh-failed",
            hint=f"their golden versions are unchanged; the summary is in {report.path}",
        )
        error.exit_code = max(each.exit_code for each in bad)
        raise error
    if behind := [each for each in report.sets if each.failed]:
        raise _sets_error(behind, report)
    if late := [each for each in report.images if each.unpublished]:
        raise PublishError(
            f"{len(late)} of {len(report.images)} images were refreshed, but not published: "
            f"{listed(each.name for each in late)}",
            name="publish-incomplete",
            hint="the versions on the targets are unchanged; the next refresh tries again",
        )


def _sets_error(behind: Sequence[SetResult], report: RefreshReport) -> CheckFailed:
    """The error for sets whose VMs are not all current: it names them."""
    vms = [f"{vm} ({why})" for each in behind for vm, why in each.left.items()]
    named = "; ".join(vms) or ", ".join(each.why for each in behind)
    error = CheckFailed(
        f"{len(behind)} of {len(report.sets)} sets were not upgraded: {named}",
        name="sets-not-upgraded",
        hint=f"goldsmith set upgrade {behind[0].name} tries again; goldsmith set show {behind[0].name} shows its VMs",
    )
    error.exit_code = max(each.exit_code for each in behind) or CheckFailed.exit_code
    return error


def _set_upgrader(store: Store, everything: bool, on_line: Callable[[str, str], None]) -> SetUpgrader:
    """What upgrades sets after a refresh; nothing is loaded for it where there are no sets."""
    from pipeline.nightly.running_sets import upgrade_no_set

    if not store.sets.is_dir():
        return upgrade_no_set
    from pipeline.cli.show import print_error
    from pipeline.cli.vm.options import align
    from pipeline.instances.fleet import Fleet
    from pipeline.nightly.running_sets import choose_sets, upgrade_running_sets

    def show_password(creation: Creation) -> None:
        if creation.password is not None:
            line = f"the password of {creation.record.user} is {creation.password} (shown only once, stored nowhere)"
            on_line(creation.record.name, line)

    def upgrade(images: Collection[str], not_refreshed: Collection[str]) -> list[SetResult]:
        fleet = Fleet(store)
        if not choose_sets(fleet, images, everything=everything):
            return []
        try:
            return upgrade_running_sets(
                fleet,
                images,
                not_refreshed,
                everything=everything,
                on_progress=lambda name, text: on_line(f"set {name}", text),
                on_begun=show_password,
                on_failure=print_error,
                before=lambda: need_root("refresh", "the VMs of sets belong to root"),
            )
        finally:
            align(fleet)
            fleet.close()

    return upgrade


def _executor(store: Store, distributed: bool, separate: bool, on_line: Callable[[str, str], None]) -> Executor:
    from pipeline.engine.executors import ChildProcess, ThisProcess

    if distributed:
        return slurm_executor(store, on_line)
    return ChildProcess(store, on_line) if separate else ThisProcess()


def _notifying(image_result: Path | None) -> AbstractContextManager[None]:
    """Notifies of an error that ends a whole refresh. The refresh of an image for another process reports to that."""
    from pipeline.cli.hooks import notifying

    return notifying("night", "refresh", also_usage=True) if image_result is None else nullcontext()


def _run_hooks(report: RefreshReport) -> None:
    """Write the declared site, and notify of images that were not refreshed or not published."""
    from pipeline.cli.hooks import notify, write_declared_site
    from pipeline.hooks.notify import Failure

    def failure(subject: str, why: str, evidence: str | None) -> Failure:
        name, _, message = why.partition(": ")
        return Failure(subject, name if message else "refresh-failed", message or why, "", _path(evidence))

    write_declared_site()
    failed = [failure(each.name, each.why, each.evidence) for each in report.images if each.failed]
    unpublished = [failure(each.name, each.unpublished, None) for each in report.images if each.unpublished]
    failed += [failure(f"set {each.name}", _why(each), each.evidence) for each in report.sets if each.failed]
    if failed:
        notify("night", failed)
    if unpublished:
        notify("publish", unpublished)


def _why(result: SetResult) -> str:
    """Why a set is not current, as an error's name and message."""
    vms = "; ".join(f"{vm}: {why}" for vm, why in result.left.items())
    return result.why if ": " in result.why else f"sets-not-upgraded: {vms or result.why}"


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _publisher(store: Store, chosen: Sequence[Definition]) -> Publisher:
    """What publishes golden versions; nothing is loaded for it where no definition asks for it. Raises UsageError."""
    from pipeline.nightly.publication import make_publisher, publish_nothing

    names = {name for definition in chosen for name in definition.publish}
    if not names:
        return publish_nothing
    from pipeline.base.surroundings import variables
    from pipeline.cli.gallery.options import evidence_judge
    from pipeline.publish.declared import declared_targets
    from pipeline.publish.targets import find_declared

    targets = declared_targets(context.project())
    for name in sorted(names):
        find_declared(name, targets)
    return make_publisher(store, targets, variables(), evidence_judge([]))


def _print_line(as_json: bool) -> Callable[[str, str], None]:
    """Each line of an image's output under its name: on stderr where stdout is for JSON."""
    if events.current() is not None:
        return print_line_of_child
    return lambda image, line: print(f"{image:14} {line}", file=sys.stderr if as_json else sys.stdout, flush=True)


def _print(report: RefreshReport) -> None:
    from pipeline.cli.show import table

    rows: list[tuple[Any, ...]] = [
        (each.name, each.outcome, each.golden or "none", f"{each.seconds:.1f} s", each.why) for each in report.images
    ]
    print()
    table(rows, ("image", "outcome", "golden", "took", "why"))
    for each in report.sets:
        vms = f", {', '.join(each.upgraded)}" if each.upgraded else ""
        why = f": {each.why}" if each.why else ""
        print(f"set {each.name}: {each.outcome}{vms}, golden is {each.golden or 'not known'}{why}")
        for vm, reason in each.left.items():
            print(f"set {each.name}: {vm} was not upgraded: {reason}")
    for line in report.layers:
        print(f"deleted layer: {line.strip()}")
    print(f"{report.seconds:.1f} s in total; {report.path}")
