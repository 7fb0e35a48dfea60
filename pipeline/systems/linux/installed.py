"""A Linux on a disk at rest: any that has an os-release or an fstab, whatever its distribution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from pipeline.disk.packages import find_unfinished, read_packages
from pipeline.disk.release import read_release
from pipeline.systems.installed import InstalledSystem
from pipeline.systems.linux.boot_files import boots_directly

if TYPE_CHECKING:
    from pipeline.disk.packages import Package
    from pipeline.disk.root import Root

#: Where distributions put the programs by which a build reaches its guest.
_GUEST_AGENTS = ("/usr/sbin/qemu-ga", "/usr/bin/qemu-ga")
_CLOUD_INIT = ("/usr/bin/cloud-init", "/usr/local/bin/cloud-init")


class InstalledLinux(InstalledSystem):
    """Distributions call an agent's unit differently, and keep GRUB in different folders: all of them are asked."""

    agent_units: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "azure": ("walinuxagent.service", "waagent.service"),
        "ssh": ("ssh.service", "sshd.service", "ssh.socket"),
        "cloud-init": ("cloud-init.service", "cloud-init-main.service", "cloud-init-network.service"),
        # azure-init, Azure's agent that only provisions; the second is the name of its first versions
        "azure-init": ("azure-init.service", "azure-provisioning-agent.service"),
        # the Hyper-V daemon of keys and values: kernel.org's and Debian's, Red Hat's, SUSE's names
        "kvp": (
            "hv-kvp-daemon.service",
            "hyperv-daemons.hv-kvp-daemon.service",
            "hypervkvpd.service",
            "hv_kvp_daemon.service",
        ),
    }
    azure_agent_packages: ClassVar[tuple[str, ...]] = (
        "waagent",
        "walinuxagent",
        "WALinuxAgent",
        "python-azure-agent",
    )
    boot_menus: ClassVar[tuple[str, ...]] = (
        "/boot/grub/grub.cfg",
        "/boot/grub2/grub.cfg",
        "/boot/extlinux.conf",
        "/boot/extlinux/extlinux.conf",
    )
    unix_layout: ClassVar[bool] = True

    def claims(self) -> bool:
        _ = self.root
        return True

    @property
    def root(self) -> Root:
        return self.disk.root

    @cached_property
    def release(self) -> Mapping[str, str]:
        return read_release(self.root)

    def packages(self) -> tuple[Package, ...]:
        return read_packages(self.root)

    def unfinished_packages(self) -> Iterator[str]:
        # dpkg alone records half-installed packages; a database of rpm that is open is an error of reading it
        return find_unfinished(self.root)

    @property
    def stale(self) -> str | None:
        facts = self.disk.root_volume.facts
        if facts is not None and facts.needs_recovery:
            return "the root file system's journal must be replayed first"
        return None

    def boots_directly(self) -> bool:
        return boots_directly(self.disk)

    def has_guest_agent(self) -> bool:
        masked = self.root.read_link("/etc/systemd/system/qemu-guest-agent.service") == "/dev/null"
        return not masked and any(self.root.exists(path) for path in _GUEST_AGENTS)

    def has_cloud_init(self) -> bool:
        return any(self.root.exists(path) for path in _CLOUD_INIT)
