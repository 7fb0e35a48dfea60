"""Disks that are laid out as other distributions' images are, made of Debian's packages: they boot, and are whole.

    python -m tests.fakes.likeness_disks FOLDER [NAME...]

Each disk boots by BIOS and by UEFI with Secure Boot's loaders. The kernel's file systems fill XFS and btrfs, lvm2
lays out the logical volume: root, loop devices, mmdebstrap and the programs of the file systems are needed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.network.host_apt import mirrors
from pipeline.systems.debian import apt
from tests.fakes.likeness_files import ESP_CONFIG, LIKENESSES, Likeness, Part, menu
from tests.fixtures.make_roots import lay_out, run

SUITE = "trixie"
MIB = 1 << 20
#: What every likeness has: it boots, is reached by QEMU's agent, and is provisioned by cloud-init and Azure's agent.
PACKAGES = (
    *("linux-image-amd64", "initramfs-tools", "zstd", "grub-cloud-amd64", "shim-signed", "e2fsprogs", "dosfstools"),
    *("systemd-sysv", "libpam-systemd", "dbus", "udev", "chrony", "tzdata", "netbase", "iproute2", "procps", "less"),
    *("openssh-server", "sudo", "cloud-init", "cloud-guest-utils", "fdisk", "gdisk", "qemu-guest-agent", "waagent"),
    *("hyperv-daemons", "python3", "python3-apt", "ca-certificates", "acl", "gpg", "systemd-resolved"),
)
#: MiB of the first partitions: BIOS boot from 1 MiB, the ESP from 2 MiB.
ESP_MIB, FIRST_MIB = 124, 126


def make_base(folder: Path) -> Path:
    """The tree that all likenesses begin with; one that is there is used again."""
    tree = folder / "base"
    if not (folder / "base.done").exists():
        shutil.rmtree(tree, ignore_errors=True)
        state = apt.ask_archive(SUITE)
        assert state is not None, "the Debian mirror does not answer"
        sources = [f"deb {uri} {name} main" for uri, name in mirrors().sources(SUITE, list(state.releases))]
        options = ["--mode=root", "--variant=minbase", "--format=directory", "--dpkgopt=force-unsafe-io"]
        run("mmdebstrap", *options, f"--include={','.join(PACKAGES)}", SUITE, tree, *sources)
        (folder / "base.done").touch()
    return tree


def make_disk(name: str, folder: Path) -> Path:
    """The raw disk of the likeness `name` in `folder`."""
    likeness, disk = LIKENESSES[name], folder / f"{name}.raw"
    tree = folder / f"{name}.tree"
    shutil.rmtree(tree, ignore_errors=True)
    run("cp", "-a", "--reflink=auto", make_base(folder), tree)
    try:
        _install(tree, likeness)
        _make(tree, likeness, disk, folder)
    finally:
        shutil.rmtree(tree, ignore_errors=True)
    return disk


def _install(tree: Path, likeness: Likeness) -> None:
    """Packages, files and commands of a likeness in its tree, and an initramfs that fits."""
    for path, text in likeness.all_files().items():
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(0o600 if path.startswith(("etc/netplan/", "etc/NetworkManager/")) else 0o644)
    for path in (tree / "etc/ssh").glob("ssh_host_*"):
        path.unlink()
    with _inside(tree):
        if likeness.packages:
            (tree / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
            (tree / "usr/sbin/policy-rc.d").chmod(0o755)
            _in_tree(tree, "apt-get", "-q", "update")
            _in_tree(tree, "apt-get", "-q", "-y", "install", "--no-install-recommends", *likeness.packages)
            (tree / "usr/sbin/policy-rc.d").unlink()
        for command in likeness.commands:
            _in_tree(tree, "sh", "-euc", command)
        version = kernel_of(tree)
        _in_tree(tree, "sh", "-euc", likeness.initramfs.replace("VERSION", version))
    shutil.rmtree(tree / "var/lib/apt/lists")
    (tree / "var/lib/apt/lists/partial").mkdir(parents=True)
    for path in [*(tree / "var/cache/apt/archives").glob("*.deb"), *(tree / "var/log").glob("*.log")]:
        path.unlink()
    (tree / "etc/machine-id").write_text("")
    (tree / "etc/hostname").write_text("localhost\n")
    (tree / "etc/resolv.conf").unlink(missing_ok=True)
    (tree / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")


def kernel_of(tree: Path) -> str:
    return sorted(path.name for path in (tree / "lib/modules").iterdir())[-1]


@contextmanager
def _inside(tree: Path) -> Iterator[None]:
    """What programs need in a tree: the kernel's file systems and the host's resolver."""
    resolver = tree / "etc/resolv.conf"
    resolver.unlink(missing_ok=True)
    shutil.copyfile("/etc/resolv.conf", resolver)
    mounted: list[Path] = []
    try:
        for name in ("proc", "sys", "dev"):
            run("mount", "--bind", f"/{name}", tree / name)
            mounted.append(tree / name)
        yield
    finally:
        for path in reversed(mounted):
            run("umount", path)


def _in_tree(tree: Path, *words: str) -> None:
    environment = {"DEBIAN_FRONTEND": "noninteractive", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(["chroot", tree, *words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {(done.stdout + done.stderr)[-2000:]}"


# ---- the disk ------------------------------------------------------------------------------------------------------


def _make(tree: Path, likeness: Likeness, disk: Path, folder: Path) -> None:
    starts: dict[str, int] = {}
    images: dict[str, Path] = {}
    at = FIRST_MIB
    layout = [
        *("--new=1:2048:+1M", "--typecode=1:EF02", f"--new=2:4096:+{ESP_MIB}M", "--typecode=2:EF00"),
    ]
    for number, part in enumerate(likeness.parts, 3):
        starts[part.name] = at
        layout += [f"--new={number}:{at * 2048}:+{part.mib}M", f"--typecode={number}:{part.code}"]
        at += part.mib
    disk.unlink(missing_ok=True)
    with disk.open("wb") as file:
        file.truncate((at + 1) * MIB)
    run("sgdisk", *layout, disk)
    core = _write_boot_files(tree, likeness)
    for part in sorted(likeness.parts, key=lambda each: -each.mount.count("/") - len(each.mount)):
        images[part.name] = _fill(part, tree, folder)
    for part in likeness.parts:
        image = images[part.name]
        if part.volume:
            start, mib = starts[part.name], part.mib
            plan = [("lvcreate", "-n", part.volume, "-l", str(part.file_system_mib // 4), "my-group", 0)]
            lay_out(disk, {3: (start, mib, "8e00")}, {part.volume: image}, plan)
        else:
            run("dd", f"if={image}", f"of={disk}", "bs=1M", f"seek={starts[part.name]}", "conv=notrunc,sparse")
        image.unlink()
    _write_esp(tree, likeness, disk)
    _write_bios(core, (tree / "usr/lib/grub/i386-pc/boot.img").read_bytes(), disk)


def _write_boot_files(tree: Path, likeness: Likeness) -> bytes:
    """GRUB's modules, the menu and the core for BIOS, which is returned."""
    version, grub = kernel_of(tree), tree / "boot/grub"
    (grub / "i386-pc").mkdir(parents=True, exist_ok=True)
    for pattern in ("*.mod", "*.lst", "boot.img"):
        for path in (tree / "usr/lib/grub/i386-pc").glob(pattern):
            shutil.copyfile(path, grub / "i386-pc" / path.name)
    (tree / "boot/early.cfg").write_text(ESP_CONFIG.format(uuid=likeness.boot_uuid, prefix=likeness.boot_prefix))
    _in_tree(
        tree, "grub-mkimage", "-O", "i386-pc", "-p", "/boot/grub", "-c", "/boot/early.cfg", "-o",
        "/boot/grub/i386-pc/core.img", "biosdisk", "part_gpt", *likeness.grub_modules, "search_fs_uuid",
    )  # fmt: skip
    (tree / "boot/early.cfg").unlink()
    _in_tree(tree, "grub-editenv", "/boot/grub/grubenv", "create")
    (grub / "grub.cfg").write_text(menu(likeness, version))
    for path, text in likeness.entries(version).items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    return (grub / "i386-pc/core.img").read_bytes()


def _fill(part: Part, tree: Path, folder: Path) -> Path:
    """A file system with the part of the tree below its mount point, which is taken out of the tree."""
    image = folder / f"{part.name}.img"
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(part.file_system_mib * MIB)
    source = tree / part.mount.lstrip("/")
    if part.maker[0] == "swap":
        run("mkswap", "-q", "-U", part.uuid, image)
        return image
    if part.maker[0] == "mke2fs":
        run(*part.maker, "-q", "-F", "-U", part.uuid, "-d", source, image)
    else:
        run(*part.maker, image)
        top = folder / f"{part.name}.mount"
        top.mkdir(exist_ok=True)
        options = ["-o", f"loop,{part.options}" if part.options else "loop"]
        run("mount", *options, image, top)
        try:
            _copy_into(part, source, top)
        finally:
            run("umount", top)
            top.rmdir()
    if part.mount != "/":
        shutil.rmtree(source)
        source.mkdir()
    return image


def _copy_into(part: Part, source: Path, top: Path) -> None:
    for name in part.subvolumes:
        run("btrfs", "subvolume", "create", top / name)
    root = top / next(iter(part.subvolumes)) if part.subvolumes else top
    run("cp", "-a", f"{source}/.", root)
    for name, mount in part.subvolumes.items():
        inside = root / mount.lstrip("/")
        if mount != "/" and inside.is_dir():
            run("cp", "-a", f"{inside}/.", top / name)
            shutil.rmtree(inside)
            inside.mkdir()


def _write_esp(tree: Path, likeness: Likeness, disk: Path) -> None:
    """shim, the signed GRUB and its first lines, as an installer leaves them, with the fallback path."""
    run("mkfs.vfat", "-F", "16", "-i", likeness.esp_serial, "-n", "ESP", "--offset=4096", disk, ESP_MIB * 1024)
    esp = f"{disk}@@{2 * MIB}"
    config = disk.with_suffix(".cfg")
    config.write_text(
        ESP_CONFIG.format(uuid=likeness.boot_uuid, prefix=likeness.boot_prefix) + "configfile $prefix/grub.cfg\n"
    )
    shim, signed = tree / "usr/lib/shim", tree / "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"
    copies = {
        "EFI/BOOT/BOOTX64.EFI": shim / "shimx64.efi.signed",
        "EFI/debian/shimx64.efi": shim / "shimx64.efi.signed",
    }
    for place in ("BOOT", "debian"):
        copies[f"EFI/{place}/grubx64.efi"] = signed
        copies[f"EFI/{place}/mmx64.efi"] = shim / "mmx64.efi.signed"
        copies[f"EFI/{place}/grub.cfg"] = config
    copies["EFI/debian/fbx64.efi"] = shim / "fbx64.efi.signed"
    copies["EFI/debian/BOOTX64.CSV"] = shim / "BOOTX64.CSV"
    _dos("mmd", "-i", esp, "::EFI", "::EFI/BOOT", "::EFI/debian")
    for path, source in copies.items():
        _dos("mcopy", "-i", esp, source, f"::{path}")
    config.unlink()


def _dos(*words: object) -> None:
    subprocess.run(
        list(map(str, words)),
        check=True,
        capture_output=True,
        env={"MTOOLS_SKIP_CHECK": "1", "PATH": "/usr/bin:/bin"},
    )


def _write_bios(core: bytes, boot: bytes, disk: Path) -> None:
    """What grub-bios-setup does: boot.img in the first sector loads core.img from sector 2048."""
    assert len(core) < MIB
    with disk.open("r+b") as file:
        file.write(boot[:92] + (2048).to_bytes(8, "little") + boot[100:102] + b"\x90\x90" + boot[104:440])
        file.seek(MIB)
        file.write(core[:500] + (2049).to_bytes(8, "little") + core[508:])


def main(words: Sequence[str]) -> int:
    folder = Path(words[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name in words[1:] or LIKENESSES:
        print(make_disk(name, folder), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
