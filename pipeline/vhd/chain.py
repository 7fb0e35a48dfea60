"""Differencing VHDs: finding the parent, proving that it is the right one, and reading a chain as one disk."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

from pipeline.errors import DiskError
from pipeline.vhd.extents import Extent, ExtentSource, file_extents
from pipeline.vhd.footer import DiskType, Footer, read_footer, vhd_time
from pipeline.vhd.sparse import ABSOLUTE, RELATIVE, Locator, SparseVhd, open_sparse, sparse_extents

MAX_CHAIN = 64
#: A locator's data: a path of Windows has at most 32,767 characters.
_MAX_LOCATOR = 65536
#: FAT keeps times to 2 s, and a rounding each way.
_TIME_SLACK = 2


def vhd_extents(path: Path, *, parent: Path | None = None, check_time: bool = True) -> ExtentSource:
    """The data of a VHD of any type; a differencing one with its parents', looked for beside the child.

    `parent` is where the first parent stands, if not where the child says. `check_time`: a parent changed after
    the child was made is refused; a copy that lost its time is no such change, hence the switch.

    Raises DiskError: vhd-parent-missing, vhd-wrong-parent, vhd-parent-changed, vhd-chain-cycle, vhd-file-size, and
    what `open_sparse` raises.
    """
    top, seen = path, [path.resolve()]
    levels: list[list[Extent]] = []
    size: int | None = None
    while True:
        footer = _any_footer(top)
        size = footer.virtual_size if size is None else size
        if footer.disk_type == DiskType.FIXED:
            if footer.virtual_size > top.stat().st_size:
                raise DiskError(f"{top.name} ends before its disk does", name="vhd-file-size", evidence=top)
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
            raise DiskError(f"{path.name}: its chain of parents is a circle at {above.name}", name="vhd-chain-cycle")
        if len(seen) >= MAX_CHAIN:
            raise DiskError(f"{path.name}: more than {MAX_CHAIN} parents", name="vhd-chain-cycle")
        seen.append(above.resolve())
        top = above
    found: list[Extent] = []
    for level in reversed(levels):
        found = overlay(found, level)
    return ExtentSource(size, tuple(_cut(found, size)))


def _any_footer(path: Path) -> Footer:
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
        raise DiskError(f"{disk.path.name}: a parent locator lies outside the file", name="vhd-locator")
    with disk.path.open("rb") as file:
        file.seek(locator.offset)
        return file.read(locator.length).decode("utf-16-le", "replace").rstrip("\0")


def find_parent(disk: SparseVhd) -> Path:
    """The parent's file, by the relative locator, else by name beside the child.

    An absolute path of another machine means nothing here: only its last part is used.
    Raises DiskError: vhd-parent-missing, vhd-locator.
    """
    folder = disk.path.parent
    tried: list[Path] = []
    for code in (RELATIVE, ABSOLUTE):
        for locator in disk.header.locators:
            if locator.code == code:
                name = PureWindowsPath(locator_path(disk, locator))
                if code == RELATIVE and not name.is_absolute():
                    tried.append(folder.joinpath(*[part for part in name.parts if part not in (".", "\\")]))
                tried.append(folder / name.name)
    if disk.header.parent_name:
        tried.append(folder / PureWindowsPath(disk.header.parent_name).name)
    for candidate in tried:
        if candidate.is_file():
            return candidate
    names = ", ".join(dict.fromkeys(each.name for each in tried)) or "no name"
    raise DiskError(
        f"{disk.path.name}: its parent is not here ({names})",
        name="vhd-parent-missing",
        hint="put the parent beside it, or name it with --parent",
        evidence=disk.path,
    )


def _prove(disk: SparseVhd, parent: Path, check_time: bool) -> None:
    footer = _any_footer(parent)
    if footer.unique_id != disk.header.parent_id:
        raise DiskError(
            f"{parent.name} is not the parent of {disk.path.name}: its id is {footer.unique_id}, "
            f"{disk.header.parent_id} is wanted",
            name="vhd-wrong-parent",
            evidence=parent,
        )
    wanted = disk.header.parent_timestamp
    times = (vhd_time(parent.stat().st_mtime), footer.timestamp)
    if check_time and wanted and all(abs(wanted - each) > _TIME_SLACK for each in times):
        raise DiskError(
            f"{parent.name} was changed after {disk.path.name} was made on it",
            name="vhd-parent-changed",
            hint="if it was only copied, --any-time reads it all the same",
            evidence=parent,
        )
