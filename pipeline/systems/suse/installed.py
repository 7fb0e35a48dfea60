"""A SUSE Linux on a disk at rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pipeline.systems.linux.installed import InstalledLinux

#: os-release's IDs and ID_LIKE: those of SUSE's products are sles, opensuse-leap, opensuse-tumbleweed, sl-micro, ...
IDS = frozenset({"suse", "opensuse", "sles", "sles_sap", "opensuse-leap", "opensuse-tumbleweed"})


class InstalledSuse(InstalledLinux):
    agent_units: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **InstalledLinux.agent_units,
        "azure": ("waagent.service",),
        "ssh": ("sshd.service",),
        "kvp": ("hv_kvp_daemon.service", "hv-kvp-daemon.service"),
    }
    azure_agent_packages: ClassVar[tuple[str, ...]] = ("python-azure-agent", "python3-azure-agent")
    boot_menus: ClassVar[tuple[str, ...]] = ("/boot/grub2/grub.cfg",)

    def claims(self) -> bool:
        return bool(IDS & {self.release.get("ID", ""), *self.release.get("ID_LIKE", "").split()})
