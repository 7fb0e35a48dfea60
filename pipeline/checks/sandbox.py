"""Inspecting and listing a disk that nobody vouches for: questions to the sandbox, and what of the answers counts."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.checks import listing
from pipeline.disk import sandbox
from pipeline.disk.questions import Question, clean_text, lies, unpack_rows

if TYPE_CHECKING:
    from pipeline.checks.model import CheckResult

INSPECT = Question("inspect", "pipeline.checks.answers:inspect", prepare=("pipeline.disk.secret_search:matcher",))
SEARCH = Question("search", "pipeline.checks.answers:search_part", prepare=INSPECT.prepare)
#: Bytes that a disk's file takes from which on several workers are quicker than one: each costs 0.1 s to start.
PARALLEL = 256 << 20
PROCESSORS = len(os.sched_getaffinity(0))
#: A list of all files has a few MiB.
LIST = Question("list", "pipeline.checks.answers:list_rows", limit=64 << 20)
_STATUSES = frozenset({"pass", "warn", "fail", "skip", "unchecked"})


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
    ask = partial(_ask_at_once if _is_large(path) else _ask_once, path, fmt, allow_backing_within)
    return [waived(result) for result in _results(ask(order), path)]


def _is_large(path: Path) -> bool:
    with suppress(OSError):
        # a named pipe must not be opened: nobody may write into it
        return path.stat().st_blocks * 512 >= PARALLEL and PROCESSORS > 1
    return False


def _ask_once(path: Path, fmt: str | None, within: Path | None, order: Mapping[str, Any]) -> Any:
    return sandbox.ask(INSPECT, path, fmt, parameters=order, within=within).value


def _ask_at_once(path: Path, fmt: str | None, within: Path | None, order: Mapping[str, Any]) -> Any:
    """The disk is searched in as many parts as there are processors, while one worker more runs the other checks."""

    def search(number: int) -> Any:
        part = {"number": number, "parts": PROCESSORS}
        return sandbox.ask(SEARCH, path, fmt, parameters=part, within=within).value

    def check() -> Any:
        with sandbox.Worker([INSPECT], path, fmt, within=within) as worker:
            others = worker.ask(INSPECT, {**order, "searches": False}).value
            found = [future.result() for future in searches]
            searching = worker.ask(INSPECT, {**order, "searches": True, "found": found}).value
        if not isinstance(others, list) or not isinstance(searching, list):
            raise lies(path)
        return [*others, *searching]

    # a worker lives as long as the thread that has started it
    with ThreadPoolExecutor(PROCESSORS + 1) as pool:
        searches = [pool.submit(search, number) for number in range(PROCESSORS)]
        return pool.submit(check).result()


def list_disk(
    path: Path, fmt: str | None = None, *, what: str, key: str = "", allow_backing_within: Path | None = None
) -> list[list[str]]:
    """`listing.listing` on a disk that nobody vouches for: rows of printable text. Errors as both."""
    listing.prepare(what, key)
    order = {"list": what, "key": key}
    answer = sandbox.ask(LIST, path, fmt, parameters=order, within=allow_backing_within)
    return unpack_rows(answer, path, len(listing.COLUMNS[what]), listing.MAX_ROWS)


def _results(listed: Any, path: Path) -> list[CheckResult]:
    """The answer as results; only ids, statuses and printable text of bounded length pass."""
    from pipeline.checks.model import REGISTRY, CheckResult
    from pipeline.checks.run import all_checks

    if not isinstance(listed, list) or len(listed) > len(REGISTRY):
        raise lies(path)
    results: list[CheckResult] = []
    for each in listed:
        check = REGISTRY.get(str(each.get("id"))) if isinstance(each, dict) else None
        if check is None or each.get("status") not in _STATUSES:
            raise lies(path)
        results.append(
            CheckResult(
                check.id,
                check.title,
                each["status"],
                check.severity,
                clean_text(each.get("evidence")),
                check.remedy,
                check.why,
            )
        )
    place = {name: number for number, name in enumerate(check.id for check in all_checks())}
    results.sort(key=lambda result: place[result.id])
    if len({result.id for result in results}) != len(results):
        raise lies(path)
    return results
