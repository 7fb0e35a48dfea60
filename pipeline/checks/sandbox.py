"""Inspecting a disk in a process of its own: disks are hostile, and their readers are written in C.

The parent judges the container and opens nothing else; the child gets where the data lies, opens those files
read-only, gives up its rights (user, network, new files, memory, time) and only then reads a first byte of the
disk. What it says is checked like any other foreign input.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import command
from pipeline.checks import listing
from pipeline.errors import DiskError
from pipeline.offline import containers

if TYPE_CHECKING:
    from pipeline.checks.model import CheckResult

#: Seconds for a disk, and for each GiB of data on it: an inspect takes a fraction of that.
DEADLINE, DEADLINE_PER_GIB = 120.0, 30.0
#: Bytes of result that are believed; a whole report has about 40 KiB, a list of all files a few MiB.
RESULT_LIMIT = 64 << 20
_TEXT_LIMIT = 4096
_STATUSES = frozenset({"pass", "warn", "fail", "skip"})


def inspect_disk(
    path: Path,
    fmt: str | None = None,
    *,
    profile: str = "azure-linux",
    accounts: Collection[str] = (),
    waive: Mapping[str, str] | None = None,
    generations: Collection[int] = (1, 2),
    ports: Collection[tuple[str, int]] | None = None,
    allow_backing_within: Path | None = None,
) -> list[CheckResult]:
    """`run_checks` on a disk that nobody vouches for.

    Raises DiskError: reader-crashed, reader-too-slow, reader-too-large, reader-lies, and all that `open_disk` raises;
    UsageError as `run_checks`.
    """
    from pipeline.checks.run import prepare

    waived = prepare(profile, waive)
    order = {
        "profile": profile,
        "accounts": sorted(accounts),
        "generations": sorted(generations),
        "ports": None if ports is None else sorted(ports),
    }
    told = _ask(path, fmt, allow_backing_within, order)
    return [waived(result) for result in _results(told, path)]


def list_disk(
    path: Path, fmt: str | None = None, *, what: str, key: str = "", allow_backing_within: Path | None = None
) -> list[list[str]]:
    """`listing.listing` on a disk that nobody vouches for: rows of printable text. Errors as both."""
    listing.prepare(what, key)
    rows = _ask(path, fmt, allow_backing_within, {"list": what, "key": key}).get("rows")
    width = len(listing.COLUMNS[what])
    if not isinstance(rows, list) or len(rows) > listing.MAX_ROWS:
        raise _lies(path)
    if not all(isinstance(row, list) and len(row) == width for row in rows):
        raise _lies(path)
    return [[_text(cell) for cell in row] for row in rows]


def _ask(path: Path, fmt: str | None, allow_backing_within: Path | None, question: dict[str, Any]) -> dict[str, Any]:
    found = containers.refuse_foreign_references(path, fmt, allow_backing_within=allow_backing_within)
    with containers.extents(path, found, allow_backing_within=allow_backing_within) as source:
        file_size, tail = containers.tail(path)
        paths = sorted({extent.path for extent in source.extents})
        number = {each: index for index, each in enumerate(paths)}
        order = question | {
            "path": str(path),
            "fmt": found,
            "size": source.size,
            "paths": [str(each.absolute()) for each in paths],
            "extents": [[e.start, e.length, number[e.path], e.offset] for e in source.extents],
            "file_size": file_size,
            "tail": tail.hex(),
        }
        return _answer(order, path, DEADLINE + DEADLINE_PER_GIB * (source.data_bytes / (1 << 30)))


def _answer(order: dict[str, Any], path: Path, deadline: float) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(prefix="goldsmith-", suffix=".json") as result:
        try:
            done = command.run(
                [sys.executable, "-P", "-m", "pipeline.checks.child", result.name],
                deadline=deadline,
                stdin=json.dumps(order),
                ok_codes=tuple(range(-64, 256)),
                env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONDONTWRITEBYTECODE": "1"},
            )
        except command.CommandTimeout:
            raise DiskError(
                f"{path.name}: reading it was not done after {deadline:.0f} s", name="reader-too-slow", evidence=path
            ) from None
        data = result.read(RESULT_LIMIT + 1)
    if done.code != 0:
        last = (done.stderr.strip().splitlines() or [f"code {done.code}"])[-1][:300]
        raise DiskError(f"{path.name}: its reader ended early: {last}", name="reader-crashed", evidence=path)
    return _believe(data, path)


def _lies(path: Path) -> DiskError:
    return DiskError(f"{path.name}: the answer of its reader makes no sense", name="reader-lies", evidence=path)


def _believe(data: bytes, path: Path) -> dict[str, Any]:
    """The child's answer, if it is one. Raises the error that the child reports."""
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        raise _lies(path) from None
    if not isinstance(told, dict):
        raise _lies(path)
    error = told.get("error")
    if isinstance(error, dict):
        hint = _text(error["hint"]) if error.get("hint") else None
        raise DiskError(_text(error.get("message")), name=_name(error.get("name")), hint=hint, evidence=path)
    return told


def _results(told: dict[str, Any], path: Path) -> list[CheckResult]:
    """The answer as results; only ids, statuses and printable text of bounded length pass."""
    from pipeline.checks.model import REGISTRY, CheckResult

    listed = told.get("results")
    if not isinstance(listed, list) or len(listed) > len(REGISTRY):
        raise _lies(path)
    results: list[CheckResult] = []
    for each in listed:
        check = REGISTRY.get(str(each.get("id"))) if isinstance(each, dict) else None
        if check is None or each.get("status") not in _STATUSES:
            raise _lies(path)
        results.append(
            CheckResult(
                check.id, check.title, each["status"], check.severity, _text(each.get("evidence")), check.remedy
            )
        )
    if len({result.id for result in results}) != len(results):
        raise _lies(path)
    return results


def _text(value: object) -> str:
    return "".join(char if char.isprintable() else "?" for char in str(value)[:_TEXT_LIMIT])


def _name(value: object) -> str:
    text = str(value)
    return text if text.replace("-", "").isalnum() and len(text) < 60 else "disk-unreadable"
