"""Single changes to the good fake disk, each with the one check that must name it; and changes that are none.

As a program it prints docs/checks.md: python -m tests.fakes.seeded_defects > docs/checks.md
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pipeline.vhd.footer import Footer
from tests.fakes import fake_disk, seeded_windows_defects, signed_efi
from tests.fakes.fake_disk import ESP_AT, FILES, KERNEL, MODULES, ROOT_AT, ROOT_SIZE, ROOT_UUID, SIZE

Change = Callable[[Path, Path], None]

GRUB = "boot/grub/grub.cfg"
ROOT_END = ROOT_AT + ROOT_SIZE
STATUS = "var/lib/dpkg/status"
INITRD = f"/boot/initrd.img-{KERNEL}"
HASH = "$6$salt$" + "a" * 86
PEM = (
    "-----BEGIN OPENSSH PRIVATE KEY-----\n" + "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtz\n" * 5
)
PEM += "-----END OPENSSH PRIVATE KEY-----\n"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKq builder@host\n"


def put(path: str, data: bytes | str) -> Change:
    return lambda disk, folder: fake_disk.put(disk, path, data, folder)


def add(path: str, text: str) -> Change:
    return put("/" + path, FILES[path] + text)


def edit(path: str, *words: str) -> Change:
    """A file with each word at an even place exchanged for the one behind it."""
    text = FILES[path]
    for old, new in zip(words[::2], words[1::2], strict=True):
        assert old in text, (path, old)
        text = text.replace(old, new)
    return put("/" + path, text)


def fs(*commands: str) -> Change:
    return lambda disk, _: void(fake_disk.debugfs(disk, *commands))


def esp(path: str, data: bytes | None) -> Change:
    return lambda disk, folder: fake_disk.put_esp(disk, path, data, folder)


def sgdisk(*words: str) -> Change:
    """sgdisk moves the backup header, so it works on the disk without its footer."""

    def change(disk: Path, _: Path) -> None:
        with disk.open("r+b") as file:
            file.seek(SIZE)
            footer = file.read()
            file.truncate(SIZE)
        fake_disk.tool("sgdisk", *words, disk)
        with disk.open("r+b") as file:
            file.seek(SIZE)
            file.write(footer)

    return change


def service(name: str) -> Change:
    """A service that starts at boot."""
    unit = f"/usr/lib/systemd/system/{name}.service"
    return several(
        put(unit, "[Install]\nWantedBy=multi-user.target\n"),
        fs(f"symlink /etc/systemd/system/multi-user.target.wants/{name}.service {unit}"),
    )


def masked(unit: str) -> Change:
    return fs(f"symlink /etc/systemd/system/{unit} /dev/null")


def tear_second_fat(disk: Path, _: Path) -> None:
    """Change one entry in the second copy of the ESP's allocation table."""
    with disk.open("r+b") as file:
        file.seek(ESP_AT)
        sector = file.read(512)
        size, reserved = int.from_bytes(sector[11:13], "little"), int.from_bytes(sector[14:16], "little")
    fake_disk.flip_bits(disk, ESP_AT + (reserved + int.from_bytes(sector[22:24], "little")) * size + 256)


def tear(at: int) -> Change:
    """A byte that is another one."""
    return lambda disk, _: fake_disk.flip_bits(disk, at)


def raw(at: int, data: bytes) -> Change:
    def change(disk: Path, _: Path) -> None:
        with disk.open("r+b") as file:
            file.seek(at)
            file.write(data)

    return change


def footer(**fields: object) -> Change:
    def change(disk: Path, _: Path) -> None:
        with disk.open("r+b") as file:
            file.seek(-512, 2)
            here = Footer.parse(file.read(512))
            file.seek(-512, 2)
            file.write(replace(here, **fields).pack())  # type: ignore[arg-type]

    return change


def larger(extra: int) -> Change:
    def change(disk: Path, _: Path) -> None:
        with disk.open("r+b") as file:
            file.seek(-512, 2)
            tail = file.read(512)
            file.truncate(SIZE + extra)
            file.seek(SIZE + extra)
            file.write(tail)

    return change


def without(module: str) -> Change:
    return put(INITRD, fake_disk.initramfs(tuple(name for name in MODULES if name != module)))


def several(*changes: Change) -> Change:
    def change(disk: Path, folder: Path) -> None:
        for each in changes:
            each(disk, folder)

    return change


def void(_: object) -> None:
    return None


EPHEMERAL = "/usr/lib/udev/rules.d/66-azure-ephemeral.rules"
KVP = "/usr/lib/systemd/system/hv-kvp-daemon.service"
RESOURCE = "/dev/disk/cloud/azure_resource-part1"


def with_azure_init() -> Change:
    return several(put("/usr/bin/azure-init", "\x7fELF"), service("azure-init"))


def azure_init_alone() -> Change:
    """azure-init provisions; waagent stays for extensions, and formats the resource disk."""
    return several(
        with_azure_init(),
        put("/etc/azure-init/azure-init.toml", "[provisioning_media]\nenable = true\n"),
        edit("etc/waagent.conf", "Agent=auto", "Agent=disabled", "Format=n", "Format=y"),
        fs("rm /usr/bin/cloud-init"),
    )


CLOUD_NETWORK_OFF = put("/etc/cloud/cloud.cfg.d/99-net.cfg", "network: {config: disabled}\n")

DEFECTS: dict[str, tuple[str, Change]] = {
    # the container
    "a footer of a dynamic disk's offset": ("vhd-footer", footer(data_offset=512)),
    "another geometry": ("vhd-footer", footer(geometry=(1, 2, 3))),
    "a saved state": ("vhd-saved-state", footer(saved_state=1)),
    "an export of Azure": ("vhd-creator", footer(creator=b"wa\0\0")),
    "a file too large": ("vhd-size", larger(4096)),
    # the folders of the system
    "/etc closed by a copy out of a checkout with umask 077": ("system-folders", fs("sif /etc mode 040700")),
    "/tmp without its sticky bit": ("system-folders", fs("sif /tmp mode 040777")),
    "/var/tmp closed": ("system-folders", fs("sif /var/tmp mode 041755")),
    "/root open to everybody": ("system-folders", fs("sif /root mode 040755")),
    "the root folder open to a group's writing": ("system-folders", fs("sif / mode 040775")),
    "/usr of somebody": ("system-folders", fs("sif /usr uid 1000")),
    # the table
    "a torn backup header": ("gpt-backup", tear(SIZE - 512 + 60)),
    "a torn first header": ("partition-table", tear(512 + 60)),
    "a partition off its MiB": (
        "partition-alignment",
        sgdisk("-a1", f"-n4:{(ROOT_AT + fake_disk.ROOT_SIZE) // 512 + 3}:0"),
    ),
    "a journal to replay": ("fs-clean", fs("feature needs_recovery")),
    "a file system with errors": ("fs-clean", fs("ssv state 3")),
    "a file system not unmounted": ("fs-clean", fs("ssv state 0")),
    "a FAT file system whose write was cut off": ("fs-clean", several(raw(ESP_AT + 0x25, b"\1"), tear_second_fat)),
    "a volume of LVM's": (
        "volumes-read",
        several(sgdisk(f"-n4:{ROOT_END // 512}:+64K", "-t4:8E00"), raw(ROOT_END + 536, b"LVM2 001")),
    ),
    "a volume of nobody knows what": (
        "volumes-read",
        several(sgdisk(f"-n4:{ROOT_END // 512}:+64K", "-t4:8300"), raw(ROOT_END + 9, b"something")),
    ),
    "a full file system": ("free-space", put("/usr/ballast", bytes(range(256)) * (130 << 10))),
    "a swap partition": (
        "swap",
        sgdisk(f"-n4:{(ROOT_AT + fake_disk.ROOT_SIZE) // 512}:0", "-t4:8200"),
    ),
    "a swap file": ("swap", put("/swapfile", "x" * 4096)),
    "swap by cloud-init": (
        "swap",
        put("/etc/cloud/cloud.cfg.d/95-swap.cfg", "swap: {filename: /swap.img, size: 1G}\n"),
    ),
    "swap in fstab": ("swap", add("etc/fstab", "/dev/sdb1 none swap sw 0 0\n")),
    # the boot chain
    "no boot code": ("boot-bios", raw(0, bytes(440))),
    "no GRUB core": ("boot-bios", raw(fake_disk.CORE_AT, bytes(4096))),
    "half a GRUB core": ("boot-bios", raw(fake_disk.CORE_AT + 512, bytes(4096))),
    "boot code that points elsewhere": ("boot-bios", raw(0x5C, struct.pack("<Q", 40000))),
    "no BIOS boot partition": ("boot-bios", sgdisk("-t1:0C01")),
    "no loader at the fallback path": ("boot-efi", esp("EFI/BOOT/BOOTX64.EFI", None)),
    "a loader of another machine": (
        "boot-efi",
        esp("EFI/BOOT/BOOTX64.EFI", signed_efi.pe(fake_disk.SHIM_TEXT, *signed_efi.BOTH, machine=0xAA64)),
    ),
    "an unsigned loader": (
        "boot-efi-signed",
        esp("EFI/BOOT/BOOTX64.EFI", fake_disk.pe(fake_disk.SHIM_TEXT, signed=False)),
    ),
    "GRUB in the shim's place": ("boot-efi-signed", esp("EFI/BOOT/BOOTX64.EFI", fake_disk.pe(fake_disk.GRUB_TEXT))),
    "an unsigned GRUB": (
        "boot-efi-signed",
        esp("EFI/BOOT/grubx64.efi", fake_disk.pe(fake_disk.GRUB_TEXT, signed=False)),
    ),
    "a shim that was changed after it was signed": (
        "boot-efi-signed",
        esp("EFI/BOOT/BOOTX64.EFI", fake_disk.pe(fake_disk.SHIM_TEXT).replace(b"shim,3,", b"shim,9,", 1)),
    ),
    "a shim that is signed for 2011 only": (
        "boot-efi-keys",
        esp("EFI/BOOT/BOOTX64.EFI", signed_efi.pe(fake_disk.SHIM_TEXT, signed_efi.UEFI_2011)),
    ),
    "a shim that is signed for 2023 only": (
        "boot-efi-keys",
        esp("EFI/BOOT/BOOTX64.EFI", signed_efi.pe(fake_disk.SHIM_TEXT, signed_efi.UEFI_2023)),
    ),
    "a signature that is cut off": (
        "boot-efi-signed",
        esp("EFI/BOOT/grubx64.efi", fake_disk.pe(fake_disk.GRUB_TEXT)[:-40]),
    ),
    "no grub.cfg for signed GRUB": ("boot-efi-config", esp("EFI/debian/grub.cfg", None)),
    "grub.cfg of another disk": (
        "boot-efi-config",
        esp("EFI/debian/grub.cfg", b"search.fs_uuid 99999999-2222-3333-4444-555555555555 root\n"),
    ),
    "no initramfs": ("grub-config", edit(GRUB, f"initrd.img-{KERNEL}", "initrd.img-0")),
    "root by device": ("root-by-uuid", edit(GRUB, f"root=UUID={ROOT_UUID}", "root=/dev/sda3")),
    "root of another disk": ("root-by-uuid", edit(GRUB, f"root=UUID={ROOT_UUID}", "root=UUID=" + ROOT_UUID[::-1])),
    "no serial console": ("serial-console", edit(GRUB, " console=ttyS0,115200n8", "")),
    "GRUB without serial": ("grub-serial", edit(GRUB, "terminal_output serial console", "terminal_output console")),
    "rhgb": ("kernel-command-line", edit(GRUB, " ro ", " ro rhgb ")),
    "crashkernel": ("kernel-command-line", edit(GRUB, " ro ", " ro crashkernel=auto ")),
    "a quiet boot": ("quiet-console", edit(GRUB, " ro ", " ro quiet ")),
    "a splash screen": ("quiet-console", edit(GRUB, " ro ", " ro splash ")),
    "a console for emergencies only": ("quiet-console", edit(GRUB, " ro ", " ro loglevel=0 ")),
    "no rootdelay": ("root-delay", edit(GRUB, " rootdelay=300", "")),
    # the kernel
    "no hv_storvsc": ("initramfs-hyperv", without("hv_storvsc")),
    "no hv_netvsc": ("initramfs-hyperv", without("hv_netvsc")),
    "no Hyper-V keyboard": ("initramfs-keyboard", without("hyperv-keyboard")),
    "no virtio": ("initramfs-virtio", without("virtio_blk")),
    "no nvme": ("initramfs-nvme", without("nvme")),
    "no CIFS": ("kernel-config", edit(f"boot/config-{KERNEL}", "CONFIG_CIFS=m", "# CONFIG_CIFS is not set")),
    "no modules": (
        "kernel-modules",
        fs(f"unlink /usr/lib/modules/{KERNEL}"),
    ),
    # the system
    "fstab by device": ("fstab-by-uuid", edit("etc/fstab", f"UUID={ROOT_UUID}", "/dev/sda3")),
    "fstab of another disk": ("fstab-targets", add("etc/fstab", "UUID=0000-1111 /data vfat defaults 0 2\n")),
    "persistent net rules": ("persistent-net-rules", put("/etc/udev/rules.d/70-persistent-net.rules", "x\n")),
    "a rule for one card": (
        "persistent-net-rules",
        put("/etc/udev/rules.d/90-mine.rules", 'ATTR{address}=="52:54:00:12:34:56", NAME="lan"\n'),
    ),
    "a rule for the card in one slot": (
        "persistent-net-rules",
        put(
            "/etc/udev/rules.d/90-mine.rules",
            'SUBSYSTEM=="net", ACTION=="add", KERNELS=="0000:02:00.0", NAME="lan0"\n',
        ),
    ),
    "no storage rules": ("azure-storage-rules", fs("rm /etc/udev/rules.d/66-azure-storage.rules")),
    "a program of i386": ("architecture", put("/usr/bin/sh", b"\x7fELF\1\1\1" + bytes(9) + b"\2\0\3\0")),
    "a package cut off": ("dpkg-state", edit(STATUS, "Status: install ok installed", "Status: install ok unpacked")),
    "a lock on passwd": ("account-locks", put("/etc/passwd.lock", "")),
    "an old Python": (
        "python-version",
        fs("ln /usr/bin/python3.11 /usr/bin/python3.7", "unlink /usr/bin/python3.11"),
    ),
    "an old OpenSSL": ("openssl-version", edit(STATUS, "3.0.15-1~deb12u1", "1.0.2u-1")),
    "no package source": ("package-sources", put("/etc/apt/sources.list", "# none\n")),
    "packages from a disc": ("package-sources", add("etc/apt/sources.list", "deb cdrom:[Debian]/ bookworm main\n")),
    "a local clock": ("clock-utc", edit("etc/adjtime", "UTC", "LOCAL")),
    "no login on the serial port": ("serial-login", masked("serial-getty@ttyS0.service")),
    "no login by a word of the kernel line": ("serial-login", edit(GRUB, " ro ", " ro systemd.getty_auto=no ")),
    "no login on any serial port": ("serial-login", masked("serial-getty@.service")),
    "a file in /tmp": ("temporary-files", put("/tmp/build.sh", "x\n")),
    "a core dump": ("core-dumps", put("/var/crash/x.crash", "x\n")),
    "a nologin": ("failed-boot-marks", put("/etc/nologin", "x\n")),
    # the network
    "cloud-init's netplan": ("netplan-cloud-init", put("/etc/netplan/50-cloud-init.yaml", "network: {}\n")),
    "a card's address": (
        "network-hardware-address",
        put("/etc/systemd/network/20-x.network", "[Match]\nMACAddress=52:54:00:12:34:56\n"),
    ),
    "a fixed address": (
        "network-static-address",
        put("/etc/network/interfaces", "iface eth0 inet static\n  address 10.0.0.2\n"),
    ),
    "a fixed address in netplan": (
        "network-static-address",
        put(
            "/etc/netplan/90-default.yaml",
            "network:\n  ethernets:\n    all:\n      match: {name: 'e*'}\n      addresses:\n      - 10.0.0.2/24\n",
        ),
    ),
    "a name server": ("resolv-conf", put("/etc/resolv.conf", "nameserver 192.0.2.1\n")),
    "a name server of the build's network": (
        "resolv-conf",
        put("/etc/systemd/resolved.conf.d/corp.conf", "[Resolve]\nDNS=10.1.2.3\n"),
    ),
    "systemd-resolved is masked": ("resolver", masked("systemd-resolved.service")),
    "systemd-resolved does not start": (
        "resolver",
        fs("rm /etc/systemd/system/sysinit.target.wants/systemd-resolved.service"),
    ),
    "systemd-resolved is not installed": ("resolver", fs("rm /usr/lib/systemd/system/systemd-resolved.service")),
    "a resolver's link that leads nowhere": (
        "resolver",
        fs("rm /etc/resolv.conf", "symlink /etc/resolv.conf ../var/lib/old/resolv.conf"),
    ),
    "a resolver's link into a NetworkManager that is not there": (
        "resolver",
        fs("rm /etc/resolv.conf", "symlink /etc/resolv.conf /run/NetworkManager/resolv.conf"),
    ),
    "a resolver's link into a resolvconf that is not there": (
        "resolver",
        fs("rm /etc/resolv.conf", "symlink /etc/resolv.conf /etc/resolvconf/run/resolv.conf"),
    ),
    "no resolv.conf, as waagent leaves it": ("resolver", fs("rm /etc/resolv.conf")),
    "a name server on the loopback that nobody serves": (
        "resolver",
        put("/etc/resolv.conf", "nameserver 127.0.0.1\n"),
    ),
    "netplan for one card": (
        "network-pinned",
        put("/etc/netplan/00-installer-config.yaml", "network: {version: 2, ethernets: {ens33: {dhcp4: true}}}\n"),
    ),
    "cloud-init's network is off, and nothing else is there": (
        "network-pinned",
        several(CLOUD_NETWORK_OFF, fs("rm /etc/systemd/network/10-eth.network")),
    ),
    "systemd-networkd for one card": (
        "network-pinned",
        several(CLOUD_NETWORK_OFF, put("/etc/systemd/network/10-eth.network", "[Match]\nName=ens33\n")),
    ),
    "systemd-networkd leaves the cards alone": (
        "network-pinned",
        several(
            CLOUD_NETWORK_OFF,
            put("/etc/systemd/network/10-eth.network", "[Match]\nName=en* eth*\n[Link]\nUnmanaged=yes\n"),
        ),
    ),
    "interfaces for one card, and ifupdown alone": (
        "network-pinned",
        several(
            CLOUD_NETWORK_OFF,
            fs("rm /etc/systemd/system/multi-user.target.wants/systemd-networkd.service"),
            service("networking"),
            put("/etc/network/interfaces", "auto lo\niface lo inet loopback\nauto enp0s3\niface enp0s3 inet dhcp\n"),
        ),
    ),
    "a keyfile for one card": (
        "network-pinned",
        several(
            CLOUD_NETWORK_OFF,
            fs("rm /etc/systemd/system/multi-user.target.wants/systemd-networkd.service"),
            service("NetworkManager"),
            put("/etc/NetworkManager/conf.d/00-server.conf", "[main]\nno-auto-default=*\n"),
            put(
                "/etc/NetworkManager/system-connections/ens160.nmconnection",
                "[connection]\nid=ens160\ntype=ethernet\ninterface-name=ens160\n",
            ),
        ),
    ),
    "an ifcfg for one card": (
        "network-pinned",
        several(
            CLOUD_NETWORK_OFF,
            fs("rm /etc/systemd/system/multi-user.target.wants/systemd-networkd.service"),
            service("network"),
            put("/etc/sysconfig/network-scripts/ifcfg-ens192", "DEVICE=ens192\nBOOTPROTO=dhcp\nONBOOT=yes\n"),
        ),
    ),
    # accelerated networking
    "the base's network of before, and nothing about a virtual function": (
        "network-sriov",
        several(
            fs("rm /etc/systemd/network/01-azure-vf.network", "rm /etc/systemd/network/10-eth.network"),
            put("/etc/systemd/network/90-dhcp.network", "[Match]\nName=en* eth*\nType=ether\n[Network]\nDHCP=yes\n"),
        ),
    ),
    "a virtual function that is left alone too late": (
        "network-sriov",
        fs(
            "rm /etc/systemd/network/01-azure-vf.network",
            "symlink /etc/systemd/network/99-azure-vf.network /usr/lib/systemd/network/99-azure-vf.network",
        ),
    ),
    "mana is forgotten": (
        "network-sriov",
        put(
            "/etc/systemd/network/01-azure-vf.network",
            "[Match]\nDriver=mlx4_core mlx4_en mlx5_core\n[Link]\nUnmanaged=yes\n",
        ),
    ),
    "a drop-in that manages the virtual function again": (
        "network-sriov",
        put("/etc/systemd/network/01-azure-vf.network.d/50-mine.conf", "[Link]\nUnmanaged=no\n"),
    ),
    "netplan that sorts before": (
        "network-sriov",
        several(
            fs("rm /etc/systemd/network/01-azure-vf.network"),
            put(
                "/etc/systemd/network/20-azure-vf.network",
                "[Match]\nDriver=mana mlx4_en mlx5_core\n[Link]\nUnmanaged=yes\n",
            ),
            put("/etc/netplan/01-all.yaml", "network: {ethernets: {all: {match: {name: 'e*'}, dhcp4: true}}}\n"),
        ),
    ),
    "NetworkManager takes the virtual function": (
        "network-sriov",
        several(service("NetworkManager"), fs("rm /etc/udev/rules.d/68-azure-vf.rules")),
    ),
    "interfaces for every name of a PCI card": (
        "network-sriov",
        several(
            service("networking"),
            put(
                "/etc/network/interfaces",
                "auto lo\niface lo inet loopback\nallow-hotplug /en*=dhcp\niface dhcp inet dhcp\n",
            ),
        ),
    ),
    "the build's name": ("host-name", put("/etc/hostname", "goldsmith-R7\n")),
    "a template's name": ("host-name", put("/etc/hostname", "golden-template01\n")),
    "a template's name in hosts": (
        "host-name",
        add("etc/hosts", "127.0.1.1 golden-template01.corp.example golden-template01\n"),
    ),
    "a name that is kept": ("host-name", put("/etc/cloud/cloud.cfg.d/99-keep.cfg", "preserve_hostname: true\n")),
    "a name that cloud-init gives every clone": (
        "host-name",
        put("/etc/cloud/cloud.cfg.d/99-name.cfg", "hostname: golden-template01\n"),
    ),
    "RESUME of a swap that is gone": (
        "resume-device",
        put("/etc/initramfs-tools/conf.d/resume", "RESUME=UUID=6a3f3a55-1111-2222-3333-444455556666\n"),
    ),
    "resume= of a swap that is gone": ("resume-device", edit(GRUB, " ro ", " ro resume=/dev/mapper/vg-swap ")),
    "resume= in GRUB's defaults": (
        "resume-device",
        put("/etc/default/grub.d/50-resume.cfg", 'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX resume=UUID=6a3f3a55-1"\n'),
    ),
    # sizes with NVMe disks
    "crypttab by device": ("nvme-names", put("/etc/crypttab", "data /dev/sdb1 /etc/keys/data luks\n")),
    "crypttab by NVMe's own name": ("nvme-names", put("/etc/crypttab", "data /dev/nvme0n1p3 none luks,discard\n")),
    "root by device in GRUB's defaults": (
        "nvme-names",
        put("/etc/default/grub.d/50-root.cfg", 'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX root=/dev/sda1"\n'),
    ),
    "GRUB is given its device": ("nvme-names", add("etc/default/grub", 'GRUB_DEVICE="/dev/vda1"\n')),
    "a RAID's devices": ("nvme-names", put("/etc/mdadm/mdadm.conf", "DEVICE /dev/sdb1 /dev/sdc1\n")),
    "a mount unit by device": (
        "nvme-names",
        put("/etc/systemd/system/srv-data.mount", "[Mount]\nWhat=/dev/sdc1\nWhere=/srv/data\n"),
    ),
    "no rules for NVMe": ("nvme-rules", fs("rm /etc/udev/rules.d/79-azure-disk-names.rules")),
    "rules for NVMe that are hidden": (
        "nvme-rules",
        several(
            fs("rm /etc/udev/rules.d/79-azure-disk-names.rules"),
            put("/usr/lib/udev/rules.d/80-azure-disk.rules", 'ENV{ID_MODEL}=="MSFT NVMe Accelerator v1.0"\n'),
            fs("symlink /etc/udev/rules.d/80-azure-disk.rules /dev/null"),
        ),
    ),
    # the agents
    "no waagent": ("waagent-installed", fs("rm /usr/sbin/waagent")),
    "provisioning by nobody": (
        "waagent-config",
        edit("etc/waagent.conf", "Provisioning.Agent=auto", "Provisioning.Agent=disabled"),
    ),
    "waagent beside cloud-init": (
        "waagent-config",
        edit("etc/waagent.conf", "Provisioning.Agent=auto", "Provisioning.Agent=waagent"),
    ),
    "swap by waagent": (
        "waagent-config",
        edit("etc/waagent.conf", "ResourceDisk.EnableSwap=n", "ResourceDisk.EnableSwap=y"),
    ),
    # the resource disk, Hyper-V's daemons, azure-init
    "no name for the resource disk": ("resource-disk-rules", fs(f"rm {EPHEMERAL}")),
    "a name of the resource disk that is hidden": (
        "resource-disk-rules",
        fs("symlink /etc/udev/rules.d/66-azure-ephemeral.rules /dev/null"),
    ),
    "nobody mounts the resource disk": (
        "resource-disk-mount",
        several(edit("etc/waagent.conf", "Agent=auto", "Agent=waagent"), fs("rm /usr/bin/cloud-init")),
    ),
    "cloud-init leaves the resource disk alone": (
        "resource-disk-mount",
        put("/etc/cloud/cloud.cfg.d/95-mounts.cfg", "mounts:\n  - [ephemeral0, null]\n"),
    ),
    "the resource disk over files": (
        "resource-disk-place",
        several(put("/srv/app/index.html", "x\n"), add("etc/fstab", f"{RESOURCE} /srv auto defaults,nofail 0 2\n")),
    ),
    "waagent's resource disk over files": (
        "resource-disk-place",
        several(
            put("/srv/app/index.html", "x\n"),
            edit("etc/waagent.conf", "auto", "waagent", "Format=n", "Format=y\nResourceDisk.MountPoint=/srv"),
            fs("rm /usr/bin/cloud-init"),
        ),
    ),
    "a size without a resource disk does not boot": (
        "resource-disk-fstab",
        add("etc/fstab", f"{RESOURCE} /mnt auto defaults 0 2\n"),
    ),
    "no KVP daemon": ("hyperv-kvp", fs(f"rm {KVP}")),
    "a KVP daemon that nothing starts": (
        "hyperv-kvp",
        fs("rm /etc/systemd/system/multi-user.target.wants/hv-kvp-daemon.service"),
    ),
    "a KVP daemon that is masked": ("hyperv-kvp", masked("hv-kvp-daemon.service")),
    "azure-init beside cloud-init": ("azure-init", with_azure_init()),
    "azure-init that does not start": (
        "azure-init",
        several(azure_init_alone(), fs("rm /etc/systemd/system/multi-user.target.wants/azure-init.service")),
    ),
    "azure-init's file is no TOML": (
        "azure-init",
        several(azure_init_alone(), put("/etc/azure-init/azure-init.toml", "[ssh\n")),
    ),
    "azure-init and waagent both provision": (
        "waagent-config",
        several(azure_init_alone(), edit("etc/waagent.conf", "Format=n", "Format=y")),
    ),
    "azure-init's mark of a machine": (
        "azure-init-state",
        several(azure_init_alone(), put("/var/lib/azure-init/02aab8a4-74ef-476e-8182-f6d2ba4166a6.provisioned", "")),
    ),
    "waagent not enabled": (
        "waagent-enabled",
        fs("rm /etc/systemd/system/multi-user.target.wants/walinuxagent.service"),
    ),
    "cloud-init switched off": ("cloud-init-installed", put("/etc/cloud/cloud-init.disabled", "")),
    "cloud-init switched off on the kernel line": (
        "cloud-init-installed",
        edit(GRUB, " ro ", " ro cloud-init=disabled "),
    ),
    "cloud-init's detection of data sources is off": (
        "cloud-init-installed",
        put("/etc/cloud/ds-identify.cfg", "# by the installer\npolicy: disabled\n"),
    ),
    "cloud-init's target is masked": ("cloud-init-installed", masked("cloud-init.target")),
    "cloud-init gone": ("cloud-init-installed", fs("rm /usr/bin/cloud-init")),
    "no Azure data source": (
        "cloud-init-datasource",
        put("/etc/cloud/cloud.cfg.d/95-x.cfg", "datasource_list: [ NoCloud, None ]\n"),
    ),
    "a seed": ("cloud-init-seed", put("/var/lib/cloud/seed/nocloud/user-data", "#cloud-config\n")),
    "no sshd": ("ssh-enabled", fs("rm /etc/systemd/system/multi-user.target.wants/ssh.service")),
    "sshd closes idle connections": (
        "ssh-client-alive",
        edit("etc/ssh/sshd_config.d/50-azure.conf", "Interval 180", "Interval 0"),
    ),
    "root by password": ("ssh-root-login", add("etc/ssh/sshd_config", "PermitRootLogin yes\n")),
    # identity
    "a machine id": ("machine-id", put("/etc/machine-id", "0123456789abcdef0123456789abcdef\n")),
    "an id of D-Bus": ("machine-id", put("/var/lib/dbus/machine-id", "0123456789abcdef0123456789abcdef\n")),
    "no machine-id file": ("machine-id", fs("rm /etc/machine-id")),
    "root by password, in a file that is included": (
        "ssh-root-login",
        several(
            add("etc/ssh/sshd_config", "Include site/*.conf\n"),
            put("/etc/ssh/site/a.conf", "PermitRootLogin yes\n"),
        ),
    ),
    "a host key": ("ssh-host-keys", put("/etc/ssh/ssh_host_ed25519_key.pub", KEY)),
    "a password of root": ("password-hash", edit("etc/shadow", "root:!:", f"root:{HASH}:")),
    "a locked password": ("password-hash", edit("etc/shadow", "sshd:!:", f"sshd:!{HASH}:")),
    "an old shadow": ("password-hash", put("/etc/shadow-", f"builder:{HASH}:19000:0:99999:7:::\n")),
    "an empty password": ("empty-password", edit("etc/shadow", "root:!:", "root::")),
    "a key of root": ("authorized-keys", put("/root/.ssh/authorized_keys", KEY)),
    "a key for every new account": ("authorized-keys", put("/etc/skel/.ssh/authorized_keys", KEY)),
    "a key of a service": ("authorized-keys", put("/run/sshd/.ssh/authorized_keys", KEY)),
    "the build user in a group": ("build-user", edit("etc/group", "sudo:x:27:", "sudo:x:27:goldsmith-build")),
    "the build user's home": ("build-user", put("/home/goldsmith-build/x", "x\n")),
    "an account": ("undeclared-account", put("/etc/passwd", FILES["etc/passwd"] + "eve:*:1001:1001::/srv:/bin/sh\n")),
    "a second root": ("uid-zero", edit("etc/passwd", "sshd:x:100:", "sshd:x:0:")),
    "a home of nobody": ("orphan-home", put("/home/old/x", "x\n")),
    "a sudo rule": ("sudoers", put("/etc/sudoers.d/90-cloud-init-users", "debian ALL=(ALL) NOPASSWD:ALL\n")),
    "targetpw": ("sudoers-targetpw", add("etc/sudoers", "Defaults targetpw\n")),
    "a random seed": ("random-seed", put("/var/lib/systemd/random-seed", "x" * 32)),
    "a seed for the loader": ("random-seed", put("/var/lib/urandom/random-seed", "x" * 32)),
    "a credential secret": ("credential-secret", put("/var/lib/systemd/credential.secret", "x" * 4096)),
    # leftovers
    "a shell history": ("shell-history", put("/root/.bash_history", "apt install x\n")),
    "a Python history": ("shell-history", put("/root/.python_history", "import x\n")),
    "a DHCP lease": ("dhcp-leases", put("/var/lib/dhcp/dhclient.eth0.leases", "lease {}\n")),
    "an instance": ("cloud-instance", put("/var/lib/cloud/instances/iid-1/user-data.txt", "x\n")),
    "an ovf-env.xml": ("waagent-state", put("/var/lib/waagent/ovf-env.xml", "<x/>\n")),
    "cloud-init's log": ("build-logs", put("/var/log/cloud-init.log", "x\n")),
    "a syslog": ("build-logs", put("/var/log/syslog", "x\n")),
    "dpkg's log": ("package-logs", put("/var/log/dpkg.log", "x\n")),
    "a journal": ("journal", put("/var/log/journal/0123456789abcdef0123456789abcdef/system.journal", "LPKSHHRH")),
    "package lists": ("package-cache", put("/var/lib/apt/lists/debian.example.org_x_Packages", "x\n")),
    "Ansible's folder": ("build-tools-left", put("/root/.ansible/tmp/x", "x\n")),
    # secrets
    "a proxy of apt": (
        "apt-proxy",
        put("/etc/apt/apt.conf.d/90proxy", 'Acquire::http::Proxy "http://10.0.0.1:3128";\n'),
    ),
    "a private mirror": (
        "apt-mirror",
        put("/etc/apt/sources.list.d/x.list", "deb http://packages.corp/debian x main\n"),
    ),
    "a mirror with a password": (
        "apt-mirror",
        put("/etc/apt/sources.list.d/x.list", "deb https://user:word@debian.example.org/debian x main\n"),
    ),
    "a trusted mirror": (
        "apt-trust",
        put("/etc/apt/sources.list.d/x.list", "deb [trusted=yes] http://debian.example.org/debian x main\n"),
    ),
    "a proxy of pip": ("pip-config", put("/etc/pip.conf", "[global]\nproxy = http://10.0.0.1:3128\n")),
    # identities of services: test_left_behind.py has the others
    "an iSCSI initiator's name": (
        "service-identity",
        put("/etc/iscsi/initiatorname.iscsi", "InitiatorName=iqn.x:1\n"),
    ),
    "a minion's key": ("service-identity", put("/etc/salt/pki/minion/minion.pem", PEM)),
    "a fixed name in an agent's configuration": (
        "service-identity",
        put("/etc/zabbix/zabbix_agentd.conf", "Hostname=golden-template01\n"),
    ),
    "ssl-cert's own key": ("service-identity", put("/etc/ssl/private/ssl-cert-snakeoil.key", PEM)),
    "a proxy of shells": ("shell-proxy", put("/etc/environment", "https_proxy=http://10.0.0.1:3128\n")),
    "a netrc": ("credential-files", put("/root/.netrc", "machine x login y password z\n")),
    "a private key of root": ("credential-files", put("/root/.ssh/id_ed25519", "x\n")),
    "a key in some folder": ("private-keys", put("/opt/deploy.pem", PEM)),
    "a key in a freed block": (
        "private-keys",
        lambda disk, folder: (put("/opt/deploy.pem", PEM)(disk, folder), fs("rm /opt/deploy.pem")(disk, folder))[1],
    ),
    "a token in a script": ("access-tokens", put("/usr/local/bin/pull", "TOKEN=ghp_" + "a1B2" * 9 + "\n")),
    "a storage key": ("access-tokens", put("/etc/fuse.cfg", "AccountKey=" + "Ab1+" * 21 + "xy==\n")),
    "a password in the environment": ("config-passwords", put("/etc/environment", "DB_PASSWORD=Tr4vel-l1ght\n")),
    "a password in a remote of git": (
        "config-passwords",
        put("/srv/app/.git/config", "[remote]\n\turl = https://bot:Tr4vel-l1ght@example.org/a.git\n"),
    ),
    "a credential in a unit": (
        "config-passwords",
        put("/etc/systemd/system/a.service", "[Service]\nSetCredential=db:Tr4vel-l1ght\n"),
    ),
    "mail of cron": ("mail-left", put("/var/mail/root", "From root\nSubject: Cron\n\nx\n")),
    "more candidates than are followed up": ("secrets-searched", put("/srv/filler", b"\x1f\x8b\x08\0" * 450_000)),
}


#: Other disks that are good: nothing may be found on them.
GOOD: dict[str, Change] = {
    "modes of Fedora": fs("sif / mode 040555", "sif /usr mode 040555", "sif /root mode 040550"),
    "a /tmp that lies in memory": several(
        fs("sif /tmp mode 040755"), add("etc/fstab", "tmpfs /tmp tmpfs nosuid,nodev 0 0\n")
    ),
    "a FAT that was mounted while it was marked": raw(ESP_AT + 0x25, b"\1"),
    "waagent without cloud-init": several(
        edit("etc/waagent.conf", "Agent=auto", "Agent=waagent", "Format=n", "Format=y"),
        fs("rm /usr/bin/cloud-init"),
    ),
    "azure-init in cloud-init's place": azure_init_alone(),
    "a KVP daemon that a rule starts": several(
        fs("rm /etc/systemd/system/multi-user.target.wants/hv-kvp-daemon.service"),
        put(
            "/usr/lib/udev/rules.d/60-hyperv-daemons.rules",
            'SUBSYSTEM=="misc", KERNEL=="vmbus/hv_kvp", TAG+="systemd", '
            'ENV{SYSTEMD_WANTS}+="hv-kvp-daemon.service"\n',
        ),
    ),
    "a name for the resource disk by azure-vm-utils": several(
        fs(f"rm {EPHEMERAL}"),
        put("/usr/lib/udev/rules.d/80-azure-disk.rules", 'SYMLINK+="disk/azure/resource"\n'),
    ),
    "swap on the resource disk by cloud-init": put(
        "/etc/cloud/cloud.cfg.d/95-swap.cfg", "swap: {filename: /mnt/swapfile, size: 1G}\n"
    ),
    "a folder that sshd does not include": several(
        put("/etc/ssh/sshd_config", "ClientAliveInterval 180\n"),
        put("/etc/ssh/sshd_config.d/99-old.conf", "PermitRootLogin yes\n"),
    ),
    "mounts by label": edit("etc/fstab", f"UUID={ROOT_UUID}", "LABEL=root"),
    "an initramfs packed by zstd": lambda disk, folder: put(INITRD, fake_disk.initramfs(pack="zstd"))(disk, folder),
    "sources in deb822 and a resolver's link": several(
        put("/etc/apt/sources.list", "# see sources.list.d\n"),
        put(
            "/etc/apt/sources.list.d/debian.sources",
            "Types: deb\nURIs: https://debian.example.org/debian\nSuites: bookworm\nComponents: main\n"
            "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n",
        ),
    ),
    "a drive for CDs, and cloud-init's own line for the resource disk": several(
        put(
            "/etc/fstab",
            FILES["etc/fstab"]
            + "/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0\n"
            + "UUID=0000-1111 /media/usb0 auto rw,user,noauto 0 0\n"
            + "/dev/disk/cloud/azure_resource-part2 none swap sw,nofail,x-systemd.requires=cloud-init.service 0 0\n"
            + "/dev/vg0/data /data ext4 defaults,nofail 0 2\n"
            + "/dev/disk/cloud/azure_resource-part1\t/mnt\tauto\t"
            + "defaults,nofail,x-systemd.requires=cloud-init.service,_netdev,comment=cloudconfig\t0\t2\n",
        ),
    ),
    "what services have before their first start": several(
        put("/etc/iscsi/initiatorname.iscsi", "GenerateName=yes\n"),
        put("/etc/nvme/hostid", ""),
        put("/etc/zabbix/zabbix_agentd.conf", "# Hostname=a\nHostname=Zabbix server\n"),
        put("/etc/telegraf/telegraf.conf", '[agent]\n  hostname = ""\n'),
        put("/etc/salt/minion", "#id:\nmaster: salt\nid:   # the host's\n"),
        put("/etc/mailname", "localhost.localdomain\n"),
        put("/etc/postfix/main.cf", "myhostname = localhost\nmydestination = $myhostname, localhost\n"),
        put("/etc/wireguard/wg0.conf", "[Interface]\nPostUp = wg set %i private-key /run/wg.key\n"),
        put("/var/lib/snmp/snmpd.conf", "setserialno 1\n"),
        put("/etc/ipsec.secrets", "# : PSK\ninclude /var/lib/strongswan/ipsec.secrets.inc\n"),
    ),
    "names that are nobody's, and a mail domain": several(
        put("/etc/hostname", "debian\n"),
        put("/etc/hosts", "127.0.0.1 localhost app.local\n127.0.1.1 debian.localdomain debian\n10.0.0.7 db.corp\n"),
        put("/etc/mailname", "example.org\n"),
        put("/etc/cloud/cloud.cfg.d/10-name.cfg", "preserve_hostname: false\n"),
    ),
    "NetworkManager writes resolv.conf": several(
        masked("systemd-resolved.service"),
        service("NetworkManager"),
        fs("rm /etc/resolv.conf", "symlink /etc/resolv.conf ../run/NetworkManager/resolv.conf"),
    ),
    "ifupdown and dhclient, eth0": several(
        CLOUD_NETWORK_OFF,
        fs(
            "rm /etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
            "rm /etc/systemd/system/sysinit.target.wants/systemd-resolved.service",
            "rm /etc/resolv.conf",
        ),
        service("networking"),
        put("/usr/sbin/dhclient", "\x7fELF"),
        put("/etc/network/interfaces", "auto lo\niface lo inet loopback\nauto eth0\niface eth0 inet dhcp\n"),
    ),
    "what azure-vm-utils brings": several(
        fs("rm /etc/systemd/network/01-azure-vf.network", "rm /etc/udev/rules.d/68-azure-vf.rules"),
        put(
            "/usr/lib/udev/rules.d/10-azure-unmanaged-sriov.rules",
            'SUBSYSTEM=="net", ACTION!="remove", DRIVERS=="mana|mlx4_core|mlx5_core", '
            'ATTR{flags}=="0x?[89ABCDEF]??", ENV{NM_UNMANAGED}="1", ENV{AZURE_UNMANAGED_SRIOV}="1"\n',
        ),
        put(
            "/usr/lib/systemd/network/10-azure-unmanaged-sriov.network",
            "[Match]\nProperty=AZURE_UNMANAGED_SRIOV=1\n\n[Link]\nUnmanaged=yes\n",
        ),
        service("NetworkManager"),
    ),
    "netplan for Hyper-V's card alone, as on Azure's Ubuntu": several(
        CLOUD_NETWORK_OFF,
        fs("rm /etc/systemd/network/01-azure-vf.network", "rm /etc/systemd/network/10-eth.network"),
        put(
            "/etc/netplan/90-hotplug-azure.yaml",
            "network:\n  version: 2\n  ethernets:\n    hotpluggedeth0:\n      dhcp4: true\n"
            "      match: {driver: hv_netvsc, name: 'eth0'}\n",
        ),
    ),
    "a local resolver of its own": several(
        masked("systemd-resolved.service"),
        service("unbound"),
        put("/etc/resolv.conf", "nameserver 127.0.0.1\n"),
    ),
    "the loopback's address in a file": put(
        "/etc/sysconfig/network-scripts/ifcfg-lo", "DEVICE=lo\nIPADDR=127.0.0.1\nNETMASK=255.0.0.0\nONBOOT=yes\n"
    ),
    "netplan starts systemd-networkd": several(
        CLOUD_NETWORK_OFF,
        fs(
            "rm /etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
            "rm /etc/systemd/network/10-eth.network",
        ),
        put("/usr/lib/systemd/system-generators/netplan", "\x7fELF"),
        put("/etc/netplan/01-all.yaml", "network: {ethernets: {all: {match: {name: 'e*'}, dhcp4: true}}}\n"),
    ),
    "netplan for every card, and a second card that may be missing": put(
        "/etc/netplan/90-default.yaml",
        "network:\n  version: 2\n  ethernets:\n    all: {match: {name: 'e*'}, dhcp4: true}\n"
        "    ens34: {dhcp4: true, optional: true}\n",
    ),
    "no suspended system": several(
        put("/etc/initramfs-tools/conf.d/resume", "RESUME=none\n"),
        put("/etc/default/grub.d/50-resume.cfg", 'GRUB_CMDLINE_LINUX="noresume"\n'),
    ),
    "the generator of persistent names is switched off": several(
        put("/usr/lib/udev/rules.d/75-persistent-net-generator.rules", "x\n"),
        fs("symlink /etc/udev/rules.d/75-persistent-net-generator.rules /dev/null"),
    ),
    "drivers built into the kernel": several(
        put(INITRD, fake_disk.initramfs(tuple(name for name in MODULES if name not in ("hv_vmbus", "nvme")))),
        put(
            f"/usr/lib/modules/{KERNEL}/modules.builtin",
            "kernel/drivers/hv/hv_vmbus.ko\nkernel/drivers/nvme/host/nvme.ko\n",
        ),
    ),
    "disks by names that hold on every controller": several(
        put(
            "/etc/crypttab",
            "# data /dev/sdb1\na UUID=6a3f3a55-1111-2222-3333-444455556666 none luks\n"
            "b /dev/disk/azure/scsi1/lun0 none luks\nc /dev/sdb2 none luks,noauto\nd /dev/mapper/vg-sda1 none luks\n",
        ),
        put("/etc/mdadm/mdadm.conf", "HOMEHOST <system>\nARRAY /dev/md0 UUID=1:2:3:4\nDEVICE partitions\n"),
        put("/etc/systemd/system/srv.mount", "[Mount]\nWhat=/dev/sdc1\nWhere=/srv\nOptions=defaults,nofail\n"),
        put("/etc/default/grub.d/60-x.cfg", 'GRUB_CMDLINE_LINUX="root=UUID=1 x.root=/dev/sda rootdelay=300"\n'),
    ),
    "words that hide nothing": several(
        edit(GRUB, " ro ", " ro loglevel=3 systemd.getty_auto=yes quietly=1 "),
        put("/etc/cloud/ds-identify.cfg", "policy: search,found=all,maybe=all,notfound=disabled\n"),
    ),
    "what a system has anyway": several(
        put("/etc/machine-id", "uninitialized\n"),
        put("/var/log/README", "see journalctl\n"),
        put("/var/log/dpkg.log", ""),
        put("/var/lib/waagent/WALinuxAgent-2.11.1.4/manifest.json", "[]\n"),
        put("/etc/apt/apt.conf.d/90direct", 'Acquire::http::Proxy "DIRECT";\n'),
        put("/root/.bashrc", "alias ll='ls -l'\n# export http_proxy=http://proxy:3128\n"),
        put("/usr/share/x/key.txt", "-----BEGIN PRIVATE KEY-----\n"),
        put("/etc/ssh/moduli", "x\n"),
        put("/etc/.pwd.lock", ""),
    ),
}


def page_with_defects() -> str:
    """docs/checks.md: the checks, and the corpus that proves them."""
    from pipeline.checks import all_checks
    from pipeline.checks.markdown_report import page

    corpora = {"Linux": (DEFECTS, GOOD), "Windows": (seeded_windows_defects.DEFECTS, seeded_windows_defects.GOOD)}
    text = page(all_checks()) + "\n# The seeded defects\n"
    for name, (defects, good) in corpora.items():
        rows = "".join(f"| {name} | {want} |\n" for name, (want, _) in defects.items())
        text += (
            f"\n## On {name}\n\n{len(defects)} single changes to a good disk, each found by exactly one check; "
            f"{len(good) + 1} good disks without a finding.\n\n"
            f"| what was changed | the check that names it |\n|---|---|\n{rows}"
        )
    return text


if __name__ == "__main__":
    print(page_with_defects(), end="")
