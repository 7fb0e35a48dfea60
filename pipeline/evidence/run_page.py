"""What a run did as one page, `report.html` in its folder: a person sees in ten seconds what came of it, and why."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.base.files import RecordDamaged, Shape, parse_json, read_text, walk_files
from pipeline.evidence import page_parts as parts
from pipeline.evidence.page_parts import LARGEST_RECORD, PACKAGES, PAGE, Disk
from pipeline.evidence.version_diff import Changes
from pipeline.gallery import Version

#: Where a run keeps the results of inspect, also of one that refused its disk.
CHECKS = "checks.json"
#: Lines of a log that a failure shows, and the bytes that are read for them.
LINES, TAIL = 25, 64 << 10
#: What a console sets colours and its cursor by (ECMA-48, control sequences).
_COLOURS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


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
        units = parts.units_of(self.record)
        text = parts.render(
            "run_page.html.j2",
            run=self.record,
            error=self.record.get("error"),
            verdict=self._verdict(),
            good=self.record.get("outcome") in ("done", "unchanged"),
            seconds=sum((unit["seconds"] for unit in units), 0.0),
            units=units,
            groups=parts.group_checks(self.checks or _failed_inspection(self.folder / CHECKS)),
            clones=list(self._clones()),
            failure=self._failure() if self.record.get("error") else None,
            version=self.version,
            changes=self._changes(),
            former=self.former,
            packages=parts.packages_of(self.version.path)[:PACKAGES] if self.version else [],
            disk=self.disk,
            manifest=self.version.manifest if self.version else None,
        )
        return parts.write_page(self.folder / PAGE, text)

    def _verdict(self) -> str:
        outcome = self.record.get("outcome")
        if outcome == "done":
            return f"{self.version.version} was made" if self.version else "done"
        if outcome == "unchanged":
            return "unchanged: nothing had to run"
        return f"failed: {self.record['error']['name']}" if self.record.get("error") else str(outcome)

    def _clones(self) -> Iterator[dict[str, Any]]:
        for name, cell in (self.cells or {}).items():
            folder = self.folder / "prove" / name
            frames = sorted((folder / "screens").glob("*.png"))
            picture = self._picture(cell.get("screenshot"))
            yield parts.describe_clone(name, cell, picture, frames, folder / "fabric.jsonl")

    def _picture(self, name: object) -> str:
        """A screen of a clone for the page; '' where there is none."""
        if not isinstance(name, str) or self.version is None:
            return ""
        return parts.inline_picture(self.version.path / "screenshots" / Path(name).name)

    def _failure(self) -> dict[str, Any]:
        """The last screen, and the last lines of the consoles and of the step that failed."""
        pictures = _newest(self.folder, "*.png")
        logs = [log for log in _newest(self.folder, "*.log") if not log.is_symlink()][:3]
        return {
            "picture": parts.inline_picture(pictures[0]) if pictures else "",
            "picture_name": str(pictures[0].relative_to(self.folder)) if pictures else "",
            "logs": [(str(log.relative_to(self.folder)), lines) for log in logs if (lines := _last_lines(log))],
        }

    def _changes(self) -> Changes | None:
        """The packages that changed since the golden version before."""
        if self.version is None or self.former is None or self.former.version == self.version.version:
            return None
        before, now = parts.packages_of(self.former.path), parts.packages_of(self.version.path)
        return Changes.between(dict(before), dict(now))


class _Checks(Shape):
    checks: list[dict[str, Any]]


def _failed_inspection(path: Path) -> list[Mapping[str, Any]]:
    """The results of an inspection that made no layer."""
    try:
        text = read_text(path, LARGEST_RECORD)
        return list(parse_json(f'{{"checks": {text}}}', _Checks)["checks"])
    except (RecordDamaged, ValueError):
        return []


def _newest(folder: Path, pattern: str) -> list[Path]:
    found = [(status.st_mtime, path) for path, status in walk_files(folder) if status.st_size]
    return [path for _, path in sorted(found, reverse=True) if path.match(pattern)]


def _last_lines(log: Path) -> list[str]:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        text = file.read(TAIL).decode("utf-8", errors="replace")
    return [line for line in _COLOURS.sub("", text).splitlines() if line.strip()][-LINES:]
