"""The parts that the pages of a run, of a version and of a gallery share: rendering, pictures, lists from records.

A page is a static file that loads nothing. Guests and steps wrote much of what a page shows: jinja2 escapes every
value, and no control character passes.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline.base.files import RecordDamaged, Shape, parse_json, read_text, read_usable
from pipeline.base.printable import printable

if TYPE_CHECKING:
    from jinja2 import Environment

#: The name of the page of a run and of a version, in their folders.
PAGE = "report.html"
#: The name of a version's bill of materials.
SBOM = "sbom.cdx.json"
#: Bytes of a picture that a page takes in: a screen of a guest has some 20 KiB.
LARGEST_PICTURE = 1 << 20
#: Bytes of a record that a page reads: a bill of 10,000 packages has some 4 MiB.
LARGEST_RECORD = 16 << 20
#: Requests of a guest that a page lists; the rest is in its fabric.jsonl.
REQUESTS = 60
#: Pictures of one boot that a page shows.
FRAMES = 12
#: The parts that a disk's map is drawn in.
PARTS = 160
#: Packages that are listed by name.
PACKAGES = 2000
#: The order of outcomes: what stops a disk from shipping comes first.
ORDER = ("fail", "unchecked", "warn", "waived", "skip", "pass")
#: The names of the addresses that a guest asks (docs/prove.md).
_LANES = {"169.254.169.254": "metadata service", "168.63.129.16": "wire server"}
#: The second of a boot at which a picture was taken, in its file's name.
_SECOND = re.compile(r"(?P<second>\d+)\.png$", re.ASCII)


@dataclass(frozen=True)
class Disk:
    """The disk that shipped: which of its PARTS have data, and its `volumes` as an inspection lists them.

    `size` and `allocated` in bytes.
    """

    size: int
    used: Sequence[bool]
    volumes: Sequence[Sequence[str]]
    allocated: int = 0


def measure_disk(
    size: int, volumes: Sequence[Sequence[str]], ranges: Sequence[tuple[int, int]], parts: int = PARTS
) -> Disk:
    """The map of a disk of `size` bytes. `ranges` are those with data, (start, end)."""
    used = [False] * parts
    for start, end in ranges:
        for part in range(start * parts // size, min(parts - 1, (end - 1) * parts // size) + 1):
            used[part] = True
    return Disk(size, used, volumes, sum(end - start for start, end in ranges))


def render(template: str, **values: Any) -> str:
    """The text of a page. Every value is escaped and printable."""
    return str(_templates().get_template(template).render(**values))


@cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("pipeline.evidence", "."),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"bytes": show_bytes, "seconds": show_seconds, "moment": show_moment}
    return environment


def write_page(path: Path, text: str) -> Path:
    """Write a page whole or not at all. Raises OSError where the folder cannot be written."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.rename(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return path


def show_bytes(number: float) -> str:
    """Bytes for people: 8.0 GiB, 512 MiB."""
    value = float(number)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB" if value < 1024 else f"{value / 1024:.1f} TiB"


def show_seconds(seconds: float) -> str:
    """A duration for people: 0.4 s, 42 s, 4 min 17 s, 2 h 05 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def show_moment(text: str) -> str:
    """A time of a record for people: 2026-11-26 03:41 UTC; what is no time stays as it is."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if moment.tzinfo else text


# ---- the pipeline ------------------------------------------------------------------------------------------------


def units_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The stages of a run's record, each with its share of the longest and the reason why it ran."""
    plan = {(row["stage"], row["title"]): row["why"] for row in record.get("plan", ())}
    return scaled(
        {
            "stage": stage["stage"],
            "title": stage.get("title", ""),
            "state": stage["state"],
            "seconds": float(stage["seconds"]),
            "detail": stage.get("detail", ""),
            "why": plan.get((stage["stage"], stage.get("title", "")), ""),
        }
        for stage in record.get("stages", ())
    )


def scaled(units: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Units with `share`, in percent of the longest, and `part`, in percent of all."""
    rows = list(units)
    longest = max((row["seconds"] for row in rows), default=0.0) or 1.0
    total = sum(row["seconds"] for row in rows) or 1.0
    return [
        {**row, "share": round(100 * row["seconds"] / longest, 1), "part": round(100 * row["seconds"] / total, 2)}
        for row in rows
    ]


def group_checks(checks: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """The checks by their outcome, in ORDER."""
    outcomes = {status: [each for each in checks if each["status"] == status] for status in ORDER}
    return [(status, found) for status, found in outcomes.items() if found]


# ---- clones ------------------------------------------------------------------------------------------------------


def describe_clone(
    name: str, cell: Mapping[str, Any], picture: str, frames: Sequence[Path], log: Path
) -> dict[str, Any]:
    """One clone for a page. `picture` is its last screen as an address, `log` its fabric.jsonl."""
    requests = list(requests_of(log))
    return {
        "name": name,
        "failures": cell.get("failures", ()),
        "checks": cell.get("checks", {}),
        "seconds": {what: taken for what, taken in cell.get("seconds", {}).items() if taken is not None},
        "picture": picture,
        "frames": film(frames),
        "requests": requests[:REQUESTS],
        "lanes": lanes_of(requests),
        "left_out": max(0, len(requests) - REQUESTS),
        "end": max((float(each["at"]) for each in requests), default=0.0) or 1.0,
    }


def film(frames: Sequence[Path]) -> list[tuple[int, str]]:
    """(second, address) of at most FRAMES pictures of a boot, spread evenly, first and last included."""
    timed = sorted((int(found["second"]), path) for path in frames if (found := _SECOND.search(path.name)))
    step = max(1.0, (len(timed) - 1) / (FRAMES - 1))
    chosen = [timed[round(number * step)] for number in range(min(len(timed), FRAMES))]
    return [(second, address) for second, path in chosen if (address := inline_picture(path))]


class _Request(Shape):
    """A line of a guest's fabric.jsonl."""

    at: float
    method: str
    target: str
    status: int
    to: str = ""


def requests_of(log: Path) -> Iterator[Mapping[str, Any]]:
    """What a guest asked of the fabric, in its order; a line that is cut off is left out."""
    try:
        lines = read_text(log, LARGEST_RECORD).splitlines()
    except RecordDamaged:
        return
    for line in lines:
        with contextlib.suppress(ValueError):
            yield parse_json(line, _Request)


def lanes_of(requests: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[tuple[float, bool]]]]:
    """The requests of each server of the fabric: (second, whether the answer was good)."""
    lanes: dict[str, list[tuple[float, bool]]] = {}
    for each in requests:
        server = str(each.get("to", "")).rpartition(":")[0]
        lanes.setdefault(_LANES.get(server, "fabric"), []).append((float(each["at"]), each["status"] < 400))
    return list(lanes.items())


# ---- packages and pictures ---------------------------------------------------------------------------------------


class _Package(Shape):
    name: str
    version: str = ""


class _Bill(Shape):
    """The part of a CycloneDX bill of materials that a page shows."""

    components: list[_Package] = Field(default_factory=list)


def packages_of(folder: Path) -> list[tuple[str, str]]:
    """The packages of a version's bill of materials, by name; none where it has no bill that can be read."""
    bill = read_usable(folder / SBOM, _Bill, limit=LARGEST_RECORD)
    return sorted((each["name"], each.get("version", "")) for each in bill.get("components", ())) if bill else []


def inline_picture(picture: Path) -> str:
    """A PNG as an address that a page needs no network for; '' for what is none, or too large."""
    try:
        data = picture.read_bytes() if picture.stat().st_size <= LARGEST_PICTURE else b""
    except OSError:
        return ""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}" if data.startswith(b"\x89PNG\r\n") else ""
