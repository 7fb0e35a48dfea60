"""`goldsmith build`: definitions become golden masters."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from pipeline.base.errors import CheckFailed, GoldsmithError, HostError, UsageError
from pipeline.base.printable import listed
from pipeline.cli import completion, context, events
from pipeline.cli.environment import locate_store
from pipeline.cli.events import events_option
from pipeline.cli.slurm import LOCAL, SLURM, executor_option, refuse_options, slurm_executor
from pipeline.cli.usage import set_option

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pipeline.base.store import Store
    from pipeline.definition import Definition
    from pipeline.engine.executors import Executor
    from pipeline.engine.runner import Outcome


def register(app: typer.Typer) -> None:
    app.command("build")(build)


def build(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME...", help="Images to build; or use --all.", autocompletion=completion.complete_definition
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Select all definitions of the project, parents first.")
    ] = False,
    from_stage: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--from",
            metavar="STAGE|STEP",
            help="Run again from this stage or step on (default: from the first change on).",
            autocompletion=completion.complete_stage,
        ),
    ] = None,
    until: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--until",
            metavar="STAGE|STEP",
            help="Stop after this stage or step (default: the last).",
            autocompletion=completion.complete_stage,
        ),
    ] = None,
    warm: Annotated[
        bool,
        typer.Option(
            "--warm", help="For authors: start from a snapshot. The result is only a candidate, never golden."
        ),
    ] = False,
    keep_failed: Annotated[
        bool, typer.Option("--keep-failed", help="Keep the guest of a failed build running, for goldsmith shell RUN.")
    ] = False,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            metavar="N",
            help="The maximum number of images that are built at once, if processors and memory suffice.",
        ),
    ] = 1,
    executor_name: Annotated[str, executor_option()] = LOCAL,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the output of the steps while they run.")
    ] = False,
    as_events: Annotated[bool, events_option()] = False,
    settings: Annotated[Optional[list[str]], set_option()] = None,  # noqa: UP045
) -> None:
    """Build images, reusing every unchanged layer. An image that passes all checks is promoted to `golden`.

    Examples:
      goldsmith build debian-13
      goldsmith build --all --jobs 2
      goldsmith build shop --from 2 --keep-failed
      goldsmith build --all --executor slurm
    """
    from pipeline.engine.executors import ChildProcess, ThisProcess
    from pipeline.engine.preconditions import require_buildable

    store = locate_store()
    chosen = choose(names or [], everything, store.gallery)
    require_buildable(chosen, store)
    distributed = executor_name == SLURM
    if distributed:
        given = (("--until", until), ("--warm", warm), ("--keep-failed", keep_failed))
        refuse_options([name for name, value in given if value])
    else:
        need_root_to_build(chosen, store, from_stage, until, warm)
    if len(chosen) == 1 and not distributed:
        _build_image(chosen[0], False, from_stage, until, warm, keep_failed, verbose)
        return
    words = [
        *(["--from", from_stage] if from_stage else []),
        *(["--until", until] if until else []),
        *(word for each in settings or () for word in ("--set", each)),
        *(
            name
            for name, given in (
                ("--warm", warm),
                ("--keep-failed", keep_failed),
                ("-v", verbose),
                ("--events", as_events),
            )
            if given
        ),
    ]

    def build_here(definition: Definition) -> None:
        from pipeline.cli.show import print_error

        try:
            _build_image(definition, True, from_stage, until, warm, keep_failed, verbose)
        except GoldsmithError as error:
            print_error(error)
            raise

    executor: Executor = ThisProcess()
    if distributed:
        executor = slurm_executor(store, print_line_of_child)
    elif jobs > 1:
        executor = ChildProcess(store, print_line_of_child)
    _all(chosen, store, executor, jobs, build_here, words, from_stage)


def _all(
    chosen: list[Definition],
    store: Store,
    executor: Executor,
    jobs: int,
    build_here: Callable[[Definition], None],
    words: list[str],
    from_stage: str | None,
) -> None:
    """Build several, parents first; raises CheckFailed that names those that failed, with the worst exit code."""
    from pipeline.engine.executors import ImageJob, run_jobs
    from pipeline.engine.plan import explain

    def is_unchanged(definition: Definition) -> bool:
        try:
            rows = explain(definition, store, again=from_stage)
        except GoldsmithError:
            return False  # the build itself reports it
        return all(row["action"] == "keep" for row in rows)

    def job_of(definition: Definition) -> ImageJob[None]:
        return ImageJob(
            definition,
            run=lambda: build_here(definition),
            arguments=lambda _result: ["build", definition.name, *words],
            read_result=lambda _result: None,
            is_unchanged=lambda: is_unchanged(definition),
        )

    failed = run_jobs(
        [job_of(each) for each in chosen],
        executor,
        jobs,
        on_result=lambda _name, _result: None,
        on_skip=lambda name, parent: print(f"{name}: skipped, {parent} failed", file=sys.stderr),
    )
    if failed:
        failure = CheckFailed(
            f"{len(failed)} of {len(chosen)} images failed: {listed(failed)}",
            name="images-failed",
            hint="read the errors above; goldsmith runs list shows all runs",
        )
        failure.exit_code = max(error.exit_code for error in failed.values())
        raise failure


def print_line_of_child(image: str, line: str) -> None:
    """A line of another process's output under its image's name; its events as they are."""
    stream = events.current()
    if stream is not None:
        stream.pass_on(image, line)
    else:
        print(f"{image:14} {line}", flush=True)


def _build_image(
    definition: Definition,
    many: bool,
    from_stage: str | None,
    until: str | None,
    warm: bool,
    keep_failed: bool,
    verbose: bool,
) -> None:
    from pipeline.cli.show import follow
    from pipeline.engine import runner

    stream = events.current()
    if many:
        print(f"== {definition.name}")
        if stream is not None:
            stream.emit("begin", image=definition.name)
    progress = follow(verbose=verbose, image=definition.name)
    try:
        outcome = runner.build(
            definition,
            locate_store(),
            command=" ".join(["goldsmith", *sys.argv[1:]]),
            from_stage=from_stage,
            until=until,
            warm=warm,
            keep_failed=keep_failed,
            listeners=[progress],
        )
    except GoldsmithError as error:
        progress.close()
        if error.exit_code < 128 and error.evidence is not None:
            _how_to_go_on(definition.name, error, keep_failed)
        raise
    finally:
        progress.close()
    if stream is not None:
        stream.emit("result", document=outcome_document(definition.name, outcome))
    report(outcome)


def _how_to_go_on(name: str, error: GoldsmithError, keep_failed: bool) -> None:
    run = error.evidence.name if error.evidence else ""
    shell = f"\n  shell  goldsmith shell {run}" if keep_failed else ""
    hint = error.hint or f"read serial.log, journal.log and the logs of the stages in {error.evidence}"
    error.hint = f"{hint}{shell}\n  retry  goldsmith build {name}      (resumes after the last good layer)"


def outcome_document(name: str, outcome: Outcome) -> dict[str, object]:
    """The result of a build for programs; `version` and `disk` are null if it ended before a version was made."""
    version = outcome.version
    return {
        "image": name,
        "run": outcome.run,
        "unchanged": outcome.unchanged,
        "seconds": round(outcome.seconds, 2),
        "version": version.version if version else None,
        "channels": list(version.channels) if version else [],
        "disk": str(version.disk) if version else None,
    }


def report(outcome: Outcome) -> None:
    """Print the result of a build."""
    from pipeline.cli.show import booted, name_digest, size
    from pipeline.gallery.verdict import count

    if outcome.unchanged:
        print(f"unchanged: nothing was run, no guest was booted ({outcome.seconds:.1f} s)")
    version = outcome.version
    if version is None:
        return
    disk = version.manifest["disk"]
    verdict = count(version.manifest.get("checks"))
    boots = ", ".join(booted(cell, seen) for cell, seen in version.manifest.get("prove", {}).items())
    where = " ".join(version.channels) or version.manifest.get("state", "captured")
    print(f"{version.name} {version.version}  {where}  {verdict}  {boots}")
    sizes = f"{size(disk['size'])}, {size(disk['allocated'])} on disk"
    print(f"{version.disk}  {sizes}, {name_digest(version.digest)[:23]}...")


def _image_name(word: str, project: Path) -> str:
    """The image that an argument means: its name, or its definition's path. Raises UsageError (other-project)."""
    from pathlib import Path

    path = Path(word)
    if path.suffix != ".yaml" or not (path.is_file() or (project / "images" / path.name).is_file()):
        return word
    if path.is_file() and path.resolve().parent != (project / "images").resolve():
        raise UsageError(
            f"{word} is not a definition of the project {project}",
            name="other-project",
            hint=f"goldsmith --project {path.resolve().parent.parent} ...",
        )
    return path.stem


def choose(names: list[str], everything: bool, gallery_root: Path) -> list[Definition]:
    """The images to build or refresh, parents first; a parent without a golden master is included."""
    from pipeline.definition import build_order, load_all, load_named, require_known_settings
    from pipeline.engine.scheduler import parents_of
    from pipeline.gallery import Gallery

    project = context.project()
    require_known_settings(project)
    if everything:
        if names:
            raise UsageError(
                "--all cannot be combined with image names", name="usage", hint="name images, or use --all alone"
            )
        return list(build_order(load_all(project)))
    if not names:
        raise UsageError("name at least one image", name="usage", hint="goldsmith build NAME..., or --all")
    gallery = Gallery(gallery_root)
    chosen: dict[str, Definition] = {}
    waiting = [_image_name(name, project) for name in names]
    while waiting:
        name = waiting.pop()
        if name in chosen:
            continue
        chosen[name] = load_named(project, name)
        waiting += [p for p in parents_of(chosen[name]) if gallery.find(p) is None and p not in chosen]
    return list(build_order(list(chosen.values())))


def need_root(verb: str, why: str = "it creates networks for guests and bootstraps file systems") -> None:
    """Raise HostError (root-needed) for a user who is not root."""
    if os.geteuid() != 0:
        raise HostError(f"goldsmith {verb} needs root: {why}", name="root-needed", hint=f"sudo goldsmith {verb} ...")


def need_root_to_build(
    chosen: Sequence[Definition], store: Store, from_stage: str | None, until: str | None, warm: bool
) -> None:
    """As `need_root`, if a unit has to run that needs root: a build that keeps all layers, or only reads files, does
    not.
    """
    from pipeline.engine.plan import root_needed_for

    if os.geteuid() == 0:
        return
    for definition in chosen:
        try:
            why = root_needed_for(definition, store, warm=warm, again=from_stage, until=until)
        except GoldsmithError as error:
            if error.name != "gallery-unknown":
                raise
            why = "a parent has to be built first"
        if why:
            need_root(f"build {definition.name}", why)
