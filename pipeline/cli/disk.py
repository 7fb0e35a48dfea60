"""`goldsmith disk`: disks of their own, which VMs lease while they are attached."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from pipeline.base.errors import UsageError
from pipeline.cli import completion, context
from pipeline.cli.usage import VerbGroup, json_option

if TYPE_CHECKING:
    from pipeline.instances.fleet import Fleet
    from pipeline.operations.find_disks import ListedDisk

Name = Annotated[str, typer.Argument(metavar="DISK", help="The disk.", autocompletion=completion.complete_disk)]
AsJson = Annotated[bool, json_option()]


class Format(StrEnum):
    QCOW2 = "qcow2"
    VHD = "vhd"


FormatOption = Annotated[
    Format,
    typer.Option("--format", help="qcow2: takes the room of its data, on top of a master; vhd: a whole fixed VHD."),
]


def register(app: typer.Typer) -> None:
    noun = typer.Typer(
        help="Create, list, enlarge, export and delete the disks of VMs.",
        no_args_is_help=True,
        rich_markup_mode=None,
        cls=VerbGroup,
    )
    noun.command("create")(create)
    noun.command("list")(list_all)
    noun.command("show")(show)
    noun.command("resize")(resize)
    noun.command("export")(export)
    noun.command("delete")(delete)
    app.add_typer(noun, name="disk")


def open_disks(verb: str) -> Fleet:
    """The VMs and disks of the store. Raises HostError (root-needed) for a user who is not root."""
    from pipeline.cli.build import need_root
    from pipeline.cli.environment import locate_store
    from pipeline.instances.fleet import Fleet

    need_root(f"disk {verb}", "virtual machines and their disks belong to root")
    return Fleet(locate_store().ensure())


def create(
    name: Annotated[str, typer.Argument(metavar="DISK", help="The new disk's name.")],
    size: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--size", metavar="SIZE", help="The virtual size, such as '60 GiB' (default: the source's)."),
    ] = None,
    source: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--source",
            metavar="IMAGE[@VERSION][:LUN]|FILE",
            help="A master's OS disk, its data disk at a LUN, or a disk file of any format (default: an empty disk).",
        ),
    ] = None,
    fmt: FormatOption = Format.QCOW2,
    as_json: AsJson = False,
) -> None:
    """Create a disk: empty, from a master, or from a file.

    Examples:
      goldsmith disk create data1 --size 60GiB
      goldsmith disk create logs --source debian-12@golden:0 --format vhd
    """
    from pipeline.base.disk_format import known_format
    from pipeline.cli.show import print_json
    from pipeline.operations.create_disk import DiskWishes, create_disk
    from pipeline.operations.find_disks import find_disk

    fleet = open_disks("create")
    wishes = DiskWishes(name, context.to_bytes(size) if size is not None else None, source, known_format(fmt))
    create_disk(fleet, wishes)
    made = find_disk(fleet, name)
    if as_json:
        print_json(made.to_json())
    else:
        print(f"{name}: {_summary(made)}")


def _summary(disk: ListedDisk) -> str:
    from pipeline.cli.show import size

    return f"{size(disk.size)}, {disk.format}, {disk.create_option}"


def list_all(as_json: AsJson = False) -> None:
    """List all disks, those of VMs included, with the VM that leases each.

    Example:
      goldsmith disk list
    """
    from pipeline.cli.show import print_json, size, table
    from pipeline.operations.find_disks import list_disks

    found = list_disks(open_disks("list"))
    if as_json:
        print_json([disk.to_json() for disk in found])
        return
    rows = [
        (
            disk.name,
            size(disk.size),
            size(disk.allocated),
            disk.format,
            disk.create_option,
            f"{disk.lease['status']}, {disk.lease['state']}",
            disk.vm or "",
            "" if disk.lun is None else str(disk.lun),
            disk.caching or "",
        )
        for disk in found
    ]
    header = ("name", "size", "on disk", "format", "made", "lease", "vm", "lun", "caching")
    table(rows, header, empty="there are no disks; goldsmith disk create NAME --size 60GiB makes one")


def show(name: Name, as_json: AsJson = False) -> None:
    """Show one disk: its size, its source, its lease, its file.

    Example:
      goldsmith disk show data1
    """
    from pipeline.cli.show import print_json, size
    from pipeline.operations.find_disks import find_disk

    disk = find_disk(open_disks("show"), name)
    if as_json:
        print_json(disk.to_json())
        return
    lease = disk.lease
    rows = [
        ("", f"{disk.name}  {_summary(disk)}"),
        ("id", disk.id or "none: it is part of its VM"),
        ("source", disk.source or "none"),
        ("on disk", size(disk.allocated)),
        ("created", disk.created),
        ("lease", ", ".join(str(lease[key]) for key in ("status", "state", "duration") if lease[key])),
    ]
    if disk.vm is not None:
        place = "OS disk" if disk.lun is None else f"LUN {disk.lun}"
        rows.append(("vm", f"{disk.vm}, {place}, caching {disk.caching}"))
    rows.append(("in", str(disk.image.path)))
    print("\n".join(f"  {key:10} {value}" if key else value for key, value in rows))


def resize(
    name: Name,
    size: Annotated[str, typer.Argument(metavar="SIZE", help="The new, larger size, such as '80 GiB'.")],
) -> None:
    """Enlarge a disk that no running VM uses. Partitions and file systems inside stay as they are.

    Example:
      goldsmith disk resize data1 '80 GiB'
    """
    from pipeline.cli.show import size as shown
    from pipeline.operations.change_disk import resize_disk

    made = resize_disk(open_disks("resize"), name, context.to_bytes(size))
    print(f"{name}: {shown(made.size)}; inside, enlarge the partition and the file system")


def export(
    name: Name,
    target: Annotated[Path, typer.Argument(metavar="FILE", help="The new file.")],
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="FORMAT", help="fixed, dynamic, raw, qcow2, vhdx or vmdk (default: by the file's name)."
        ),
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a disk as a file that stands alone, a fixed VHD for example. Its VM must be off.

    Example:
      goldsmith disk export data1 data1.vhd
    """
    from pipeline.base import scratch
    from pipeline.cli.show import size
    from pipeline.disk import transfer
    from pipeline.operations.change_disk import export_disk

    fleet = open_disks("export")
    kind = to or transfer.kind_of(target)
    scratch.refuse_target(target, force=force)
    made = export_disk(fleet, name, target, kind, force=force)
    print(f"{made.path}  {made.kind}  {size(made.size)}, {size(made.allocated)} on disk")


def delete(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a disk with its data. A disk that a VM leases is refused.

    Example:
      goldsmith disk delete data1
    """
    from pipeline.cli.vm.power import confirm
    from pipeline.operations.change_disk import delete_disk, refuse_delete

    fleet = open_disks("delete")
    refuse_delete(fleet, name)
    if not yes and not confirm(f"delete the disk {name} with its data? [y/N] "):
        raise UsageError(
            f"{name} was not deleted", name="disk-delete-unconfirmed", hint=f"goldsmith disk delete {name} --yes"
        )
    delete_disk(fleet, name)
    print(f"{name}: deleted")
