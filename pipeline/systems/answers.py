"""What the sandbox's worker answers of the system on a disk: which it is, and lists of what is on it."""

from __future__ import annotations

from typing import Any

from pipeline.disk.questions import Asked, pack_rows
from pipeline.systems.inspection import Inspection
from pipeline.systems.installed import find_or_generic
from pipeline.systems.listing import listing


def systems_of(asked: Asked) -> list[Inspection]:
    """The systems that the caller knows of."""
    return [Inspection.from_json(row) for row in asked.parameters["systems"]]


def detect(asked: Asked) -> dict[str, Any]:
    """The system on the disk; where none is recognized, what it is read as."""
    with asked.disk() as disk:
        return find_or_generic(disk, systems_of(asked), asked.parameters["profile"])[0].to_json()


def list_rows(asked: Asked) -> int:
    """The rows of a list, as blobs; their number."""
    with asked.disk() as disk:
        rows = listing(disk, asked.parameters["list"], asked.parameters["key"], systems_of(asked))
        return pack_rows(asked, rows)
