"""Differencing VHDs: finding the parent, proving that it is the right one, and reading a chain as one disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from pipeline.base.errors import DiskError
from pipeline.base.printable import single_line
from pipeline.vhd.extents import AGAIN, Extent, ExtentSource, file_extents, file_size, open_file
from pipeline.vhd.footer import FOOTER_SIZE, DiskType, Footer, read_footer, vhd_time
from pipeline.vhd.sparse import ABSOLUTE, RELATIVE, Locator, SparseVhd, open_sparse, sparse_extents

MAX_CHAIN = 64
#: A locator's data: a path of Windows has at most 32,767 characters.
_MAX_LOCATOR = 65536
#: FAT keeps times to 2 s, and a rounding each way.
_TIME_SLACK = 2


def vhd_extents(path: Path, *, parent: Path | None = None, check_time: bool = True) -> ExtentSource:
    """The data of a VHD of any type; a differencing one with its parents', looked for beside the child.

    `parent` is where the first parent stands, if not where the child says. `check_time`: a parent changed after
    the child was made is refused; a copy that lost its time is unchanged, hence the switch.

    Raises DiskError: vhd-parent-missing, vhd-wrong-parent, vhd-parent-changed, vhd-chain-cycle, vhd-file-size, and
    what `open_sparse` raises.
    """
    top, seen = path, [path.resolve()]
    levels: list[list[Extent]] = []
    size: int | None = None
    while True:
        footer = any_footer(top)
        size = footer.virtual_size if size is None else size
        if footer.disk_type == DiskType.FIXED:
            refuse_cut(top, footer)
            levels.append(list(file_extents(top, footer.virtual_size).extents))
            break
        disk = open_sparse(top)
        levels.append(list(sparse_extents(disk).extents))
        if footer.disk_type == DiskType.DYNAMIC:
            break
        above = parent if parent is not None else find_parent(disk)
        parent = None
        _prove(disk, above, check_time)
        if above.resolve() in seen:
            raise DiskError(
                f"{path.name}: its chain of parents is circular at {above.name}",
                name="vhd-chain-cycle",
                hint="copy the files again from their source",
            )
        if len(seen) >= MAX_CHAIN:
            raise DiskError(
                f"{path.name}: more than {MAX_CHAIN} parents",
                name="vhd-chain-cycle",
                hint="copy the files again from their source",
            )
        seen.append(above.resolve())
        top = above
    found: list[Extent] = []
    for level in reversed(levels):
        found = overlay(found, level)
    return ExtentSource(size, tuple(_cut(found, size)))


def refuse_cut(path: Path, footer: Footer) -> None:
    """Refuse a fixed VHD whose file has not room for its disk and footer. Raises DiskError (vhd-file-size)."""
    room = file_size(path) - (FOOTER_SIZE - 1)
    if footer.virtual_size > room:
        raise DiskError(
            f"{path.name} was cut: its disk has {footer.virtual_size} bytes, the file holds {max(0, room - 1)}",
            name="vhd-file-size",
            hint=AGAIN,
            evidence=path,
        )


def any_footer(path: Path) -> Footer:
    """The footer of a VHD of any type; of a sparse one whose end is torn the copy at its start."""
    try:
        return read_footer(path)
    except DiskError as torn:
        try:
            return open_sparse(path).footer
        except DiskError as error:
            raise (torn if error.name == "vhd-header" else error) from None


def _cut(extents: list[Extent], size: int) -> list[Extent]:
    return [
        Extent(each.start, min(each.length, size - each.start), each.path, each.offset)
        for each in extents
        if each.start < size
    ]


def overlay(base: list[Extent], top: list[Extent]) -> list[Extent]:
    """`top` over `base`, both sorted and without overlaps of their own."""
    out: list[Extent] = []
    index = 0
    for extent in base:
        at = extent.start
        while index < len(top) and top[index].end <= at:
            index += 1
        look = index
        while look < len(top) and top[look].start < extent.end:
            if top[look].start > at:
                out.append(_part(extent, at, top[look].start))
            at = max(at, top[look].end)
            look += 1
        if at < extent.end:
            out.append(_part(extent, at, extent.end))
    return sorted(out + top, key=lambda each: each.start)


def _part(extent: Extent, start: int, end: int) -> Extent:
    return Extent(start, end - start, extent.path, extent.offset + start - extent.start)


def locator_path(disk: SparseVhd, locator: Locator) -> str:
    """What a Windows locator says (UTF-16, little-endian). Raises DiskError (vhd-locator)."""
    if not 0 < locator.length <= _MAX_LOCATOR or locator.offset + locator.length > disk.file_size:
        raise DiskError(f"{disk.path.name}: a parent locator points outside the file", name="vhd-locator", hint=AGAIN)
    fd = open_file(disk.path)
    try:
        data = os.pread(fd, locator.length, locator.offset)
    finally:
        os.close(fd)
    return data.decode("utf-16-le", "replace").split("\0", 1)[0]


def find_parent(disk: SparseVhd) -> Path:
    """The parent's file, by the relative locator, else by name beside the child.

    What a disk names is opened in the disk's own folder or below it only, links followed: a path that leads out is
    for the caller to confirm. An absolute path, a share or a device of another machine counts by its last part.
    Raises DiskError: vhd-parent-missing, vhd-parent-outside, vhd-locator.
    """
    folder = disk.path.absolute().parent
    tried: list[Path] = []
    outside: list[str] = []
    for name in filter(lambda each: each.name, _named(disk)):
        for candidate in (folder.joinpath(*_relative(name)), folder / name.name):
            # by its text first: whether a file outside exists is nobody's business
            place = Path(os.path.normpath(candidate))
            inside = place != folder and place.is_relative_to(folder)
            if inside and not _is_file(place):
                tried.append(place)
            elif inside and place.resolve().is_relative_to(folder.resolve()):
                return place
            else:
                outside.append(str(name))
    if outside:
        raise DiskError(
            f"{disk.path.name}: its parent is outside its folder ({single_line(outside[0], 300)})",
            name="vhd-parent-outside",
            hint="name the parent with --parent, or move it beside the disk",
            evidence=disk.path,
        )
    names = ", ".join(single_line(each, 300) for each in dict.fromkeys(each.name for each in tried)) or "no name"
    raise DiskError(
        f"{disk.path.name}: its parent was not found ({names})",
        name="vhd-parent-missing",
        hint="move the parent beside it, or name it with --parent",
        evidence=disk.path,
    )


def _is_file(path: Path) -> bool:
    """Also for names that no file can have: too long, or with a NUL."""
    try:
        return path.is_file()
    except OSError:
        return False


def _named(disk: SparseVhd) -> Iterator[PureWindowsPath]:
    for code in (RELATIVE, ABSOLUTE):
        for locator in disk.header.locators:
            if locator.code == code:
                yield PureWindowsPath(locator_path(disk, locator))
    if disk.header.parent_name:
        yield PureWindowsPath(disk.header.parent_name)


def _relative(name: PureWindowsPath) -> tuple[str, ...]:
    """The parts of a path that is relative to the child's folder; of another the last part."""
    return (name.name,) if name.anchor else name.parts


def _prove(disk: SparseVhd, parent: Path, check_time: bool) -> None:
    footer = any_footer(parent)
    if footer.unique_id != disk.header.parent_id:
        raise DiskError(
            f"{parent.name} is not the parent of {disk.path.name}: its id is {footer.unique_id}, but "
            f"{disk.header.parent_id} is needed",
            name="vhd-wrong-parent",
            evidence=parent,
            hint="name the right parent with --parent",
        )
    wanted = disk.header.parent_timestamp
    times = (vhd_time(parent.stat().st_mtime), footer.timestamp)
    if check_time and wanted and all(abs(wanted - each) > _TIME_SLACK for each in times):
        raise DiskError(
            f"{parent.name} was changed after {disk.path.name} was made on it",
            name="vhd-parent-changed",
            hint="if it was only copied, use --any-time",
            evidence=parent,
        )
