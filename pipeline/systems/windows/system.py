"""Windows: installed from its medium, updated by Windows Update, generalized by sysprep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.cache.units import UnitSpec
from pipeline.definition import Definition, IsoSource, Source
from pipeline.definition.system_rules import SystemRules
from pipeline.guest.build import Build
from pipeline.systems.base import AwaitedBoot, GuestSystem, LiveGuest
from pipeline.systems.inspection import Inspection
from pipeline.systems.windows import release_days
from pipeline.systems.windows.inspection import INSPECTION
from pipeline.systems.windows.rules import RULES

if TYPE_CHECKING:
    from pipeline.cache.layers import Image
    from pipeline.definition import DataDisk
    from pipeline.fabric.instance import Instance
    from pipeline.gallery import Version
    from pipeline.hypervisor.domain import MachineFeatures
    from pipeline.prove import CloneTest
    from pipeline.prove.matrix import TestRun, TestTarget


class WindowsSystem(GuestSystem):
    """Two builds of one definition are never the same files: each sysprep leaves thousands that no other left so."""

    name: ClassVar[str] = "windows"
    os: ClassVar[str] = "windows"
    inspection: ClassVar[Inspection] = INSPECTION
    rules: ClassVar[SystemRules | None] = RULES
    installs_from_media: ClassVar[bool] = True
    longest_host_name: ClassVar[int] = 15  # what NetBIOS leaves a computer's name
    signs_in_by_password: ClassVar[bool] = True
    moving_inputs: ClassVar[frozenset[str]] = frozenset({release_days.RELEASED})

    def source_unit(self, build: Build, source: Source) -> UnitSpec[Build]:
        from pipeline.systems.windows.sources import media_unit

        if isinstance(source, IsoSource):
            return media_unit(build, source)
        return super().source_unit(build, source)

    def install_units(self, build: Build) -> Sequence[UnitSpec[Build]]:
        from pipeline.systems.windows.sources import install_unit

        source = build.definition.source
        return (install_unit(build, source),) if isinstance(source, IsoSource) else ()

    def source_files(self, source: Source) -> Sequence[tuple[tuple[str, ...], Path, str]]:
        if not isinstance(source, IsoSource):
            return ()
        return (
            (("source", "iso", "sha256"), source.path, source.sha256),
            (("source", "drivers", "sha256"), source.drivers, source.drivers_sha256),
        )

    def answer_file(self, medium: Path, edition: str, generation: int, drivers: Path | None) -> str:
        from pipeline.systems.windows.sources import answer_file

        return answer_file(medium, edition, generation, drivers)

    def machine_features(self) -> MachineFeatures:
        from pipeline.systems.windows.machine import FEATURES

        return FEATURES

    def provision_units(self, build: Build) -> Sequence[UnitSpec[Build]]:
        from pipeline.systems.windows.provision import provision_units

        return tuple(provision_units(build))

    def generalize_units(self, build: Build) -> Sequence[UnitSpec[Build]]:
        from pipeline.systems.windows.generalize import sysprep_unit

        return (sysprep_unit(build),)

    def updates_for(self, master: Version) -> list[str] | None:
        """The updates that Microsoft has released since a master looked for them; None where it never did."""
        inputs = (unit["inputs"] for unit in master.manifest["inputs"])
        looked = next((str(each[release_days.RELEASED]) for each in inputs if release_days.RELEASED in each), None)
        if looked is None:
            return None
        day = release_days.today().isoformat()
        return [f"updates of {day}"] if looked < day else []

    def open_ports(self, definition: Definition) -> set[tuple[str, int]] | None:
        return {(port.protocol, port.port) for port in definition.ports}

    def test_runs(self, build: Build, master: Image, targets: Sequence[TestTarget], *, whole: bool) -> list[TestRun]:
        from pipeline.prove.matrix import TestRun

        # nobody else provisions a Windows, and one boot of it takes long
        return [TestRun(target, target.name) for target in targets if target.fabric and not target.linux_only]

    def clone_test(
        self, build: Build, master: Image, test_run: TestRun, beside: int, disks: Sequence[DataDisk]
    ) -> CloneTest:
        from pipeline.systems.windows.clone_test import WindowsCloneTest

        return WindowsCloneTest(build, master, test_run.target)

    def draw_password(self) -> str:
        from pipeline.systems.windows.answers import draw_password

        return draw_password()

    def manifest_settings(self, definition: Definition) -> Mapping[str, Any]:
        ports = [{"port": port.port, "protocol": port.protocol, "name": port.name} for port in definition.ports]
        return {"locale": definition.locale, "ports": ports}

    def implied_waivers(self, definition: Definition) -> Mapping[str, str]:
        if not definition.generalize.skip_oobe:
            return {}
        return {"win-answer-cached": "oobe: {skip: true} keeps an answer file, so clones ignore Azure's medium"}

    def first_boot_answers(self, instance: Instance, password: str | None, locale: str) -> Mapping[str, bytes]:
        from pipeline.systems.windows import answers

        assert password is not None, "its first user signs in by a password"
        return {answers.UNATTEND: answers.azure(instance.name, instance.user, password, locale)}

    generalized_checks: ClassVar[frozenset[str]] = frozenset(
        {
            "windows-root",
            "win-hives",
            "win-ntfs-clean",
            "win-image-state",
            "win-state-ini",
            "win-sysprep-tag",
            "win-setup-phase",
            "win-sysprep-errors",
            "win-domain",
        }
    )

    captures_data_disks: ClassVar[bool] = False

    def generalize_instance(self, guest: LiveGuest) -> None:
        from pipeline.systems.windows.generalize import generalize_instance

        generalize_instance(guest)

    def wait_provisioned(self, boot: AwaitedBoot) -> None:
        """Until its set-up has ended: only a Windows with Azure's own agent reports Ready."""
        from pipeline.systems.windows import oobe
        from pipeline.systems.windows.session import session_of_instance

        session = session_of_instance(boot.machine, boot.logs)
        session.machine.wait_agent(session.deadlines.boot, session.deadlines.boot)
        oobe.need_complete(session)


SYSTEM = WindowsSystem()
