"""`goldsmith iso`: what a Windows installation medium, or a medium with drivers, holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from pipeline.cli.usage import json_option


def register(app: typer.Typer) -> None:
    app.command("iso")(iso)


def iso(
    medium: Annotated[Path, typer.Argument(metavar="ISO", help="A Windows installation ISO, or virtio-win.iso.")],
    as_json: Annotated[bool, json_option()] = False,
    answers: Annotated[
        str,
        typer.Option(
            "--answers",
            metavar="EDITION",
            help="Print the answer file that installs this edition (default: list the editions).",
        ),
    ] = "",
    generation: Annotated[
        int, typer.Option("--generation", metavar="1|2", help="The machine's generation: 1 is BIOS, 2 is UEFI.")
    ] = 2,
    drivers: Annotated[
        Optional[Path],  # noqa: UP045  typer reads this at run time
        typer.Option(
            "--drivers",
            metavar="ISO",
            help="virtio-win.iso with the drivers that the edition needs (default: not checked).",
        ),
    ] = None,
) -> None:
    """List the editions of a Windows installation medium, or the drivers of virtio-win.iso, without mounting it.

    Examples:
      goldsmith iso server.iso
      goldsmith iso server.iso --answers 'ServerStandard Server' --drivers virtio-win.iso
    """
    from pipeline.cli.show import print_json, size, table
    from pipeline.disk.media import Installation, recognize

    if answers:
        print(_answers(medium, answers, generation, drivers), end="")
        return
    found = recognize(medium)
    if as_json:
        print_json(found.to_json())
        return
    if isinstance(found, Installation):
        rows = [
            (
                str(each.index),
                each.name,
                each.edition,
                each.kind,
                each.architecture,
                str(each.build),
                ",".join(each.languages),
                size(each.size),
            )
            for each in found.editions
        ]
        table(rows, ("index", "name", "edition", "type", "arch", "build", "languages", "size"))
        ways = [way for way, there in (("BIOS", found.bios), ("UEFI without a key press", found.no_prompt)) if there]
        print(f"{found.label}: boots with {', '.join(ways) or 'UEFI, after a key press'}")
        return
    table([(name, ", ".join(releases)) for name, releases in found.drivers.items()], ("driver", "for"))
    print(f"{found.label}: {'with' if found.agent else 'WITHOUT'} the guest agent (guest-agent/qemu-ga-x86_64.msi)")


def _answers(medium: Path, wanted: str, generation: int, drivers: Path | None) -> str:
    """autounattend.xml for a second CD; the administrator's password is drawn, and used for one logon."""
    from pipeline.base.errors import UsageError
    from pipeline.systems import registry

    if generation not in (1, 2):
        raise UsageError(
            "--generation must be 1 or 2",
            name="unknown-generation",
            hint="--generation 1 (BIOS), --generation 2 (UEFI)",
        )
    installed = next(system for system in registry.all_systems() if system.installs_from_media)
    return installed.answer_file(medium, wanted, generation, drivers)
