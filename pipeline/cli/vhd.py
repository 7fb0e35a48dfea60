"""`goldsmith vhd`: VHDs of every kind, looked at, proven, made and changed into each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from pipeline.base.disk_format import VHD
from pipeline.base.printable import single_line
from pipeline.cli import context
from pipeline.cli.leases import refuse_running
from pipeline.cli.usage import VerbGroup, json_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.disk.transfer import Made

Json = Annotated[bool, json_option()]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]
Parent = Annotated[
    Path | None,
    typer.Option("--parent", metavar="FILE", help="The parent's current path (default: as recorded in the VHD)."),
]
AnyTime = Annotated[bool, typer.Option("--any-time", help="Accept a parent whose time differs (a copy).")]
Format = Annotated[
    str, typer.Option("--format", metavar="FORMAT", help="The source's format (default: by its content and name).")
]
MoveGpt = Annotated[bool, typer.Option("--move-gpt", help="Move the backup GPT to the new end of the disk.")]
Unpack = Annotated[bool, typer.Option("--unpack", help="Unpack an xz, gzip, bzip2, zstd, lz4 or lzma file first.")]


def register(app: typer.Typer) -> None:
    noun = typer.Typer(
        help="Show, check, convert and create VHDs.", no_args_is_help=True, rich_markup_mode=None, cls=VerbGroup
    )
    verbs: dict[str, Callable[..., None]] = {
        "info": info,
        "verify": verify,
        "convert": convert,
        "create": create,
        "compare": compare,
        "diff": diff,
        "apply": apply,
        "merge": apply,
        "resize": resize,
    }
    for name, verb in verbs.items():
        noun.command(name)(verb)
    app.add_typer(noun, name="vhd")


def _now() -> int:
    import time

    return int(time.time())


def _progress() -> Callable[[int, int], None] | None:
    """One line that rewrites itself, on a terminal only."""
    import shutil
    import sys

    from pipeline.base.byte_progress import ByteProgress
    from pipeline.cli import door

    if not sys.stderr.isatty():
        return None

    def show(text: str) -> None:
        # a line that is as wide as the terminal would wrap, and the next could not be written over it
        width = max(10, shutil.get_terminal_size().columns - 1)
        print(f"{door.own(chr(13), sys.stderr)}{text[:width]:{width}}", end="", file=sys.stderr, flush=True)

    line = ByteProgress(show)

    def progress(done: int, total: int) -> None:
        line(done, total)
        if done >= total:
            print(file=sys.stderr, flush=True)

    return progress


def _facts(path: Path) -> dict[str, Any]:
    from pipeline.disk import mapping

    facts = mapping.vhd_facts(path)
    status = path.stat()
    shown: dict[str, Any] = {"path": str(path)}
    for name, value in facts.items():
        shown[name] = value
        if name == "size_in_old_qemu":
            shown |= {"file_size": status.st_size, "allocated": status.st_blocks * 512}
    return shown


def info(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="VHDs.")],
    as_json: Json = False,
) -> None:
    """Show the footers and headers of VHDs. If a file cannot be read, it is named and the exit code is 2.

    Example:
      goldsmith vhd info disk.vhd
    """
    from pipeline.base.errors import DiskError
    from pipeline.cli.show import print_error, print_json

    found: list[dict[str, Any]] = []
    bad: list[DiskError] = []
    for path in files:
        try:
            found.append(_facts(path))
        except DiskError as error:
            bad.append(error)
            found.append({"path": str(path), "fault": error.name, "message": error.message})
    if as_json:
        if len(files) > 1:
            print_json(found)
        elif not bad:
            print_json(found[0])
    else:
        for each in found:
            if "fault" not in each:
                _print_facts(each)
    # the good ones are shown whatever the others are; each bad one has an error of its own
    for each_bad in bad[:-1]:
        print_error(each_bad)
    if bad:
        raise bad[-1]


def _print_facts(facts: dict[str, Any]) -> None:
    for key, value in facts.items():
        print(f"{key.replace('_', ' '):16}  {single_line(value)}")
    print()


def verify(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="VHDs.")],
    as_json: Json = False,
    parent: Parent = None,
    any_time: AnyTime = False,
) -> None:
    """Check a VHD: footer, header, block table, chain. Exit code 0: valid; 1: invalid, with each fault named.

    Example:
      goldsmith vhd verify disk.vhd
    """
    from pipeline.base.errors import CheckFailed
    from pipeline.cli.show import print_json
    from pipeline.disk import mapping

    reports = []
    for path in files:
        faults = mapping.vhd_faults(path, parent=parent, check_time=not any_time)
        reports.append({"path": str(path), "right": not faults, "faults": faults})
    if as_json:
        print_json(reports)
    else:
        for path, report in zip(files, reports, strict=True):
            shown = report["faults"]
            assert isinstance(shown, dict)
            print(f"{single_line(path)}: {'right' if not shown else ''}")
            for name, what in shown.items():
                print(f"  {name}: {single_line(what)}")
    wrong = [report for report in reports if not report["right"]]
    if wrong:
        raise CheckFailed(
            f"{len(wrong)} of {len(files)} VHDs are invalid",
            name="vhd-not-right",
            hint="goldsmith vhd convert FILE NEW.vhd writes a valid VHD from the readable data",
        )


def convert(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A VHD, VHDX, qcow2, VMDK or raw disk.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The new file.")],
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="FORMAT", help="fixed, dynamic, raw, qcow2, vhdx or vmdk (default: by the target's name)."
        ),
    ] = "",
    fmt: Format = "",
    parent: Parent = None,
    any_time: AnyTime = False,
    move_gpt: MoveGpt = False,
    unpack: Unpack = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Convert a disk to another format. VHDs get a whole number of MiB; holes stay holes.

    Examples:
      goldsmith vhd convert disk.qcow2 disk.vhd
      goldsmith vhd convert disk.img.xz disk.vhd --unpack --move-gpt
    """
    from contextlib import nullcontext

    from pipeline.base import scratch
    from pipeline.disk import transfer
    from pipeline.disk.unpack import unpacked

    kind = to or transfer.kind_of(target)
    scratch.refuse_target(target, force=force)
    refuse_running(source)
    with (
        unpacked(source, target.absolute().parent) if unpack else nullcontext(source) as plain,
        transfer.open_source(plain, fmt or None, parent=parent, check_time=not any_time) as disk,
    ):
        made = transfer.convert(
            disk, target, kind, timestamp=_now(), force=force, progress=_progress(), move_gpt=move_gpt
        )
    _print_made(made, as_json)


def _print_made(made: Made, as_json: bool) -> None:
    from pipeline.cli.show import print_json, size

    if as_json:
        summary = {"path": str(made.path), "kind": made.kind, "size": made.size, "file_size": made.file_size}
        print_json({**summary, "allocated": made.allocated, "moved_gpt": made.moved_gpt})
    else:
        moved = "; the backup GPT was moved to the end" if made.moved_gpt else ""
        print(f"{single_line(made.path)}  {made.kind}  {size(made.size)}, {size(made.allocated)} on disk{moved}")


def create(
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The new VHD.")],
    size: Annotated[
        str,
        typer.Option(
            "--size", metavar="SIZE", help="The virtual size, such as '8 GiB' (default: the parent's size)."
        ),
    ] = "",
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="fixed or dynamic.")] = "fixed",
    parent: Annotated[
        Path | None,
        typer.Option("--parent", metavar="FILE", help="Create a child of this VHD (default: a VHD without parent)."),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Create an empty VHD, or a child of another VHD.

    Example:
      goldsmith vhd create data.vhd --size '8 GiB'
    """
    from pipeline.base.errors import DiskError, UsageError
    from pipeline.disk import transfer

    if parent is not None:
        if size:
            raise UsageError(
                "--size cannot be combined with --parent",
                name="bad-size",
                hint="use --size '8 GiB' for a new disk; a child (--parent) has its parent's size",
            )
        _print_made(transfer.child(parent, target, timestamp=_now(), force=force), as_json)
        return
    if to not in ("fixed", "dynamic"):
        raise UsageError(
            f"goldsmith vhd create cannot make the format {to!r}",
            name="unknown-kind",
            hint="use --to fixed or --to dynamic; goldsmith vhd convert makes other formats",
        )
    if not size:
        raise UsageError(
            "--size is missing",
            name="bad-size",
            hint="use --size '8 GiB' for a new disk; a child (--parent) has its parent's size",
        )
    wanted = context.to_bytes(size)
    if wanted % (1 << 20):
        raise DiskError(
            f"{wanted} bytes are not a whole number of MiB",
            name="vhd-not-whole-mib",
            hint="use a whole number of MiB",
        )
    _print_made(transfer.convert(transfer.empty(wanted), target, to, timestamp=_now(), force=force), as_json)


def compare(
    first: Annotated[Path, typer.Argument(metavar="DISK", help="A disk of any format.")],
    second: Annotated[Path, typer.Argument(metavar="OTHER", help="Another disk.")],
    any_time: AnyTime = False,
    as_json: Json = False,
) -> None:
    """Compare two disks byte by byte. Exit code 0: equal; 1: different.

    Example:
      goldsmith vhd compare disk.vhd disk.qcow2
    """
    from pipeline.base.errors import CheckFailed
    from pipeline.cli.show import print_json
    from pipeline.disk import transfer

    with (
        transfer.open_source(first, check_time=not any_time) as a,
        transfer.open_source(second, check_time=not any_time) as b,
    ):
        seen = transfer.compare(a, b, _progress())
    if as_json:
        summary = {"same": seen.same, "sizes": list(seen.sizes), "first": seen.first, "differing": seen.differing}
        print_json(summary)
    elif seen.same:
        print("equal")
    if not seen.same:
        what = (
            f"sizes {seen.sizes[0]} and {seen.sizes[1]}"
            if seen.first is None
            else f"the first difference is at byte {seen.first}"
        )
        raise CheckFailed(
            f"{first.name} and {second.name} differ: {what}",
            name="disks-differ",
            hint="goldsmith vhd diff OLD NEW --json lists the blocks",
        )


def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The old VHD.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The new disk, in any format.")],
    target: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(metavar="CHILD", help="The differencing VHD; optional with --json."),
    ] = None,
    fmt: Format = "",
    force: Force = False,
    as_json: Annotated[bool, json_option("Print the list of changed blocks.")] = False,
) -> None:
    """Write the changes from OLD to NEW as a differencing VHD, or list them.

    Example:
      goldsmith vhd diff old.vhd new.vhd night.vhd
    """
    from pipeline.base.errors import UsageError
    from pipeline.cli.show import print_json
    from pipeline.disk import transfer

    if target is not None:
        made = transfer.difference(
            old, new, target, timestamp=_now(), fmt=fmt or None, force=force, progress=_progress()
        )
        if not as_json:
            _print_made(made, False)
    elif not as_json:
        raise UsageError(
            "name the differencing VHD to write, or use --json",
            name="no-target",
            hint="goldsmith vhd diff OLD NEW CHILD.vhd",
        )
    if as_json:
        with transfer.open_source(old) as before, transfer.open_source(new, fmt or None) as after:
            blocks = transfer.blocks_of(before, after)
            sizes = [before.size, after.size]
        print_json(
            {
                "old": str(old),
                "new": str(new),
                "sizes": sizes,
                "bytes": sum(length for _, length in blocks),
                "blocks": [{"start": start, "length": length} for start, length in blocks],
            }
        )


def apply(
    child: Annotated[Path, typer.Argument(metavar="DIFF", help="A differencing VHD.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The new disk.")],
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="FORMAT", help="fixed, dynamic, raw, qcow2, vhdx or vmdk (default: by the target's name)."
        ),
    ] = "",
    parent: Parent = None,
    any_time: AnyTime = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a differencing VHD and its parents as one disk. The sources are not changed.

    The result of `vhd diff` on a fixed VHD is restored bit for bit, including its footer.

    Examples:
      goldsmith vhd apply night.vhd new.vhd --parent old.vhd --to fixed
      goldsmith vhd merge night.vhd new.vhd --parent old.vhd
    """
    from pipeline.disk import transfer

    unique_id, timestamp = transfer.identity(child, VHD.key, _now())
    with transfer.open_source(child, VHD.key, parent=parent, check_time=not any_time) as disk:
        made = transfer.convert(
            disk,
            target,
            to or transfer.kind_of(target),
            timestamp=timestamp,
            unique_id=unique_id,
            force=force,
            progress=_progress(),
        )
    _print_made(made, as_json)


def resize(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A fixed VHD.")],
    size: Annotated[str, typer.Argument(metavar="SIZE", help="The new, larger size, such as '16 GiB'.")],
    move_gpt: MoveGpt = False,
    as_json: Json = False,
) -> None:
    """Enlarge a fixed VHD, and show what remains to be done inside it.

    Example:
      goldsmith vhd resize disk.vhd '16 GiB' --move-gpt
    """
    from pipeline.cli.show import print_json
    from pipeline.disk import mapping, transfer

    footer = transfer.grow(file, context.to_bytes(size), timestamp=_now(), progress=_progress(), move_gpt=move_gpt)
    todo = []
    end = mapping.disk_end(file)
    if end.backup_fault:
        todo.append("move the backup GPT to the end: growpart does it, or use --move-gpt")
    if end.last is not None:
        todo.append(f"grow partition {end.last}: growpart /dev/DISK {end.last} (cloud-init does it at first boot)")
        if end.kind.startswith("ext"):
            todo.append("grow the file system: resize2fs (cloud-init does it at first boot)")
        elif end.kind:
            todo.append(f"grow the {end.kind} file system with its own tool")
    if as_json:
        print_json({"path": str(file), "size": footer.current_size, "inside": todo})
        return
    print(f"{file}  {footer.current_size} bytes")
    for line in todo:
        print(f"  inside: {line}")
