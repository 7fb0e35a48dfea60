"""The page that lists the checks (docs/checks.md), made from the checks themselves."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.checks.model import Check

_HEAD = """# The checks

Made from the code (`goldsmith checks --markdown`, and the corpus of the tests); do not edit.

`goldsmith inspect DISK` proves each of them on the disk at rest. What comes of a check:

| status | what it means | the gate |
|---|---|---|
| pass | looked, and found it right | open |
| warn | found something of severity `warn` | open |
| fail | found something of severity `fail` | shut |
| skip | does not apply to this disk; the evidence says why | open |
| unchecked | applies, and could not look: what it asks about is absent, or cannot be read | shut |
| waived | found something that the definition accepts, with its reason | open |

A definition accepts a finding by the check's id and a reason: `waive: {apt-proxy: our mirror is meant to stay}`. That
waives one check and nothing behind it: what others stand on cannot be waived.
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
            *([] if check.waivable else ["- cannot be waived: other checks depend on it"]),
        ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
