"""How a disk of Alpine is inspected: as any Linux, with a reader of its own."""

from __future__ import annotations

from dataclasses import replace

from pipeline.systems.inspection import Part
from pipeline.systems.linux.inspection import INSPECTION as LINUX

INSPECTION = replace(
    LINUX,
    system="alpine",
    title="an Alpine",
    installed="pipeline.systems.alpine.installed:InstalledAlpine",
    package_types={"apk": frozenset({"alpine"})},
    parts={**LINUX.parts, "alpine.installed": Part(1, ("pipeline.systems.alpine.installed",))},
)
