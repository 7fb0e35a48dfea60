"""The document of one file of a project, and the credentials that its text holds."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from pipeline.definition.diagnostics import Fault
from pipeline.definition.document import Document, parse

#: Keys that every definition of the project inherits. It lies beside images/.
DEFAULTS = "defaults.yaml"


def absolute(path: Path) -> Path:
    """The file without links; a path that cannot be followed is made absolute only."""
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError):
        return path.absolute()


def relative(path: Path, project: Path) -> str:
    """The file as messages name it: relative to the project where it lies inside."""
    return str(path.relative_to(project)) if path.is_relative_to(project) else str(path)


def read_document(path: Path, project: Path) -> Document:
    """The document of one file, as it is written; what is wrong with its text is in the document's faults."""
    file = relative(path, project)
    try:
        raw = path.read_bytes()
        parsed = _parsed(raw, file)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        document = Document(file)
        document.add((), f"cannot be read: {reason}")
        return document
    # the caller adds faults of its own
    return replace(parsed, faults=list(parsed.faults))


@lru_cache(maxsize=8192)
def _parsed(raw: bytes, file: str) -> Document:
    """A document, parsed once however often it is asked for."""
    document = parse(raw, file)
    document.faults.extend(find_credentials(raw, file))
    return document


def find_credentials(raw: bytes, file: str) -> list[Fault]:
    """A definition's text is in the manifest and the provenance of each master: what it holds, everybody gets."""
    # heavy where nothing is validated: loaded here
    from pipeline.base.secret_rules import rule_set

    faults = []
    for match in rule_set().judge_file(raw, file):
        if match.rule.noisy:
            continue
        # a match may begin with the break of the line before it
        at = match.start + len(raw[match.start : match.end]) - len(raw[match.start : match.end].lstrip())
        begin = raw.rfind(b"\n", 0, at) + 1
        column = len(raw[begin:at].decode("utf-8", "replace")) + 1
        message = f"{match.rule.description} ({match.rule.id}): a definition ships with its masters as plain text"
        hint = (
            "set the secret on each machine at its first start, or let the step read it from a file outside the "
            "repository"
        )
        faults.append(Fault(file, raw.count(b"\n", 0, at) + 1, column, "", message, hint))
    return faults
