"""`goldsmith vm disk`: attach disks to a VM and detach them."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from pipeline.cli import completion, context
from pipeline.cli.disk import Format, FormatOption
from pipeline.cli.usage import VerbGroup
from pipeline.cli.vm.options import Name, open_fleet

if TYPE_CHECKING:
    from pipeline.instances.fleet import Fleet
    from pipeline.instances.record import Attachment


class Caching(StrEnum):
    """Azure's cache modes."""

    NONE = "None"
    READ_ONLY = "ReadOnly"
    READ_WRITE = "ReadWrite"


Disk = Annotated[str, typer.Argument(metavar="DISK", help="The disk.", autocompletion=completion.complete_disk)]
Lun = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--lun", metavar="LUN", help="The number of the disk's place, 0 to 63 (default: the lowest free)."),
]
CachingOption = Annotated[
    Caching,
    typer.Option("--caching", help="How this host caches it; ReadWrite may lose writes when the host fails."),
]


def register(noun: typer.Typer) -> None:
    disk = typer.Typer(
        help="Attach disks to a VM and detach them, while it runs or is off.",
        no_args_is_help=True,
        rich_markup_mode=None,
        cls=VerbGroup,
    )
    disk.command("attach-new")(attach_new)
    disk.command("attach")(attach)
    disk.command("detach")(detach)
    noun.add_typer(disk, name="disk")


def attach_new(
    name: Name,
    size: Annotated[str, typer.Option("--size", metavar="SIZE", help="The virtual size, such as '60 GiB'.")],
    disk: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--name", metavar="DISK", help="The new disk's name (default: NAME-data-0, NAME-data-1, ...)."),
    ] = None,
    lun: Lun = None,
    caching: CachingOption = Caching.NONE,
    fmt: FormatOption = Format.QCOW2,
) -> None:
    """Create an empty disk and attach it to a VM.

    Example:
      goldsmith vm disk attach-new web --size 60GiB --lun 1 --caching ReadWrite
    """
    from pipeline.base.disk_format import known_format
    from pipeline.operations.attach_disk import attach_new as attach_new_disk
    from pipeline.operations.attach_disk import free_name
    from pipeline.operations.create_disk import DiskWishes

    fleet = open_fleet("disk attach-new")
    fleet.instances.get(name)
    wishes = DiskWishes(disk or free_name(fleet, name), context.to_bytes(size), format=known_format(fmt))
    _print(fleet, name, attach_new_disk(fleet, name, wishes, lun=lun, caching=caching))


def attach(name: Name, disk: Disk, lun: Lun = None, caching: CachingOption = Caching.NONE) -> None:
    """Attach an existing disk to a VM, which leases it from then on.

    Example:
      goldsmith vm disk attach web data1 --caching ReadOnly
    """
    from pipeline.operations.attach_disk import attach as attach_disk

    fleet = open_fleet("disk attach")
    _print(fleet, name, attach_disk(fleet, name, disk, lun=lun, caching=caching))


def _print(fleet: Fleet, name: str, attachment: Attachment) -> None:
    from pipeline.instances.disks import READ_WRITE_WARNING

    path = fleet.disks.get(attachment.disk).image_of_disk.path
    print(f"{attachment.disk}: attached to {name} at LUN {attachment.lun}, caching {attachment.caching}; {path}")
    if attachment.caching == Caching.READ_WRITE:
        print(f"goldsmith: warning: {READ_WRITE_WARNING}", file=sys.stderr)


def detach(name: Name, disk: Disk) -> None:
    """Detach a disk from a VM. Its data stay; inside a VM that runs, unmount it first.

    Example:
      goldsmith vm disk detach web data1
    """
    from pipeline.operations.attach_disk import detach as detach_disk

    detach_disk(open_fleet("disk detach"), name, disk)
    print(f"{disk}: detached from {name}")
