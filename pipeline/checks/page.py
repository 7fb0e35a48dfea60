"""The page that lists the checks (docs/checks.md), made from the checks themselves."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.checks.model import Check

_HEAD = """# The checks

Made from the code (`goldsmith checks --markdown`, and the corpus of the tests); do not edit.

`goldsmith inspect DISK` proves each of them on the disk at rest. A `fail` stops a build, a `warn` is reported. A
definition accepts a finding by the check's id and a reason: `waive: {apt-proxy: our mirror is meant to stay}`.
"""


def page(checks: Sequence[Check]) -> str:
    """The whole page, ended by a newline."""
    lines = [
        _HEAD,
        f"{len(checks)} checks.\n",
        "| id | what must be true | severity | profiles |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| [{check.id}](#{check.id}) | {_cell(check.title)} | {check.severity} | {', '.join(check.profiles)} |"
        for check in checks
    ]
    for check in checks:
        lines += [
            f"\n## {check.id}\n",
            f"{check.title}.\n",
            f"- why: {check.why}",
            f"- remedy: {check.remedy}",
            f"- source: {check.source}",
        ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
