"""Faults of definitions in the forms that code hosts and editors read: GitHub, GitLab, SARIF.

A plain fault line, file:line:column: message, is what VS Code's problem matchers and pre-commit read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from pipeline import __version__
from pipeline.definition.diagnostics import Fault, printable

#: The schema of SARIF 2.1.0, OASIS Standard.
SARIF_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_PAGE = "docs/definition.md"


def _message(fault: Fault) -> str:
    text = f"{fault.key}: {fault.message}" if fault.key else fault.message
    return printable(f"{text} ({fault.hint})" if fault.hint else text)


def _escape(text: str, *, property_value: bool) -> str:
    """As GitHub's runner reads it: actions/toolkit, core/src/command.ts."""
    for letter in "%\r\n" + (":," if property_value else ""):
        text = text.replace(letter, f"%{ord(letter):02X}")
    return text


def to_github(faults: Sequence[Fault]) -> str:
    """A workflow command for each fault: GitHub shows it at its line."""
    lines = []
    for fault in faults:
        places = {"file": fault.file, "line": str(fault.line), "col": str(fault.column), "title": fault.name}
        words = ",".join(f"{name}={_escape(printable(value), property_value=True)}" for name, value in places.items())
        lines.append(f"::error {words}::{_escape(_message(fault), property_value=False)}")
    return "\n".join(lines)


def to_gitlab(faults: Sequence[Fault]) -> list[dict[str, Any]]:
    """GitLab's code quality report. A fingerprint does not depend on the line, so that a moved fault is the same."""
    found: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    for fault in faults:
        words = "\0".join((fault.file, fault.name, fault.key, fault.message))
        seen[words] = seen.get(words, 0) + 1
        found.append(
            {
                "description": _message(fault),
                "check_name": fault.name,
                "fingerprint": hashlib.sha256(f"{words}\0{seen[words]}".encode()).hexdigest(),
                "severity": "major",
                "location": {"path": fault.file, "lines": {"begin": max(1, fault.line)}},
            }
        )
    return found


def to_sarif(faults: Sequence[Fault]) -> dict[str, Any]:
    """A log of SARIF 2.1.0 with one run. Its columns count characters."""
    names = sorted({fault.name for fault in faults})
    return {
        "$schema": SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "goldsmith",
                        "version": __version__,
                        "rules": [
                            {"id": name, "shortDescription": {"text": f"{name}: see {_PAGE}"}} for name in names
                        ],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "results": [
                    {
                        "ruleId": fault.name,
                        "ruleIndex": names.index(fault.name),
                        "level": "error",
                        "message": {"text": _message(fault)},
                        "locations": [
                            {
                                "physicalLocation": {
                                    "artifactLocation": {"uri": _uri(fault.file)},
                                    "region": {
                                        "startLine": max(1, fault.line),
                                        "startColumn": max(1, fault.column),
                                    },
                                }
                            }
                        ],
                    }
                    for fault in faults
                ],
            }
        ],
    }


def _uri(path: str) -> str:
    from pathlib import PurePosixPath
    from urllib.parse import quote

    return PurePosixPath(path).as_uri() if path.startswith("/") else quote(path)


#: What `goldsmith validate --format` prints, by the format's name: a text, or a JSON document.
FORMATS: dict[str, Callable[[Sequence[Fault]], Any]] = {
    "github": to_github,
    "gitlab": to_gitlab,
    "sarif": to_sarif,
}
