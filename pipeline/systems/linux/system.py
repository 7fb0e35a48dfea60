"""A Linux of any distribution."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pipeline.cache.units import UnitSpec
from pipeline.definition import Definition, ScriptStep, Step
from pipeline.definition.system_rules import SystemRules
from pipeline.guest.build import Build
from pipeline.systems.base import AwaitedBoot, GuestSystem, LiveGuest
from pipeline.systems.inspection import Inspection
from pipeline.systems.linux.inspection import INSPECTION
from pipeline.systems.linux.residues import Residues, joined
from pipeline.systems.linux.rules import RULES

if TYPE_CHECKING:
    from pipeline.cache.layers import Image
    from pipeline.definition import DataDisk
    from pipeline.hypervisor.domain import MachineFeatures
    from pipeline.prove import CloneTest
    from pipeline.prove.matrix import TestRun, TestTarget

#: What updates a Linux where the definition names no steps for that.
UPDATES = Path(__file__).parent / "inside" / "updates.sh"


class LinuxSystem(GuestSystem):
    """What every Linux has: an agent that runs scripts, sshd, cloud-init or Azure's agent in its clones."""

    name: ClassVar[str] = "linux"
    os: ClassVar[str] = "linux"
    inspection: ClassVar[Inspection] = INSPECTION
    rules: ClassVar[SystemRules | None] = RULES
    suites: ClassVar[frozenset[str]] = frozenset({"lisa"})
    reproducible: ClassVar[bool] = True
    may_differ: ClassVar[Mapping[str, str]] = {
        "/etc/.pwd.lock": "made by the first change of an account",
        "/etc/shadow": "the day of a password's last change",
        "/var/lib/systemd/timers/*": "when a timer last ran: names come and go with the length of the build",
        "/var/cache/ldconfig/aux-cache": "inode numbers",
        # of a brought Debian only its os-release says that it is one
        "/var/lib/apt/periodic/*": "when apt's timer last ran",
        "/var/lib/apt/daily_lock": "left by apt's timer",
        "/var/lib/logrotate/status": "when logs were last rotated",
        "/var/lib/chrony/chrony.drift": "the measured clock",
    }

    def machine_features(self) -> MachineFeatures:
        from pipeline.hypervisor.domain import MachineFeatures

        return MachineFeatures()

    def provision_units(self, build: Build) -> Sequence[UnitSpec[Build]]:
        from pipeline.systems.linux.provision import step_units

        return tuple(step_units(build))

    #: What this distribution's part of the generalize script removes.
    residues: ClassVar[Residues] = Residues()

    def _residues(self) -> Residues:
        """Its own; of the generic Linux, which a brought disk is taken for, those of every distribution."""
        from pipeline.systems import registry

        if self.name != self.os:
            return self.residues
        known = (system for system in registry.all_systems() if isinstance(system, LinuxSystem))
        return joined(tuple(system.residues for system in known))

    def generalize_units(self, build: Build) -> Sequence[UnitSpec[Build]]:
        from pipeline.systems.linux.generalize import generalize_unit

        return (generalize_unit(build, self._residues()),)

    def update_steps(self, definition: Definition) -> tuple[Step, ...]:
        return (ScriptStep(file=UPDATES, script=UPDATES.name, name="updates"),)

    def test_runs(self, build: Build, master: Image, targets: Sequence[TestTarget], *, whole: bool) -> list[TestRun]:
        from pipeline.prove.matrix import plan_test_runs, without_seeds

        # with a seed alone a clone would find nobody to ask for its first boot's configuration
        takes_seeds = build.definition.first_boot is None and self._reads_seeds(build, master)
        return plan_test_runs(targets if takes_seeds else without_seeds(targets), whole=whole)

    def _reads_seeds(self, build: Build, master: Image) -> bool:
        """Whether cloud-init is on the disk. One whose packages cannot be read shows it in the running clone."""
        from pipeline.base.errors import DiskError

        try:
            rows = build.list_disk(master, what="packages")
        except DiskError:
            return True
        return any(row[0] == "cloud-init" for row in rows)

    def clone_test(
        self, build: Build, master: Image, test_run: TestRun, beside: int, disks: Sequence[DataDisk]
    ) -> CloneTest:
        from pipeline.systems.linux.clone_test import CloneTest as LinuxCloneTest

        return LinuxCloneTest(build, master, test_run, beside, disks)

    def wait_provisioned(self, boot: AwaitedBoot) -> None:
        from pipeline.systems.linux.boot_watch import BootWatch

        watch = BootWatch(
            boot.machine,
            boot.timeouts,
            boot.logs,
            boot.store,
            boot.user,
            guest=boot.guest,
            medium=True,
            greets=boot.greets,
            dhcp_log=boot.dhcp_log,
            on_wait=boot.on_wait,
        )
        watch.wait_ready()

    generalized_checks: ClassVar[frozenset[str]] = frozenset(
        {
            "fs-clean",
            "linux-root",
            "machine-id",
            "ssh-host-keys",
            "random-seed",
            "credential-secret",
            "service-identity",
            "cloud-instance",
            "waagent-state",
            "dhcp-leases",
            "host-name",
            "persistent-net-rules",
            "network-hardware-address",
        }
    )

    def generalize_instance(self, guest: LiveGuest) -> None:
        from pipeline.systems.linux.generalize import generalize_instance

        generalize_instance(guest, self._residues())

    def clones_at_once(self, build: Build, wanted: int) -> int:
        # an emulated clone lets its processor idle a tenth of the time; another one takes it
        return max(1, min(wanted, (os.cpu_count() or 1) + (build.accelerator.kind == "tcg")))


SYSTEM = LinuxSystem()
