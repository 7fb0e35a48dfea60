"""What the root command was told and every verb may ask: the project folder."""

from __future__ import annotations

from pathlib import Path

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
