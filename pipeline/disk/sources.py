"""Disks that a user has brought, in the sandbox's worker: their data, whatever the format, and facts of VHDs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.base.disk_format import VHD
from pipeline.base.errors import DiskError
from pipeline.disk import disk_formats
from pipeline.disk.answers import pack_extents
from pipeline.disk.questions import Asked
from pipeline.vhd.chain import any_footer, vhd_extents
from pipeline.vhd.extents import ExtentSource, file_size
from pipeline.vhd.footer import EPOCH, FOOTER_SIZE, DiskType, fixed_faults, read_footer
from pipeline.vhd.sparse import open_sparse


def open_source(
    path: Path,
    fmt: str | None = None,
    *,
    parent: Path | None = None,
    check_time: bool = True,
) -> ExtentSource:
    """Any disk's data; a differencing VHD with its parents', read by goldsmith's own reader only."""
    disk_formats.refuse_name(path)
    kind = disk_formats.format_of(fmt) if fmt else disk_formats.detect(path)
    if kind != VHD.key:
        return disk_formats.extents(path, kind)
    if not fmt:
        _refuse_other_size(path)
    return vhd_extents(path, parent=parent, check_time=check_time)


def _refuse_other_size(path: Path) -> None:
    """A fixed VHD's file holds its disk and its footer, no more: what stands between them would be lost."""
    try:
        footer = read_footer(path)
    except DiskError:
        # a dynamic disk whose footer is torn has a copy at its start
        return
    excess = file_size(path) - FOOTER_SIZE - max(footer.current_size, footer.virtual_size)
    if footer.disk_type == DiskType.FIXED and excess > 0:
        raise DiskError(
            f"{path.name}: its footer names a disk of {footer.current_size} bytes, but the file has {excess} "
            "bytes more",
            name="vhd-file-size",
            hint="copy it again from its source; --format vpc reads the size that the footer names and ignores the "
            "rest",
            evidence=path,
        )


def source_extents(asked: Asked) -> dict[str, Any]:
    """Where the data of any disk lies; a differencing VHD's with its parents'."""
    parent, fmt = asked.parameters["parent"], asked.fmt
    with open_source(
        asked.path,
        fmt,
        parent=None if parent is None else Path(parent),
        check_time=bool(asked.parameters["check_time"]),
    ) as source:
        return pack_extents(asked, source)


def detect(asked: Asked) -> str:
    """The format by content, and by name where `named`; nothing that the disk refers to is judged."""
    if asked.fmt:
        return disk_formats.format_of(asked.fmt)
    return disk_formats.detect(asked.path, named=bool(asked.parameters.get("named", True)))


def vhd_identity(asked: Asked) -> list[Any] | None:
    """A VHD's unique id and time (Unix seconds); None of what is no VHD."""
    if detect(asked) != VHD.key:
        return None
    footer = any_footer(asked.path)
    return [str(footer.unique_id), EPOCH + footer.timestamp]


def vhd_facts(asked: Asked) -> dict[str, Any]:
    """What a VHD's footer and header hold; sizes in bytes."""
    path = asked.path
    sparse = None
    try:
        footer = read_footer(path)
    except DiskError:
        sparse = open_sparse(path)
        footer = sparse.footer
    facts: dict[str, Any] = {
        "type": DiskType(footer.disk_type).name.lower(),
        "size": footer.virtual_size,
        "current_size": footer.current_size,
        "original_size": footer.original_size,
        "size_in_old_qemu": footer.old_qemu_size,
        "geometry": list(footer.geometry),
        "creator": footer.creator.decode("latin-1").rstrip(" \0"),
        "creator_os": footer.creator_os.decode("latin-1").rstrip(" \0"),
        "created": footer.created.isoformat(),
        "id": str(footer.unique_id),
        "saved_state": footer.saved_state,
    }
    if footer.disk_type != DiskType.FIXED:
        sparse = sparse or open_sparse(path)
        facts |= {
            "block_size": sparse.header.block_size,
            "blocks": len(sparse.table),
            "present": sparse.blocks_present,
        }
        if sparse.recovered:
            facts["recovered"] = sparse.recovered
        if footer.disk_type == DiskType.DIFFERENCING:
            facts |= {"parent_id": str(sparse.header.parent_id), "parent_name": sparse.header.parent_name}
    return facts


def vhd_faults(asked: Asked) -> dict[str, str]:
    """What is wrong with a VHD: names and messages. Raises DiskError where it cannot be read at all."""
    path, parent = asked.path, asked.parameters["parent"]
    faults: dict[str, str] = {}
    try:
        try:
            footer = read_footer(path)
        except DiskError as torn:
            faults[torn.name] = torn.message
            footer = open_sparse(path).footer
        if footer.disk_type == DiskType.FIXED:
            faults |= fixed_faults(footer, file_size(path))
        check_time = bool(asked.parameters["check_time"])
        with vhd_extents(path, parent=None if parent is None else Path(parent), check_time=check_time):
            pass
    except DiskError as error:
        if error.name in ("disk-missing", "disk-unreadable", "disk-not-a-file"):
            raise
        faults.setdefault(error.name, error.message)
    return faults


def disk_end(asked: Asked) -> dict[str, Any]:
    """The last partition and what it holds; whether the second GPT is where it belongs."""
    with asked.disk() as disk:
        backup = disk.table.backup
        last = max(disk.partitions, key=lambda each: each.start, default=None)
        number = None if last is None else last.number
        kind = next((each.kind for each in disk.filesystems if each.number == number), "")
        return {"backup_fault": bool(backup is not None and backup.fault), "last": number, "kind": kind}
