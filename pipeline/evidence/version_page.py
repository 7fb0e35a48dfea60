"""A version as one page, `report.html` in its folder: what it is, what it passed, what is on it, how it was made.

Capture writes it before it signs, so the signatures and SHA256SUMS cover it as any other file of the version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.evidence import page_parts as parts
from pipeline.evidence.page_parts import PACKAGES, PAGE, Disk
from pipeline.evidence.version_diff import Changes
from pipeline.gallery import Version
from pipeline.gallery.verdict import Verdict, count

#: Lines of a definition that the page shows; the manifest has all of it.
DEFINITION = 400


@dataclass(frozen=True)
class VersionPage:
    """What the page is made from: the version's folder, which may still be a draft, and its manifest.

    `former` is the golden version before it. `record` is that of the run that made it, `run` that run's folder.
    """

    folder: Path
    manifest: Mapping[str, Any]
    former: Version | None = None
    disk: Disk | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    run: Path | None = None

    def write(self) -> Path:
        """Write the page, read-only. Raises OSError where the folder cannot be written."""
        path = parts.write_page(self.folder / PAGE, self.render())
        path.chmod(0o444)
        return path

    def render(self) -> str:
        """The page's text."""
        manifest = self.manifest
        verdict, clones = count(manifest.get("checks")), list(self._clones())
        packages = parts.packages_of(self.folder)
        failed = [clone["name"] for clone in clones if clone["failures"]]
        good = verdict.good and not failed
        return parts.render(
            "version_page.html.j2",
            manifest=manifest,
            good=good,
            verdict=_sentence(verdict, failed, clones),
            tiles=list(self._tiles(verdict, clones, len(packages))),
            units=self._units(),
            groups=parts.group_checks(_titled(manifest.get("checks", ()))),
            clones=clones,
            packages=packages[:PACKAGES],
            all_packages=len(packages),
            changes=self._changes(packages),
            checks_changed=self._checks_changed(),
            former=self.former,
            disk=self.disk,
            definition=str(manifest.get("definition", "")).splitlines()[:DEFINITION],
            inputs=list(_inputs(manifest)),
        )

    def _tiles(
        self, verdict: Verdict, clones: Sequence[Mapping[str, Any]], packages: int
    ) -> Iterator[tuple[str, str]]:
        """The figures of the head: what, how much."""
        yield "Checks", verdict.short
        if clones:
            passed = sum(not clone["failures"] for clone in clones)
            yield "Clones", f"{passed} of {len(clones)} passed"
        if ready := [clone["seconds"]["ready"] for clone in clones if clone["seconds"].get("ready")]:
            yield "Time to Ready", parts.show_seconds(max(ready))
        yield f"Disk of {parts.show_bytes(self._size())}", parts.show_bytes(self._allocated())
        if packages:
            yield "Packages", f"{packages}"
        if total := sum(unit["seconds"] for unit in self._units()):
            yield "Work", parts.show_seconds(total)

    def _size(self) -> int:
        return int(self.manifest["disk"]["virtual_size"])

    def _allocated(self) -> int:
        return int(self.manifest["disk"].get("allocated") or (self.disk.allocated if self.disk else 0))

    def _units(self) -> list[dict[str, Any]]:
        """The pipeline: as the run's record has it, with kept layers and reasons; else the manifest's times."""
        if self.record.get("stages"):
            return parts.units_of(self.record)
        timings: Sequence[Mapping[str, Any]] = self.manifest.get("timings", ())
        return parts.scaled(
            {
                "stage": each["stage"],
                "title": each.get("title") or "",
                "state": "made",
                "seconds": float(each.get("seconds") or 0),
                "detail": "",
                "why": "",
            }
            for each in timings
        )

    def _clones(self) -> Iterator[dict[str, Any]]:
        pictures = self.folder / "screenshots"
        for name, cell in self.manifest.get("prove", {}).items():
            shown = cell.get("screenshot")
            picture = parts.inline_picture(pictures / Path(shown).name) if isinstance(shown, str) else ""
            frames = sorted(pictures.glob(f"{name}-boot-*.png"))
            log = (self.run or self.folder / "logs") / "prove" / name / "fabric.jsonl"
            yield parts.describe_clone(name, cell, picture, frames, log)

    def _changes(self, packages: Sequence[tuple[str, str]]) -> Changes | None:
        if self.former is None:
            return None
        return Changes.between(dict(parts.packages_of(self.former.path)), dict(packages))

    def _checks_changed(self) -> Changes:
        """The checks whose outcome differs from that of the version before."""
        if self.former is None:
            return Changes()
        before, now = (
            {str(check["id"]): str(check["status"]) for check in manifest.get("checks", ())}
            for manifest in (self.former.manifest, self.manifest)
        )
        return Changes.between(before, now)


def _sentence(verdict: Verdict, failed: Sequence[str], clones: Sequence[object]) -> str:
    if failed:
        return f"failed on {', '.join(failed)}"
    if not verdict.good:
        return "failed its checks"
    return "passed all checks and clone tests" if clones else "passed all checks; no clone was tested"


def _titled(checks: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Checks with every field that the page shows; the first manifests had an id and a status alone."""
    return [{"title": check["id"], "evidence": "", "remedy": "", **check} for check in checks]


def _inputs(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(unit, input, value) of each simple input of the units that the version was made from."""
    for unit in manifest.get("inputs", ()):
        title = f"{unit['stage']} {unit.get('title') or ''}".strip()
        for name, value in unit["inputs"].items():
            if isinstance(value, str | int | float) and not isinstance(value, bool) and value != "":
                yield title, name, str(value)
