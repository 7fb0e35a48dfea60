"""The partition table and the file systems as such: what makes every other finding worthless comes first."""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

from pipeline.base.errors import DiskError
from pipeline.checks.model import (
    ALL,
    AZURE_DOC,
    HOUSE,
    LINUX,
    SYSTEMD,
    WINDOWS,
    CannotLook,
    Skip,
    Subject,
    check,
)
from pipeline.disk import fat
from pipeline.disk.disk import Disk
from pipeline.disk.partitions import BIOS_BOOT, LINUX_SWAP, MBR_SWAP, Partition
from pipeline.disk.volumes import Volume
from pipeline.systems.installed import find_system

MIB = 1 << 20


@check(
    "fs-clean",
    "All file systems were unmounted cleanly",
    why="If a journal must be replayed, the guest was powered off without a shutdown, and the files on the disk "
    "are not current.",
    remedy="Shut the guest down properly (never power it off), then build again.",
    source=SYSTEMD,
    profiles=ALL,
    needs_root=False,
    waivable=False,
)
def fs_clean(subject: Subject) -> Iterator[str]:
    looked = []
    for volume in subject.disk.filesystems:
        facts = volume.facts
        if facts is None:
            dirty = _left_unfinished(subject.disk, volume)
            if dirty is not None:
                looked.append(volume)
            if dirty and volume.kind not in subject.system.own_clean_checks:
                yield f"{volume.title} ({volume.kind}): not marked clean"
            continue
        looked.append(volume)
        yield from (f"{volume.title} ({volume.kind}): {fault}" for fault in facts.faults)
    if not looked:
        raise CannotLook("no file system records whether it was unmounted cleanly")
    subject.note(", ".join(f"{volume.title} ({volume.kind})" for volume in looked))


#: Where FAT keeps the byte whose lowest bit Linux sets while it is mounted: fat_boot_sector of linux/msdos_fs.h.
_FAT_STATE = {b"FAT32": 0x41, b"FAT16": 0x25, b"FAT12": 0x25}


def _left_unfinished(disk: Disk, volume: Volume) -> bool | None:
    """Whether a FAT or NTFS volume was not unmounted; None of one that says nothing.

    FAT's mark alone does not tell: Linux never takes back one that it finds when it mounts. A write that was cut off
    leaves copies of the allocation table that differ.
    """
    if volume.kind == "vfat":
        sector = disk.read_volume(volume, 0, 512)
        kind = next((kind for kind in _FAT_STATE if kind in (sector[82:87], sector[54:59])), None)
        if kind is None:
            return None
        return bool(sector[_FAT_STATE[kind]] & 1) and not fat.tables_agree(
            volume.reader(disk.read), volume.start, sector
        )
    if volume.kind == "ntfs":
        facts = disk.filesystem(volume).attribute(_NTFS_VOLUME, _NTFS_INFORMATION)
        return None if facts is None or len(facts) < 12 else bool(int.from_bytes(facts[10:12], "little") & 1)
    return None


#: $Volume's record and its $VOLUME_INFORMATION, whose flags say VOLUME_IS_DIRTY in their lowest bit.
_NTFS_VOLUME, _NTFS_INFORMATION = 3, 0x70


@check(
    "linux-root",
    "A Linux root file system is found and can be read",
    why="Without a root file system no file of the disk can be checked.",
    remedy="Build on ext4, XFS or btrfs, in a partition or in a linear or striped logical volume, without "
    "encryption and software RAID.",
    source=HOUSE,
    profiles=LINUX,
    needs_root=False,
    waivable=False,
)
def linux_root(subject: Subject) -> Iterator[str]:
    try:
        volume = subject.disk.root_volume
    except DiskError as error:
        yield f"{error.message}{_other_system(subject)}"
        return
    release = subject.root.text("/etc/os-release") or subject.root.text("/usr/lib/os-release")
    names = [line.split("=", 1)[1].strip('"') for line in release.splitlines() if line.startswith("PRETTY_NAME=")]
    tree = f" (subvolume {subject.disk.root_subvolume})" if subject.disk.root_subvolume else ""
    subject.note(f"{volume.title}, {volume.kind}{tree}, {names[0] if names else 'no os-release'}")
    if not names:
        yield "no /etc/os-release"


def _other_system(subject: Subject) -> str:
    """What to ask for instead, where the disk holds a system of the other kind."""
    others = [each for each in subject.known if subject.profile not in each.profiles]
    try:
        other, _ = find_system(subject.disk, others)
    except DiskError:
        return ""
    return f"; it holds {other.title}: --profile {other.profiles[0]} looks at that"


@check(
    "windows-root",
    "A Windows root file system is found and can be read",
    why="Without a root file system no file of the disk can be checked.",
    remedy="Inspect the disk of an installed Windows: NTFS, without BitLocker. A Linux has other profiles.",
    source=HOUSE,
    profiles=WINDOWS,
    needs_root=False,
    waivable=False,
)
def windows_root(subject: Subject) -> Iterator[str]:
    try:
        root = subject.root
    except DiskError as error:
        yield f"{error.message}{_other_system(subject)}"
        return
    number = next(volume.number for volume in subject.disk.filesystems if volume.start == root.start)
    subject.note(f"partition {number}, ntfs")


@check(
    "volumes-read",
    "Every volume on the disk is of a kind that can be read",
    why="A volume that cannot be read would ship unchecked.",
    remedy="Remove the volume, use ext4, XFS or btrfs for it, or waive this check and give the reason why the volume "
    "may ship.",
    source=HOUSE,
    profiles=ALL,
    needs_root=False,
)
def volumes_read(subject: Subject) -> Iterator[str]:
    seen = False
    for volume in subject.disk.filesystems:
        seen = seen or volume.readable
        # swap holds no files, and has a check of its own
        if volume.kind and not volume.readable and not volume.opened and volume.kind != "swap":
            yield f"{volume.title} holds {volume.kind}, which goldsmith cannot read"
        elif not volume.kind and _holds_data(subject, volume):
            yield f"{volume.title} holds data of a kind that goldsmith does not know"
    if not seen:
        raise CannotLook("no volume that holds files")


#: Partitions without a file system: GRUB's core, Microsoft's reserved space, swap (which has a check of its own).
_WITHOUT_FILES = (BIOS_BOOT, "e3c9e316-0b5c-4db8-817d-f92df00215ae", LINUX_SWAP, MBR_SWAP)


def _holds_data(subject: Subject, volume: Volume) -> bool:
    """Is there anything at the start of a partition that is meant to hold files?"""
    types = {partition.number: partition.type for partition in subject.disk.partitions}
    meant = types.get(volume.number) not in _WITHOUT_FILES
    return meant and any(subject.disk.read_volume(volume, 0, 68 << 10))


@check(
    "partition-table",
    "The primary partition table is valid",
    why="Firmware and kernels read it first. A disk with a damaged table may not boot.",
    remedy="Build again; or repair a raw copy, which has no VHD footer: goldsmith vhd convert DISK COPY.raw, "
    "sgdisk -e COPY.raw, goldsmith vhd convert COPY.raw NEW.vhd.",
    source="UEFI specification 5.3",
    profiles=ALL,
    needs_root=False,
)
def partition_table(subject: Subject) -> Iterator[str]:
    table = subject.disk.table
    if table.kind == "none":
        yield "no partition table"
    if table.primary is not None and table.primary.fault:
        yield f"the first GPT header: {table.primary.fault}"
    subject.note(f"{table.kind}, {len(table.partitions)} partitions")


@check(
    "gpt-backup",
    "The backup GPT header is in the last sector and agrees with the primary header",
    why="A disk that was shortened or enlarged without it loses its table at the first repair. Azure resizes disks.",
    remedy="goldsmith vhd convert DISK NEW.vhd --move-gpt (not sgdisk, which overwrites the footer of a VHD).",
    source="UEFI specification 5.3",
    profiles=ALL,
    needs_root=False,
)
def gpt_backup(subject: Subject) -> Iterator[str]:
    if subject.disk.table.backup is None:
        if subject.disk.table.kind == "none":
            raise CannotLook("no partition table")
        raise Skip(f"the table is {subject.disk.table.kind}")
    if subject.disk.table.backup.fault:
        yield subject.disk.table.backup.fault


def _partitions(subject: Subject) -> tuple[Partition, ...]:
    if not subject.disk.partitions:
        raise CannotLook("no partition on this disk")
    return subject.disk.partitions


@check(
    "partition-alignment",
    "Partitions start at a multiple of 1 MiB",
    why="Otherwise a write to one block of the guest changes two blocks of the storage.",
    remedy="Create partitions with the partitioner's default alignment (2048 sectors).",
    source=AZURE_DOC,
    severity="warn",
    profiles=ALL,
    needs_root=False,
)
def partition_alignment(subject: Subject) -> Iterator[str]:
    for partition in _partitions(subject):
        if partition.start % MIB and partition.type != BIOS_BOOT:
            yield f"partition {partition.number} begins at byte {partition.start}"


@check(
    "partition-bounds",
    "Partitions do not overlap, and end inside the disk",
    why="Otherwise one file system overwrites another.",
    remedy="Correct the partitions, then build again.",
    source="UEFI specification 5.3",
    profiles=ALL,
    needs_root=False,
)
def partition_bounds(subject: Subject) -> Iterator[str]:
    end, before = 0, 0
    for partition in sorted(_partitions(subject), key=lambda each: each.start):
        if partition.start < end:
            yield f"partition {partition.number} begins inside partition {before}"
        if partition.end > subject.disk.size:
            yield f"partition {partition.number} ends at {partition.end} of {subject.disk.size} bytes"
        end, before = max(end, partition.end), partition.number


@check(
    "fs-bounds",
    "File systems fit their partitions",
    why="A file system that is larger than its partition loses its end: the disk was shortened, or a resize was "
    "interrupted.",
    remedy="Shrink the file system before its partition (resize2fs, btrfs filesystem resize; XFS cannot "
    "shrink); never shorten a disk without its file system.",
    source="e2fsprogs: resize2fs(8)",
    profiles=LINUX,
    needs_root=False,
)
def fs_bounds(subject: Subject) -> Iterator[str]:
    if not any(volume.facts for volume in subject.disk.filesystems):
        raise CannotLook("no file system records its size")
    for volume in subject.disk.filesystems:
        if volume.facts is not None and volume.facts.size > volume.size:
            yield f"{volume.title}: {volume.facts.size} bytes of file system in {volume.size}"


@check(
    "free-space",
    "The root file system has room to boot and provision",
    why="The first boot writes keys, logs and the agent's state, and fails on a full disk.",
    remedy="Enlarge the disk or reduce the image. At least 10 percent or 1 GiB must be free.",
    source=HOUSE,
    severity="warn",
)
def free_space(subject: Subject) -> Iterator[str]:
    facts = subject.disk.root_volume.facts
    if facts is None:
        raise CannotLook("the root file system does not record its free space")
    subject.note(f"{facts.free >> 20} of {facts.size >> 20} MiB free")
    if facts.free < min(facts.size // 10, 1 << 30):
        yield f"{facts.free >> 20} of {facts.size >> 20} MiB free"


#: How cloud-init and waagent call Azure's resource disk.
RESOURCE_DISK = re.compile(r"/dev/disk/(cloud/azure_resource|azure/(resource|scsi0/lun1))(-part\d+)?$")

#: cloud-init mounts it there, waagent below; whatever else is asked for there is on it too.
_RESOURCE_MOUNT = "/mnt/"


@check(
    "swap",
    "No swap on the OS disk",
    why="Azure's place for swap is the resource disk. Swap on the OS disk is slow, costs transactions, and ships "
    "the build's memory.",
    remedy="swapoff -a; remove swap partitions, files, units and their fstab lines, and what resumes from them (see "
    "resume-device); use cloud-init or waagent on the resource disk.",
    source=AZURE_DOC,
)
def swap(subject: Subject) -> Iterator[str]:
    swapping = {volume.number for volume in subject.disk.filesystems if volume.kind == "swap"}
    for partition in subject.disk.partitions:
        if partition.number in swapping or partition.type in (LINUX_SWAP, MBR_SWAP):
            yield f"partition {partition.number} is a swap partition"
    for line in subject.lines("/etc/fstab"):
        words = line.split()
        # swap on the resource disk is not on this one
        if len(words) > 2 and words[2] == "swap" and not RESOURCE_DISK.match(words[0]):
            yield f"/etc/fstab: {line}"
    for name in ("/swapfile", "/swap.img", "/swap", "/var/swap", "/var/swapfile"):
        if subject.has_data(name):
            yield f"{name} is there"
    units = subject.files_in("/etc/systemd/system", ".swap")
    yield from (f"{unit} is a swap unit" for unit in units)
    yield from _swap_of_cloud_init(subject)


def _swap_of_cloud_init(subject: Subject) -> Iterator[str]:
    """A swap file that cloud-init makes at the first boot. One on the resource disk is below its mount point."""
    for path in ("/etc/cloud/cloud.cfg", *subject.files_in("/etc/cloud/cloud.cfg.d", ".cfg")):
        # a file without the word costs no parser
        text = subject.root.text(path)
        try:
            whole = yaml.safe_load(text) if "swap" in text else None
        except (yaml.YAMLError, RecursionError):
            continue
        asked = whole.get("swap") if isinstance(whole, dict) else None
        name = str(asked.get("filename", "")) if isinstance(asked, dict) else ""
        if name and not name.startswith(_RESOURCE_MOUNT):
            yield f"{path}: swap in {name}"
