"""Writing dynamic and differencing VHDs."""

from __future__ import annotations

import os
import sys
import uuid
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.base.errors import DiskError, HostError
from pipeline.vhd.compare import Places, changed_ranges
from pipeline.vhd.copy import as_ours, copy_pieces
from pipeline.vhd.extents import ExtentSource, Piece, Reader, pieces
from pipeline.vhd.footer import FOOTER_SIZE, MIB, SECTOR, DiskType, Footer, read_footer, vhd_time
from pipeline.vhd.sparse import ABSENT, ABSOLUTE, BLOCK_SIZE, HEADER_SIZE, RELATIVE, Header, Locator

Progress = Callable[[int, int], None]

#: Data of each block begins on a whole page of the host: unaligned copies cost twice.
_ALIGN = 4096
_TABLE_AT = FOOTER_SIZE + HEADER_SIZE


@dataclass(frozen=True)
class SparseReport:
    """Sizes in bytes."""

    size: int
    file_size: int
    copied: int
    blocks: int
    footer: Footer


def write_dynamic(
    source: ExtentSource,
    target: Path,
    *,
    unique_id: uuid.UUID,
    timestamp: int,
    size: int | None = None,
    progress: Progress | None = None,
) -> SparseReport:
    """Write `source` as a dynamic VHD, as `fixed.write_fixed` does a fixed one; same errors."""
    size = source.size if size is None else size
    if size % MIB:
        raise DiskError(
            f"a virtual size of {size} bytes is not a whole number of MiB",
            name="vhd-not-whole-mib",
            hint="use a whole number of MiB",
        )
    if size < source.size:
        raise DiskError(
            f"{source.size} bytes do not fit into {size}",
            name="vhd-shrink",
            hint="use a larger size; goldsmith never shortens a disk",
        )
    footer = Footer.build(size, disk_type=DiskType.DYNAMIC, unique_id=unique_id, timestamp=timestamp)
    header = Header(table_offset=_TABLE_AT, entries=-(-size // BLOCK_SIZE))
    with ExitStack() as stack:
        found = [part for piece in pieces(source, stack) for part in _by_block(piece)]
        return _write(found, target, footer, header, b"", progress)


def write_differencing(
    new: ExtentSource,
    old: ExtentSource,
    parent: Path,
    target: Path,
    *,
    unique_id: uuid.UUID,
    timestamp: int,
    progress: Progress | None = None,
    within: Places | None = None,
) -> SparseReport:
    """Write what `new` has and `old` (read from the VHD `parent`) has not, by sectors.

    Raises DiskError: vhd-diff-size where `new` is smaller than `old`; the rest as `write_dynamic`.
    """
    if new.size < old.size or new.size % SECTOR:
        raise DiskError(
            f"a child of {new.size} bytes cannot have a parent of {old.size} bytes",
            name="vhd-diff-size",
            hint="enlarge the new disk to at least the size of the old disk",
        )
    above = read_footer(parent)
    footer = Footer.build(new.size, disk_type=DiskType.DIFFERENCING, unique_id=unique_id, timestamp=timestamp)
    entries = -(-new.size // BLOCK_SIZE)
    locators_at = _TABLE_AT + -(-entries * 4 // SECTOR) * SECTOR
    relative = (".\\" + os.path.relpath(parent.resolve(), target.absolute().parent).replace("/", "\\")).encode(
        "utf-16-le"
    )
    absolute = str(parent.resolve()).replace("/", "\\").encode("utf-16-le")
    space = [-(-len(text) // SECTOR) * SECTOR for text in (relative, absolute)]
    header = Header(
        table_offset=_TABLE_AT,
        entries=entries,
        parent_id=above.unique_id,
        parent_timestamp=vhd_time(parent.stat().st_mtime),
        parent_name=parent.name,
        locators=(
            Locator(RELATIVE, space[0], len(relative), locators_at),
            Locator(ABSOLUTE, space[1], len(absolute), locators_at + space[0]),
        ),
    )
    extra = relative.ljust(space[0], b"\0") + absolute.ljust(space[1], b"\0")
    with ExitStack() as stack:
        reader = Reader(new)
        stack.callback(reader.close)
        changed = list(changed_ranges(old, new, progress, within))
        found = [part for start, length in changed for part in _by_block(Piece(start, length, -1, start, target))]
        return _write(found, target, footer, header, extra, None, reader)


def _by_block(piece: Piece) -> Iterator[Piece]:
    at, end = piece.start, piece.start + piece.length
    while at < end:
        stop = min(end, (at // BLOCK_SIZE + 1) * BLOCK_SIZE)
        yield replace(piece, start=at, length=stop - at, offset=piece.offset + at - piece.start)
        at = stop


def _write(
    found: list[Piece],
    target: Path,
    footer: Footer,
    header: Header,
    extra: bytes,
    progress: Progress | None,
    reader: Reader | None = None,
) -> SparseReport:
    if target.exists() and any(target.samefile(path) for path in {piece.path for piece in found} - {target}):
        raise DiskError(f"{target} is part of the disk that is read", name="same-file", hint="name another target")
    blocks = {block: order for order, block in enumerate(sorted({piece.start // BLOCK_SIZE for piece in found}))}
    meta_end = _TABLE_AT + -(-header.entries * 4 // SECTOR) * SECTOR + len(extra)
    bitmap = header.bitmap_size
    first = -(-(meta_end + bitmap) // _ALIGN) * _ALIGN
    stride = BLOCK_SIZE + -(-bitmap // _ALIGN) * _ALIGN

    def data_at(block: int) -> int:
        return first + blocks[block] * stride

    table = array("I", [ABSENT]) * (-(-header.entries * 4 // SECTOR) * SECTOR // 4)
    bits: dict[int, int] = {}
    sectors = BLOCK_SIZE // SECTOR
    for piece in found:
        block = piece.start // BLOCK_SIZE
        table[block] = (data_at(block) - bitmap) // SECTOR
        begin = piece.start % BLOCK_SIZE // SECTOR
        end = -(-(piece.start % BLOCK_SIZE + piece.length) // SECTOR)
        bits[block] = bits.get(block, 0) | ((1 << end - begin) - 1) << (sectors - end)
    if sys.byteorder == "little":
        table.byteswap()
    end_at = first + len(blocks) * stride - (stride - BLOCK_SIZE) if blocks else meta_end
    if end_at // SECTOR > ABSENT - 1:
        raise DiskError(
            "the blocks do not fit into a VHD",
            name="vhd-too-large",
            hint="make the disk smaller, or use another format",
        )
    try:
        fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise HostError(
            f"cannot write {target}: {error.strerror}",
            name="cannot-write",
            hint="check the folder's permissions with ls -ld FOLDER",
        ) from None
    try:
        os.ftruncate(fd, end_at + FOOTER_SIZE)
        os.pwrite(fd, footer.pack() + header.pack() + table.tobytes() + extra, 0)
        for block, value in bits.items():
            os.pwrite(fd, value.to_bytes(sectors // 8, "big"), data_at(block) - bitmap)

        def place(piece: Piece) -> int:
            return data_at(piece.start // BLOCK_SIZE) + piece.start % BLOCK_SIZE

        if reader is None:
            copied = copy_pieces(found, fd, place, progress=progress)
        else:
            copied = 0
            for piece in found:
                os.pwrite(fd, reader.read(piece.start, piece.length), place(piece))
                copied += piece.length
        os.pwrite(fd, footer.pack(), end_at)
        os.fsync(fd)
    except BaseException as error:
        with suppress(OSError):
            target.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise as_ours(error, target, writing=True) from None
        raise
    finally:
        os.close(fd)
    return SparseReport(footer.current_size, end_at + FOOTER_SIZE, copied, len(blocks), footer)
