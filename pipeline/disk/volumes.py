"""What stands in a partition: the kinds that goldsmith reads, and those that it only names, with label and UUID.

util-linux's libblkid is the measure: kinds, labels and UUIDs are what `blkid -p` says, where it knows the kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from pipeline.base.errors import DiskError
from pipeline.disk import btrfs, ext4, fat, lvm, signatures, xfs
from pipeline.disk.filesystem import FileSystemFacts, Read
from pipeline.disk.spaces import Space

#: Kinds that may hold the root of a Linux or another Unix.
UNIX = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs"})
#: Kinds whose files are read.
READABLE = UNIX | {"vfat", "ntfs"}
#: Kinds that hold file systems in turn, which nobody sees from outside.
_HOLDERS = frozenset(
    {"lvm", "raid", "luks", "bitlocker", "bcache", "drbd", "zfs", "vdo", "stratis", "ldm", "storage-spaces", "vmfs"}
)
#: What a logical volume is called that cannot be read: this and its type, or "incomplete".
_CLOSED_VOLUME = "lvm-"
#: What to do about the others, where it is not guestfish.
_READERS = {
    "luks": "unlock it on the host that has its key, and store it without encryption",
    "bitlocker": "turn BitLocker off in Windows (manage-bde -off C:), then inspect again",
    "raid": "ship a disk without software RAID",
    "swap": "swap holds no files",
    "swsuspend": "the system was suspended to disk: start it, shut it down, then inspect again",
    "jbd": "it holds no files, only the journal of an ext file system elsewhere",
    "lvm": "check its description with pvck and vgck on a copy of the disk",
    "lvm-incomplete": "ship a volume group whose physical volumes are all on one disk (pvmove, vgreduce)",
    "bcache": "ship the file system without a cache",
    "drbd": "ship the file system without DRBD",
    "apfs": "install apfs-fuse, or read it on macOS",
    "refs": "read it on Windows",
    "vmfs": "install vmfs6-tools (vmfs-tools for VMFS 5); vmfs6-fuse DEVICE FOLDER",
    "zfs": "install zfsutils-linux; zpool import -o readonly=on",
    "storage-spaces": "read it on Windows",
    "ldm": "install ldmtool; ldmtool create all (Windows' dynamic disks)",
    "": "blkid -p may know more; a disk that was wiped or encrypted without a header looks the same",
}
#: Bytes at the start of a partition in which most kinds have their mark.
HEAD = 68 << 10


def how_to_read(kind: str) -> str:
    """What to do about a file system or volume that goldsmith names but does not read."""
    if kind.startswith(_CLOSED_VOLUME) and kind not in _READERS:
        return "ship linear or striped logical volumes (lvconvert), without snapshots, caches and thin pools"
    return _READERS.get(kind, f"install libguestfs-tools; guestfish --ro -i -a DISK reads {kind}")


@dataclass(frozen=True)
class Volume:
    """What stands in one partition, on the whole disk, or in one logical volume; `kind` is '' of what is not known.

    `number` is the partition's; a logical volume has that of its first piece, and a `name` (group/volume). `facts` of
    file systems that record their state, read from the superblock before any reader touches the files. `space` says
    where a volume lies that is not one piece of the disk. What is `opened` holds volumes that stand beside it.
    """

    number: int
    start: int
    size: int
    kind: str
    label: str = ""
    uuid: str = ""
    facts: FileSystemFacts | None = None
    name: str = ""
    space: Space | None = None
    opened: bool = False
    #: (start, length) of what a group of logical volumes has left, in bytes of the disk.
    spare: tuple[tuple[int, int], ...] = ()

    @property
    def readable(self) -> bool:
        return self.kind in READABLE

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return f"volume {self.name}" if self.name else f"partition {self.number}"

    def reader(self, read: Read) -> Read:
        """Bytes by the volume's addresses, which begin with `start`, out of the disk's."""
        return read if self.space is None else self.space.reader(read)


def closed_kinds(volumes: Iterable[Volume]) -> list[str]:
    """Kinds that hold file systems which cannot be seen."""
    return sorted(
        {
            each.kind
            for each in volumes
            if (each.kind in _HOLDERS or each.kind.startswith(_CLOSED_VOLUME)) and not each.opened
        }
    )


def with_logical_volumes(read: Read, found: Sequence[Volume]) -> tuple[Volume, ...]:
    """The volumes and, behind them, the logical volumes in those that are physical volumes of LVM.

    A group that cannot be read leaves its physical volumes as they are: not opened.
    """
    members, damaged = [], False
    for volume in found:
        if volume.kind == "lvm":
            try:
                members.append(lvm.read_physical_volume(read, volume.start, volume.size))
            except lvm.LvmDamagedError:
                damaged = True
    try:
        groups = [] if damaged else lvm.read_groups(members)
    except lvm.LvmDamagedError:
        groups, damaged = [], True
    if damaged or not members:
        return tuple(found)
    starts = {each.start for each in members}
    spare = [each for group in groups for each in group.free]
    shown = [
        replace(each, opened=True, spare=tuple(row for row in spare if each.start <= row[0] < each.start + each.size))
        if each.start in starts
        else each
        for each in found
    ]
    numbers = {each.start: each.number for each in found}
    logical = [_logical(read, row, numbers, members) for group in groups for row in group.volumes]
    return (*shown, *logical)


def _logical(
    read: Read, row: lvm.LogicalVolume, numbers: dict[int, int], members: Sequence[lvm.PhysicalVolume]
) -> Volume:
    if row.space is None:
        return Volume(0, -1, 0, _CLOSED_VOLUME + row.obstacle, name=row.path)
    space = row.space
    holder = next(each for each in members if each.start <= space.start < each.start + each.size)
    volume = probe(space.reader(read), numbers[holder.start], space.start, space.size)
    return replace(volume, name=row.path, space=space)


def probe(read: Read, number: int, start: int, size: int) -> Volume:
    """The volume that begins at byte `start` of a disk. Never raises for what stands there."""

    def within(at: int, length: int) -> bytes:
        """Bytes of the volume; shorter at its end."""
        if at < 0 or at >= size:
            return b""
        return read(start + at, min(length, size - at))

    head = within(0, HEAD).ljust(HEAD, b"\0")
    place = signatures.Place(within, head, size)
    member = signatures.find_raid(place)
    if member is not None:
        return Volume(number, start, size, member.kind, member.label, member.uuid)
    superblock = head[ext4.SUPERBLOCK_AT : ext4.SUPERBLOCK_AT + ext4.SUPERBLOCK_SIZE]
    facts = ext4.parse_superblock(superblock)
    if facts is not None and facts.external_journal:
        return Volume(number, start, size, "jbd", facts.label, facts.uuid)
    if facts is not None:
        return Volume(number, start, size, facts.kind, facts.label, facts.uuid, facts)
    for kind, parse in _WITH_FACTS.items():
        if (known := parse(read, start, head)) is not None:
            return Volume(number, start, size, kind, known[0], known[1], known[2])
    found = signatures.find(place)
    if found is None and fat.parse_layout(head[:512]) is not None:
        found = _fat(within, head)
    if found is None:
        return Volume(number, start, size, "")
    return Volume(number, start, size, found.kind, found.label, found.uuid)


def _xfs(read: Read, start: int, head: bytes) -> tuple[str, str, FileSystemFacts] | None:
    block = xfs.parse_superblock(head[: xfs.SUPERBLOCK_SIZE])
    return None if block is None else (block.label, block.uuid, xfs.XfsFacts(block, read, start))


def _btrfs(_read: Read, _start: int, head: bytes) -> tuple[str, str, FileSystemFacts] | None:
    begin = btrfs.SUPERBLOCK_AT
    facts = btrfs.parse_superblock(head[begin : begin + btrfs.SUPERBLOCK_SIZE])
    return None if facts is None else (facts.label, facts.uuid, facts)


#: Kinds beside ext whose superblock has facts: what gives (label, UUID, facts) of the first bytes of a volume.
_WITH_FACTS: dict[str, Callable[[Read, int, bytes], tuple[str, str, FileSystemFacts] | None]] = {
    "xfs": _xfs,
    "btrfs": _btrfs,
}


def _fat(within: Read, head: bytes) -> signatures.Found:
    layout = fat.parse_layout(head[:512])
    assert layout is not None
    try:
        label = fat.FatFileSystem(within, 0).label()
    except DiskError:
        label = layout.boot_label.decode("ascii", "replace").strip()
    return signatures.Found("vfat", label, f"{layout.serial >> 16:04X}-{layout.serial & 0xFFFF:04X}")


def is_whole_disk(sector: bytes) -> bool:
    """Is a first sector that ends in 55 aa the boot sector of a file system, and no partition table?"""
    known = sector[3:11] in (b"NTFS    ", b"EXFAT   ", b"-FVE-FS-") or sector[:8] == b"\0\0\0ReFS\0"
    return known or fat.parse_layout(sector) is not None
