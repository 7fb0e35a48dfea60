"""Sizes and durations as a definition writes them: a number and its unit."""

from __future__ import annotations

import re
from decimal import Decimal

from pipeline.definition.diagnostics import Wrong, shown

MIB = 1024**2
GIB = 1024**3

#: A VHD cannot be larger (Virtual Hard Disk Image Format Specification: 2040 GiB).
LARGEST_DISK = 2040 * GIB
#: Bytes of memory below which a Linux with an initramfs does not start.
LEAST_MEMORY = 256 * MIB

_SIZE_UNITS = {"B": 1, "KiB": 1024, "MiB": MIB, "GiB": GIB, "TiB": 1024**4}
_DURATION_UNITS = {"s": 1, "min": 60, "h": 3600}
_MEASURE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?) ?([A-Za-z]+)", re.ASCII)


def size(value: object) -> int:
    """Bytes of a size such as `8 GiB`; raises `Wrong`.

    Only units of 1024 are taken: a disk of 8 GB is 7.45 GiB, and Azure wants a whole MiB.
    """
    number, unit = _split(value, "a size such as 8 GiB", _SIZE_UNITS)
    if unit not in _SIZE_UNITS:
        meant = {"k": "KiB", "m": "MiB", "g": "GiB", "t": "TiB"}.get(unit[0].lower())
        hint = f"{number} {meant}?" if meant else ""
        raise Wrong(f"{unit} is not a unit of size; the units are {', '.join(_SIZE_UNITS)}", hint)
    total = number * _SIZE_UNITS[unit]
    if total != int(total):
        raise Wrong(f"{value} is not a whole number of bytes")
    if total == 0:
        raise Wrong("a size must be greater than zero")
    return int(total)


def disk_size(value: object) -> int:
    """Bytes of a virtual disk: a whole MiB, and no more than a VHD holds; raises `Wrong`."""
    total = size(value)
    if total % MIB:
        below = total // MIB
        hint = f"{below or 1} MiB or {below + 1} MiB?" if below else "1 MiB?"
        raise Wrong(f"{value} is not a whole number of MiB", hint)
    if total > LARGEST_DISK:
        raise Wrong(f"{value} is larger than a VHD can be", "use at most 2040 GiB")
    return total


def memory_size(value: object) -> int:
    """Bytes of a guest's memory, a whole MiB, at least 256; raises `Wrong`."""
    total = size(value)
    if total % MIB:
        raise Wrong(f"{value} is not a whole number of MiB")
    if total < LEAST_MEMORY:
        raise Wrong(f"{value} is too small for a guest", "use at least 256 MiB")
    return total


def duration(value: object) -> int:
    """Seconds of a duration such as `30 min`; raises `Wrong`."""
    number, unit = _split(value, "a duration such as 30 min", _DURATION_UNITS)
    if unit not in _DURATION_UNITS:
        meant = {"m": "min", "s": "s", "h": "h"}.get(unit[0].lower())
        hint = f"{number} {meant}?" if meant else ""
        raise Wrong(f"{unit} is not a unit of time; the units are {', '.join(_DURATION_UNITS)}", hint)
    total = number * _DURATION_UNITS[unit]
    if total != int(total):
        raise Wrong(f"{value} is not a whole number of seconds")
    if total == 0:
        raise Wrong("a duration must be greater than zero")
    return int(total)


def _split(value: object, like: str, units: dict[str, int]) -> tuple[Decimal, str]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        uneven = ""
        if "MiB" in units and isinstance(value, int) and value % MIB:
            uneven = "; in bytes it is not a whole number of MiB either"
        raise Wrong(f"must be {like}: {shown(value)} has no unit{uneven}")
    if not isinstance(value, str):
        raise Wrong(f"must be {like}, not {shown(value)}")
    match = _MEASURE.fullmatch(value.strip())
    if match is None:
        raise Wrong(f"must be {like}, not {shown(value)}")
    return Decimal(match[1]), match[2]
