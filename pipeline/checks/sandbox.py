"""Inspecting and listing a disk that nobody vouches for: questions to the sandbox, and what of the answers counts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.checks import listing
from pipeline.offline import sandbox
from pipeline.offline.questions import Question, clean_text, lies, unpack_rows

if TYPE_CHECKING:
    from pipeline.checks.model import CheckResult

INSPECT = Question("inspect", "pipeline.checks.answers:inspect", prepare=("pipeline.offline.secret_search:matcher",))
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
    answer = sandbox.ask(INSPECT, path, fmt, parameters=order, within=allow_backing_within)
    return [waived(result) for result in _results(answer.value, path)]


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
    if len({result.id for result in results}) != len(results):
        raise lies(path)
    return results
