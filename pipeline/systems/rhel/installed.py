"""A Linux of Red Hat's family on a disk at rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pipeline.systems.linux.installed import InstalledLinux

#: os-release's IDs; most others of the family name one of them as ID_LIKE.
IDS = frozenset({"rhel", "fedora", "centos", "rocky", "almalinux", "ol"})


class InstalledRhel(InstalledLinux):
    agent_units: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **InstalledLinux.agent_units,
        "azure": ("waagent.service",),
        "ssh": ("sshd.service", "sshd.socket"),
    }
    azure_agent_packages: ClassVar[tuple[str, ...]] = ("WALinuxAgent",)
    #: Until release 8 GRUB's whole menu for UEFI is on the EFI system partition.
    boot_menus: ClassVar[tuple[str, ...]] = (
        "/boot/grub2/grub.cfg",
        *(f"/boot/efi/EFI/{name}/grub.cfg" for name in ("redhat", "centos", "rocky", "almalinux", "fedora")),
    )

    def claims(self) -> bool:
        return bool(IDS & {self.release.get("ID", ""), *self.release.get("ID_LIKE", "").split()})
