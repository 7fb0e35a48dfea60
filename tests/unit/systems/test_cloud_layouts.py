"""Layouts of public cloud images: what is truly wrong for Azure is found on each, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.checks import run
from pipeline.checks.run import Inspected
from pipeline.disk import open_disk
from pipeline.systems.listing import listing
from tests.fakes import cloud_layouts
from tests.fakes.cloud_layouts import Layout

NAMES = ("ubuntu-24.04", "fedora-41", "opensuse-leap-15.6", "alpine-3.20-nocloud-uefi")


@pytest.fixture(scope="module")
def layouts() -> dict[str, Layout]:
    return cloud_layouts.layouts()


def inspected(layout: Layout, disk: Path) -> Inspected:
    with open_disk(disk, "raw") as opened:
        return run.inspect(opened, generations=layout.generations)


def found(result: Inspected) -> dict[str, str]:
    return {each.id: each.evidence for each in result.results if each.status in ("fail", "warn", "unchecked")}


def test_every_layout_is_looked_at(layouts: dict[str, Layout]) -> None:
    assert tuple(layouts) == NAMES
    assert {layout.system for layout in layouts.values()} == {"debian", "rhel", "suse", "alpine"}


@pytest.mark.parametrize("name", NAMES)
def test_as_it_is_published(layouts: dict[str, Layout], name: str, tmp_path: Path) -> None:
    layout = layouts[name]
    disk = cloud_layouts.build(layout, tmp_path)
    result = inspected(layout, disk)
    assert result.system.system == layout.system and result.system.recognized
    evidence = found(result)
    assert set(evidence) == set(layout.wrong), evidence
    with open_disk(disk, "raw") as opened:
        assert len(listing(opened, "packages")) >= 5 and len(listing(opened, "units")) >= 5


@pytest.mark.parametrize("name", NAMES)
def test_mended_it_has_nothing_left_to_find(layouts: dict[str, Layout], name: str, tmp_path: Path) -> None:
    layout = layouts[name]
    evidence = found(inspected(layout, cloud_layouts.build(layout, tmp_path, mended=True)))
    assert set(evidence) == set(layout.remains), evidence


#: Changes to a mended layout: files that are put in, paths that are taken away; the checks that must name them.
ENTRY = "initrd /initramfs-{kernel}.img\noptions root=UUID={root} rootdelay=300 earlyprintk=ttyS0"
SEEDED: dict[str, tuple[dict[str, str], tuple[str, ...], dict[str, str]]] = {
    "fedora-41": (
        {
            "boot/loader/entries/a-3.conf": f"linux /vmlinuz-{{kernel}}\n{ENTRY}\n",
            "boot/loader/entries/a-2.conf": f"linux /vmlinuz-gone\n{ENTRY} console=ttyS0\n",
            "boot/loader/entries/a-1.conf": f"linux /vmlinuz-{{kernel}}\n{ENTRY} console=ttyS0 ds=nocloud\n",
            "etc/NetworkManager/system-connections/cloud-init-eth0.nmconnection": "[connection]\ntype=ethernet\n",
            "var/cache/dnf/updates-1/repodata/primary.xml.gz": "x",
            "var/log/dnf.rpm.log": "x",
            "etc/yum.repos.d/medium.repo": "[off]\nbaseurl=file:///off\nenabled=0\n[medium]\n"
            "baseurl=file:///run/install/repo\n",
        },
        (),
        {
            "serial-console": "/boot/loader/entries/a-3.conf",
            "grub-config": "/boot/loader/entries/a-2.conf names /vmlinuz-gone",
            "kernel-modules": "no /lib/modules/gone",
            "kernel-config": "no configuration of gone",
            "cloud-init-seed": "/boot/loader/entries/a-1.conf names a data source",
            "netplan-cloud-init": "cloud-init-eth0.nmconnection is there",
            "package-cache": "/var/cache/dnf",
            "package-logs": "/var/log/dnf.rpm.log",
            "package-sources": "/etc/yum.repos.d/medium.repo: baseurl=file:///run/install/repo",
        },
    ),
    "opensuse-leap-15.6": (
        {
            "var/cache/zypp/packages/oss/a.rpm": "x",
            "etc/zypp/repos.d/medium.repo": "[medium]\nenabled=1\nbaseurl=cd:/?devices=/dev/disk/by-id/ata-DVD\n",
            "var/lib/wicked/lease-eth0-dhcp-ipv4.xml": "<x/>",
            "etc/sysconfig/network/ifcfg-eth0": "# Created by cloud-init automatically, do not edit.\n#\n"
            "BOOTPROTO=dhcp\nSTARTMODE=auto\n",
        },
        (),
        {
            "package-cache": "/var/cache/zypp",
            "package-sources": "/etc/zypp/repos.d/medium.repo: baseurl=cd:/",
            "dhcp-leases": "/var/lib/wicked/lease-eth0-dhcp-ipv4.xml",
            "netplan-cloud-init": "/etc/sysconfig/network/ifcfg-eth0 was written by cloud-init",
        },
    ),
    "alpine-3.20-nocloud-uefi": (
        {
            "var/cache/apk/APKINDEX.1.tar.gz": "x",
            "etc/apk/repositories": "/media/cdrom/apks\nhttps://dl-cdn.alpinelinux.org/alpine/v3.20/main\n",
            "var/lib/seedrng/seed.credit": "x",
            "usr/lib/modules/6.6.70-0-lts/modules.builtin": "x",
            "etc/inittab": "::sysinit:/sbin/openrc sysinit\n#ttyS0::respawn:/sbin/getty -L 0 ttyS0 vt100\n",
        },
        ("etc/runlevels/default/waagent", "etc/runlevels/default/sshd", "usr/lib/modules/6.6.63-0-virt"),
        {
            "package-cache": "/var/cache/apk",
            "package-sources": "/etc/apk/repositories: /media/cdrom/apks",
            "serial-login": "/etc/inittab starts no getty on ttyS0",
            "random-seed": "/var/lib/seedrng/seed.credit",
            "kernel-modules": "no /lib/modules/virt",
            # a kernel whose modules are gone has no version
            "kernel-config": "no configuration of virt",
            "waagent-enabled": "neither waagent nor walinuxagent is enabled",
            "ssh-enabled": "sshd is not enabled",
        },
    ),
}


@pytest.mark.parametrize("name", SEEDED)
def test_seeded_defects(layouts: dict[str, Layout], name: str, tmp_path: Path) -> None:
    files, gone, want = SEEDED[name]
    layout = layouts[name]
    root = next(each.uuid for each in layout.partitions if each.mount == "/")
    more = {path: text.replace("{kernel}", layout.kernel).replace("{root}", root) for path, text in files.items()}
    disk = cloud_layouts.build(layout, tmp_path, mended=True, more=more, without=gone)
    evidence = found(inspected(layout, disk))
    assert set(evidence) - set(layout.remains) == set(want), evidence
    assert {check: words in evidence[check] for check, words in want.items()} == dict.fromkeys(want, True), evidence


def test_the_fallback_program_leads_to_grub(layouts: dict[str, Layout], tmp_path: Path) -> None:
    """shim's fallback needs what its CSV names: without it the first boot ends in the firmware."""
    layout = layouts["fedora-41"]
    broken = replace(layout, esp={**layout.esp, "EFI/fedora/BOOTX64.CSV": cloud_layouts.csv("gone.efi", "Fedora")})
    result = inspected(broken, cloud_layouts.build(broken, tmp_path, mended=True))
    assert found(result) == {"boot-efi-signed": "no EFI/BOOT/grubx64.efi: shim cannot start GRUB"}
