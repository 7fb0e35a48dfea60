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
    "checks.boot": 1,
    "checks.config_files": 1,
    "checks.container": 1,
    "checks.model": 1,
    "checks.run": 2,
    "checks.scan": 2,
    "checks.service_identity": 1,
    "checks.table": 2,
    "checks.verdict": 1,
    "offline.containers": 1,
    "offline.datamap": 1,
    "offline.detection": 1,
    "offline.disk": 1,
    "offline.fat": 1,
    "offline.filesystem": 1,
    "offline.formats": 1,
    "offline.packed_data": 1,
    "offline.paging": 1,
    "offline.partitions": 1,
    "offline.qcow2": 1,
    "offline.root": 1,
    "offline.search": 1,
    "offline.secret_search": 1,
    "offline.signatures": 1,
    "offline.tools": 1,
    "offline.vhdx": 1,
    "offline.vmdk": 1,
    "offline.volumes": 1,
    "secret_rules.key_formats": 1,
    "secret_rules.rules": 1,
    "vhd.chain": 1,
    "vhd.extents": 1,
    "vhd.footer": 1,
    "vhd.sparse": 1,
}
LINUX: dict[str, int] = {
    "checks.agents": 1,
    "checks.host_name": 1,
    "checks.identity": 1,
    "checks.kernel": 1,
    "checks.leftovers": 1,
    "checks.network": 3,
    "checks.network_names": 2,
    "checks.resolver": 1,
    "checks.resume": 1,
    "checks.secrets": 1,
    "checks.system_folders": 1,
    "checks.system": 3,
    "guests.service_identity": 1,
    "offline.ext4": 1,
    "offline.ext4_files": 1,
    "offline.initramfs": 1,
    "offline.packages": 1,
    "offline.rpm_files": 1,
    "offline.shipped": 1,
    "offline.units": 1,
}
WINDOWS: dict[str, int] = {
    "checks.windows_access": 3,
    "checks.windows_boot": 2,
    "checks.windows_secrets": 1,
    "checks.windows_state": 1,
    "guests.windows.firewall": 1,
    "offline.accounts": 1,
    "offline.bcdstore": 1,
    "offline.hive_cells": 1,
    "offline.hive_logs": 1,
    "offline.ntfs": 1,
    "offline.registry": 1,
    "offline.windows": 1,
}
#: The rules are data: their bytes are what is produced.
RULES = ("gitleaks.toml", "goldsmith.toml")


def inspection_inputs(system: str) -> dict[str, object]:
    """What goes into the key of an inspection of `system` (linux, windows), beside the definition's part."""
    versions = {**BOTH, **(WINDOWS if system == "windows" else LINUX)}
    rules = hashlib.sha256()
    for name in RULES:
        rules.update(resources.files("pipeline.secret_rules").joinpath(name).read_bytes())
    return {
        "checks": {name: number for name, number in versions.items() if name.startswith("checks.")},
        "readers": {name: number for name, number in versions.items() if not name.startswith("checks.")},
        "secret rules": rules.hexdigest(),
    }
