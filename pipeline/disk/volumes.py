"""What stands in a partition: the kinds that goldsmith reads, and those that it only names, with label and UUID.

util-linux's libblkid is the measure: kinds, labels and UUIDs are what `blkid -p` says, where it knows the kind.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.base.errors import DiskError
from pipeline.disk import ext4, fat, signatures
from pipeline.disk.filesystem import Read

#: Kinds whose files are read.
READABLE = frozenset({"ext2", "ext3", "ext4", "vfat", "ntfs"})
#: Kinds that hold file systems in turn, which nobody sees from outside.
HOLDERS = frozenset(
    {"lvm", "raid", "luks", "bitlocker", "bcache", "drbd", "zfs", "vdo", "stratis", "ldm", "storage-spaces", "vmfs"}
)
#: What to do about the others, where it is not guestfish.
_READERS = {
    "luks": "unlock it on the host that has its key, and store it without encryption",
    "bitlocker": "turn BitLocker off in Windows (manage-bde -off C:), then inspect again",
    "raid": "ship a disk without software RAID",
    "swap": "swap holds no files",
    "swsuspend": "the system was suspended to disk: start it, shut it down, then inspect again",
    "jbd": "it holds no files, only the journal of an ext file system elsewhere",
    "lvm": "install libguestfs-tools; guestfish --ro -i -a DISK reads what its logical volumes hold",
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
    return _READERS.get(kind, f"install libguestfs-tools; guestfish --ro -i -a DISK reads {kind}")


@dataclass(frozen=True)
class Volume:
    """What stands in one partition (or on the whole disk): `kind` is '' where nothing known does.

    `facts` only for ext2 to ext4, read from the superblock before any reader touches the file system.
    """

    number: int
    start: int
    size: int
    kind: str
    label: str = ""
    uuid: str = ""
    facts: ext4.Ext4Facts | None = None

    @property
    def readable(self) -> bool:
        return self.kind in READABLE


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
    found = signatures.find(place)
    if found is None and fat.parse_layout(head[:512]) is not None:
        found = _fat(within, head)
    if found is None:
        return Volume(number, start, size, "")
    return Volume(number, start, size, found.kind, found.label, found.uuid)


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
