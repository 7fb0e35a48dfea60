"""What a run did as one page, `report.html` in its folder: a person sees in ten seconds what came of it, and why.

The page is a static file that loads nothing. Guests and steps wrote much of what it shows: jinja2 escapes every
value, and no control character passes.
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.base.files import RecordDamaged, Shape, parse_json, read_text, read_usable
from pipeline.base.printable import printable
from pipeline.evidence.version_diff import Changes
from pipeline.gallery import Version

PAGE = "report.html"
#: Where a run keeps the results of inspect, also of one that refused its disk.
CHECKS = "checks.json"
#: Bytes of a picture that the page takes in: a screen of a guest has some 20 KiB.
LARGEST_PICTURE = 1 << 20
#: Bytes of a record that the page reads: a bill of 10,000 packages has some 4 MiB.
LARGEST_RECORD = 16 << 20
#: Lines of a log that a failure shows, and the bytes that are read for them.
LINES, TAIL = 25, 64 << 10
#: Requests of a guest that the page lists; the rest is in its fabric.jsonl.
REQUESTS = 60
#: The parts that a disk's map is drawn in.
PARTS = 160
#: Packages that are listed by name.
PACKAGES = 2000
#: What a console sets colours and its cursor by (ECMA-48, control sequences).
_COLOURS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_ORDER = ("fail", "unchecked", "warn", "waived", "skip", "pass")


@dataclass(frozen=True)
class Disk:
    """The disk that shipped: which of its PARTS have data, and its `volumes` as an inspection lists them."""

    size: int
    used: Sequence[bool]
    volumes: Sequence[Sequence[str]]


@dataclass(frozen=True)
class RunPage:
    """What the page is made from. `version` is what the run made, `former` the golden version before it.

    `checks` are the results of inspect, `cells` the clones' results by target, both as JSON has them.
    """

    folder: Path
    record: Mapping[str, Any]
    checks: Sequence[Mapping[str, Any]] = ()
    cells: Mapping[str, Mapping[str, Any]] | None = None
    version: Version | None = None
    former: Version | None = None
    disk: Disk | None = None

    def write(self) -> Path:
        """Write the page. Raises OSError where the folder cannot be written."""
        from jinja2 import Environment, PackageLoader, StrictUndefined

        environment = Environment(
            loader=PackageLoader("pipeline.evidence", "."),
            autoescape=True,
            finalize=printable,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        text = environment.get_template("run_page.html.j2").render(
            run=self.record,
            error=self.record.get("error"),
            verdict=self._verdict(),
            good=self.record.get("outcome") in ("done", "unchanged"),
            seconds=_duration(self._units()),
            units=self._units(),
            groups=self._groups(),
            targets=list(self._targets()),
            failure=self._failure() if self.record.get("error") else None,
            version=self.version,
            changes=self._changes(),
            packages=_packages(self.version)[:PACKAGES] if self.version else [],
            disk=self.disk,
            manifest=self.version.manifest if self.version else None,
        )
        path = self.folder / PAGE
        path.write_text(text, encoding="utf-8")
        return path

    def _verdict(self) -> str:
        outcome = self.record.get("outcome")
        if outcome == "done":
            return f"{self.version.version} was made" if self.version else "done"
        if outcome == "unchanged":
            return "unchanged: nothing had to run"
        return f"failed: {self.record['error']['name']}" if self.record.get("error") else str(outcome)

    def _units(self) -> list[dict[str, Any]]:
        """The stages' records, each with its share of the longest and why it ran."""
        plan = {(row["stage"], row["title"]): row["why"] for row in self.record.get("plan", ())}
        stages: Sequence[Mapping[str, Any]] = self.record.get("stages", ())
        longest = max((float(stage["seconds"]) for stage in stages), default=0.0) or 1.0
        return [
            {
                "stage": stage["stage"],
                "title": stage.get("title", ""),
                "state": stage["state"],
                "seconds": float(stage["seconds"]),
                "share": round(100 * float(stage["seconds"]) / longest, 1),
                "detail": stage.get("detail", ""),
                "why": plan.get((stage["stage"], stage.get("title", "")), ""),
            }
            for stage in stages
        ]

    def _groups(self) -> list[tuple[str, list[Mapping[str, Any]]]]:
        """The checks by their outcome; what stops a disk from shipping comes first."""
        checks = self.checks or _failed_inspection(self.folder / CHECKS)
        outcomes = {status: [each for each in checks if each["status"] == status] for status in _ORDER}
        return [(status, found) for status, found in outcomes.items() if found]

    def _targets(self) -> Iterator[dict[str, Any]]:
        for name, cell in (self.cells or {}).items():
            requests = list(_requests(self.folder / "prove" / name / "fabric.jsonl"))
            yield {
                "name": name,
                "failures": cell.get("failures", ()),
                "checks": cell.get("checks", {}),
                "seconds": cell.get("seconds", {}),
                "picture": self._picture(cell.get("screenshot")),
                "requests": requests[:REQUESTS],
                "left_out": max(0, len(requests) - REQUESTS),
                "end": max((float(each["at"]) for each in requests), default=0.0) or 1.0,
            }

    def _picture(self, name: object) -> str:
        """A screen of a clone for the page; '' where there is none."""
        if not isinstance(name, str) or self.version is None:
            return ""
        return _inline(self.version.path / "screenshots" / Path(name).name)

    def _failure(self) -> dict[str, Any]:
        """The last screen, and the last lines of the consoles and of the step that failed."""
        pictures = _newest(self.folder, "*.png")
        logs = [log for log in _newest(self.folder, "*.log") if not log.is_symlink()][:3]
        return {
            "picture": _inline(pictures[0]) if pictures else "",
            "picture_name": str(pictures[0].relative_to(self.folder)) if pictures else "",
            "logs": [(str(log.relative_to(self.folder)), lines) for log in logs if (lines := _last_lines(log))],
        }

    def _changes(self) -> Changes | None:
        """The packages that changed since the golden version before."""
        if self.version is None or self.former is None or self.former.version == self.version.version:
            return None
        return Changes.between(dict(_packages(self.former)), dict(_packages(self.version)))


def measure_disk(size: int, volumes: Sequence[Sequence[str]], ranges: Sequence[tuple[int, int]]) -> Disk:
    """The map of a disk of `size` bytes. `ranges` are those with data, (start, end)."""
    used = [False] * PARTS
    for start, end in ranges:
        for part in range(start * PARTS // size, min(PARTS - 1, (end - 1) * PARTS // size) + 1):
            used[part] = True
    return Disk(size, used, volumes)


def _duration(units: Sequence[Mapping[str, Any]]) -> float:
    return sum((float(unit["seconds"]) for unit in units), 0.0)


class _Package(Shape):
    name: str
    version: str = ""


class _Bill(Shape):
    """The part of a CycloneDX bill of materials that the page shows."""

    components: list[_Package] = Field(default_factory=list)


class _Request(Shape):
    """A line of a guest's fabric.jsonl."""

    at: float
    method: str
    target: str
    status: int


class _Checks(Shape):
    checks: list[dict[str, Any]]


def _packages(version: Version) -> list[tuple[str, str]]:
    """The packages of a version's bill of materials, by name; none where it has no bill that can be read."""
    bill = read_usable(version.path / "sbom.cdx.json", _Bill, limit=LARGEST_RECORD)
    return sorted((each["name"], each.get("version", "")) for each in bill.get("components", ())) if bill else []


def _failed_inspection(path: Path) -> list[Mapping[str, Any]]:
    """The results of an inspection that made no layer."""
    try:
        text = read_text(path, LARGEST_RECORD)
        return list(parse_json(f'{{"checks": {text}}}', _Checks)["checks"])
    except (RecordDamaged, ValueError):
        return []


def _requests(log: Path) -> Iterator[Mapping[str, Any]]:
    """What a guest asked of the fabric, in its order; a line that is cut off is left out."""
    try:
        lines = read_text(log, LARGEST_RECORD).splitlines()
    except RecordDamaged:
        return
    for line in lines:
        with contextlib.suppress(ValueError):
            yield parse_json(line, _Request)


def _newest(folder: Path, pattern: str) -> list[Path]:
    found = [path for path in folder.rglob(pattern) if path.is_file() and path.stat().st_size]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def _last_lines(log: Path) -> list[str]:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        text = file.read(TAIL).decode("utf-8", errors="replace")
    return [line for line in _COLOURS.sub("", text).splitlines() if line.strip()][-LINES:]


def _inline(picture: Path) -> str:
    """A PNG as an address that the page needs no network for; '' for what is none, or too large."""
    try:
        data = picture.read_bytes() if picture.stat().st_size <= LARGEST_PICTURE else b""
    except OSError:
        return ""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}" if data.startswith(b"\x89PNG\r\n") else ""
