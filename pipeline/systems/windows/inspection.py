"""How a Windows disk is inspected: its profile, its checks, and the versions that the key of an inspection names."""

from __future__ import annotations

from pipeline.systems.inspection import NO_INDEX, Inspection, Part

#: What only an inspection of Windows stands on, by the labels of keys.
PARTS: dict[str, Part] = {
    "checks.windows_access": Part(3, ("pipeline.checks.windows.access",)),
    "checks.windows_boot": Part(2, ("pipeline.checks.windows.boot",)),
    "checks.windows_secrets": Part(1, ("pipeline.checks.windows.secrets",)),
    "checks.windows_state": Part(1, ("pipeline.checks.windows.state", "pipeline.systems.windows.sysprep_log")),
    "guests.windows.firewall": Part(1, ("pipeline.systems.windows.firewall",)),
    "offline.accounts": Part(1, ("pipeline.disk.accounts",)),
    "offline.bcdstore": Part(1, ("pipeline.disk.bcdstore",)),
    "offline.hive_cells": Part(1, ("pipeline.disk.hive_cells",)),
    "offline.hive_logs": Part(1, ("pipeline.disk.hive_logs",)),
    "offline.ntfs": Part(1, ("pipeline.disk.ntfs",)),
    "offline.registry": Part(1, ("pipeline.disk.registry",)),
    "offline.windows": Part(
        1, ("pipeline.disk.windows", "pipeline.disk.inventory", "pipeline.systems.windows.installed")
    ),
}
CHECKS = (
    "pipeline.checks.disk.partitions",
    "pipeline.checks.disk.vhd_file",
    "pipeline.checks.disk.boot",
    "pipeline.checks.disk.config_files",
    "pipeline.checks.disk.secret_scan",
    "pipeline.checks.windows.state",
    "pipeline.checks.windows.secrets",
    "pipeline.checks.windows.boot",
    "pipeline.checks.windows.access",
)
INSPECTION = Inspection(
    system="windows",
    os="windows",
    title="Windows",
    installed="pipeline.systems.windows.installed:InstalledWindows",
    profiles=("azure-windows",),
    checks=CHECKS,
    root_check="windows-root",
    parts=PARTS,
    # a program of Windows belongs to no index of packages
    package_types={NO_INDEX: frozenset({"windows"})},
)
