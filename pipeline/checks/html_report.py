"""The report of an inspect as one page that needs nothing else."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

from pipeline.base.printable import printable
from pipeline.cache.digests import flat_digest
from pipeline.checks.model import CheckResult
from pipeline.gallery.verdict import count
from pipeline.systems.inspection import DetectedSystem
from pipeline.systems.questions import recorded_system

#: The order of the page: what shuts the gate comes first.
_ORDER = ("fail", "unchecked", "warn", "waived", "skip", "pass")
#: Bytes of a file whose sha256 is taken for the page: about a second of work.
HASHED = 1 << 30


def report(path: Path, detected: DetectedSystem, results: Sequence[CheckResult]) -> str:
    """Write the page: the disk, the system that was detected on it, and each result.

    What the disk says is text to the page, never markup: jinja2 escapes every value.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pipeline.checks", "."),
        autoescape=True,
        # a page is read in an editor and a pager too
        finalize=printable,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    size = path.stat().st_size
    listed = [result.to_json() for result in results]
    verdict = count(listed)
    numbers = (
        ("pass", verdict.passed, "passed"),
        ("fail", verdict.failed, "failed"),
        ("skip", verdict.skipped, "skipped, each for a reason"),
        ("unchecked", verdict.unchecked, "unchecked: the check could not be run"),
        ("warn", verdict.warnings, "with a warning"),
        ("waived", verdict.waived, "waived"),
    )
    return environment.get_template("report.html.j2").render(
        name=path.name,
        path=str(path.absolute()),
        size=f"{size:,} bytes".replace(",", "\N{NARROW NO-BREAK SPACE}"),
        sha256=flat_digest(path)
        if size <= HASHED
        else f"not taken: more than {HASHED >> 30} GiB (sha256sum takes it)",
        system=recorded_system(listed),
        detected=str(detected),
        profile=detected.profile,
        good=verdict.good,
        when=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        # the four numbers of the gate are always there, the rest where there are any
        numbers=[row for index, row in enumerate(numbers) if index < 4 or row[1]],
        results=sorted(results, key=lambda result: _ORDER.index(result.status)),
    )
