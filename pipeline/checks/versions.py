"""Versions of what an inspection stands on: each module of checks, each reader of disks, the rules for secrets.

They are what the key of `inspect` says of goldsmith itself. A module's version is raised when it judges or reads the
same disk differently: masters are then inspected again. A comment, a docstring or a faster way changes no key.
tests/unit/test_versions.py notices code that changed under the same version and asks which of the two it was.

The table is no part of the modules because a plan reads it, and must not load every reader for that.
"""

from __future__ import annotations

import hashlib
from importlib import resources

#: Module below `pipeline`, and its version. What both systems' inspections use.
BOTH: dict[str, int] = {
    "checks.disk.boot": 1,
    "checks.disk.config_files": 1,
    "checks.disk.vhd_file": 1,
    "checks.model": 1,
    "checks.run": 2,
    "checks.disk.secret_scan": 2,
    "checks.linux.service_identity": 1,
    "checks.disk.partitions": 2,
    "checks.verdict": 1,
    "disk.disk_formats": 1,
    "disk.datamap": 1,
    "disk.detection": 1,
    "disk.disk": 1,
    "disk.fat": 1,
    "disk.filesystem": 1,
    "disk.formats": 1,
    "disk.packed_data": 1,
    "disk.paging": 1,
    "disk.partitions": 1,
    "disk.qcow2": 1,
    "disk.root": 1,
    "disk.search": 1,
    "disk.secret_search": 1,
    "disk.signatures": 1,
    "disk.tools": 1,
    "disk.vhdx": 1,
    "disk.vmdk": 1,
    "disk.volumes": 1,
    "base.secret_rules.key_formats": 1,
    "base.secret_rules.rules": 1,
    "vhd.chain": 1,
    "vhd.extents": 1,
    "vhd.footer": 1,
    "vhd.sparse": 1,
}
LINUX: dict[str, int] = {
    "checks.linux.agents": 1,
    "checks.linux.host_name": 1,
    "checks.linux.identity": 1,
    "checks.linux.kernel": 1,
    "checks.linux.build_residue": 1,
    "checks.linux.network": 3,
    "checks.linux.network_names": 2,
    "checks.linux.resolver": 1,
    "checks.linux.resume": 1,
    "checks.linux.build_config": 1,
    "checks.linux.system_folders": 1,
    "checks.linux.system": 3,
    "systems.linux.service_identity": 1,
    "disk.ext4": 1,
    "disk.ext4_files": 1,
    "disk.initramfs": 1,
    "disk.packages": 1,
    "disk.rpm_files": 1,
    "disk.shipped": 1,
    "disk.units": 1,
}
WINDOWS: dict[str, int] = {
    "checks.windows.access": 3,
    "checks.windows.boot": 2,
    "checks.windows.secrets": 1,
    "checks.windows.state": 1,
    "systems.windows.firewall": 1,
    "disk.accounts": 1,
    "disk.bcdstore": 1,
    "disk.hive_cells": 1,
    "disk.hive_logs": 1,
    "disk.ntfs": 1,
    "disk.registry": 1,
    "disk.windows": 1,
}
#: What a key calls a module that has moved: the name that it had before, so that what is built stays built.
NAMES_IN_KEYS: dict[str, str] = {
    "base.secret_rules.key_formats": "secret_rules.key_formats",
    "base.secret_rules.rules": "secret_rules.rules",
    "checks.disk.boot": "checks.boot",
    "checks.disk.config_files": "checks.config_files",
    "checks.disk.partitions": "checks.table",
    "checks.disk.secret_scan": "checks.scan",
    "checks.disk.vhd_file": "checks.container",
    "checks.linux.agents": "checks.agents",
    "checks.linux.build_config": "checks.secrets",
    "checks.linux.build_residue": "checks.leftovers",
    "checks.linux.host_name": "checks.host_name",
    "checks.linux.identity": "checks.identity",
    "checks.linux.kernel": "checks.kernel",
    "checks.linux.network": "checks.network",
    "checks.linux.network_names": "checks.network_names",
    "checks.linux.resolver": "checks.resolver",
    "checks.linux.resume": "checks.resume",
    "checks.linux.service_identity": "checks.service_identity",
    "checks.linux.system": "checks.system",
    "checks.linux.system_folders": "checks.system_folders",
    "checks.windows.access": "checks.windows_access",
    "checks.windows.boot": "checks.windows_boot",
    "checks.windows.secrets": "checks.windows_secrets",
    "checks.windows.state": "checks.windows_state",
    "disk.disk_formats": "offline.containers",
    "systems.linux.service_identity": "guests.service_identity",
    "systems.windows.firewall": "guests.windows.firewall",
}
#: The rules are data: their bytes are what is produced.
RULES = ("gitleaks.toml", "goldsmith.toml")


def inspection_inputs(system: str) -> dict[str, object]:
    """What goes into the key of an inspection of `system` (linux, windows), beside the definition's part."""
    versions = {**BOTH, **(WINDOWS if system == "windows" else LINUX)}
    rules = hashlib.sha256()
    for name in RULES:
        rules.update(resources.files("pipeline.base.secret_rules").joinpath(name).read_bytes())
    return {
        "checks": {name_in_key(name): number for name, number in versions.items() if name.startswith("checks.")},
        "readers": {name_in_key(name): number for name, number in versions.items() if not name.startswith("checks.")},
        "secret rules": rules.hexdigest(),
    }


def name_in_key(module: str) -> str:
    """What keys call a module below `pipeline`, wherever it is now."""
    if module in NAMES_IN_KEYS:
        return NAMES_IN_KEYS[module]
    return module.replace("disk.", "offline.", 1) if module.startswith("disk.") else module
