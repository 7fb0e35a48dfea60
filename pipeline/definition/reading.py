"""The files of a project: where it is, which files are definitions, and the document of one file."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from pipeline.base.errors import UsageError
from pipeline.definition.diagnostics import Fault
from pipeline.definition.document import Document, parse

IMAGES = "images"
#: Keys that every definition of the project inherits. It lies beside images/.
DEFAULTS = "defaults.yaml"


def find_project(start: Path | None = None) -> Path:
    """The nearest folder at or above `start` (by default the current one) that holds images/.

    A folder whose images/ has definitions in it goes before one that merely has such a folder.
    Raises UsageError when there is none.
    """
    begin = (start or Path.cwd()).resolve()
    candidates = [folder for folder in (begin, *begin.parents) if (folder / IMAGES).is_dir()]
    for folder in candidates:
        if any((folder / IMAGES).glob("*.yaml")):
            return folder
    if candidates:
        return candidates[0]
    raise UsageError(
        f"there is no project: neither {begin} nor a folder above it contains {IMAGES}/",
        name="no-project",
        hint="name a project with goldsmith --project DIR, or create one with mkdir images",
    )


def definition_files(project: Path) -> list[Path]:
    """The files that should be definitions; a .yml is among them, so that `load` can say what is wrong with it."""
    folder = project / IMAGES
    return sorted(
        path for path in folder.glob("*") if path.suffix in (".yaml", ".yml") and not path.name.startswith(".")
    )


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
