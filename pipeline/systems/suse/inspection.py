"""How a disk of SUSE's family is inspected: as any Linux, with a reader of its own."""

from __future__ import annotations

from dataclasses import replace

from pipeline.systems.inspection import Part
from pipeline.systems.linux.inspection import INSPECTION as LINUX

INSPECTION = replace(
    LINUX,
    system="suse",
    title="a SUSE Linux",
    installed="pipeline.systems.suse.installed:InstalledSuse",
    parts={**LINUX.parts, "suse.installed": Part(1, ("pipeline.systems.suse.installed",))},
)
