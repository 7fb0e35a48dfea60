"""Version names: three integers without leading zeros, valid as an Azure gallery version."""

from __future__ import annotations

from datetime import date

from pipeline.base.names import VERSION


def parse(text: str) -> tuple[int, int, int] | None:
    """The three integers of a version, or None when `text` is not one."""
    found = VERSION.fullmatch(text)
    if not found:
        return None
    major, minor, patch = (int(part) for part in found.groups())
    return major, minor, patch


def next_version(existing: list[str], day: date) -> str:
    """The version after all `existing` ones of this day: 2026.1121.0, 2027.105.0."""
    minor = day.month * 100 + day.day
    taken = [v[2] for v in map(parse, existing) if v and v[:2] == (day.year, minor)]
    return f"{day.year}.{minor}.{max(taken, default=-1) + 1}"
