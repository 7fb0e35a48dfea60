"""Which system a disk holds, and lists of what is on it: questions to the sandbox, and what of the answers counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.base.errors import UsageError
from pipeline.disk import sandbox
from pipeline.disk.questions import Question, clean_text, lies, unpack_rows
from pipeline.systems import listing
from pipeline.systems.inspection import DetectedSystem, inspections, profiles

DETECT = Question("detect", "pipeline.systems.answers:detect")
#: A list of all files has a few MiB.
LIST = Question("list", "pipeline.systems.answers:list_rows", limit=64 << 20)


def known_systems() -> list[dict[str, Any]]:
    """Every system that the worker may find on the disk."""
    return [each.to_json() for each in inspections()]


def with_systems(question: Question, *, checks: bool = True) -> Question:
    """With the modules of every system, which may be from a folder that goldsmith does not know."""
    names = [
        name for each in inspections() for name in (each.modules if checks else (each.installed.partition(":")[0],))
    ]
    return replace(question, modules=tuple(dict.fromkeys(names)))


def detect_system(
    path: Path, fmt: str | None = None, *, profile: str | None = None, allow_backing_within: Path | None = None
) -> DetectedSystem:
    """The system on a disk that nobody vouches for; what none claims is a generic Linux, and says so.

    `profile` overrides: only the systems whose disks can be inspected for it are looked for. Raises UsageError
    (unknown-profile); DiskError: reader-crashed, reader-too-slow, reader-too-large, reader-lies, and all that
    `open_disk` raises.
    """
    require_profile(profile)
    order = {"profile": profile, "systems": known_systems()}
    return read_detected(
        sandbox.ask(
            with_systems(DETECT, checks=False), path, fmt, parameters=order, within=allow_backing_within
        ).value,
        path,
    )


def list_disk(
    path: Path, fmt: str | None = None, *, what: str, key: str = "", allow_backing_within: Path | None = None
) -> list[list[str]]:
    """`listing.listing` on a disk that nobody vouches for: rows of printable text. Errors as both."""
    listing.prepare(what, key)
    order = {"list": what, "key": key, "systems": known_systems()}
    answer = sandbox.ask(with_systems(LIST, checks=False), path, fmt, parameters=order, within=allow_backing_within)
    return unpack_rows(answer, path, len(listing.COLUMNS[what]), listing.MAX_ROWS)


def read_detected(value: Any, path: Path) -> DetectedSystem:
    """The answer as a system that is known here, in bounded and printable words. Raises DiskError (reader-lies)."""
    row = value if isinstance(value, dict) else {}
    known = {each.system: each for each in inspections()}
    system, profile = known.get(str(row.get("system"))), row.get("profile")
    if system is None or profile not in system.profiles or not isinstance(row.get("recognized"), bool):
        raise lies(path)
    words = {name: clean_text(row.get(name) or "", 500) for name in ("id", "name", "version", "why")}
    return DetectedSystem(system.system, system.os, str(profile), row["recognized"], **words)


def recorded_system(checks: Iterable[Mapping[str, Any]]) -> str:
    """Which system the disk holds, as the check of its root says: the evidence where it passed, else why not."""
    for check in checks:
        if check.get("id") in {each.root_check for each in inspections()}:
            found = str(check.get("evidence"))
            return found if check.get("status") == "pass" else f"none found: {found}"
    return "not asked"


def require_profile(profile: str | None) -> None:
    """Raises UsageError (unknown-profile)."""
    if profile is not None and profile not in profiles():
        raise UsageError(f"no profile {profile!r} ({', '.join(profiles())})", name="unknown-profile")
