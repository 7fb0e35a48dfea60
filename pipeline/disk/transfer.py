"""Disks from one format to another, and nothing half-written ever under the final name."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.base import process, qemu_img, scratch
from pipeline.base.disk_format import RAW, VHD, known_format
from pipeline.base.errors import DiskError, UsageError
from pipeline.disk import gpt, mapping
from pipeline.disk.mapping import open_source as open_source  # noqa: PLC0414  callers know it from here
from pipeline.vhd.compare import Places, changed_ranges
from pipeline.vhd.extents import Extent, ExtentSource
from pipeline.vhd.fixed import round_up_mib, write_fixed, write_raw
from pipeline.vhd.footer import DiskType, Footer, read_footer
from pipeline.vhd.write import write_differencing, write_dynamic

Progress = Callable[[int, int], None]

#: What can be written, and by which end of a name it is meant.
KINDS = ("fixed", "dynamic", "raw", "qcow2", "vhdx", "vmdk")
_BY_SUFFIX = {".vhd": "fixed", ".raw": "raw", ".img": "raw", ".qcow2": "qcow2", ".vhdx": "vhdx", ".vmdk": "vmdk"}


@dataclass(frozen=True)
class Made:
    """Sizes in bytes; `allocated` is what the file takes on the host; `moved_gpt`: the second GPT was elsewhere."""

    path: Path
    kind: str
    size: int
    file_size: int
    allocated: int
    moved_gpt: bool = False


@dataclass(frozen=True)
class Comparison:
    """`first` is the first byte that differs; what one disk has past the other's end counts where it is not zero."""

    same: bool
    sizes: tuple[int, int]
    first: int | None
    differing: int


def kind_of(target: Path) -> str:
    """The kind that a file name means. Raises UsageError (unknown-kind)."""
    kind = _BY_SUFFIX.get(target.suffix.lower())
    if kind is None:
        raise UsageError(
            f"{target.name}: the name does not show the format to write",
            name="unknown-kind",
            hint=f"--to {'|'.join(KINDS)}",
        )
    return kind


def convert(
    source: ExtentSource,
    target: Path,
    kind: str,
    *,
    timestamp: int,
    unique_id: uuid.UUID | None = None,
    force: bool = False,
    progress: Progress | None = None,
    move_gpt: bool = False,
) -> Made:
    """Write a disk as another kind; VHDs are rounded up to a whole MiB.

    `move_gpt`: the second GPT goes to the end that the disk then has (see `gpt.move_backup`); without it the bytes
    are the source's. Errors as the writers', `gpt.move_backup`'s, and disk-map.
    """
    unique_id = unique_id or uuid.uuid4()
    size = round_up_mib(source.size)
    if kind not in KINDS:
        raise UsageError(
            f"there is no format {kind!r} (formats: {', '.join(KINDS)})",
            name="unknown-kind",
            hint=f"--to {'|'.join(KINDS)}",
        )
    moved = False
    if move_gpt:
        source, moved = gpt.move_backup(source, source.size if kind == "raw" else size)
    if kind not in ("fixed", "dynamic", "raw"):
        made = _convert_foreign(ExtentSource(size, source.extents), target, kind, force, progress)
        return replace(made, moved_gpt=moved)
    with scratch.file_beside(target, force=force) as draft:
        if kind == "fixed":
            write_fixed(source, draft, unique_id=unique_id, timestamp=timestamp, size=size, progress=progress)
        elif kind == "dynamic":
            write_dynamic(source, draft, unique_id=unique_id, timestamp=timestamp, size=size, progress=progress)
        else:
            write_raw(source, draft, progress=progress)
        size = source.size if kind == "raw" else size
        status = draft.stat()
    return Made(target, kind, size, status.st_size, status.st_blocks * 512, moved)


def _convert_foreign(source: ExtentSource, target: Path, kind: str, force: bool, progress: Progress | None) -> Made:
    """Through a raw disk beside the target: qemu-img never sees the source, whatever that refers to.

    qemu-img writes the target under its own name, which a VMDK holds, in a folder beside it.
    """
    scratch.refuse_target(target, force=force)
    with scratch.folder_beside(target) as folder:
        raw, draft = folder / "source" / "disk.raw", folder / target.name
        raw.parent.mkdir()
        write_raw(source, raw, progress=progress)
        try:
            qemu_img.convert(raw, RAW.driver, draft, known_format(kind).driver)
        except process.CommandFailed as error:
            raise DiskError(
                f"qemu-img cannot write {kind}: {error.message}",
                name="disk-map",
                hint="check that the target's disk has free space",
            ) from None
        status = draft.stat()
        scratch.publish(draft, target, force=force)
    return Made(target, kind, source.size, status.st_size, status.st_blocks * 512)


def compare(left: ExtentSource, right: ExtentSource, progress: Progress | None = None) -> Comparison:
    """Are two disks the same, byte for byte? Cost follows their data."""
    size = max(left.size, right.size)
    sizes = (left.size, right.size)
    # readers end at their own disk's end; both are given the larger
    wide = ExtentSource(size, left.extents), ExtentSource(size, right.extents)
    first: int | None = None
    differing = 0
    for start, length in changed_ranges(*wide, progress):
        first = start if first is None else first
        differing += length
    return Comparison(left.size == right.size and first is None, sizes, first, differing)


def difference(
    old: Path,
    new: Path,
    target: Path,
    *,
    timestamp: int,
    fmt: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
    within: Places | None = None,
) -> Made:
    """Write the differencing VHD that makes `new` out of the VHD `old`, with the identity of `new` if that is one.

    `within`: elsewhere the two are known to be the same.
    """
    unique_id, timestamp = identity(new, fmt, timestamp)
    if mapping.detect(old) != VHD.key:
        raise DiskError(
            f"{old.name} is not a VHD, but only a VHD can be a parent",
            name="vhd-no-footer",
            hint=f"goldsmith vhd convert {old.name} OLD.vhd",
        )
    with (
        open_source(old) as before,
        open_source(new, fmt) as after,
        # where the parent is found from the child depends on the child's folder
        scratch.file_beside(target, force=force, named=True) as draft,
    ):
        after = _whole_sectors(after)  # noqa: PLW2901  the same disk, its size rounded
        report = write_differencing(
            after,
            before,
            old,
            draft,
            unique_id=unique_id,
            timestamp=timestamp,
            progress=progress,
            within=within,
        )
        allocated = draft.stat().st_blocks * 512
    return Made(target, "differencing", report.size, report.file_size, allocated)


def identity(path: Path, fmt: str | None, timestamp: int) -> tuple[uuid.UUID, int]:
    """A VHD's unique id and time (Unix seconds); a new id, and `timestamp`, for what is none."""
    return mapping.vhd_identity(path, fmt) or (uuid.uuid4(), timestamp)


def child(parent: Path, target: Path, *, timestamp: int, force: bool = False) -> Made:
    """Write an empty differencing VHD on `parent`: what it holds, and nothing yet of its own."""
    with open_source(parent) as above:
        nothing = empty(above.size)
    with scratch.file_beside(target, force=force, named=True) as draft:
        report = write_differencing(nothing, nothing, parent, draft, unique_id=uuid.uuid4(), timestamp=timestamp)
        allocated = draft.stat().st_blocks * 512
    return Made(target, "differencing", report.size, report.file_size, allocated)


def _whole_sectors(source: ExtentSource) -> ExtentSource:
    return ExtentSource(-(-source.size // 512) * 512, source.extents)


def blocks_of(old: ExtentSource, new: ExtentSource, within: Places | None = None) -> list[tuple[int, int]]:
    """(start, length) of what differs, in bytes; `within`: elsewhere the two are known to be the same."""
    size = max(old.size, new.size)
    wide = ExtentSource(size, old.extents), ExtentSource(size, new.extents)
    return list(changed_ranges(*wide, within=within))


def grow(
    path: Path,
    size: int,
    *,
    timestamp: int,
    progress: Progress | None = None,
    move_gpt: bool = False,
    own: bool = False,
) -> Footer:
    """Make a fixed VHD larger; the old file stays until the new one is whole. Returns the new footer.

    `move_gpt` as for `convert`, `own` as for `scratch.file_beside`. Raises DiskError: vhd-not-whole-mib, vhd-shrink,
    vhd-not-fixed, vhd-too-large, vhd-file-size, and `gpt.move_backup`'s.
    """
    before = read_footer(path)
    if before.disk_type != DiskType.FIXED:
        raise DiskError(
            f"{path.name} is not a fixed VHD",
            name="vhd-not-fixed",
            hint=f"goldsmith vhd convert {path.name} NEW.vhd --to fixed",
            evidence=path,
        )
    with open_source(path) as source, scratch.file_beside(path, force=True, own=own) as draft:
        if move_gpt and size >= source.size:
            source, _ = gpt.move_backup(source, size)  # noqa: PLW2901  the same disk, its table at the new end
        report = write_fixed(
            source, draft, unique_id=before.unique_id, timestamp=timestamp, size=size, progress=progress
        )
    return report.footer


def empty(size: int) -> ExtentSource:
    """A disk of zeros."""
    return ExtentSource(size, tuple[Extent, ...]())
