"""Disks with the layout of public cloud images: partitions, labels, fstab, boot files, network, agents.

A script makes them: what a distribution publishes is copied by its shape, not by its bytes, after livecd-rootfs
(Ubuntu), fedora-kickstarts and fedora-kiwi-descriptions, openSUSE's Minimal-VM (kiwi), alpine-cloud-images. The root
is ext4 in each, which the published images of Ubuntu and Alpine have too; Fedora's is btrfs, openSUSE's btrfs or XFS.

`wrong` of a layout are the checks that must find something on the disk as it is published, each with the reason, and
no other may. `mended` are the files with which nothing is left to find.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fakes import fake_disk, rpm_database, signed_efi
from tests.fakes.fake_disk import MADE, debugfs_at, put_boot_code, tool

MIB = 1 << 20
FILES, LINKS = fake_disk.FILES, fake_disk.LINKS
#: What is the same in each: files of the good disk that are no distribution's own.
_COMMON = (
    "etc/machine-id",
    "etc/passwd",
    "etc/group",
    "etc/shadow",
    "etc/profile",
    "etc/environment",
    "usr/lib/udev/rules.d/66-azure-ephemeral.rules",
    "usr/bin/sh",
    "usr/bin/cloud-init",
    "usr/sbin/sshd",
    "usr/share/zoneinfo/Etc/UTC",
    "etc/adjtime",
    "etc/hosts",
)
_CONFIG = "CONFIG_WATCHDOG=y\nCONFIG_CIFS=m\nCONFIG_HYPERV=m\nCONFIG_UDF_FS=m\nCONFIG_VFAT_FS=m\n"
WANTS = "etc/systemd/system/multi-user.target.wants"
#: Reasons that hold for each of them: what only Azure's own images have.
_NO_AGENT = "a generic image has no Azure agent"
GENERIC = {
    "waagent-installed": _NO_AGENT,
    "azure-storage-rules": "the agent brings Azure's rules for disks",
    "nvme-rules": "azure-vm-utils is not in it",
    "hyperv-kvp": "Hyper-V's daemons are not in it",
    "ssh-client-alive": "sshd has its own default, 0",
    "root-delay": "Azure's words are not on its kernel line",
}
STORAGE_RULES = {
    "etc/udev/rules.d/66-azure-storage.rules": FILES["etc/udev/rules.d/66-azure-storage.rules"],
    "etc/udev/rules.d/79-azure-disk-names.rules": FILES["etc/udev/rules.d/79-azure-disk-names.rules"],
}
SSHD = {"etc/ssh/sshd_config.d/50-azure.conf": "ClientAliveInterval 180\n"}
AGENT = {"etc/waagent.conf": FILES["etc/waagent.conf"], "usr/sbin/waagent": "#!/usr/bin/python3\n"}
VERSION_FILE = "azurelinuxagent/common/version.py"
AZURE_WORDS = "earlyprintk=ttyS0,115200 rootdelay=300"


@dataclass(frozen=True)
class Partition:
    """`size` in MiB; `kind` is sgdisk's type; `mount` the folder of the tree whose files are in it, '' for none."""

    number: int
    size: int
    kind: str
    filesystem: str = ""
    label: str = ""
    uuid: str = ""
    mount: str = ""


@dataclass(frozen=True)
class Layout:
    name: str
    system: str
    generations: tuple[int, ...]
    partitions: tuple[Partition, ...]
    files: Mapping[str, str | bytes]
    links: Mapping[str, str]
    esp: Mapping[str, bytes]
    kernel: str
    initrd: str
    modules: tuple[str, ...]
    wrong: Mapping[str, str]
    mended: Mapping[str, str | bytes]
    mended_links: Mapping[str, str] = field(default_factory=dict)
    pack: str = "zstd"
    #: What stays wrong on the mended disk, with the reason.
    remains: Mapping[str, str] = field(default_factory=dict)


def build(
    layout: Layout,
    folder: Path,
    *,
    mended: bool = False,
    more: Mapping[str, str] | None = None,
    without: Sequence[str] = (),
) -> Path:
    """The disk, raw, below `folder`; `more` are files besides, `without` paths that are taken away."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = folder / "tree"
    _plant(layout, tree, mended)
    for name in without:
        path = tree / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name, text in (more or {}).items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    sources = _sources(layout, tree, folder)
    disk = folder / "disk.raw"
    starts, at = {}, 1
    for partition in layout.partitions:
        starts[partition.number] = at * MIB
        at += partition.size
    with disk.open("wb") as file:
        file.truncate((at + 1) * MIB)
    words = []
    for partition in layout.partitions:
        first = starts[partition.number] // 512
        words += [
            f"-n{partition.number}:{first}:{first + partition.size * 2048 - 1}",
            f"-t{partition.number}:{partition.kind}",
        ]
    tool("sgdisk", *words, disk)
    for partition in layout.partitions:
        if partition.filesystem == "ext4":
            _ext4(partition, sources[partition.number], disk, starts[partition.number])
    for partition in layout.partitions:
        if partition.filesystem == "vfat":
            _vfat(partition, layout, folder, disk, starts[partition.number])
        if partition.kind == "EF02":
            put_boot_code(disk, starts[partition.number])
    return disk


def _plant(layout: Layout, tree: Path, mended: bool) -> None:
    for name in fake_disk.FOLDERS:
        (tree / name).mkdir(parents=True, exist_ok=True)
    # a merged /usr, as all four have by now but Alpine
    links = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "usr/bin/python3": "python3.11"}
    for name, target in links.items():
        if name not in layout.links:
            (tree / target).parent.mkdir(parents=True, exist_ok=True)
            if name in ("bin", "sbin", "lib"):
                (tree / target).mkdir(parents=True, exist_ok=True)
            (tree / name).symlink_to(target)
    files: dict[str, str | bytes] = {name: FILES[name] for name in _COMMON} | dict(layout.files)
    files |= {
        f"boot/config-{layout.kernel}": _CONFIG,
        f"usr/lib/modules/{layout.kernel}/modules.builtin": "kernel/fs/ext4/ext4.ko\n",
        layout.initrd: fake_disk.initramfs(layout.modules, layout.pack, layout.kernel),
        "usr/bin/python3.11": "\x7fELF",
        **(layout.mended if mended else {}),
    }
    for name, data in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    for name, target in {**layout.links, **(layout.mended_links if mended else {})}.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(target)
    for name in ("tmp", "var/tmp"):
        (tree / name).chmod(0o1777)
    (tree / "root").chmod(0o700)


def _sources(layout: Layout, tree: Path, folder: Path) -> dict[int, Path]:
    """The tree of each file system by its partition's number: an empty folder is left where another is mounted."""
    found = {}
    for partition in layout.partitions:
        if partition.mount == "/":
            found[partition.number] = tree
        elif partition.mount:
            place, own = tree / partition.mount.lstrip("/"), folder / f"part-{partition.number}"
            place.rename(own)
            place.mkdir()
            found[partition.number] = own
    return found


def _ext4(partition: Partition, source: Path, disk: Path, at: int) -> None:
    tool(
        "mke2fs",
        "-q",
        "-F",
        "-t",
        "ext4",
        "-U",
        partition.uuid,
        "-L",
        partition.label,
        "-d",
        source,
        "-E",
        f"offset={at},root_owner=0:0",
        disk,
        f"{partition.size << 10}k",
    )
    paths = [source, *source.rglob("*")]
    times = ("atime", "ctime", "mtime")
    commands = [f"sif /{path.relative_to(source)} {name} @{MADE}" for path in paths for name in times]
    if os.geteuid() != 0:
        folders = [path for path in paths[1:] if path.is_dir() and not path.is_symlink()]
        commands += [f"sif /{path.relative_to(source)} {name} 0" for path in folders for name in ("uid", "gid")]
    debugfs_at(disk, at, *commands)


def _vfat(partition: Partition, layout: Layout, folder: Path, disk: Path, at: int) -> None:
    image = folder / "esp.img"
    with image.open("wb") as file:
        file.truncate(partition.size * MIB)
    tool("mkfs.vfat", "-i", partition.uuid.replace("-", ""), "-n", partition.label, image)
    made: set[str] = set()
    for name, data in layout.esp.items():
        above = name.split("/")[:-1]
        for depth in range(1, len(above) + 1):
            part = "/".join(above[:depth])
            if part.lower() not in made:
                made.add(part.lower())
                tool("mmd", "-i", image, f"::{part}")
        source = folder / "esp-file"
        source.write_bytes(data)
        tool("mcopy", "-i", image, source, f"::{name}")
    with disk.open("r+b") as file:
        file.seek(at)
        file.write(image.read_bytes())


def _wanted(*units: str) -> dict[str, str]:
    """Links by which units start."""
    return {f"{WANTS}/{unit}": f"/usr/lib/systemd/system/{unit}" for unit in units}


def _units(*units: str) -> dict[str, str]:
    return {f"usr/lib/systemd/system/{unit}": "[Install]\nWantedBy=multi-user.target\n" for unit in units}


SHIM, GRUB = fake_disk.pe(fake_disk.SHIM_TEXT), fake_disk.pe(fake_disk.GRUB_TEXT)
UNSIGNED = signed_efi.pe(b"GRUB, made by grub-mkimage")
ALL_MODULES = fake_disk.MODULES
#: dracut has no driver of a network card where the root is a local disk, and no keyboard of Hyper-V's.
DRACUT = tuple(name for name in ALL_MODULES if name != "hv_netvsc")
AFTER_DRACUT = "Azure asks for hv_netvsc in the initramfs: add_drivers in dracut's configuration"


def csv(loader: str, name: str) -> bytes:
    """shim's file for its fallback program."""
    return f"{loader},{name},,This is the boot entry for {name}\n".encode("utf-16")


def _ubuntu() -> Layout:
    kernel, boot = "6.8.0-49-generic", "b0075e1f-0000-4000-8000-000000000016"
    line = "root=LABEL=cloudimg-rootfs ro console=tty1 console=ttyS0"

    def menu(words: str, terminal: str) -> str:
        return (
            f"{terminal}\nmenuentry 'Ubuntu' --class ubuntu {{\n\tsearch --no-floppy --fs-uuid --set=root {boot}\n"
            f"\tlinux\t/vmlinuz-{kernel} {words}\n\tinitrd\t/initrd.img-{kernel}\n}}\n"
            "submenu 'Advanced options for Ubuntu' {\n\tmenuentry 'Ubuntu (recovery mode)' {\n"
            f"\t\tlinux\t/vmlinuz-{kernel} root=LABEL=cloudimg-rootfs ro recovery nomodeset dis_ucode_ldr\n"
            f"\t\tinitrd\t/initrd.img-{kernel}\n\t}}\n}}\n"
        )

    packages = {
        "cloud-init": "24.4-0ubuntu1",
        "libssl3t64": "3.0.13-0ubuntu3.4",
        "openssh-server": "1:9.6p1-3ubuntu13.5",
        "snapd": "2.66.1+24.04",
        "netplan.io": "1.1.1-1",
    }

    def status(names: Mapping[str, str]) -> str:
        return "\n".join(
            f"Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n"
            for name, version in names.items()
        )

    return Layout(
        name="ubuntu-24.04",
        system="debian",
        generations=(1, 2),
        partitions=(
            Partition(14, 4, "EF02"),
            Partition(15, 20, "EF00", "vfat", "UEFI", "5F6A-1D2E"),
            Partition(16, 24, "EA00", "ext4", "BOOT", boot, "/boot"),
            Partition(1, 40, "8300", "ext4", "cloudimg-rootfs", "b0075e1f-0000-4000-8000-000000000001", "/"),
        ),
        files={
            "usr/lib/os-release": 'PRETTY_NAME="Ubuntu 24.04.1 LTS"\nNAME="Ubuntu"\nVERSION_ID="24.04"\nID=ubuntu\n'
            "ID_LIKE=debian\nVERSION_CODENAME=noble\n",
            "etc/fstab": "LABEL=cloudimg-rootfs\t/\t ext4\tdiscard,commit=30,errors=remount-ro\t0 1\n"
            "LABEL=BOOT\t/boot\text4\tdefaults\t0 2\nLABEL=UEFI\t/boot/efi\tvfat\tumask=0077\t0 1\n",
            "etc/hostname": "ubuntu\n",
            "etc/sudoers": "Defaults\tenv_reset\nroot\tALL=(ALL:ALL) ALL\n%admin ALL=(ALL) ALL\n"
            "%sudo\tALL=(ALL:ALL) ALL\n@includedir /etc/sudoers.d\n",
            "etc/apt/sources.list": "# Ubuntu sources have moved to /etc/apt/sources.list.d/ubuntu.sources\n",
            "etc/apt/sources.list.d/ubuntu.sources": "Types: deb\nURIs: http://archive.ubuntu.com/ubuntu/\n"
            "Suites: noble noble-updates noble-backports\nComponents: main universe restricted multiverse\n"
            "Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg\n",
            "etc/cloud/cloud.cfg": "users:\n  - default\ndisable_root: true\npreserve_hostname: false\n",
            "etc/cloud/cloud.cfg.d/90_dpkg.cfg": "datasource_list: [ NoCloud, ConfigDrive, Azure, None ]\n",
            "etc/ssh/sshd_config": "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n",
            "etc/ssh/sshd_config.d/60-cloudimg-settings.conf": "PasswordAuthentication no\n",
            "etc/default/grub": 'GRUB_DEFAULT=0\nGRUB_CMDLINE_LINUX=""\n',
            "etc/default/grub.d/50-cloudimg-settings.cfg": 'GRUB_TIMEOUT=0\nGRUB_CMDLINE_LINUX_DEFAULT="console=tty1 '
            'console=ttyS0"\nGRUB_TERMINAL=console\n',
            "boot/grub/grub.cfg": menu(line, "terminal_input console\nterminal_output console"),
            f"boot/vmlinuz-{kernel}": "MZ a kernel\n",
            "var/lib/dpkg/status": status(packages),
            "var/lib/snapd/seed/seed.yaml": "snaps: []\n",
            "var/lib/snapd/state.json": '{"data":{"seeded":true}}\n',
            "usr/lib/systemd/system-generators/netplan": "\x7fELF",
            "usr/lib/systemd/system-generators/cloud-init-generator": "#!/bin/sh\n",
            **_units(
                "ssh.service",
                "ssh.socket",
                "cloud-init.service",
                "systemd-networkd.service",
                "systemd-resolved.service",
                "snapd.service",
            ),
        },
        links={
            "etc/os-release": "../usr/lib/os-release",
            "etc/resolv.conf": "../run/systemd/resolve/stub-resolv.conf",
            "etc/localtime": "/usr/share/zoneinfo/Etc/UTC",
            "etc/systemd/system/sockets.target.wants/ssh.socket": "/usr/lib/systemd/system/ssh.socket",
            "etc/systemd/system/cloud-init.target.wants/cloud-init.service": "/usr/lib/systemd/system/"
            "cloud-init.service",
            "etc/systemd/system/sysinit.target.wants/systemd-resolved.service": "/usr/lib/systemd/system/"
            "systemd-resolved.service",
            **_wanted("systemd-networkd.service", "snapd.service"),
            "boot/vmlinuz": f"vmlinuz-{kernel}",
        },
        esp={
            "EFI/BOOT/BOOTX64.EFI": SHIM,
            "EFI/BOOT/grubx64.efi": GRUB,
            "EFI/ubuntu/shimx64.efi": SHIM,
            "EFI/ubuntu/grubx64.efi": GRUB,
            "EFI/ubuntu/grub.cfg": f"search.fs_uuid {boot} root \nset prefix=($root)'/grub'\n".encode()
            + b"configfile $prefix/grub.cfg\n",
        },
        kernel=kernel,
        initrd=f"boot/initrd.img-{kernel}",
        modules=ALL_MODULES,
        wrong={**GENERIC, "grub-serial": "its GRUB writes to the screen alone"},
        mended={
            **STORAGE_RULES,
            **SSHD,
            **AGENT,
            **_units("walinuxagent.service", "hv-kvp-daemon.service"),
            "boot/grub/grub.cfg": menu(
                f"{line} {AZURE_WORDS}",
                "serial --unit=0 --speed=115200\nterminal_input serial console\nterminal_output serial console",
            ),
            "var/lib/dpkg/status": status({**packages, "walinuxagent": "2.11.1.4-0ubuntu0~24.04.1"}),
        },
        mended_links=_wanted("walinuxagent.service", "hv-kvp-daemon.service"),
    )


def _fedora() -> Layout:
    kernel, boot, root = (
        "6.11.4-301.fc41.x86_64",
        "b0075e1f-0000-4000-8000-000000000103",
        "b0075e1f-0000-4000-8000-000000000104",
    )
    entry = f"boot/loader/entries/f5e1c0dea5b14d5c8f1f0a0000000041-{kernel}.conf"
    rescue = "boot/loader/entries/f5e1c0dea5b14d5c8f1f0a0000000041-0-rescue.conf"

    def menu(words: str) -> str:
        return (
            f"title Fedora Linux ({kernel}) 41 (Cloud Edition)\nversion {kernel}\nlinux /vmlinuz-{kernel}\n"
            f"initrd /initramfs-{kernel}.img $tuned_initrd\noptions root=UUID={root} ro {words} $tuned_params\n"
            "grub_users $grub_users\ngrub_arg --unrestricted\ngrub_class fedora\n"
        )

    grub = (
        "set pager=1\n{terminal}\nif [ -s $prefix/grubenv ]; then\n  load_env\nfi\n"
        'set tuned_params=""\nset tuned_initrd=""\ninsmod blscfg\nblscfg\n'
    )
    return Layout(
        name="fedora-41",
        system="rhel",
        generations=(1, 2),
        partitions=(
            Partition(1, 2, "EF02"),
            Partition(2, 20, "EF00", "vfat", "EFI", "9B2C-0441"),
            Partition(3, 24, "EA00", "ext4", "BOOT", boot, "/boot"),
            Partition(4, 40, "8304", "ext4", "fedora", root, "/"),
        ),
        files={
            "usr/lib/os-release": 'NAME="Fedora Linux"\nVERSION_ID=41\nID=fedora\n'
            'PRETTY_NAME="Fedora Linux 41 (Cloud Edition)"\nVARIANT_ID=cloud\n',
            "etc/fstab": f"UUID={root} / ext4 defaults 0 1\nUUID={boot} /boot ext4 defaults 0 0\n"
            "UUID=9B2C-0441 /boot/efi vfat defaults,umask=0077,shortname=winnt 0 0\n",
            "etc/shadow": "root:!locked::0:99999:7:::\nsshd:!*:19900::::::\nnobody:*:19900:0:99999:7:::\n",
            "etc/sudoers": "Defaults   !visiblepw\nroot\tALL=(ALL) \tALL\n%wheel\tALL=(ALL)\tALL\n"
            "#includedir /etc/sudoers.d\n",
            "etc/selinux/config": "SELINUX=enforcing\nSELINUXTYPE=targeted\n",
            "etc/yum.repos.d/fedora.repo": "[fedora]\nname=Fedora $releasever - $basearch\n"
            "metalink=https://mirrors.fedoraproject.org/metalink?repo=fedora-$releasever&arch=$basearch\nenabled=1\n",
            "etc/cloud/cloud.cfg": "users:\n  - default\ndisable_root: true\nssh_pwauth: false\n"
            "system_info:\n  distro: fedora\n",
            "etc/ssh/sshd_config": "Include /etc/ssh/sshd_config.d/*.conf\nSubsystem sftp internal-sftp\n",
            "etc/NetworkManager/NetworkManager.conf": "[main]\n#plugins=keyfile,ifcfg-rh\n",
            "etc/default/grub": "GRUB_DEFAULT=saved\nGRUB_ENABLE_BLSCFG=true\n"
            'GRUB_CMDLINE_LINUX="no_timer_check console=tty1 console=ttyS0,115200n8"\n',
            "boot/grub2/grub.cfg": grub.format(terminal="terminal_output console"),
            "boot/grub2/grubenv": "# GRUB Environment Block\nsaved_entry=0\n" + "#" * 900,
            entry: menu("no_timer_check console=tty1 console=ttyS0,115200n8"),
            rescue: "title Fedora (0-rescue)\nlinux /vmlinuz-0-rescue-f5e1\ninitrd /initramfs-0-rescue-f5e1.img\n"
            f"options root=UUID={root} ro\n",
            "boot/vmlinuz-0-rescue-f5e1": "MZ",
            f"boot/vmlinuz-{kernel}": "MZ a kernel\n",
            f"usr/lib/modules/{kernel}/config": _CONFIG,
            "usr/lib/sysimage/rpm/rpmdb.sqlite": rpm_database.sqlite_of(
                {
                    "fedora-release-cloud": "41-27",
                    "openssl-libs": "1:3.2.2-8.fc41",
                    "openssl": "1:3.2.2-8.fc41",
                    "cloud-init": "24.2-3.fc41",
                    "kernel-core": "6.11.4-301.fc41",
                }
            ),
            "usr/lib/systemd/system-generators/cloud-init-generator": "#!/bin/sh\n",
            **_units(
                "sshd.service",
                "cloud-init.service",
                "NetworkManager.service",
                "systemd-resolved.service",
                "chronyd.service",
            ),
        },
        links={
            "etc/os-release": "../usr/lib/os-release",
            "etc/resolv.conf": "../run/systemd/resolve/stub-resolv.conf",
            "etc/localtime": "/usr/share/zoneinfo/Etc/UTC",
            "var/lib/rpm": "../../usr/lib/sysimage/rpm",
            "etc/systemd/system/cloud-init.target.wants/cloud-init.service": "/usr/lib/systemd/system/"
            "cloud-init.service",
            "etc/systemd/system/sysinit.target.wants/systemd-resolved.service": "/usr/lib/systemd/system/"
            "systemd-resolved.service",
            **_wanted("sshd.service", "NetworkManager.service", "chronyd.service"),
        },
        esp={
            "EFI/BOOT/BOOTX64.EFI": SHIM,
            "EFI/BOOT/fbx64.efi": SHIM,
            "EFI/fedora/shimx64.efi": SHIM,
            "EFI/fedora/grubx64.efi": GRUB,
            "EFI/fedora/BOOTX64.CSV": csv("shimx64.efi", "Fedora"),
            "EFI/fedora/grub.cfg": f"search --no-floppy --root-dev-only --fs-uuid --set=dev {boot}\n".encode()
            + b"set prefix=($dev)/grub2\nexport $prefix\nconfigfile $prefix/grub.cfg\n",
        },
        kernel=kernel,
        initrd=f"boot/initramfs-{kernel}.img",
        modules=DRACUT,
        wrong={
            **GENERIC,
            "grub-serial": "its GRUB writes to the screen alone",
            "initramfs-hyperv": AFTER_DRACUT,
            "network-sriov": "NetworkManager makes a connection for the virtual function too",
        },
        mended={
            **STORAGE_RULES,
            **SSHD,
            **AGENT,
            **_units("waagent.service", "hypervkvpd.service"),
            "boot/grub2/grub.cfg": grub.format(
                terminal="serial --unit=0 --speed=115200\nterminal_output serial console"
            ),
            entry: menu(f"console=tty1 console=ttyS0,115200n8 {AZURE_WORDS}"),
            f"boot/initramfs-{kernel}.img": fake_disk.initramfs(ALL_MODULES, "zstd", kernel),
            "etc/udev/rules.d/68-azure-vf.rules": FILES["etc/udev/rules.d/68-azure-vf.rules"],
            f"usr/lib/python3.13/site-packages/{VERSION_FILE}": "AGENT_VERSION = '2.12.0.2'\n",
        },
        mended_links=_wanted("waagent.service", "hypervkvpd.service"),
    )


def _opensuse() -> Layout:
    kernel, root = "6.4.0-150600.21-default", "b0075e1f-0000-4000-8000-000000000203"

    def menu(words: str) -> str:
        return (
            "serial --unit=0 --speed=115200 --word=8 --parity=no --stop=1\nterminal_input serial console\n"
            "terminal_output serial console\nmenuentry 'openSUSE Leap 15.6'  --class opensuse {\n"
            f"\tsearch --no-floppy --fs-uuid --set=root {root}\n"
            f"\tlinux\t/boot/vmlinuz-{kernel} root=UUID={root} {words}\n\tinitrd\t/boot/initrd-{kernel}\n}}\n"
        )

    line = "console=ttyS0,115200 console=tty0 net.ifnames=0"
    return Layout(
        name="opensuse-leap-15.6",
        system="suse",
        generations=(1, 2),
        partitions=(
            Partition(1, 2, "EF02"),
            Partition(2, 20, "EF00", "vfat", "EFI", "2D1C-0156"),
            Partition(3, 48, "8300", "ext4", "ROOT", root, "/"),
        ),
        files={
            "usr/lib/os-release": 'NAME="openSUSE Leap"\nID="opensuse-leap"\nID_LIKE="suse opensuse"\n'
            'VERSION_ID="15.6"\nPRETTY_NAME="openSUSE Leap 15.6"\n',
            "etc/fstab": f"UUID={root} / ext4 defaults 0 1\nUUID=2D1C-0156 /boot/efi vfat defaults 0 0\n",
            "etc/sudoers": "Defaults targetpw   # ask for the password of the target user i.e. root\n"
            "ALL   ALL=(ALL) ALL\nroot ALL=(ALL:ALL) ALL\n@includedir /etc/sudoers.d\n",
            "etc/zypp/repos.d/repo-oss.repo": "[repo-oss]\nenabled=1\n"
            "baseurl=http://download.opensuse.org/distribution/leap/$releasever/repo/oss/\n",
            "etc/cloud/cloud.cfg": "users:\n  - default\ndisable_root: true\n",
            "etc/cloud/cloud.cfg.d/05_logging.cfg": "# logging\n",
            "etc/ssh/sshd_config": "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n",
            "etc/sysconfig/network/ifcfg-eth0": "BOOTPROTO='dhcp'\nSTARTMODE='auto'\nCLOUD_NETCONFIG_MANAGE='yes'\n",
            "etc/sysconfig/network/ifcfg-lo": "IPADDR=127.0.0.1/8\nSTARTMODE='nfsroot'\n",
            "etc/sysconfig/network/config": 'NETCONFIG_DNS_STATIC_SERVERS=""\n',
            "usr/sbin/netconfig": "#!/bin/bash\n",
            "etc/default/grub": f'GRUB_CMDLINE_LINUX_DEFAULT="{line}"\nGRUB_TERMINAL="serial console"\n',
            "boot/grub2/grub.cfg": menu(line),
            f"boot/vmlinuz-{kernel}": "MZ a kernel\n",
            "usr/lib/sysimage/rpm/Packages.db": rpm_database.sample("sles15-bci.Packages.db.xz"),
            "usr/lib/systemd/system-generators/cloud-init-generator": "#!/bin/sh\n",
            **_units("sshd.service", "cloud-init.service", "wicked.service", "wickedd.service", "chronyd.service"),
        },
        links={
            "etc/os-release": "../usr/lib/os-release",
            "etc/resolv.conf": "/run/netconfig/resolv.conf",
            "etc/localtime": "/usr/share/zoneinfo/Etc/UTC",
            "var/lib/rpm": "../../usr/lib/sysimage/rpm",
            "etc/systemd/system/network.service": "/usr/lib/systemd/system/wicked.service",
            "etc/systemd/system/cloud-init.target.wants/cloud-init.service": "/usr/lib/systemd/system/"
            "cloud-init.service",
            **_wanted("sshd.service", "wicked.service", "chronyd.service"),
        },
        esp={
            "EFI/BOOT/bootx64.efi": SHIM,
            "EFI/BOOT/grub.efi": GRUB,
            "EFI/BOOT/grub.cfg": f"search --fs-uuid --set=root {root}\nset prefix=($root)/boot/grub2\n".encode()
            + b"configfile ($root)/boot/grub2/grub.cfg\n",
        },
        kernel=kernel,
        initrd=f"boot/initrd-{kernel}",
        modules=DRACUT,
        pack="xz",
        wrong={
            **GENERIC,
            "initramfs-hyperv": AFTER_DRACUT,
            "sudoers-targetpw": "SUSE's sudo asks for root's password",
        },
        mended={
            **STORAGE_RULES,
            **SSHD,
            **AGENT,
            **_units("waagent.service", "hv_kvp_daemon.service"),
            "boot/grub2/grub.cfg": menu(f"{line} {AZURE_WORDS}"),
            f"boot/initrd-{kernel}": fake_disk.initramfs(ALL_MODULES, "xz", kernel),
            "etc/sudoers": "root ALL=(ALL:ALL) ALL\n@includedir /etc/sudoers.d\n",
            f"usr/lib/python3.11/site-packages/{VERSION_FILE}": "AGENT_VERSION = '2.9.1.1'\n",
        },
        mended_links=_wanted("waagent.service", "hv_kvp_daemon.service"),
    )


def _alpine() -> Layout:
    kernel, root = "6.6.63-0-virt", "b0075e1f-0000-4000-8000-000000000302"

    def menu(words: str, terminal: str) -> str:
        return (
            f"{terminal}\nset timeout=0\nmenuentry 'Alpine Linux v3.20, with Linux virt' {{\n"
            f"\tsearch --no-floppy --fs-uuid --set=root {root}\n"
            f"\tlinux\t/boot/vmlinuz-virt root=LABEL=/ ro {words}\n\tinitrd\t/boot/initramfs-virt\n}}\n"
        )

    line = "console=ttyS0,115200n8 modules=sd-mod,usb-storage,ext4,nvme rootfstype=ext4"
    # mkinitfs takes all of drivers/scsi by its feature `scsi`, no card of Hyper-V's and no keyboard
    modules = tuple(name for name in ALL_MODULES if name not in ("hv_netvsc", "hid-hyperv", "hyperv-keyboard"))
    scripts = (
        "sshd",
        "networking",
        "cloud-init",
        "cloud-init-local",
        "cloud-config",
        "cloud-final",
        "chronyd",
        "seedrng",
        "hwdrivers",
        "hostname",
        "crond",
    )
    levels = {
        "default": ("sshd", "cloud-config", "cloud-final", "chronyd", "crond"),
        "boot": ("networking", "cloud-init-local", "cloud-init", "hostname", "seedrng"),
    }
    packages = "".join(
        f"C:Q1=\nP:{name}\nV:{version}\nA:x86_64\n\n"
        for name, version in {
            "alpine-base": "3.20.3-r0",
            "busybox": "1.36.1-r29",
            "cloud-init": "24.1.4-r3",
            "linux-virt": "6.6.63-r0",
            "openssh-server": "9.7_p1-r4",
            "openssl": "3.3.2-r1",
        }.items()
    )
    return Layout(
        name="alpine-3.20-nocloud-uefi",
        system="alpine",
        generations=(2,),
        partitions=(
            Partition(1, 20, "EF00", "vfat", "EFI", "3200-A1B2"),
            Partition(2, 48, "8300", "ext4", "/", root, "/"),
        ),
        files={
            "etc/os-release": 'NAME="Alpine Linux"\nID=alpine\nVERSION_ID=3.20.3\nPRETTY_NAME="Alpine Linux v3.20"\n',
            "etc/alpine-release": "3.20.3\n",
            "etc/fstab": "# <fs>\t<mountpoint>\t<type>\t<opts>\nLABEL=/\t/\text4\tdefaults,noatime\t1 1\n"
            "LABEL=EFI\t/boot/efi\tvfat\tdefaults,noatime,uid=0,gid=0,umask=077\t0 0\n",
            "etc/shadow": "root:*::0:::::\nsshd:!::0:::::\nnobody:!::0:::::\n",
            "etc/hostname": "localhost\n",
            "etc/inittab": "::sysinit:/sbin/openrc sysinit\nttyS0::respawn:/sbin/getty -L 0 ttyS0 vt100\n",
            "etc/network/interfaces": "auto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet dhcp\n",
            "etc/apk/repositories": "https://dl-cdn.alpinelinux.org/alpine/v3.20/main\n",
            "lib/apk/db/installed": packages,
            "etc/cloud/cloud.cfg": "users:\n  - default\ndisable_root: true\n",
            "etc/cloud/cloud.cfg.d/99_datasource.cfg": 'datasource_list: ["NoCloud"]\n',
            "etc/ssh/sshd_config": "Include /etc/ssh/sshd_config.d/*.conf\nPasswordAuthentication no\n",
            "etc/default/grub": f'GRUB_TIMEOUT=0\nGRUB_CMDLINE_LINUX_DEFAULT="{line}"\n',
            "boot/grub/grub.cfg": menu(line, "serial --unit=0 --speed=115200\nterminal_output serial console"),
            "boot/vmlinuz-virt": "MZ a kernel\n",
            "sbin/udhcpc": "\x7fELF",
            **{f"etc/init.d/{name}": "#!/sbin/openrc-run\n" for name in scripts},
        },
        links={
            "etc/localtime": "/usr/share/zoneinfo/Etc/UTC",
            **{
                f"etc/runlevels/{level}/{name}": f"/etc/init.d/{name}"
                for level, names in levels.items()
                for name in names
            },
        },
        esp={"EFI/boot/bootx64.efi": UNSIGNED},
        kernel=kernel,
        initrd="boot/initramfs-virt",
        modules=modules,
        pack="gzip",
        wrong={
            **GENERIC,
            "boot-efi-signed": "Alpine has no signed boot loader",
            "initramfs-hyperv": "Azure asks for hv_netvsc in the initramfs: mkinitfs' features",
            "initramfs-keyboard": "mkinitfs takes no keyboard of Hyper-V's",
            "cloud-init-datasource": "this image is for NoCloud",
        },
        mended={
            **STORAGE_RULES,
            **SSHD,
            **AGENT,
            "etc/cloud/cloud.cfg.d/99_datasource.cfg": 'datasource_list: ["Azure"]\n',
            "etc/init.d/waagent": "#!/sbin/openrc-run\n",
            "etc/init.d/hv_kvp_daemon": "#!/sbin/openrc-run\n",
            "boot/grub/grub.cfg": menu(f"{line} {AZURE_WORDS}", "serial --unit=0\nterminal_output serial console"),
            "boot/initramfs-virt": fake_disk.initramfs(ALL_MODULES, "gzip", kernel),
            f"usr/lib/python3.12/site-packages/{VERSION_FILE}": "AGENT_VERSION = '2.11.1.4'\n",
        },
        remains={"boot-efi-signed": "Alpine has no signed boot loader: waive it, and switch Secure Boot off"},
        mended_links={
            "etc/runlevels/default/waagent": "/etc/init.d/waagent",
            "etc/runlevels/default/hv_kvp_daemon": "/etc/init.d/hv_kvp_daemon",
        },
    )


def layouts() -> dict[str, Layout]:
    """All of them by name; making one packs an initramfs."""
    return {layout.name: layout for layout in (_ubuntu(), _fedora(), _opensuse(), _alpine())}
