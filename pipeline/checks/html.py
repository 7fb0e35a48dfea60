"""The report of an inspect as one page that needs nothing else."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence

from pipeline.checks.model import CheckResult


def report(name: str, profile: str, results: Sequence[CheckResult]) -> str:
    """What the disk says is text to the page, never markup: jinja2 escapes every value."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pipeline.checks", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    order = ("fail", "warn", "waived", "skip", "pass")
    counts: Counter[str] = Counter(result.status for result in results)
    return environment.get_template("report.html.j2").render(
        name=name,
        profile=profile,
        when=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        counts=[(status, counts[status]) for status in order if counts[status]],
        results=sorted(results, key=lambda result: order.index(result.status)),
    )
