"""How a master of the toy is built: files are laid onto its disk at rest, and clones of it have no guest."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from pipeline.base import qemu_img
from pipeline.base.disk_format import RAW
from pipeline.cache.layers import Image, Layer, PendingLayer
from pipeline.cache.units import StageResult, UnitSpec
from pipeline.definition import CopyStep, DataDisk, Definition, Step, step_inputs
from pipeline.definition.document import Document
from pipeline.definition.system_rules import SystemRules
from pipeline.fabric import Fabric
from pipeline.guest.build import Build
from pipeline.hypervisor.domain import MachineFeatures
from pipeline.prove.matrix import TestRun, TestTarget
from pipeline.prove.result import CloneResult
from pipeline.systems.base import GuestSystem
from pipeline.systems.inspection import Inspection
from tests.fakes.toy_system.inspection import INSPECTION

#: Where its one partition begins.
PARTITION = 1 << 20


def check(document: Document, data: dict[str, object]) -> None:
    """A toy has no first boot."""
    if "first_boot" in data:
        document.add(("first_boot",), "a toy is wound up by hand", "remove first_boot", at_key=True)


class ToySystem(GuestSystem):
    name: ClassVar[str] = "toy"
    os: ClassVar[str] = "toy"
    inspection: ClassVar[Inspection | None] = INSPECTION
    rules: ClassVar[SystemRules | None] = SystemRules("toy", check, generations=(1,))
    reproducible: ClassVar[bool] = True
    generalized_checks: ClassVar[frozenset[str]] = frozenset({"toy-root", "toy-wound-down"})

    def machine_features(self) -> MachineFeatures:
        return MachineFeatures(kernel_console=False, disasters=())

    def provision_units(self, build: Build) -> Sequence[UnitSpec[Build]]:
        return [_unit(step) for step in build.definition.steps]

    def generalize_units(self, build: Build) -> Sequence[UnitSpec[Build]]:
        return [UnitSpec("wind down", {"spring": "down"}, partial(_edit, ["mdel", "::TOY/WOUND"]))]

    def test_runs(self, build: Build, master: Image, targets: Sequence[TestTarget], *, whole: bool) -> list[TestRun]:
        return [TestRun(target, target.name) for target in targets]

    def clone_test(
        self, build: Build, master: Image, test_run: TestRun, beside: int, disks: Sequence[DataDisk]
    ) -> ToyCloneTest:
        return ToyCloneTest(build, master, test_run)

    def update_steps(self, definition: Definition) -> tuple[Step, ...]:
        return definition.steps


class ToyCloneTest:
    """A clone of a toy is the same toy: its disk says so."""

    def __init__(self, build: Build, master: Image, test_run: TestRun) -> None:
        self.build = build
        self.master = master
        self.result = CloneResult(test_run.name)

    def run(self, fabric: Fabric | None, pictures: Path) -> CloneResult:
        release = {row[0]: row[1] for row in self.build.list_disk(self.master, what="os")}
        self.result.see("release", release["PRETTY_NAME"], release["ID"] == "toy")
        return self.result


def _unit(step: Step) -> UnitSpec[Build]:
    assert isinstance(step, CopyStep)
    argv = ["mcopy", "-o", str(step.file), f"::{step.to}"]
    return UnitSpec(step.title, dict(step_inputs(step)), partial(_edit, argv), steps=(step.title,))


def _edit(argv: Sequence[str], build: Build, source: Layer | None, draft: PendingLayer) -> StageResult:
    """A command of mtools on a copy of the source's disk."""
    assert source is not None and source.image is not None
    disk = draft.path / "disk.raw"
    if source.image.format == RAW:
        shutil.copyfile(source.image.path, disk)
    else:
        qemu_img.convert(source.image.path, source.image.format.driver, disk, RAW.driver, deadline=60)
    program, *rest = argv
    subprocess.run([program, "-i", f"{disk}@@{PARTITION}", *rest], check=True, capture_output=True)
    build.progress(f"{program} on the toy")
    return StageResult(Image(disk, RAW), {"suite": None}, program)


SYSTEM = ToySystem()
