"""How a Debian disk is inspected: as any Linux."""

from __future__ import annotations

from dataclasses import replace

from pipeline.systems.linux.inspection import INSPECTION as LINUX

INSPECTION = replace(
    LINUX, system="debian", title="a Debian", installed="pipeline.systems.debian.installed:InstalledDebian"
)
