"""How a Linux disk is inspected: its profiles, its checks, and the versions that the key of an inspection names."""

from __future__ import annotations

from pipeline.systems.inspection import Inspection, Part

_RPM = frozenset({"rhel", "fedora", "centos", "suse", "opensuse", "sles", "rocky", "almalinux", "ol", "azurelinux"})

#: What only an inspection of a Linux stands on, by the labels of keys.
PARTS: dict[str, Part] = {
    "checks.agents": Part(
        5, ("pipeline.checks.linux.agents", "pipeline.systems.linux.installed", "pipeline.systems.debian.installed")
    ),
    "checks.azure_init": Part(1, ("pipeline.checks.linux.azure_init",)),
    "checks.disk_names": Part(2, ("pipeline.checks.linux.disk_names",)),
    "checks.hyperv_daemons": Part(2, ("pipeline.checks.linux.hyperv_daemons",)),
    "checks.resource_disk": Part(1, ("pipeline.checks.linux.resource_disk",)),
    "checks.host_name": Part(1, ("pipeline.checks.linux.host_name",)),
    "checks.identity": Part(2, ("pipeline.checks.linux.identity",)),
    "checks.kernel": Part(2, ("pipeline.checks.linux.kernel",)),
    "checks.leftovers": Part(2, ("pipeline.checks.linux.build_residue",)),
    "checks.network": Part(4, ("pipeline.checks.linux.network",)),
    "checks.network_names": Part(2, ("pipeline.checks.linux.network_names",)),
    "checks.network_sriov": Part(
        1,
        (
            "pipeline.checks.linux.virtual_function",
            "pipeline.checks.linux.network_manager",
            "pipeline.disk.network_files",
            "pipeline.disk.udev_rules",
        ),
    ),
    "checks.resolver": Part(1, ("pipeline.checks.linux.resolver",)),
    "checks.resume": Part(1, ("pipeline.checks.linux.resume",)),
    "checks.secrets": Part(1, ("pipeline.checks.linux.build_config",)),
    "checks.system_folders": Part(1, ("pipeline.checks.linux.system_folders",)),
    "checks.system": Part(6, ("pipeline.checks.linux.system", "pipeline.disk.release")),
    "guests.service_identity": Part(1, ("pipeline.systems.linux.service_identity",)),
    "offline.btrfs": Part(
        1, ("pipeline.disk.btrfs", "pipeline.disk.btrfs_trees", "pipeline.disk.btrfs_files", "pipeline.disk.lzo")
    ),
    "offline.ext4": Part(1, ("pipeline.disk.ext4",)),
    "offline.ext4_files": Part(1, ("pipeline.disk.ext4_files",)),
    "offline.initramfs": Part(1, ("pipeline.disk.initramfs",)),
    "offline.lvm": Part(1, ("pipeline.disk.lvm", "pipeline.disk.lvm_text", "pipeline.disk.spaces")),
    "offline.packages": Part(2, ("pipeline.disk.packages", "pipeline.disk.rpm_database")),
    "offline.rpm_files": Part(2, ("pipeline.disk.rpm_files",)),
    "offline.shipped": Part(1, ("pipeline.disk.shipped",)),
    "offline.units": Part(1, ("pipeline.disk.units",)),
    "offline.xfs": Part(1, ("pipeline.disk.xfs", "pipeline.disk.xfs_files")),
}
PROFILES = ("azure-linux", "hyper-v", "any")
#: What makes the rest worthless comes first.
CHECKS = (
    "pipeline.checks.disk.partitions",
    "pipeline.checks.disk.vhd_file",
    "pipeline.checks.disk.boot",
    "pipeline.checks.linux.kernel",
    "pipeline.checks.linux.resume",
    "pipeline.checks.linux.disk_names",
    "pipeline.checks.linux.system",
    "pipeline.checks.linux.system_folders",
    "pipeline.checks.linux.network",
    "pipeline.checks.linux.network_names",
    "pipeline.checks.linux.virtual_function",
    "pipeline.checks.linux.resolver",
    "pipeline.checks.linux.host_name",
    "pipeline.checks.linux.agents",
    "pipeline.checks.linux.azure_init",
    "pipeline.checks.linux.resource_disk",
    "pipeline.checks.linux.hyperv_daemons",
    "pipeline.checks.linux.identity",
    "pipeline.checks.linux.service_identity",
    "pipeline.checks.linux.build_residue",
    "pipeline.checks.linux.build_config",
    "pipeline.checks.disk.config_files",
    "pipeline.checks.disk.secret_scan",
)
INSPECTION = Inspection(
    system="linux",
    os="linux",
    title="a Linux",
    installed="pipeline.systems.linux.installed:InstalledLinux",
    profiles=PROFILES,
    checks=CHECKS,
    root_check="linux-root",
    parts=PARTS,
    package_types={"rpm": _RPM, "deb": frozenset()},
)
