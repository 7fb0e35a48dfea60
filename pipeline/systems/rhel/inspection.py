"""How a disk of Red Hat's family is inspected: as any Linux, with a reader of its own."""

from __future__ import annotations

from dataclasses import replace

from pipeline.systems.inspection import Part
from pipeline.systems.linux.inspection import INSPECTION as LINUX

INSPECTION = replace(
    LINUX,
    system="rhel",
    title="a Linux of Red Hat's family",
    installed="pipeline.systems.rhel.installed:InstalledRhel",
    parts={**LINUX.parts, "rhel.installed": Part(1, ("pipeline.systems.rhel.installed",))},
)
