"""What the readers answer in the sandbox's worker, checks aside: maps, formats, files, packages, free blocks."""

from __future__ import annotations

from typing import Any

from pipeline.disk import disk_formats, free_blocks
from pipeline.disk.packages import read_dpkg
from pipeline.disk.questions import Asked
from pipeline.vhd.extents import ExtentSource, ExtentTable

#: Bytes of all journal files together, and how many there may be.
JOURNAL_BYTES, JOURNAL_FILES = 64 << 20, 32


def disk_format(asked: Asked) -> str:
    """The format of a disk that is whole in itself."""
    return disk_formats.refuse_foreign_references(asked.path, asked.fmt, allow_backing_within=asked.within)


def chain_extents(asked: Asked) -> dict[str, Any]:
    """Where the data of a disk and its backing files lies."""
    with disk_formats.extents(asked.path, asked.fmt, allow_backing_within=asked.within) as source:
        return pack_extents(asked, source)


def pack_extents(asked: Asked, source: ExtentSource) -> dict[str, Any]:
    """An ExtentSource as blobs: starts, lengths, offsets, numbers of files."""
    table = source.extents
    if not isinstance(table, ExtentTable):
        table = ExtentTable(list(dict.fromkeys(extent.path for extent in source.extents)))
        numbers = {path: number for number, path in enumerate(table.paths)}
        for extent in source.extents:
            table.add(extent.start, extent.length, numbers[extent.path], extent.offset)
    asked.blobs += [each.tobytes() for each in (table.starts, table.lengths, table.offsets, table.numbers)]
    return {"size": source.size, "paths": [str(path) for path in table.paths]}


def free_ranges(asked: Asked) -> None:
    """What no reader of a raw disk or fixed VHD can get at any more: blobs of starts and lengths."""
    starts, lengths = free_blocks.free_ranges(asked.path, asked.fmt)
    asked.blobs += [starts.tobytes(), lengths.tobytes()]


def dpkg_versions(asked: Asked) -> list[list[str]]:
    """(name, version) of each installed Debian package, whatever the journal says: a layer's disk was in use."""
    with asked.disk() as disk:
        return [[package.name, package.version] for package in read_dpkg(disk.root) if package.installed]


def files(asked: Asked) -> list[bool]:
    """For each of `paths` whether it is a file; its first `limit` bytes are the next blob then."""
    found = []
    with asked.disk() as disk:
        for path in asked.parameters["paths"]:
            data = disk.root.read(path, asked.parameters["limit"])
            found.append(data is not None)
            if data is not None:
                asked.blobs.append(data)
    return found


def journal(asked: Asked) -> list[str]:
    """The names of a guest's journal files, those in use first; each is a blob."""
    folder = asked.parameters["folder"]
    names, left = [], JOURNAL_BYTES
    with asked.disk() as disk:
        root = disk.root
        paths = [
            f"{folder}/{machine}/{name}"
            for machine in root.listdir(folder)
            for name in root.listdir(f"{folder}/{machine}")
            if name.endswith((".journal", ".journal~"))
        ]
        # an archived file has an @ in its name: what was in use last says most
        for path in sorted(paths, key=lambda each: ("@" in each, each))[:JOURNAL_FILES]:
            data = root.read(path, left) or b""
            left -= len(data)
            names.append(path.rsplit("/", 1)[-1])
            asked.blobs.append(data)
    return names
