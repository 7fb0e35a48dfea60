"""`goldsmith vm generalize`, `capture`, `reimage`: from a running VM back to an image, and from an image anew."""

from __future__ import annotations

import sys
import threading
import time
from typing import Annotated, Optional

import typer

from pipeline.cli import completion
from pipeline.cli.build import outcome_document, report
from pipeline.cli.capture import reason_of, refuse_defined
from pipeline.cli.events import events_option
from pipeline.cli.vm.create import finish
from pipeline.cli.vm.options import Force, Name, end_events, open_fleet, say


def register(noun: typer.Typer) -> None:
    for verb in (generalize, capture, reimage):
        noun.command(verb.__name__)(verb)


def generalize(
    name: Name,
    run: Annotated[
        bool,
        typer.Option("--run", help="Let the running guest remove its identity and power itself off first."),
    ] = False,
    _as_events: Annotated[bool, events_option()] = False,
) -> None:
    """Mark a VM as generalized, after its disk was checked. It cannot be started any more, but captured.

    Examples:
      goldsmith vm generalize web --run
      goldsmith vm generalize web
    """
    from pipeline.operations.generalize import generalize as generalize_vm

    fleet = open_fleet("generalize")
    generalize_vm(fleet, name, run=run, on_progress=lambda text: say(name, text))
    say(name, f"Stopped (generalized); goldsmith vm capture {name} --as IMAGE makes an image of it")
    end_events(fleet, [name])


def capture(
    name: Name,
    image: Annotated[
        str, typer.Option("--as", metavar="IMAGE", help="The image whose new version the VM's disks become.")
    ],
    generation: Annotated[
        list[int],
        typer.Option(
            "--generation",
            metavar="1|2",
            help="A generation in which the image boots: 1 is BIOS, 2 is UEFI; repeatable (default: its master's).",
        ),
    ] = [],  # noqa: B006  typer wants a list, and nobody changes it
    account: Annotated[
        list[str], typer.Option("--account", metavar="USER", help="An account that may ship; repeatable.")
    ] = [],  # noqa: B006
    waive: Annotated[
        list[str], typer.Option("--waive", metavar="ID=WHY", help="A check that may fail, and why; repeatable.")
    ] = [],  # noqa: B006
    summary: Annotated[
        str, typer.Option("--summary", metavar="TEXT", help="A description of one line (default: the VM's origin).")
    ] = "",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show more details.")] = False,
    _as_events: Annotated[bool, events_option()] = False,
) -> None:
    """Convert, inspect and test the disks of a generalized VM, and store them as a golden master.

    OS disk and data disks are copied; the VM stays, stopped and generalized.

    Example:
      goldsmith vm capture web --as web-base
    """
    from pipeline.cli import events
    from pipeline.cli.show import follow
    from pipeline.operations.capture import CaptureWishes
    from pipeline.operations.capture import capture as capture_vm

    fleet = open_fleet("capture")
    refuse_defined(image)
    wishes = CaptureWishes(image, summary, generation, account, dict(reason_of(each) for each in waive))
    progress = follow(verbose=verbose, image=image)
    try:
        command = " ".join(["goldsmith", *sys.argv[1:]])
        outcome = capture_vm(fleet, name, wishes, command, lambda text: say(name, text), [progress])
    finally:
        progress.close()
    if (stream := events.current()) is not None:
        stream.emit("result", document=outcome_document(image, outcome))
    report(outcome)


def reimage(
    name: Name,
    to: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--to",
            metavar="IMAGE[@VERSION|CHANNEL]",
            help="The master of the new OS disk (default: the VM's own).",
            autocompletion=completion.complete_reference,
        ),
    ] = None,
    force: Force = False,
    _as_events: Annotated[bool, events_option()] = False,
) -> None:
    """Give a VM a new OS disk from its master or another one, and provision it again under its name.

    All that is on its OS disk and its resource disk is lost. Data disks stay as they are.

    Examples:
      goldsmith vm reimage web
      goldsmith vm reimage web --to debian-13-web@golden
    """
    from pipeline.operations.reimage import begin

    fleet = open_fleet("reimage")
    began = time.monotonic()
    creation = begin(fleet, name, to=to, force=force)
    finish(fleet.store, creation, began, threading.Event())
    end_events(fleet, [name])
