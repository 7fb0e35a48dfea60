"""Versions of what an inspection stands on: each module of checks, each reader of disks, the rules for secrets.

They are what the key of `inspect` says of goldsmith itself. tests/unit/checks/test_versions.py notices code that
changed under the same version and asks whether the same disk now gets another answer.

The tables are apart from the modules because a plan reads them, and must not load every reader for that.
"""

from __future__ import annotations

import hashlib
from importlib import resources

from pipeline.systems.inspection import Part, inspection_of

#: What the inspection of every system stands on, by label.
COMMON: dict[str, Part] = {
    "checks.boot": Part(4, ("pipeline.checks.disk.boot", "pipeline.disk.boot_menu", "pipeline.disk.efi_program")),
    "checks.config_files": Part(1, ("pipeline.checks.disk.config_files",)),
    "checks.container": Part(1, ("pipeline.checks.disk.vhd_file",)),
    "checks.model": Part(1, ("pipeline.checks.model",)),
    "checks.run": Part(
        2,
        (
            "pipeline.checks.run",
            "pipeline.systems.inspection",
            "pipeline.systems.installed",
        ),
    ),
    "checks.scan": Part(2, ("pipeline.checks.disk.secret_scan",)),
    "checks.service_identity": Part(1, ("pipeline.checks.linux.service_identity",)),
    "checks.table": Part(3, ("pipeline.checks.disk.partitions",)),
    "checks.verdict": Part(1, ("pipeline.gallery.verdict",)),
    "offline.containers": Part(1, ("pipeline.disk.disk_formats",)),
    "offline.datamap": Part(1, ("pipeline.disk.datamap",)),
    "offline.detection": Part(1, ("pipeline.disk.detection",)),
    "offline.disk": Part(1, ("pipeline.disk.disk",)),
    "offline.fat": Part(1, ("pipeline.disk.fat",)),
    "offline.filesystem": Part(1, ("pipeline.disk.filesystem",)),
    "offline.formats": Part(1, ("pipeline.disk.formats",)),
    "offline.packed_data": Part(1, ("pipeline.disk.packed_data",)),
    "offline.paging": Part(1, ("pipeline.disk.paging",)),
    "offline.partitions": Part(1, ("pipeline.disk.partitions",)),
    "offline.qcow2": Part(1, ("pipeline.disk.qcow2",)),
    "offline.root": Part(1, ("pipeline.disk.root",)),
    "offline.search": Part(1, ("pipeline.disk.search",)),
    "offline.secret_search": Part(1, ("pipeline.disk.secret_search", "pipeline.disk.encoded_runs")),
    "offline.signatures": Part(1, ("pipeline.disk.signatures",)),
    "offline.tools": Part(1, ("pipeline.disk.tools",)),
    "offline.vhdx": Part(1, ("pipeline.disk.vhdx",)),
    "offline.vmdk": Part(1, ("pipeline.disk.vmdk",)),
    "offline.volumes": Part(1, ("pipeline.disk.volumes",)),
    "secret_rules.key_formats": Part(1, ("pipeline.base.secret_rules.key_formats",)),
    "secret_rules.rules": Part(1, ("pipeline.base.secret_rules.rules",)),
    "vhd.chain": Part(1, ("pipeline.vhd.chain",)),
    "vhd.extents": Part(1, ("pipeline.vhd.extents",)),
    "vhd.footer": Part(1, ("pipeline.vhd.footer",)),
    "vhd.sparse": Part(1, ("pipeline.vhd.sparse",)),
}
#: The rules are data: their bytes are what is produced.
RULES = ("gitleaks.toml", "goldsmith.toml")


def inspection_inputs(system: str) -> dict[str, object]:
    """What goes into the key of an inspection of `system`, beside the definition's part. Raises KeyError."""
    parts = {**COMMON, **inspection_of(system).parts}
    rules = hashlib.sha256()
    for name in RULES:
        rules.update(resources.files("pipeline.base.secret_rules").joinpath(name).read_bytes())
    return {
        "checks": {label: part.version for label, part in parts.items() if label.startswith("checks.")},
        "readers": {label: part.version for label, part in parts.items() if not label.startswith("checks.")},
        "secret rules": rules.hexdigest(),
    }
