"""Inspecting a disk that nobody vouches for: questions to the sandbox, and what of the answers counts."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.disk import sandbox
from pipeline.disk.questions import Question, clean_text, lies
from pipeline.systems.inspection import DetectedSystem, inspection_of
from pipeline.systems.questions import known_systems, read_detected, require_profile, with_systems

if TYPE_CHECKING:
    from pipeline.checks.model import CheckResult

_MATCHER = ("pipeline.disk.secret_search:matcher",)
INSPECT = Question("inspect", "pipeline.checks.answers:inspect", prepare=_MATCHER)
#: The same in several workers: one inspects, and is asked twice; the others search the disk for secrets meanwhile.
BUT_SECRETS = Question("inspect-but-secrets", "pipeline.checks.answers:inspect_but_secrets")
SECRETS = Question("inspect-secrets", "pipeline.checks.answers:inspect_secrets", prepare=_MATCHER)
SEARCH = Question("search", "pipeline.disk.secret_search:search_part", prepare=_MATCHER)
#: Parts of the disk for each worker: who has finished takes the next.
PARTS = 8
#: Bytes that a disk's file takes from which on several workers are quicker than one: each costs 0.1 s to start.
PARALLEL = 256 << 20
PROCESSORS = len(os.sched_getaffinity(0))
_STATUSES = frozenset({"pass", "warn", "fail", "skip", "unchecked"})


@dataclass(frozen=True)
class Inspected:
    """What the worker found: the system on the disk, and the result of each check in the order of the report."""

    system: DetectedSystem
    results: list[CheckResult]


def inspect_disk(
    path: Path, fmt: str | None = None, *, profile: str | None = "azure-linux", **options: Any
) -> list[CheckResult]:
    """The results of the checks of a profile. Arguments and errors as `inspect`."""
    return inspect(path, fmt, profile=profile, **options).results


def inspect(
    path: Path,
    fmt: str | None = None,
    *,
    profile: str | None = None,
    accounts: Collection[str] = (),
    waive: Mapping[str, str] | None = None,
    generations: Collection[int] = (1, 2),
    ports: Collection[tuple[str, int]] | None = None,
    allow_backing_within: Path | None = None,
) -> Inspected:
    """Find the system on a disk that nobody vouches for, and run its checks for `profile`, its usual one without.

    `accounts` may ship; `ports` are open, None where nobody has said which; `waive` maps check ids to the reason why
    a finding is accepted.

    Raises DiskError: reader-crashed, reader-too-slow, reader-too-large, reader-lies, nothing-to-inspect, and all that
    `open_disk` raises; UsageError: unknown-profile, unknown-check, waive-not-possible.
    """
    require_profile(profile)
    waived = _waiver(profile, waive)
    order = {
        "profile": profile,
        "systems": known_systems(),
        "accounts": sorted(accounts),
        "generations": sorted(generations),
        "ports": None if ports is None else sorted(ports),
    }
    ask = _ask_at_once if _is_large(path) else _ask_once
    system, results = ask(path, fmt, allow_backing_within, order)
    return Inspected(system, [waived(result) for result in results])


def _waiver(profile: str | None, waive: Mapping[str, str] | None) -> Callable[[CheckResult], CheckResult]:
    """As `pipeline.checks.run.prepare`, which reads the modules of all checks: not where nothing is waived."""
    if not waive:
        return lambda result: result
    from pipeline.checks.run import prepare

    return prepare(profile, waive)


def _is_large(path: Path) -> bool:
    with suppress(OSError):
        # a named pipe must not be opened: nobody may write into it
        return path.stat().st_blocks * 512 >= PARALLEL and PROCESSORS > 1
    return False


def _ask_once(
    path: Path, fmt: str | None, within: Path | None, order: Mapping[str, Any]
) -> tuple[DetectedSystem, list[CheckResult]]:
    answer = sandbox.ask(with_systems(INSPECT), path, fmt, parameters=order, within=within)
    system, listed = _inspected(answer.value, path)
    return system, _results(system, listed, path)


def _ask_at_once(
    path: Path, fmt: str | None, within: Path | None, order: Mapping[str, Any]
) -> tuple[DetectedSystem, list[CheckResult]]:
    """A worker for each processor: all search the disk, part by part; one of them runs the other checks before."""
    count = PARTS * PROCESSORS
    numbers = iter(range(count))

    def search(worker: sandbox.Worker) -> dict[int, Any]:
        return {number: worker.ask(SEARCH, {"number": number, "parts": count}).value for number in numbers}

    def search_alone() -> dict[int, Any]:
        with sandbox.Worker([SEARCH], path, fmt, within=within) as worker:
            return search(worker)

    def check() -> tuple[DetectedSystem, list[CheckResult]]:
        with sandbox.Worker([with_systems(BUT_SECRETS), SECRETS, SEARCH], path, fmt, within=within) as worker:
            system, others = _inspected(worker.ask(BUT_SECRETS, order).value, path)
            # reads modules for a tenth of a second, while the other workers search
            _report_order(system)
            parts = search(worker)
            for future in searches:
                parts |= future.result()
            found = [parts[number] for number in range(count)]
            _, searching = _inspected(worker.ask(SECRETS, {"found": found}).value, path)
        return system, _results(system, [*others, *searching], path)

    # a worker lives as long as the thread that has started it
    with ThreadPoolExecutor(PROCESSORS) as pool:
        searches = [pool.submit(search_alone) for _ in range(PROCESSORS - 1)]
        return pool.submit(check).result()


def _inspected(value: Any, path: Path) -> tuple[DetectedSystem, list[Any]]:
    """The two parts of an answer; what the results are is still to be judged. Raises DiskError (reader-lies)."""
    if not isinstance(value, dict) or not isinstance(value.get("results"), list):
        raise lies(path)
    return read_detected(value.get("system"), path), value["results"]


def _report_order(system: DetectedSystem) -> list[str]:
    """The ids of the checks of a system, in the order of its report. The first call reads their modules."""
    from pipeline.checks.run import all_checks

    return [check.id for check in all_checks(system.profile, [inspection_of(system.system)])]


def _results(system: DetectedSystem, listed: Any, path: Path) -> list[CheckResult]:
    """The answer as results in the order of the system's report; only ids, statuses and printable text of bounded
    length pass."""
    from pipeline.checks.model import REGISTRY, CheckResult

    order = _report_order(system)
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
    if not {result.id for result in results} <= set(order):
        raise lies(path)
    results.sort(key=lambda result: order.index(result.id))
    if len({result.id for result in results}) != len(results):
        raise lies(path)
    return results
