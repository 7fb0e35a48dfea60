"""The kernels, and what their initramfs can drive."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from pipeline.checks.disk.boot import boot_entries, boot_path
from pipeline.checks.model import AZURE_DOC, CLOUD, LISA, CannotLook, Subject, check
from pipeline.disk.initramfs import IMAGE_LIMIT, read_initramfs


def _version(subject: Subject, path: str) -> str:
    return subject.system.kernel_version(path)


def _booted(subject: Subject) -> tuple[dict[str, str], list[str]]:
    """The initramfs of each kernel version that GRUB boots, and the versions that have none."""
    found: dict[str, str] = {}
    entries = boot_entries(subject)
    for entry in entries:
        for path in entry.initrd:
            here = boot_path(subject, path)
            if here is not None and "ucode" not in path:
                found.setdefault(_version(subject, entry.kernel), here)
    return found, sorted({_version(subject, entry.kernel) for entry in entries} - found.keys())


def _built_in(subject: Subject, version: str) -> set[str]:
    text = subject.root.text(f"/lib/modules/{version}/modules.builtin")
    return {posixpath.basename(line).removesuffix(".ko").replace("-", "_") for line in text.split()}


def _modules(subject: Subject, version: str, path: str) -> frozenset[str]:
    """What this kernel can drive before the root is mounted. Read once per disk."""
    if version not in subject.drivers:
        image = read_initramfs(subject.root.read(path, IMAGE_LIMIT) or b"")
        subject.drivers[version] = image.modules() | _built_in(subject, version)
    return subject.drivers[version]


def _lacking(subject: Subject, wanted: tuple[str, ...]) -> Iterator[str]:
    booted, without = _booted(subject)
    for version, path in booted.items():
        modules = _modules(subject, version, path)
        missing = [name for name in wanted if name not in modules]
        if missing:
            yield f"the initramfs of {version} lacks {', '.join(missing)}"
    if without:
        raise CannotLook(f"{', '.join(without)} boots without an initramfs, or its initramfs does not exist")
    subject.note(", ".join(wanted))


@check(
    "initramfs-hyperv",
    "The initramfs has the drivers for Hyper-V's disks and network",
    why="A test on KVM does not show this: without hv_storvsc the kernel does not find its root file system on "
    "Azure.",
    remedy="List hv_vmbus, hv_storvsc and hv_netvsc in /etc/initramfs-tools/modules; update-initramfs -u -k all.",
    source=AZURE_DOC,
    profiles=CLOUD,
)
def initramfs_hyperv(subject: Subject) -> Iterator[str]:
    yield from _lacking(subject, ("hv_vmbus", "hv_storvsc", "hv_netvsc"))


@check(
    "initramfs-keyboard",
    "The initramfs has the driver for Hyper-V's keyboard",
    why="Otherwise the keyboard does not work in an emergency shell on a local Hyper-V console.",
    remedy="List hid_hyperv and hyperv_keyboard in /etc/initramfs-tools/modules; update-initramfs -u -k all.",
    source=AZURE_DOC,
    severity="warn",
    profiles=CLOUD,
)
def initramfs_keyboard(subject: Subject) -> Iterator[str]:
    yield from _lacking(subject, ("hid_hyperv", "hyperv_keyboard"))


@check(
    "initramfs-virtio",
    "The initramfs has the driver for virtio disks",
    why="The same master boots under KVM in tests. MODULES=dep includes only the drivers of the build machine.",
    remedy="MODULES=most in /etc/initramfs-tools/initramfs.conf; update-initramfs -u -k all.",
    source="goldsmith: one master for every hypervisor",
    severity="warn",
)
def initramfs_virtio(subject: Subject) -> Iterator[str]:
    yield from _lacking(subject, ("virtio_pci", "virtio_blk", "virtio_scsi"))


@check(
    "initramfs-nvme",
    "The initramfs has the driver for NVMe disks",
    why="Newer Azure VM sizes have only an NVMe OS disk.",
    remedy="MODULES=most, or nvme in /etc/initramfs-tools/modules; update-initramfs -u -k all.",
    source="Azure: Enable NVMe interface",
    severity="warn",
    profiles=("azure-linux",),
)
def initramfs_nvme(subject: Subject) -> Iterator[str]:
    yield from _lacking(subject, ("nvme",))


@check(
    "kernel-config",
    "The kernel can read Azure's provisioning media, mount shares and use a watchdog",
    why="The provisioning disc is UDF, the EFI partition FAT; Azure Files needs CIFS, and LISA requires a watchdog.",
    remedy="Install the distribution's full kernel (linux-image-amd64 or -cloud-amd64).",
    source=LISA,
    severity="warn",
    profiles=("azure-linux",),
)
def kernel_config(subject: Subject) -> Iterator[str]:
    without = []
    for version in sorted({_version(subject, entry.kernel) for entry in boot_entries(subject)}):
        # Debian and its like, Fedora and its like
        paths = (f"/boot/config-{version}", f"/lib/modules/{version}/config")
        path, text = next(((path, text) for path in paths if (text := subject.root.text(path))), ("", ""))
        if not text:
            without.append(version)
            continue
        for name in ("WATCHDOG", "CIFS", "UDF_FS", "VFAT_FS"):
            if not re.search(rf"^CONFIG_{name}=[ym]$", text, re.MULTILINE):
                yield f"{path}: CONFIG_{name} is not set"
    if without:
        raise CannotLook(f"no configuration of {', '.join(without)} in /boot or /lib/modules")


@check(
    "kernel-modules",
    "Each kernel that boots has its modules",
    why="A kernel without its modules has no network. An interrupted update may leave such a kernel.",
    remedy="Reinstall the kernel package; remove the old one.",
    source="goldsmith: a whole kernel",
)
def kernel_modules(subject: Subject) -> Iterator[str]:
    for version in sorted({_version(subject, entry.kernel) for entry in boot_entries(subject)}):
        if not subject.root.is_dir(f"/lib/modules/{version}"):
            yield f"no /lib/modules/{version}"
        elif not subject.root.listdir(f"/lib/modules/{version}"):
            yield f"/lib/modules/{version} is empty"
