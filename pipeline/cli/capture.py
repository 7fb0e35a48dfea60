"""`goldsmith capture`: a disk that was prepared by hand becomes a master, through the same gates as any other."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.base.errors import UsageError
from pipeline.cli import completion, context
from pipeline.cli.build import need_root, report

if TYPE_CHECKING:
    from pipeline.systems.inspection import DetectedSystem


def register(app: typer.Typer) -> None:
    app.command("capture")(capture)


def capture(
    disk: Annotated[Path, typer.Argument(metavar="DISK", help="A disk that was generalized outside goldsmith.")],
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="The image whose new version the disk becomes.")],
    generation: Annotated[
        list[int],
        typer.Option(
            "--generation",
            metavar="1|2",
            help="A generation in which the disk boots: 1 is BIOS, 2 is UEFI; repeatable (default: both).",
        ),
    ] = [],  # noqa: B006  typer wants a list, and nobody changes it
    account: Annotated[
        list[str], typer.Option("--account", metavar="USER", help="An account that may ship; repeatable.")
    ] = [],  # noqa: B006
    waive: Annotated[
        list[str], typer.Option("--waive", metavar="ID=WHY", help="A check that may fail, and why; repeatable.")
    ] = [],  # noqa: B006
    profile: Annotated[
        str,
        typer.Option(
            "--profile",
            metavar="PROFILE",
            help="Capture DISK as the system of this profile (default: as the detected system).",
            autocompletion=completion.complete_profile,
        ),
    ] = "",
    summary: Annotated[
        str, typer.Option("--summary", metavar="TEXT", help="A description of one line (default: none).")
    ] = "",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show more details.")] = False,
) -> None:
    """Convert, inspect and test DISK, and store it as a golden master. DISK is only read.

    Example:
      goldsmith capture disk.qcow2 --as byhand --generation 2
    """
    from pipeline.base.disk_format import known_format
    from pipeline.cli.environment import locate_store
    from pipeline.cli.leases import refuse_running
    from pipeline.cli.show import Progress
    from pipeline.disk.mapping import disk_format
    from pipeline.operations.capture import PreparedDisk, capture_disk

    need_root("capture")
    if not disk.is_file():
        raise UsageError(
            f"{disk} is not a file", name="disk-missing", hint="name the file of a disk; pipes cannot be read"
        )
    refuse_defined(name)
    refuse_running(disk)
    found = disk_format(disk)
    reasons = dict(reason_of(each) for each in waive)
    system = _system(disk, found, profile or None)
    print(f"detected: {system}")
    prepared = PreparedDisk(
        image=name,
        summary=summary or f"{disk.name}, prepared by hand",
        path=disk,
        format=known_format(found).name,
        os=system.os,
        generations=generation,
        accounts=account,
        waive=reasons,
    )
    store = locate_store().ensure()
    progress = Progress(verbose=verbose)
    try:
        outcome = capture_disk(store, prepared, " ".join(["goldsmith", *sys.argv[1:]]), [progress])
    finally:
        progress.close()
    report(outcome)


def _system(disk: Path, fmt: str, profile: str | None) -> DetectedSystem:
    """The system as which the disk is captured. Raises UsageError for another profile than the system's usual one."""
    from pipeline.systems.inspection import inspection_of, inspections
    from pipeline.systems.questions import detect_system

    system = detect_system(disk, fmt, profile=profile)
    if system.profile != inspection_of(system.system).profiles[0]:
        usual = " or ".join(dict.fromkeys(each.profiles[0] for each in inspections()))
        raise UsageError(f"a master is not kept for the profile {profile}", name="usage", hint=f"--profile {usual}")
    return system


def refuse_defined(name: str) -> None:
    """Raise UsageError (image-defined) for the name of an image that a definition of the project makes."""
    from pipeline.definition import image_names

    try:
        project = context.project()
    except UsageError:
        return
    if path := image_names(project).get(name):
        raise UsageError(
            f"image {name} is defined in images/{path.name}",
            name="image-defined",
            hint="choose another name, because the next refresh would replace this version",
        )


def reason_of(text: str) -> tuple[str, str]:
    """The check and the reason of an option `--waive ID=WHY`. Raises UsageError (usage)."""
    check, equals, why = text.partition("=")
    if not equals or not why.strip():
        raise UsageError(f"--waive {text}: --waive needs a reason", name="usage", hint="--waive ID='why'")
    return check, why
