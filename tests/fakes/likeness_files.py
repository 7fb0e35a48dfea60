"""What the four likenesses consist of: partitions, packages, files, boot menu. likeness_disks.py makes disks of them.

They follow what the distributions' own cloud images and installers leave: Fedora and RHEL (XFS on LVM, dracut,
NetworkManager, entries of the Boot Loader Specification), openSUSE (btrfs with subvolumes), Ubuntu (a /boot of its
own, netplan), and Debian's installer before Debian 12 (ifupdown, swap).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

ESP_CONFIG = "search.fs_uuid {uuid} root\nset prefix=($root)'{prefix}'\n"
#: Debian's own lines for GRUB, as an installer for a host with a serial line leaves them.
_GRUB_DEFAULT = """\
GRUB_DEFAULT=0
GRUB_TIMEOUT=2
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX_DEFAULT="quiet"
GRUB_CMDLINE_LINUX="console=ttyS0,115200"
"""
#: What the check `swap` asks of a disk's owner: the partition, its line in fstab, and what resumes from it.
REMOVE_SWAP = """\
#!/bin/sh
set -eu
device=$(blkid -t TYPE=swap -o device)
swapoff -a
sed -i '/\\sswap\\s/d' /etc/fstab
rm -f /etc/initramfs-tools/conf.d/resume
wipefs --all --quiet "$device"
sfdisk --delete "$(lsblk -npo PKNAME "$device")" "${device##*[!0-9]}"
update-initramfs -u
"""
_SSHD = "PasswordAuthentication no\n"


def number(name: str) -> str:
    """The same UUID at every making."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"goldsmith likeness {name}"))


@dataclass(frozen=True)
class Part:
    """A partition with a file system, or with a logical volume `volume` that holds it."""

    name: str
    mount: str
    mib: int
    maker: tuple[str, ...]
    uuid: str
    code: str = "8300"
    options: str = ""
    fstab: str = "defaults"
    subvolumes: Mapping[str, str] = field(default_factory=dict)
    volume: str = ""

    @property
    def file_system_mib(self) -> int:
        # LVM keeps the first MiB for itself; its extents have 4 MiB
        return (self.mib - 4) // 4 * 4 if self.volume else self.mib

    @property
    def kind(self) -> str:
        return {"mke2fs": "ext4", "swap": "swap"}.get(self.maker[0], self.maker[0].removeprefix("mkfs."))

    def fstab_lines(self) -> str:
        source = f"/dev/mapper/my--group-{self.volume}" if self.volume else f"UUID={self.uuid}"
        if self.kind == "swap":
            return f"{source} none swap sw 0 0\n"
        if self.subvolumes:
            rows = [(mount, f"{self.fstab},subvol={name}") for name, mount in self.subvolumes.items()]
            return "".join(f"{source} {mount} btrfs {options} 0 0\n" for mount, options in rows)
        return f"{source} {self.mount} {self.kind} {self.fstab} 0 {1 if self.mount == '/' else 2}\n"


@dataclass(frozen=True)
class Likeness:
    """A disk: `initramfs` makes one for the kernel VERSION, `boot` is the part with the kernels."""

    name: str
    title: str
    parts: tuple[Part, ...]
    packages: tuple[str, ...]
    commands: tuple[str, ...]
    files: Mapping[str, str]
    grub_modules: tuple[str, ...]
    boot_prefix: str
    root: str
    initramfs: str = "update-initramfs -c -k VERSION"
    bls: bool = False

    @property
    def boot_uuid(self) -> str:
        found = {part.mount: part.uuid for part in self.parts}
        return found.get("/boot", found["/"])

    @property
    def has_swap(self) -> bool:
        return any(part.kind == "swap" for part in self.parts)

    @property
    def esp_serial(self) -> str:
        return number(f"{self.name} esp")[:8].upper()

    def all_files(self) -> dict[str, str]:
        """Path in the tree: text."""
        serial = self.esp_serial
        fstab = "".join(part.fstab_lines() for part in self.parts)
        fstab += f"UUID={serial[:4]}-{serial[4:]} /boot/efi vfat umask=0077,nofail 0 0\n"
        return {
            "etc/fstab": fstab,
            "etc/hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
            "etc/default/grub": _GRUB_DEFAULT,
            "etc/ssh/sshd_config.d/10-keys.conf": _SSHD,
            "boot/efi/.keep": "",
            "var/log/journal/.keep": "",
            **self.files,
        }

    def entries(self, version: str) -> dict[str, str]:
        """Entries of the Boot Loader Specification, if it has them."""
        if not self.bls:
            return {}
        lines = [f"title {self.title}", f"version {version}", f"linux /vmlinuz-{version}"]
        lines += [
            f"initrd /initrd.img-{version}",
            f"options root={self.root} ro console=ttyS0,115200",
            "grub_users $grub_users",
        ]
        return {f"boot/loader/entries/{number('machine').replace('-', '')}-{version}.conf": "\n".join(lines) + "\n"}


def menu(likeness: Likeness, version: str) -> str:
    """The boot menu until the guest's own update-grub writes it anew."""
    place = "" if likeness.boot_prefix == "/grub" else likeness.boot_prefix.removesuffix("/grub")
    return (
        "serial --speed=115200 --unit=0\nterminal_input console serial\nterminal_output console serial\n"
        "set timeout=1\n"
        f'menuentry "{likeness.title}" {{\n'
        f"    search --no-floppy --fs-uuid --set=root {likeness.boot_uuid}\n"
        f"    linux {place}/vmlinuz-{version} root={likeness.root} ro console=ttyS0,115200\n"
        f"    initrd {place}/initrd.img-{version}\n"
        "}\n"
    )


def _ext4(name: str, mount: str, mib: int, key: str) -> Part:
    options = ("mke2fs", "-t", "ext4", "-O", "^metadata_csum_seed,^orphan_file", "-L", name)
    return Part(name, mount, mib, options, number(key))


def _ifupdown() -> Likeness:
    swap = Part("swap", "", 256, ("swap",), number("ifupdown swap"), code="8200")
    root = _ext4("root", "/", 3000, "ifupdown root")
    return Likeness(
        "ifupdown-swap",
        "Debian as older installers leave it: ifupdown, swap",
        (swap, root),
        ("ifupdown", "isc-dhcp-client"),
        ("systemctl -q enable networking.service", "systemctl -q disable systemd-networkd.service || true"),
        {
            "etc/network/interfaces": "source /etc/network/interfaces.d/*\n\nauto lo\niface lo inet loopback\n\n"
            "allow-hotplug eth0\niface eth0 inet dhcp\n",
            "etc/default/grub": _GRUB_DEFAULT.replace("console=ttyS0", "net.ifnames=0 console=ttyS0"),
            "etc/initramfs-tools/conf.d/resume": f"RESUME=UUID={swap.uuid}\n",
        },
        ("ext2",),
        "/boot/grub",
        f"UUID={root.uuid} net.ifnames=0",
    )


def _separate() -> Likeness:
    parts = (
        _ext4("boot", "/boot", 500, "separate boot"),
        _ext4("var", "/var", 900, "separate var"),
        _ext4("root", "/", 2600, "separate root"),
    )
    return Likeness(
        "separate",
        "Ubuntu's way: /boot and /var of their own, netplan",
        parts,
        ("netplan.io",),
        ("systemctl -q enable systemd-networkd.service",),
        {
            "etc/netplan/50-cloud-init.yaml": "network:\n  version: 2\n  ethernets:\n    all:\n"
            "      match: {name: 'e*'}\n      dhcp4: true\n",
        },
        ("ext2",),
        "/grub",
        f"UUID={parts[2].uuid}",
    )


def _btrfs() -> Likeness:
    root = Part(
        "root", "/", 3400, ("mkfs.btrfs", "-q", "-L", "root", "-U", number("btrfs root")), number("btrfs root"),
        options="compress=zstd:1,nodiscard", fstab="defaults,compress=zstd:1",
        subvolumes={"@": "/", "@home": "/home", "@var-log": "/var/log", "@snapshots": "/.snapshots"},
    )  # fmt: skip
    return Likeness(
        "btrfs",
        "openSUSE's way: btrfs with subvolumes and zstd",
        (root,),
        ("btrfs-progs",),
        ("systemctl -q enable systemd-networkd.service", "mkdir -p /.snapshots"),
        {"etc/systemd/network/90-dhcp.network": "[Match]\nName=en* eth*\nType=ether\n\n[Network]\nDHCP=yes\n"},
        ("btrfs",),
        "/@/boot/grub",
        f"UUID={root.uuid} rootflags=subvol=@",
    )


def _xfs_lvm() -> Likeness:
    boot = Part(
        "boot", "/boot", 600, ("mkfs.xfs", "-q", "-L", "boot", "-m", f"uuid={number('xfs boot')}"), number("xfs boot")
    )
    root = Part(
        "root", "/", 3604, ("mkfs.xfs", "-q", "-L", "root", "-m", f"uuid={number('xfs root')}"), number("xfs root"),
        code="8e00", volume="root",
    )  # fmt: skip
    return Likeness(
        "xfs-lvm",
        "RHEL's way: XFS on LVM, dracut, NetworkManager, Boot Loader Specification",
        (boot, root),
        ("lvm2", "xfsprogs", "dracut", "dracut-core", "network-manager", "initramfs-tools-"),
        (
            # Debian's package refuses to be beside NetworkManager; RHEL's is
            "cd /tmp; apt-get -q download waagent; dpkg --force-conflicts -i waagent_*.deb; rm waagent_*.deb",
            "systemctl -q enable NetworkManager.service",
            "systemctl -q disable systemd-networkd.service || true",
        ),
        {
            "etc/NetworkManager/system-connections/cloud-init-eth0.nmconnection": "[connection]\nid=wired\n"
            "type=ethernet\n\n[ipv4]\nmethod=auto\n",
            "etc/dracut.conf.d/cloud.conf": 'hostonly="no"\nadd_dracutmodules+=" lvm "\n',
        },
        ("xfs",),
        "/grub",
        "/dev/mapper/my--group-root",
        initramfs="dracut --force --no-hostonly /boot/initrd.img-VERSION VERSION",
        bls=True,
    )


LIKENESSES = {each.name: each for each in (_ifupdown(), _separate(), _btrfs(), _xfs_lvm())}
