"""The test matrix: the machines on which clones boot, who provisions them, and which tests follow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.fabric.hardware import (
    FOREIGN,
    GEN1,
    GEN1_IDE,
    GEN2,
    GEN2_KEYS_2011,
    GEN2_KEYS_2023,
    GEN2_NVME,
    GEN2_SECURE,
    Hardware,
)
from pipeline.prove.suites import TestSuite


@dataclass(frozen=True)
class TestTarget:
    """One target of the matrix. A build boots one clone once; `goldsmith prove` runs all its tests."""

    name: str
    hardware: Hardware
    fabric: bool
    clones: int = 1  # on this machine at least, with those of other targets
    again: bool = False  # the first clone boots a second time, and must not be provisioned again
    reimage: bool = False  # the first clone is reset to the master, and must be provisioned again
    second_card: bool = False  # a card with the MAC of the first is plugged while the clone runs
    blank_disk: bool = False  # a blank data disk is attached beside the master's own
    resource_disk: bool = False  # a disk as Azure's resource disk is attached
    upgrade: bool = False  # all packages are upgraded, and the clone restarts
    provisioned: bool = True  # False: a generalized VM is only started

    @property
    def linux_only(self) -> bool:
        """Whether what it tests is looked at in a Linux alone."""
        return self.second_card or self.blank_disk or self.resource_disk or self.upgrade

    @property
    def provisioned_by(self) -> str:
        return ("on the fabric" if self.fabric else "NoCloud") if self.provisioned else "started, not provisioned"

    @property
    def description(self) -> str:
        return f"{self.hardware.description}, {self.provisioned_by}"


TARGETS = {
    target.name: target
    for target in (
        TestTarget("gen1", GEN1, True, clones=2, again=True),
        TestTarget("gen2", GEN2, True, again=True, reimage=True),
        TestTarget("gen2-secure", GEN2_SECURE, True),
        TestTarget("gen2-keys-2011", GEN2_KEYS_2011, True),
        TestTarget("gen2-keys-2023", GEN2_KEYS_2023, True),
        TestTarget("gen1-two-cards", GEN1, True, second_card=True, resource_disk=True),
        TestTarget("gen2-nvme", GEN2_NVME, True, blank_disk=True),
        TestTarget("gen2-upgrade", GEN2, True, upgrade=True),
        TestTarget("gen1-nocloud", GEN1_IDE, False),
        TestTarget("gen2-nocloud", GEN2, False),
        TestTarget("foreign", FOREIGN, False),
        TestTarget("start", GEN1, True, provisioned=False),
    )
}
#: The targets of `goldsmith prove` by default: each machine, each way of provisioning.
MATRIX = (
    "gen1",
    "gen2",
    "gen2-secure",
    "gen2-keys-2011",
    "gen2-keys-2023",
    "gen1-two-cards",
    "gen2-nvme",
    "gen2-nocloud",
    "foreign",
)
#: What the proofs cannot show, and the checks on the disk at rest that stand in for it.
UNPROVEN = {
    "vmbus, storvsc and netvsc (there is no Hyper-V here)": ("initramfs-hyperv",),
    "a virtual function's own driver, and hv_netvsc that takes it over (another card stands in)": ("network-sriov",),
    "the resource disk by its own device on vmbus, as waagent looks for it (another disk stands in)": (
        "resource-disk-rules",
        "resource-disk-mount",
        "resource-disk-place",
        "resource-disk-fstab",
    ),
    "Azure's own NVMe controllers (QEMU's stands in)": ("initramfs-nvme", "nvme-names", "nvme-rules"),
    "the exchange of values with Hyper-V (KVP)": ("hyperv-kvp",),
    "azure-init (no package of it was available)": ("azure-init", "azure-init-state"),
}


def matrix(generations: tuple[int, ...], years: tuple[int, ...]) -> tuple[TestTarget, ...]:
    """The targets of the whole matrix that an image of these generations, signed for the Secure Boot keys of these
    years, can boot on."""
    return tuple(target for name in MATRIX if _can_boot(target := TARGETS[name], generations, years))


def _can_boot(target: TestTarget, generations: tuple[int, ...], years: tuple[int, ...]) -> bool:
    keys = target.hardware.keys
    return target.hardware.generation in generations and (keys is None or not set(keys.years).isdisjoint(years))


def with_revocation_list(targets: Sequence[TestTarget], path: Path) -> tuple[TestTarget, ...]:
    """The same targets; what they revoke for Secure Boot is in the file `path`, as UEFI Forum publishes it."""
    return tuple(
        replace(target, hardware=replace(target.hardware, keys=replace(keys, revocation_list=path)))
        if (keys := target.hardware.keys) is not None
        else target
        for target in targets
    )


def without_seeds(targets: Sequence[TestTarget]) -> tuple[TestTarget, ...]:
    """The same machines for an image that only Azure provisions: all on the fabric, and no machine twice."""
    there = {target.hardware for target in targets if target.fabric}
    found = []
    for target in targets:
        # what has Microsoft's strings has no IDE disk
        hardware = GEN1 if target.hardware == GEN1_IDE else target.hardware
        if target.fabric:
            found.append(target)
        elif hardware not in there:
            there.add(hardware)
            found.append(replace(target, fabric=True, hardware=hardware))
    return tuple(found)


@dataclass(frozen=True)
class TestRun:
    """Which clone this is, and what is done to it after its first boot."""

    target: TestTarget
    name: str
    again: bool = False
    reimage: bool = False
    messages: bool = False  # what its kernel and services complained about in its first boot is judged
    settles: bool = False  # waits until Azure's agent has settled, which takes it half a minute, emulated
    suites: tuple[TestSuite, ...] = ()  # are run against it after its first boot

    @property
    def boots(self) -> int:
        return 1 + self.again + self.reimage + self.target.upgrade

    @property
    def outside(self) -> bool:
        """Whether it has a way out to the public network: an upgrade and the suites download packages."""
        return self.target.upgrade or bool(self.suites)


def with_suites(test_runs: Sequence[TestRun], suites: Sequence[TestSuite]) -> list[TestRun]:
    """The same clones; against one of those that are provisioned, the suites are run: the first, unless another has a
    way out anyway, because a fabric has one way out."""
    provisioned = [each for each in test_runs if each.target.provisioned]
    chosen = next((each for each in provisioned if each.outside), provisioned[0] if provisioned else None)
    return [replace(each, suites=tuple(suites)) if each is chosen else each for each in test_runs]


def plan_test_runs(targets: Sequence[TestTarget], *, whole: bool) -> list[TestRun]:
    """Who is started where; the longest first, so that none is left over at the end."""
    found = []
    for target in targets:
        if not whole:
            found.append(TestRun(target, target.name))
            continue
        found.append(
            TestRun(
                target, target.name, again=target.again, reimage=target.reimage, messages=True, settles=target.again
            )
        )
        missing = target.clones - count_alike(target, targets)
        found += [TestRun(target, f"{target.name}-{number}") for number in range(2, missing + 2)]
    return sorted(found, key=lambda test_run: -test_run.boots)


def count_alike(target: TestTarget, targets: Sequence[TestTarget]) -> int:
    """How many of the targets start a clone on this machine, provisioned alike: such clones' identities are compared
    as well as those of several clones of one target, without another boot."""
    alike = (target.hardware, target.fabric, target.provisioned)
    return sum((each.hardware, each.fabric, each.provisioned) == alike for each in targets)


#: How a definition writes the host name of the clone that it will be.
_CLONE = re.compile(r"\{\{\s*clone\s*\}\}")


def sampled(text: str, hostname: str) -> str:
    """Where a definition means the clone itself, its host name."""
    return _CLONE.sub(hostname, text)
