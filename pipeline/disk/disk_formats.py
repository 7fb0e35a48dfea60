"""Which format a disk image has, what else it refers to, and where its data lies.

A disk that a user brought is judged here, by our own reading of its headers, **before** qemu-img or libvirt
opens it: a qcow2 may name any file of the host as its backing or data file, a VMDK any file as an extent, and
the opener would read it. What is found to be self-contained is then always opened with its format given.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.base.disk_format import (
    QCOW2,
    RAW,
    VHD,
    VHDX,
    VMDK,
    by_suffix,
    find_format,
    formats,
    known_format,
    own_formats,
)
from pipeline.base.errors import DiskError, UsageError
from pipeline.base.printable import single_line
from pipeline.disk import qcow2, tools, vhdx, vmdk
from pipeline.disk.detection import detect_content, detect_format
from pipeline.vhd.chain import refuse_cut
from pipeline.vhd.extents import ExtentSource, ExtentTable, file_extents, file_size, open_file
from pipeline.vhd.footer import COOKIE, FOOTER_SIZE, DiskType, Footer, read_footer
from pipeline.vhd.sparse import open_sparse, sparse_extents

_PROTOCOL = re.compile(r"^[A-Za-z][A-Za-z0-9+._-]*:")
#: Deeper chains than this are a mistake or an attack.
MAX_CHAIN = 64


@dataclass(frozen=True)
class Link:
    """One file of a backing chain; the first is the disk itself."""

    path: Path
    fmt: str


def refuse_foreign_references(path: Path, fmt: str | None = None, *, allow_backing_within: Path | None = None) -> str:
    """The format of a disk that refers to nothing outside itself; opens the file, never what it names.

    With `allow_backing_within`, backing files inside that folder pass (goldsmith's own layers), each level
    judged the same way. `fmt` overrides the detection: raw means that the content is not looked at.

    Raises DiskError: disk-name, disk-missing, disk-unreadable, disk-not-a-file, disk-empty, disk-size, disk-format,
    disk-name-and-content, disk-packed, qcow2-backing-file, qcow2-data-file, qcow2-encrypted, qcow2-damaged,
    qcow2-version, vmdk-foreign-extent, vmdk-parent, vmdk-damaged, vhd-differencing, vhd-padded, vhdx-parent,
    vhdx-log, vhdx-damaged, backing-cycle, backing-outside, and the footer's own names.
    """
    return chain(path, fmt, allow_backing_within=allow_backing_within)[0].fmt


def chain(path: Path, fmt: str | None = None, *, allow_backing_within: Path | None = None) -> tuple[Link, ...]:
    """The disk and its backing files, top first, judged as by `refuse_foreign_references`."""
    links: list[Link] = []
    seen: set[tuple[int, int]] = set()
    here: Path | None = path
    fmt = format_of(fmt) if fmt is not None else None
    while here is not None:
        refuse_name(here)
        with _open(here) as file:
            status = os.fstat(file.fileno())
            identity = (status.st_dev, status.st_ino)
            if identity in seen:
                raise DiskError(
                    f"{path}: its backing chain is circular at {here}",
                    name="backing-cycle",
                    hint="flatten the disk on its original host: qemu-img convert -O qcow2",
                )
            if len(seen) >= MAX_CHAIN:
                raise DiskError(
                    f"{path}: its backing chain has more than {MAX_CHAIN} files",
                    name="backing-cycle",
                    hint="flatten the disk on its original host: qemu-img convert -O qcow2",
                )
            seen.add(identity)
            size = os.lseek(file.fileno(), 0, os.SEEK_END)
            found = fmt or _own_format(here) or detect_format(file.read, size, here)
            backing = _judge(file, size, here, found)
        links.append(Link(here.absolute(), found))
        if backing is None:
            return tuple(links)
        here, fmt = _allowed_backing(here, backing, allow_backing_within)
    return tuple(links)


def detect(path: Path, *, named: bool = True) -> str:
    """The format by content: raw, qcow2, vpc, vhdx or vmdk; with `named`, what the name promises must agree.

    Errors as `detection.detect_format`.
    """
    with _open(path) as file:
        size = os.lseek(file.fileno(), 0, os.SEEK_END)
        own = _own_format(path) if named else None
        return own or (detect_format if named else detect_content)(file.read, size, path)


def _own_format(path: Path) -> str | None:
    """The key of a registered format that a file's name promises and its verifier finds; None for all others.

    Raises DiskError as the verifier does.
    """
    row = by_suffix(own_formats()).get(path.suffix.lower())
    if row is None:
        return None
    row.verify(path)
    return row.key


def format_of(fmt: str) -> str:
    """The key of a format that a person named. Raises UsageError (unknown-format)."""
    row = RAW if fmt.lower() == "img" else find_format(fmt)
    if row is None:
        raise UsageError(
            f"goldsmith cannot read the format {single_line(fmt, 40)!r}",
            name="unknown-format",
            hint=f"one of {', '.join(each.key for each in formats())}",
        )
    return row.key


def tail(path: Path) -> tuple[int, bytes]:
    """A file's size and its last 512 bytes, where a VHD keeps its footer."""
    with _open(path) as file:
        size = os.lseek(file.fileno(), 0, os.SEEK_END)
        return size, file.read(max(0, size - FOOTER_SIZE), FOOTER_SIZE)


def refuse_name(path: Path) -> None:
    """Refuse a file name that qemu would take for something else. Raises DiskError (disk-name)."""
    for name in (str(path), path.name):
        if _PROTOCOL.match(name):
            raise DiskError(
                f"{name}: QEMU would read this name as a protocol or a json: description, not as a file",
                name="disk-name",
                hint="rename the file",
            )


class _File:
    """A file opened without blocking, and proven to be one."""

    def __init__(self, path: Path) -> None:
        self._fd = open_file(path)
        self._path = path

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def fileno(self) -> int:
        return self._fd

    def read(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            raise DiskError(
                f"cannot read {self._path}: {error.strerror}",
                name="disk-unreadable",
                hint="check the host's disk with dmesg",
            ) from None


_open = _File


def _judge(file: _File, size: int, path: Path, fmt: str) -> tuple[str, str] | None:
    """Refuse what refers outside; a qcow2's backing file comes back as (name, format) for the caller to judge."""
    driver = known_format(fmt).driver
    if driver == QCOW2.driver:
        return qcow2.judge(file.read, path)
    if driver == VHD.driver:
        _judge_vhd(file, size, path)
    elif driver == VHDX.driver:
        vhdx.refuse_parent(file.read, path)
        vhdx.refuse_log(file.read, path)
    elif driver == VMDK.driver:
        vmdk.refuse_foreign(file.read, size, path)
    return None


def _judge_vhd(file: _File, size: int, path: Path) -> None:
    tail = file.read(max(0, size - FOOTER_SIZE), FOOTER_SIZE)
    head = file.read(0, FOOTER_SIZE)
    # the copy at the start counts too: an opener that falls back to it would follow its type
    for data in (tail, tail[1:], head):
        if not data.startswith(COOKIE) or len(data) < FOOTER_SIZE - 1:
            continue
        (kind,) = struct.unpack_from(">I", data, 60)
        if kind == DiskType.DIFFERENCING and (data is not head or not _fixed(tail)):
            raise DiskError(
                f"{path.name} is a differencing VHD: it needs its parent's data",
                name="vhd-differencing",
                hint="merge it into its parent first: goldsmith vhd merge FILE NEW.vhd --parent PARENT.vhd",
                evidence=path,
            )


def _fixed(tail: bytes) -> bool:
    return (
        len(tail) == FOOTER_SIZE
        and tail.startswith(COOKIE)
        and struct.unpack_from(">I", tail, 60)[0] == DiskType.FIXED
    )


def _allowed_backing(path: Path, backing: tuple[str, str], within: Path | None) -> tuple[Path, str]:
    name, fmt = backing
    shown = single_line(name, 200)
    if within is None or _PROTOCOL.match(name):
        raise DiskError(
            f"{path.name} is incomplete: it names {shown!r} as its backing file",
            name="qcow2-backing-file",
            hint="flatten the disk on its original host: qemu-img convert -O qcow2",
            evidence=path,
        )
    target = (path.parent / name).resolve()
    if not target.is_relative_to(within.resolve()):
        raise DiskError(
            f"{path.name}: its backing file {shown!r} lies outside {within}",
            name="backing-outside",
            evidence=path,
            hint="flatten the disk on its original host: qemu-img convert -O qcow2",
        )
    if fmt not in (QCOW2.driver, RAW.driver, VHD.driver):
        raise DiskError(
            f"{path.name}: the format of its backing file is {fmt or 'not stated'}",
            name="backing-format",
            evidence=path,
            hint="flatten the disk on its original host: qemu-img convert -O qcow2",
        )
    if fmt == VHD.driver:
        # qemu opens it, and must see all of it
        footer = read_footer(target)
        if footer.disk_type != DiskType.FIXED or footer.old_qemu_size != footer.virtual_size:
            raise DiskError(
                f"{path.name}: its backing file {shown!r} is not a fixed VHD that every version of QEMU reads "
                "completely",
                name="backing-format",
                evidence=path,
                hint="flatten the disk on its original host: qemu-img convert -O qcow2",
            )
    return target, fmt


def extents(path: Path, fmt: str | None = None, *, allow_backing_within: Path | None = None) -> ExtentSource:
    """The data of a disk as ranges of files, chains resolved; what is compressed is unpacked into a temporary file.

    Close the source when done. Raises DiskError as
    `containers.refuse_foreign_references` does, and disk-map where qemu-img fails.
    """
    links = chain(path, fmt, allow_backing_within=allow_backing_within)
    top, row = links[0], known_format(links[0].fmt)
    if row.driver == RAW.driver:
        return file_extents(top.path, file_size(top.path) - row.trailing if row.trailing else None)
    if row.driver == VHD.driver:
        footer = _fixed_footer(top.path)
        if footer is not None:
            refuse_cut(top.path, footer)
            return file_extents(top.path, footer.virtual_size)
        return sparse_extents(open_sparse(top.path))
    return _read_map(links)


def _fixed_footer(path: Path) -> Footer | None:
    try:
        footer = read_footer(path)
    except DiskError:
        # a dynamic disk has a copy of it at its start; a fixed one has nothing to fall back to
        if not _has_copy(path):
            raise
        return None
    return footer if footer.disk_type == DiskType.FIXED else None


def _has_copy(path: Path) -> bool:
    with _open(path) as file:
        return file.read(0, 8) == COOKIE


def _read_map(links: tuple[Link, ...]) -> ExtentSource:
    """The extents by `qemu-img map`; where some data has no place of its own in a file (packed) it is unpacked."""
    order: dict[str, object] = {"fmt": links[0].fmt, "files": [str(link.path) for link in links]}
    table, size, data, packed = ExtentTable([link.path for link in links]), 0, 0, False
    running = tools.RUNNER.start("map", order)
    for entry in _entries(running):
        start, length = int(entry["start"]), int(entry["length"])
        # qemu-img map ends at the virtual size
        size = max(size, start + length)
        if entry["zero"] or not (entry["data"] or "offset" in entry):
            continue
        data += length
        depth = int(entry["depth"])
        packed = packed or "offset" not in entry or bool(entry.get("compressed")) or depth >= len(links)
        if not packed:
            table.add(start, length, depth, int(entry["offset"]))
    running.finish()
    return _unpacked(links, size, data) if packed else ExtentSource(size, table)


def _entries(running: tools.Running) -> Iterator[dict[str, Any]]:
    """What `qemu-img map` lists, one entry a line, some thousand at a time: the whole may be longer than memory."""
    rest = b""
    while chunk := os.read(running.stream.fileno(), 1 << 20):
        whole, newline, rest = (rest + chunk).rpartition(b"\n")
        if not newline and len(rest) > tools.LINE_LIMIT:
            break
        yield from json.loads(b"[" + whole.strip(b"[], \n") + b"]")
    yield from json.loads(b"[" + rest.strip(b"[], \n") + b"]")


def _unpacked(links: tuple[Link, ...], size: int, data: int) -> ExtentSource:
    """A disk unpacked into a raw file. `data`: its bytes outside holes."""
    # qemu-img takes all of a VHDX for data: what it really has is seen when it is written
    if links[0].fmt != VHDX.key and data > (budget := tools.unpack_budget([link.path for link in links])):
        raise tools.too_large(links[0].path, budget)
    order = {"fmt": links[0].fmt, "files": [str(link.path) for link in links], "size": size}
    running = tools.RUNNER.start("unpack", order)
    with ExitStack() as cleanup:
        cleanup.callback(running.release)
        running.finish()
        source = file_extents(Path(running.output))
        source.cleanup.push(cleanup.pop_all())
        return source
