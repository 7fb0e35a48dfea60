"""An Alpine on a disk at rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pipeline.systems.linux.installed import InstalledLinux


class InstalledAlpine(InstalledLinux):
    """Its services are OpenRC's scripts, and its kernels are called by their flavour: vmlinuz-virt."""

    agent_units: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "azure": ("waagent", "walinuxagent"),
        "ssh": ("sshd",),
        "cloud-init": ("cloud-init", "cloud-init-local"),
        "azure-init": ("azure-init",),
        "kvp": ("hv_kvp_daemon",),
    }
    azure_agent_packages: ClassVar[tuple[str, ...]] = ("walinuxagent",)

    def claims(self) -> bool:
        return "alpine" in (self.release.get("ID", ""), *self.release.get("ID_LIKE", "").split())

    def kernel_version(self, path: str) -> str:
        """The folder of modules of a flavour, of which there is one; the flavour where there is none."""
        flavour = super().kernel_version(path)
        return next((name for name in self.root.listdir("/lib/modules") if name.endswith(f"-{flavour}")), flavour)
