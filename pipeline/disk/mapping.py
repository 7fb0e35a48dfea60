"""Where a foreign disk's data lies and what a VHD is, asked of the sandbox.

What copies, compares and shows disks parses none of them.
"""

from __future__ import annotations

import uuid
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.base.disk_format import formats
from pipeline.base.errors import DiskError
from pipeline.disk import sandbox
from pipeline.disk.questions import Answer, Question, clean_name, clean_text, lies
from pipeline.vhd.extents import MAX_EXTENTS, ExtentSource, ExtentTable

#: 28 bytes an extent.
_LIMIT = 28 * MAX_EXTENTS + (1 << 20)
FORMAT = Question("format", "pipeline.disk.answers:disk_format")
EXTENTS = Question("extents", "pipeline.disk.answers:chain_extents", limit=_LIMIT)
SOURCE = Question("source", "pipeline.disk.sources:source_extents", limit=_LIMIT)
DETECT = Question("detect", "pipeline.disk.sources:detect")
IDENTITY = Question("identity", "pipeline.disk.sources:vhd_identity")
FACTS = Question("facts", "pipeline.disk.sources:vhd_facts")
FAULTS = Question("faults", "pipeline.disk.sources:vhd_faults")
END = Question("end", "pipeline.disk.sources:disk_end")
#: What a parent of a differencing VHD may be called, where the child names it.
_PARENTS = (".vhd", ".avhd")


def disk_format(path: Path, fmt: str | None = None, *, within: Path | None = None) -> str:
    """The format of a disk that refers to nothing outside. Errors as `containers.refuse_foreign_references`."""
    found = sandbox.ask(FORMAT, path, fmt, within=within).value
    if found not in (row.key for row in formats()):
        raise lies(path)
    return str(found)


def chain_extents(path: Path, fmt: str | None = None, *, within: Path | None = None) -> ExtentSource:
    """The data of a disk and its backing files inside `within`; close it when done. Errors: `containers.extents`."""
    with sandbox.Worker([EXTENTS], path, fmt, within=within) as worker:
        return take_extents(worker, worker.ask(EXTENTS))


def open_source(
    path: Path, fmt: str | None = None, *, parent: Path | None = None, check_time: bool = True
) -> ExtentSource:
    """Any disk's data; a differencing VHD with its parents', looked for beside it. Errors: `sources.open_source`."""
    with _vhd_worker(SOURCE, path, fmt, parent) as worker:
        return take_extents(worker, worker.ask(SOURCE, _chain(parent, check_time)))


def detect(path: Path, fmt: str | None = None, *, named: bool = True) -> str:
    """The format by content; with `named` what the name promises must agree. Errors as `containers.detect`."""
    found = sandbox.ask(DETECT, path, fmt, parameters={"named": named}).value
    if found not in (row.key for row in formats()):
        raise lies(path)
    return str(found)


def vhd_identity(path: Path, fmt: str | None = None) -> tuple[uuid.UUID, int] | None:
    """A VHD's unique id and time (Unix seconds); None of what is no VHD."""
    found = sandbox.ask(IDENTITY, path, fmt).value
    if found is None:
        return None
    try:
        return uuid.UUID(str(found[0])), int(found[1])
    except (ValueError, TypeError, IndexError, KeyError):
        raise lies(path) from None


def vhd_facts(path: Path) -> dict[str, Any]:
    """What a VHD's footer and header hold. Errors as `read_footer` and `open_sparse`."""
    found = sandbox.ask(FACTS, path).value
    if not isinstance(found, dict) or len(found) > 40:
        raise lies(path)
    return {clean_text(key, 60): _plain(value) for key, value in found.items()}


def vhd_faults(path: Path, *, parent: Path | None = None, check_time: bool = True) -> dict[str, str]:
    """What is wrong with a VHD and its chain: names and messages."""
    with _vhd_worker(FAULTS, path, None, parent) as worker:
        found = worker.ask(FAULTS, _chain(parent, check_time)).value
    if not isinstance(found, dict):
        raise lies(path)
    return {clean_name(name): clean_text(message) for name, message in found.items()}


@dataclass(frozen=True)
class DiskEnd:
    """What stands at a disk's end: the number of its last partition, and what that holds ('' is unknown)."""

    backup_fault: bool
    last: int | None
    kind: str


def disk_end(path: Path) -> DiskEnd:
    """Errors as `open_disk`."""
    found = sandbox.ask(END, path).value
    if not isinstance(found, dict) or not isinstance(found.get("last"), int | None):
        raise lies(path)
    return DiskEnd(bool(found.get("backup_fault")), found.get("last"), clean_text(found.get("kind"), 40))


def _plain(value: object) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value[:16]]
    return value if isinstance(value, int) or value is None else clean_text(value)


def _vhd_worker(question: Question, path: Path, fmt: str | None, parent: Path | None) -> sandbox.Worker:
    """A worker that may open what a differencing VHD names in its own folder, and in its first parent's."""
    named = [] if parent is None else [parent]
    folders = [sandbox.whole_path(each).parent for each in (path, *named)]
    return sandbox.Worker([question], path, fmt, files=named, folders=folders, suffixes=_PARENTS)


def _chain(parent: Path | None, check_time: bool) -> dict[str, Any]:
    return {"parent": None if parent is None else str(sandbox.whole_path(parent)), "check_time": check_time}


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
