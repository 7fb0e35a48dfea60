"""How a disk of the toy is inspected."""

from __future__ import annotations

from pipeline.systems.inspection import Inspection, Part

HERE = "tests.fakes.toy_system"
INSPECTION = Inspection(
    system="toy",
    os="toy",
    title="a Toy",
    installed=f"{HERE}.installed:InstalledToy",
    profiles=("toy",),
    checks=(
        "pipeline.checks.disk.partitions",
        "pipeline.checks.disk.vhd_file",
        f"{HERE}.checks",
        "pipeline.checks.disk.config_files",
        "pipeline.checks.disk.secret_scan",
    ),
    root_check="toy-root",
    parts={"checks.toy": Part(1, (f"{HERE}.checks",)), "toy.installed": Part(1, (f"{HERE}.installed",))},
)
