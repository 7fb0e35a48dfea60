"""The partition table and the file systems as such: what makes every other finding worthless comes first."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.checks.model import ALL, AZURE_DOC, HOUSE, LINUX, SYSTEMD, Skip, Subject, check
from pipeline.offline.partitions import BIOS_BOOT, LINUX_SWAP, MBR_SWAP

MIB = 1 << 20


@check(
    "fs-clean",
    "File systems were unmounted cleanly",
    why="A journal to replay means that the files read here are stale, and that the guest was cut off.",
    remedy="Shut the guest down in order (never by power-off), then build again.",
    source=SYSTEMD,
    profiles=ALL,
    needs_root=False,
)
def fs_clean(subject: Subject) -> Iterator[str]:
    for volume in subject.disk.filesystems:
        facts = volume.facts
        if facts is None:
            continue
        where = f"partition {volume.number} ({volume.kind})"
        if facts.needs_recovery:
            yield f"{where}: its journal has to be replayed"
        if not facts.state_clean:
            yield f"{where}: not marked clean"
        if facts.has_errors:
            yield f"{where}: the kernel recorded errors in it"
        if facts.has_orphans:
            yield f"{where}: deleted files are still to be freed"
        if not facts.checksum_ok:
            yield f"{where}: the superblock's checksum is wrong"


@check(
    "linux-root",
    "A Linux root file system is found and can be read",
    why="Without it nothing of what ships is proven.",
    remedy="Build on ext4; for XFS, btrfs or LVM look with libguestfs.",
    source=HOUSE,
    profiles=LINUX,
    needs_root=False,
)
def linux_root(subject: Subject) -> Iterator[str]:
    volume = subject.disk.root_volume
    release = subject.root.text("/etc/os-release") or subject.root.text("/usr/lib/os-release")
    names = [line.split("=", 1)[1].strip('"') for line in release.splitlines() if line.startswith("PRETTY_NAME=")]
    subject.note(f"partition {volume.number}, {volume.kind}, {names[0] if names else 'no os-release'}")
    if not names:
        yield "no /etc/os-release"


@check(
    "partition-table",
    "The first partition table is whole",
    why="Firmware and kernels read it first; a damaged one boots only by luck.",
    remedy="Repair with sgdisk -e, or build again.",
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
    "The backup GPT header stands in the last sector and agrees with the first",
    why="A disk that was cut or grown without it loses its table on the first repair; Azure resizes disks.",
    remedy="sgdisk -e DISK moves it to the end; convert with the exact size.",
    source="UEFI specification 5.3",
    profiles=ALL,
    needs_root=False,
)
def gpt_backup(subject: Subject) -> Iterator[str]:
    if subject.disk.table.backup is None:
        raise Skip(f"the table is {subject.disk.table.kind}")
    if subject.disk.table.backup.fault:
        yield subject.disk.table.backup.fault


@check(
    "partition-alignment",
    "Partitions begin on a whole MiB",
    why="Elsewhere each write touches two blocks of the storage beneath.",
    remedy="Create partitions with the partitioner's default alignment (2048 sectors).",
    source=AZURE_DOC,
    severity="warn",
    profiles=ALL,
    needs_root=False,
)
def partition_alignment(subject: Subject) -> Iterator[str]:
    for partition in subject.disk.partitions:
        if partition.start % MIB and partition.type != BIOS_BOOT:
            yield f"partition {partition.number} begins at byte {partition.start}"


@check(
    "partition-bounds",
    "Partitions do not overlap and end inside the disk",
    why="One file system would write over another.",
    remedy="Repartition, then build again.",
    source="UEFI specification 5.3",
    profiles=ALL,
    needs_root=False,
)
def partition_bounds(subject: Subject) -> Iterator[str]:
    end, before = 0, 0
    for partition in sorted(subject.disk.partitions, key=lambda each: each.start):
        if partition.start < end:
            yield f"partition {partition.number} begins inside partition {before}"
        if partition.end > subject.disk.size:
            yield f"partition {partition.number} ends at {partition.end} of {subject.disk.size} bytes"
        end, before = max(end, partition.end), partition.number


@check(
    "fs-bounds",
    "File systems fit their partitions",
    why="A file system larger than its partition loses its end: the disk was cut, or a resize was left half done.",
    remedy="resize2fs before the partition shrinks; never cut a disk behind its file system.",
    source="e2fsprogs: resize2fs(8)",
    profiles=LINUX,
    needs_root=False,
)
def fs_bounds(subject: Subject) -> Iterator[str]:
    for volume in subject.disk.filesystems:
        if volume.facts is not None and volume.facts.size > volume.size:
            yield f"partition {volume.number}: {volume.facts.size} bytes of file system in {volume.size}"


@check(
    "free-space",
    "The root file system has room to boot and provision",
    why="The first boot writes keys, logs and agent state; a full disk fails there, where nobody looks.",
    remedy="Make the disk larger or the image smaller; at least 10 percent or 1 GiB stay free.",
    source=HOUSE,
    severity="warn",
)
def free_space(subject: Subject) -> Iterator[str]:
    facts = subject.disk.root_volume.facts
    if facts is None:
        raise Skip("only ext file systems say")
    subject.note(f"{facts.free >> 20} of {facts.size >> 20} MiB free")
    if facts.free < min(facts.size // 10, 1 << 30):
        yield f"{facts.free >> 20} of {facts.size >> 20} MiB free"


@check(
    "swap",
    "No swap on the OS disk",
    why="Azure gives swap to the resource disk; swap on the OS disk is slow, costs transactions and ships memory.",
    remedy="Remove swap partitions, files and their fstab lines; use cloud-init or waagent on the resource disk.",
    source=AZURE_DOC,
)
def swap(subject: Subject) -> Iterator[str]:
    swapping = {volume.number for volume in subject.disk.filesystems if volume.kind == "swap"}
    for partition in subject.disk.partitions:
        if partition.number in swapping or partition.type in (LINUX_SWAP, MBR_SWAP):
            yield f"partition {partition.number} is swap"
    for line in subject.lines("/etc/fstab"):
        words = line.split()
        if len(words) > 2 and words[2] == "swap":
            yield f"/etc/fstab: {line}"
    for name in ("/swapfile", "/swap.img", "/swap", "/var/swap", "/var/swapfile"):
        if subject.has_data(name):
            yield f"{name} is there"
    units = subject.files_in("/etc/systemd/system", ".swap")
    yield from (f"{unit} is a swap unit" for unit in units)
