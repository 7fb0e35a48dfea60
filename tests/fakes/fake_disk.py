"""A small disk that looks like a Debian master, made without root: a tree, mke2fs -d, mtools, sgdisk.

Nothing in it boots; everything in it is where a real one has it. No identifier, hash seed or time in it is drawn or
read from a clock: a defect that is seeded at a byte meets the same byte in every run (`flip_bits` changes any byte).
"""

from __future__ import annotations

import io
import os
import re
import shutil
import struct
import subprocess
import uuid
from itertools import pairwise
from pathlib import Path

from pipeline.base.process import find
from pipeline.vhd.extents import file_extents
from pipeline.vhd.fixed import write_fixed
from pipeline.vhd.footer import MIB
from tests.fakes import signed_efi
from tests.fakes.signed_efi import DEBIAN, UEFI_2011, UEFI_2023
from tests.tools import skip_without

ROOT_UUID = "11111111-2222-3333-4444-555555555555"
KERNEL = "6.1.0-13-amd64"
SIZE = 64 * MIB
CORE_AT, ESP_AT, ROOT_AT = 2048 * 512, 2 * MIB, 20 * MIB
ROOT_SIZE = 43 * MIB
COMMAND_LINE = "ro console=tty1 console=ttyS0,115200n8 earlyprintk=ttyS0,115200 rootdelay=300"
MODULES = ("hv_vmbus", "hv_storvsc", "hv_netvsc", "hid-hyperv", "hyperv-keyboard", "virtio_blk", "virtio_scsi",
           "virtio_net", "virtio_pci", "nvme", "ata_piix", "ext4")  # fmt: skip

FILES: dict[str, str] = {
    "usr/lib/os-release": 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "etc/debian_version": "12.8\n",
    "etc/machine-id": "",
    "etc/hostname": "localhost\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/fstab": f"UUID={ROOT_UUID} / ext4 defaults,discard 0 1\n"
    "UUID=1234-ABCD /boot/efi vfat umask=0077,nofail 0 1\n",
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/shadow": "root:!:19000:0:99999:7:::\nsshd:!:19000::::::\nnobody:*:19000:0:99999:7:::\n",
    "etc/group": "root:x:0:\nsudo:x:27:\nnogroup:x:65534:\n",
    "etc/sudoers": "Defaults env_reset\n"
    "root ALL=(ALL:ALL) ALL\n%sudo ALL=(ALL:ALL) ALL\n@includedir /etc/sudoers.d\n",
    "etc/sudoers.d/README": "# see sudoers(5)\n",
    "etc/apt/sources.list": "deb http://debian.example.org/debian bookworm main\n",
    "etc/apt/apt.conf.d/01autoremove": 'APT::NeverAutoRemove { "^firmware-linux.*"; };\n',
    "etc/environment": "",
    "etc/profile": "umask 022\n",
    "etc/ssh/sshd_config": "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n",
    "etc/ssh/sshd_config.d/50-azure.conf": "ClientAliveInterval 180\nPasswordAuthentication no\n",
    "etc/waagent.conf": "Provisioning.Agent=auto\nProvisioning.DeleteRootPassword=y\nResourceDisk.Format=n\n"
    "ResourceDisk.EnableSwap=n\nAutoUpdate.Enabled=y\n",
    "etc/cloud/cloud.cfg": "users:\n  - default\n",
    "etc/cloud/cloud.cfg.d/91-azure.cfg": "datasource_list: [ Azure, NoCloud, None ]\n",
    "etc/udev/rules.d/66-azure-storage.rules": 'ACTION!="add|change", GOTO="azure_end"\n',
    "etc/udev/rules.d/79-azure-disk-names.rules": 'KERNEL=="nvme*", ENV{ID_MODEL}=="MSFT NVMe Accelerator v1.0", '
    'ATTRS{nsid}=="1", SYMLINK+="disk/azure/os"\n',
    # as cloud-init and the Hyper-V daemons bring them
    "usr/lib/udev/rules.d/66-azure-ephemeral.rules": 'ATTRS{device_id}=="?00000000-0001-*", '
    'ENV{fabric_name}="azure_resource", SYMLINK+="disk/cloud/$env{fabric_name}"\n',
    "usr/lib/systemd/system/hv-kvp-daemon.service": "[Install]\nWantedBy=multi-user.target\n",
    "etc/default/grub": 'GRUB_TERMINAL="serial console"\nGRUB_CMDLINE_LINUX=""\n',
    "etc/adjtime": "0.0 0 0.0\n0\nUTC\n",
    "etc/systemd/network/10-eth.network": "[Match]\nName=e*\n[Network]\nDHCP=yes\n",
    # what azure-vm-utils brings: the virtual function of accelerated networking is nobody's
    "etc/systemd/network/01-azure-vf.network": "[Match]\nDriver=mana mlx4_core mlx4_en mlx5_core\n"
    "[Link]\nUnmanaged=yes\n",
    "etc/udev/rules.d/68-azure-vf.rules": 'SUBSYSTEM=="net", DRIVERS=="mana|mlx4_core|mlx5_core", '
    'ENV{NM_UNMANAGED}="1"\n',
    "boot/grub/grub.cfg": "serial --speed=115200 --unit=0 --word=8 --parity=no --stop=1\n"
    "terminal_input serial console\nterminal_output serial console\n"
    f"menuentry 'Debian GNU/Linux' {{\n\tsearch --no-floppy --fs-uuid --set=root {ROOT_UUID}\n"
    f"\tlinux /boot/vmlinuz-{KERNEL} root=UUID={ROOT_UUID} {COMMAND_LINE}\n\tinitrd /boot/initrd.img-{KERNEL}\n}}\n",
    f"boot/config-{KERNEL}": "CONFIG_WATCHDOG=y\nCONFIG_CIFS=m\nCONFIG_HYPERV=m\nCONFIG_UDF_FS=m\nCONFIG_VFAT_FS=m\n",
    f"boot/vmlinuz-{KERNEL}": "MZ a kernel\n",
    f"usr/lib/modules/{KERNEL}/modules.builtin": "kernel/fs/ext4/ext4.ko\n",
    f"usr/lib/modules/{KERNEL}/kernel/fs/udf/udf.ko": "x",
    f"usr/lib/modules/{KERNEL}/kernel/fs/fat/vfat.ko": "x",
    "usr/sbin/waagent": "#!/usr/bin/python3\n",
    "usr/bin/cloud-init": "#!/usr/bin/python3\n",
    "usr/sbin/sshd": "\x7fELF",
    "usr/bin/python3.11": "\x7fELF",
    "usr/bin/sh": "\x7fELF\2\1\1" + "\0" * 9 + "\2\0\x3e\0",
    "usr/lib/systemd/system/walinuxagent.service": "[Install]\nWantedBy=multi-user.target\n",
    "usr/lib/systemd/system/ssh.service": "[Install]\nWantedBy=multi-user.target\n",
    "usr/lib/systemd/system/cloud-init.service": "[Install]\nWantedBy=cloud-init.target\n",
    "usr/lib/systemd/system/systemd-networkd.service": "[Install]\nWantedBy=multi-user.target\n",
    "usr/lib/systemd/system/systemd-resolved.service": "[Install]\nWantedBy=sysinit.target\n",
    "usr/share/zoneinfo/Etc/UTC": "TZif2",
    "var/lib/dpkg/status": "\n".join(
        f"Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n"
        for name, version in {
            "cloud-init": "22.4.2-1+deb12u2",
            "libssl3": "3.0.15-1~deb12u1",
            "linux-image-" + KERNEL: "6.1.55-1",
            "openssh-server": "1:9.2p1-2+deb12u3",
            "python3": "3.11.2-1+b1",
            "openssl": "3.0.15-1~deb12u1",
            "waagent": "2.9.1.1-1+deb12u1",
        }.items()
    ),
}  # fmt: skip
LINKS = {
    "bin": "usr/bin",
    "sbin": "usr/sbin",
    "lib": "usr/lib",
    "etc/os-release": "../usr/lib/os-release",
    "etc/localtime": "/usr/share/zoneinfo/Etc/UTC",
    "etc/mtab": "../proc/self/mounts",
    "etc/resolv.conf": "../run/systemd/resolve/stub-resolv.conf",
    "etc/systemd/system/multi-user.target.wants/systemd-networkd.service": "/lib/systemd/system/"
    "systemd-networkd.service",
    "etc/systemd/system/sysinit.target.wants/systemd-resolved.service": "/lib/systemd/system/"
    "systemd-resolved.service",
    "usr/bin/python3": "python3.11",
    "var/lock": "/run/lock",
    "etc/systemd/system/multi-user.target.wants/walinuxagent.service": "/lib/systemd/system/walinuxagent.service",
    "etc/systemd/system/multi-user.target.wants/hv-kvp-daemon.service": "/lib/systemd/system/hv-kvp-daemon.service",
    "etc/systemd/system/multi-user.target.wants/ssh.service": "/lib/systemd/system/ssh.service",
    "etc/systemd/system/cloud-init.target.wants/cloud-init.service": "/lib/systemd/system/cloud-init.service",
}
FOLDERS = ("root", "home", "var/log", "var/lib/cloud", "var/lib/waagent", "tmp", "var/tmp", "boot/efi", "run", "dev",
           "proc", "sys", "var/lib/systemd", "etc/netplan", "var/lib/dhcp", "etc/systemd/system")  # fmt: skip


#: Seconds since 1970 that makers of file systems take for now.
MADE = 1_700_000_000
_TIMES = ("atime", "ctime", "mtime")
_CLOCK = {"E2FSPROGS_FAKE_TIME": str(MADE), "SOURCE_DATE_EPOCH": str(MADE)}
#: What is drawn at random where no option names it.
_DISK_GUID = "d15c0000-0000-4000-8000-000000000000"
_HASH_SEED = "5eed0000-0000-4000-8000-000000000000"
_VOLUME_ID = "5eed0001"


def tool(*words: object, stdin: bytes | None = None) -> bytes:
    """The program's output. Skips the test where it is missing; raises AssertionError where it fails.

    Identifiers that a partitioner or a maker of file systems would draw are the same in every run.
    """
    skip_without(str(words[0]))
    argv = [find(str(words[0])) or "", *_fixed_identifiers(list(map(str, words)))]
    done = subprocess.run(argv, input=stdin, capture_output=True, check=False, env={**os.environ, **_CLOCK})
    assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()
    return done.stdout


def _fixed_identifiers(words: list[str]) -> list[str]:
    """A program's arguments, and those that set what it would draw at random."""
    program, *arguments = words
    if program == "sgdisk":
        made = [match[1] for word in arguments if (match := re.match(r"(?:-n|--new=)(\d+):", word))]
        made += [after.split(":")[0] for word, after in pairwise(arguments) if word in ("-n", "--new")]
        each = (f"-u{number}:{_DISK_GUID[:-2]}{int(number):02x}" for number in made)
        # a new table or new partitions; what only reads or mends a table keeps its identifiers
        named = [f"-U{_DISK_GUID}", *each] if made or "-o" in arguments else []
        return [*arguments[:-1], *named, arguments[-1]]
    if program == "mke2fs":
        identifiers = [] if "-U" in arguments else ["-U", _HASH_SEED]
        return [*identifiers, "-E", _with_hash_seed(arguments), *_without_option(arguments, "-E")]
    if program == "mkfs.vfat":
        # a label has a time too
        return ["--invariant", *([] if "-i" in arguments else ["-i", _VOLUME_ID]), *arguments]
    return arguments


def _with_hash_seed(arguments: list[str]) -> str:
    """The value of mke2fs's -E with the seed by which folders are hashed."""
    values = [after for word, after in pairwise(arguments) if word == "-E"]
    return ",".join([*values, f"hash_seed={_HASH_SEED}"])


def _without_option(arguments: list[str], option: str) -> list[str]:
    """Arguments without an option and its value."""
    places = {at for at, word in enumerate(arguments) if word == option}
    return [word for at, word in enumerate(arguments) if at not in places and at - 1 not in places]


def flip_bits(path: Path, *places: int) -> None:
    """Turn all bits of the bytes at these places: whatever is there, it differs afterwards."""
    with path.open("r+b") as file:
        for at in places:
            file.seek(at)
            (byte,) = file.read(1)
            file.seek(at)
            file.write(bytes([byte ^ 0xFF]))


def cpio(files: dict[str, bytes]) -> bytes:
    """A newc archive, padded to 512 bytes."""
    out = io.BytesIO()
    for number, (name, data) in enumerate([*files.items(), ("TRAILER!!!", b"")], 1):
        raw = name.encode() + b"\0"
        fields = (number, 0o100644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
        out.write(b"070701" + "".join(f"{field:08X}" for field in fields).encode() + raw)
        out.write(bytes(-out.tell() % 4) + data)
        out.write(bytes(-out.tell() % 4))
    out.write(bytes(-out.tell() % 512))
    return out.getvalue()


def initramfs(modules: tuple[str, ...] = MODULES, pack: str = "gzip", kernel: str = KERNEL) -> bytes:
    """Early microcode, then a compressed archive of modules."""
    early = cpio({"kernel/x86/microcode/GenuineIntel.bin": b"x" * 700})
    folder = f"usr/lib/modules/{kernel}/kernel/"
    main = cpio({"init": b"#!/bin/sh\n", **{f"{folder}{name}.ko": b"\x7fELF" for name in modules}})
    command = {"gzip": "gzip -nc", "xz": "xz -c --check=crc32", "zstd": "zstd -qc", "lz4": "lz4 -lc", "none": "cat"}[
        pack
    ]
    return early + tool(*command.split(), stdin=main)


def pe(text: bytes, *, signed: bool = True) -> bytes:
    """A PE32+ file with one .sbat section that holds `text`, signed as Debian's shim or GRUB is."""
    issuers = (UEFI_2011, UEFI_2023) if text == SHIM_TEXT else (DEBIAN,)
    return signed_efi.pe(text, *(issuers if signed else ()))


SHIM_TEXT = b"sbat,1,SBAT Version,sbat,1,x\nshim,3,UEFI shim,shim,1,x\n"
GRUB_TEXT = b"sbat,1,SBAT Version,sbat,1,x\ngrub,4,Free Software Foundation,grub,2.06,x\n"


def build(folder: Path) -> Path:
    """The good disk, raw: GPT, BIOS boot, ESP, ext4 root."""
    plant(folder)
    return pack(folder)


def plant(folder: Path) -> Path:
    """The good disk's root as a tree of files, `folder`/tree."""
    tree = folder / "tree"
    for name in FOLDERS:
        (tree / name).mkdir(parents=True, exist_ok=True)
    for name, text in FILES.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tree / f"boot/initrd.img-{KERNEL}").write_bytes(initramfs())
    for name, target in LINKS.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, tree / target, dirs_exist_ok=True)
            shutil.rmtree(path)
        path.symlink_to(target)
    for name in ("tmp", "var/tmp"):
        (tree / name).chmod(0o1777)
    (tree / "root").chmod(0o700)
    return tree


def pack(folder: Path) -> Path:
    """The disk whose root is `folder`/tree."""
    tree = folder / "tree"
    disk = folder / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(SIZE)
    esp_end, root_end = ROOT_AT // 512 - 1, (ROOT_AT + ROOT_SIZE) // 512 - 1
    tool("sgdisk", f"-n1:2048:{ESP_AT // 512 - 1}", "-t1:EF02", f"-n2:{ESP_AT // 512}:{esp_end}", "-t2:EF00",
         f"-n3:{ROOT_AT // 512}:{root_end}", "-t3:8304", disk)  # fmt: skip
    tool("mke2fs", "-q", "-F", "-t", "ext4", "-U", ROOT_UUID, "-L", "root", "-d", tree,
         "-E", f"offset={ROOT_AT},root_owner=0:0", disk, f"{ROOT_SIZE >> 10}k")  # fmt: skip
    entries = sorted(path for path in tree.rglob("*"))
    # mke2fs copies the times of the tree's files; whoever runs the tests owns them
    times = [f"sif /{path.relative_to(tree)} {field} @{MADE}" for path in (tree, *entries) for field in _TIMES]
    folders = [path.relative_to(tree) for path in entries if path.is_dir() and not path.is_symlink()]
    owners = [f"sif /{path} {field} 0" for path in folders for field in ("uid", "gid")] if os.geteuid() != 0 else []
    debugfs(disk, *times, *owners)
    esp = folder / "esp.img"
    with esp.open("wb") as file:
        file.truncate(ROOT_AT - ESP_AT)
    tool("mkfs.vfat", "-i", "1234ABCD", "-n", "ESP", esp)
    tool("mmd", "-i", esp, "::EFI", "::EFI/BOOT", "::EFI/debian")
    for name, data in {
        "EFI/BOOT/BOOTX64.EFI": pe(SHIM_TEXT),
        "EFI/BOOT/grubx64.efi": pe(GRUB_TEXT),
        "EFI/debian/grub.cfg": f"search.fs_uuid {ROOT_UUID} root\nset prefix=($root)/boot/grub\n".encode()
        + b"configfile $prefix/grub.cfg\n",
    }.items():
        source = folder / "file"
        source.write_bytes(data)
        tool("mcopy", "-i", esp, source, f"::{name}")
    put_boot_code(disk, CORE_AT)
    with disk.open("r+b") as file:
        file.seek(ESP_AT)
        file.write(esp.read_bytes())
    return disk


def put_boot_code(disk: Path, core_at: int) -> None:
    """GRUB's boot code in the first sector, and its core at a byte of the BIOS boot partition."""
    boot = bytearray(b"\xeb\x63\x90" + bytes(437))
    boot[0x5C:0x64] = struct.pack("<Q", core_at // 512)
    boot[0x180:0x18C] = b"GRUB \0Geom\0H"
    core = bytearray(b"\x52\xe8\x28".ljust(512, b"\1") + b"core" * 500)
    core[0x1F4:0x200] = struct.pack("<QHH", core_at // 512 + 1, 5, 0x820)
    with disk.open("r+b") as file:
        file.write(boot)
        file.seek(core_at)
        file.write(core)


def as_vhd(raw: Path, target: Path) -> Path:
    write_fixed(file_extents(raw), target, unique_id=uuid.UUID(int=7), timestamp=1_700_000_000)
    return target


def copy(disk: Path, target: Path) -> Path:
    tool("cp", "--sparse=always", disk, target)
    return target


def debugfs(disk: Path, *commands: str) -> str:
    """Run debugfs commands on the root file system; it ends with 0 whatever happens, so the caller looks."""
    return debugfs_at(disk, ROOT_AT, *commands)


def debugfs_at(disk: Path, at: int, *commands: str) -> str:
    """Run debugfs commands on the file system at a byte of the disk."""
    lines = "\n".join(commands) + "\n"
    return tool("debugfs", "-w", "-f", "-", f"{disk}?offset={at}", stdin=lines.encode()).decode()


def put(disk: Path, path: str, data: bytes | str, folder: Path) -> None:
    """Write a file into the root file system, replacing what is there."""
    source = folder / f"put-{os.getpid()}"
    source.write_bytes(data if isinstance(data, bytes) else data.encode())
    parents = [str(parent) for parent in reversed(Path(path).parents)][1:]
    debugfs(disk, *(f"mkdir {parent}" for parent in parents), f"rm {path}", f"write {source} {path}")
    source.unlink()


def put_esp(disk: Path, path: str, data: bytes | None, folder: Path) -> None:
    """Write a file into the ESP, or delete it where `data` is None."""
    image = f"{disk}@@{ESP_AT}"
    if data is None:
        tool("mdel", "-i", image, f"::{path}")
        return
    source = folder / f"esp-{os.getpid()}"
    source.write_bytes(data)
    tool("mcopy", "-o", "-i", image, source, f"::{path}")
    source.unlink()
