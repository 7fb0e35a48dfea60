"""`goldsmith iso`: what a Windows installation medium, or a medium with drivers, holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("iso")(iso)


def iso(
    medium: Annotated[Path, typer.Argument(metavar="ISO", help="A Windows installation ISO, or virtio-win's.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the editions on an installation medium, or the drivers on virtio-win's; nothing is mounted."""
    from pipeline.cli.show import print_json, size, table
    from pipeline.offline.media import Installation, recognize

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
                each.architecture,
                str(each.build),
                ",".join(each.languages),
                size(each.size),
            )
            for each in found.editions
        ]
        table(rows, ("index", "name", "edition", "arch", "build", "languages", "size"))
        ways = [way for way, there in (("BIOS", found.bios), ("UEFI without a key", found.no_prompt)) if there]
        print(f"{found.label}: starts by {', '.join(ways) or 'UEFI, after a key'}")
        return
    table([(name, ", ".join(releases)) for name, releases in found.drivers.items()], ("driver", "for"))
    print(f"{found.label}: {'with' if found.agent else 'WITHOUT'} the guest agent (guest-agent/qemu-ga-x86_64.msi)")
