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
from typing import Any

from pipeline import command
from pipeline.checks.model import REGISTRY, CheckResult
from pipeline.checks.run import prepare
from pipeline.errors import DiskError
from pipeline.offline import containers

#: Seconds for a disk, and for each GiB of data on it: an inspect takes a fraction of that.
DEADLINE, DEADLINE_PER_GIB = 120.0, 30.0
#: Bytes of result that are believed; a whole report has about 40 KiB.
RESULT_LIMIT = 4 << 20
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
    allow_backing_within: Path | None = None,
) -> list[CheckResult]:
    """`run_checks` on a disk that nobody vouches for.

    Raises DiskError: reader-crashed, reader-too-slow, reader-too-large, reader-lies, and all that `open_disk` raises;
    UsageError as `run_checks`.
    """
    waived = prepare(profile, waive)
    found = containers.refuse_foreign_references(path, fmt, allow_backing_within=allow_backing_within)
    with containers.extents(path, found, allow_backing_within=allow_backing_within) as source:
        file_size, tail = containers.tail(path)
        paths = sorted({extent.path for extent in source.extents})
        number = {each: index for index, each in enumerate(paths)}
        order = {
            "path": str(path),
            "fmt": found,
            "size": source.size,
            "paths": [str(each.absolute()) for each in paths],
            "extents": [[e.start, e.length, number[e.path], e.offset] for e in source.extents],
            "file_size": file_size,
            "tail": tail.hex(),
            "profile": profile,
            "accounts": sorted(accounts),
            "generations": sorted(generations),
        }
        deadline = DEADLINE + DEADLINE_PER_GIB * (source.data_bytes / (1 << 30))
        told = _ask(order, path, deadline)
    return [waived(result) for result in told]


def _ask(order: dict[str, Any], path: Path, deadline: float) -> list[CheckResult]:
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


def _believe(data: bytes, path: Path) -> list[CheckResult]:
    """The child's answer as results; only ids, statuses and printable text of bounded length pass."""
    lies = DiskError(f"{path.name}: the answer of its reader makes no sense", name="reader-lies", evidence=path)
    try:
        told = json.loads(data)
    except ValueError:
        raise lies from None
    if not isinstance(told, dict):
        raise lies
    error = told.get("error")
    if isinstance(error, dict):
        raise DiskError(_text(error.get("message")), name=_name(error.get("name")), evidence=path)
    listed = told.get("results")
    if not isinstance(listed, list) or len(listed) > len(REGISTRY):
        raise lies
    results: list[CheckResult] = []
    for each in listed:
        check = REGISTRY.get(str(each.get("id"))) if isinstance(each, dict) else None
        if check is None or each.get("status") not in _STATUSES:
            raise lies
        results.append(
            CheckResult(
                check.id, check.title, each["status"], check.severity, _text(each.get("evidence")), check.remedy
            )
        )
    if len({result.id for result in results}) != len(results):
        raise lies
    return results


def _text(value: object) -> str:
    return "".join(char if char.isprintable() else "?" for char in str(value)[:_TEXT_LIMIT])


def _name(value: object) -> str:
    text = str(value)
    return text if text.replace("-", "").isalnum() and len(text) < 60 else "disk-unreadable"
