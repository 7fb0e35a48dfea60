"""Where a foreign disk's data lies, asked of the sandbox: what copies and compares disks parses none of them."""

from __future__ import annotations

from array import array
from pathlib import Path

from pipeline.errors import DiskError
from pipeline.offline import sandbox
from pipeline.offline.questions import Answer, Question, lies
from pipeline.vhd.extents import MAX_EXTENTS, ExtentSource, ExtentTable

#: 28 bytes an extent.
_LIMIT = 28 * MAX_EXTENTS + (1 << 20)
FORMAT = Question("format", "pipeline.offline.answers:disk_format")
EXTENTS = Question("extents", "pipeline.offline.answers:chain_extents", limit=_LIMIT)
FORMATS = frozenset({"raw", "qcow2", "vpc", "vhdx", "vmdk"})


def disk_format(path: Path, fmt: str | None = None, *, within: Path | None = None) -> str:
    """The format of a disk that refers to nothing outside. Errors as `containers.refuse_foreign_references`."""
    found = sandbox.ask(FORMAT, path, fmt, within=within).value
    if found not in FORMATS:
        raise lies(path)
    return str(found)


def chain_extents(path: Path, fmt: str | None = None, *, within: Path | None = None) -> ExtentSource:
    """The data of a disk and its backing files inside `within`; close it when done. Errors: `containers.extents`."""
    with sandbox.Worker([EXTENTS], path, fmt, within=within) as worker:
        return take_extents(worker, worker.ask(EXTENTS))


def take_extents(worker: sandbox.Worker, answer: Answer) -> ExtentSource:
    """An answer of `answers.pack_extents` as a source; it names only files that the worker was given."""
    value = answer.value
    if not isinstance(value, dict) or not isinstance(value.get("paths"), list) or len(answer.blobs) != 4:
        raise lies(worker.path)
    paths, size = [Path(str(each)) for each in value["paths"]], value.get("size")
    if not isinstance(size, int) or not 0 <= size < 1 << 62 or not set(paths) <= set(worker.files):
        raise lies(worker.path)
    table = ExtentTable(paths)
    try:
        for room, blob in zip((table.starts, table.lengths, table.offsets, table.numbers), answer.blobs, strict=True):
            room.frombytes(blob)
    except ValueError:
        raise lies(worker.path) from None
    counts = {len(table.starts), len(table.lengths), len(table.offsets), len(table.numbers)}
    if len(counts) != 1 or counts.pop() > MAX_EXTENTS or not _inside(table.numbers, len(paths)):
        raise lies(worker.path)
    try:
        source = ExtentSource(size, table)
    except DiskError:
        raise lies(worker.path) from None
    source.cleanup.callback(worker.keep_scratch())
    return source


def _inside(numbers: array[int], count: int) -> bool:
    return not numbers or (min(numbers) >= 0 and max(numbers) < count)
