"""The project folder of the root command, and sizes as users write them, for every verb."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

from pipeline.base.errors import UsageError
from pipeline.base.project import find_project

_project: list[Path] = []


def set_project(path: Path | None) -> None:
    """Remember `--project DIR`; None if the option is not given."""
    _project.clear()
    if path is not None:
        _project.append(path)


def project_option() -> Path | None:
    """The folder of `--project`, as given, or None."""
    return _project[0] if _project else None


def project() -> Path:
    """The project folder: `--project`'s, or the nearest that holds images/; raises UsageError."""
    import pipeline.systems.registry  # noqa: F401  definitions are read by the rules of the systems that are registered

    return find_project(project_option())


_UNITS = {"B": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def to_bytes(text: str) -> int:
    """'8 GiB', '20G', '1.5G', '4096B'; all units are of 1024. Raises UsageError (bad-size) for a number alone too."""
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*(?:([KMGT])(?:iB|B)?|B)?", text.strip(), re.IGNORECASE)
    if not found:
        raise UsageError(
            f"{text!r} is not a size", name="bad-size", hint="write '20G', '8 GiB', '512 MiB' or '4096B'"
        )
    number = found[1]
    if found[0] == number:
        raise UsageError(
            f"{text!r} has no unit",
            name="bad-size",
            hint=f"write {number}G, {number}M or {number}B (bytes)",
        )
    size = Decimal(number) * (1 << _UNITS[(found[2] or "B").upper()])
    if size != int(size):
        raise UsageError(
            f"{text!r} is not a whole number of bytes",
            name="bad-size",
            hint="write it in a smaller unit, such as 512M",
        )
    return int(size)


def chosen_size(size: str | None, old: str | None) -> int | None:
    """The bytes of an option, or of its old name; None if neither was given."""
    text = size if size is not None else old
    return to_bytes(text) if text is not None else None
