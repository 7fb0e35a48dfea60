"""What every verb may ask: the project folder that the root command was told, and what people write for sizes."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.errors import UsageError

_told: list[Path] = []


def set_project(path: Path | None) -> None:
    """Remember `--project DIR`; None is what no option means."""
    _told.clear()
    if path is not None:
        _told.append(path)


def told_project() -> Path | None:
    """The folder of `--project`, as given, or None."""
    return _told[0] if _told else None


def project() -> Path:
    """The project folder: `--project`'s, or the nearest that holds images/; raises UsageError."""
    from pipeline.definition import find_project

    return find_project(told_project())


_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def to_bytes(text: str) -> int:
    """'8 GiB', '20G', '512 MiB' or plain bytes; all units are of 1024. Raises UsageError (bad-size)."""
    found = re.fullmatch(r"(\d+)\s*([KMGT]?)(iB|B)?", text.strip(), re.IGNORECASE)
    if not found:
        raise UsageError(f"{text!r} is no size", name="bad-size", hint="'8 GiB', '20G', '512 MiB' or bytes")
    return int(found[1]) << _UNITS[found[2].upper()]
