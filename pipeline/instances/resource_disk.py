"""The resource disk of an instance: the local disk that Azure lends, empty but for a warning.

It keeps its data while the VM is restarted or stopped, and loses them when the VM is deallocated or redeployed: the
next start makes it anew. Windows makes it drive D:. Agents in Linux find Azure's on Hyper-V's bus alone; here it is
an ordinary disk beside the OS disk.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from pipeline.base import process
from pipeline.base.disk_format import RAW
from pipeline.base.files import remove_tree
from pipeline.cache.layers import Image
from pipeline.hypervisor.domain import UNFLUSHED, Disk

#: What is on the disk that Azure hands over: an NTFS of this label, with this file
#: (https://learn.microsoft.com/azure/virtual-machines/managed-disks-overview#temporary-disk).
LABEL, WARNING = "Temporary Storage", "DATALOSS_WARNING_README.txt"
WARNING_TEXT = (
    "WARNING: THIS IS A TEMPORARY DISK.\r\n"
    "Any data stored on this drive is SUBJECT TO LOSS when the VM is deallocated or redeployed.\r\n"
)
#: The disk's serial number, by which a guest may know it; the rule of a clone goes by it.
SERIAL = "temporary-storage"
#: Bytes of the disk of a VM whose size has no name; sizes with a name have those of Azure.
DEFAULT_SIZE = 1 << 30
#: Where its one partition begins.
START = 1 << 20
_SECTOR, _NTFS = 512, 0x07
_FILE = "resource.raw"


def resource_disk_file(folder: Path) -> Path:
    return folder / _FILE


def make_resource_disk(folder: Path, size: int) -> Disk:
    """The resource disk in an instance's folder, made where there is none. `size` in bytes, a whole MiB.

    Its writes are never flushed: nothing of it has to outlive a failure of the host. Raises HostError (tool-missing).
    """
    path = resource_disk_file(folder)
    if not path.exists():
        write_resource_disk(path, size)
    return Disk(Image(path, RAW), "scsi", serial=SERIAL, cache=UNFLUSHED, beside_os=True)


def drop_resource_disk(folder: Path) -> None:
    """Remove the resource disk with its data; the next start makes a new one. The VM is off."""
    remove_tree(resource_disk_file(folder))


def write_resource_disk(path: Path, size: int) -> Image:
    """Write a new raw disk as Azure hands it over, in the place of one that is there.

    Raises HostError (tool-missing) where ntfs-3g is missing.
    """
    draft, part, readme = (path.with_suffix(suffix) for suffix in (".new", ".ntfs", ".txt"))
    try:
        with part.open("wb") as file:
            file.truncate(size - START)
        readme.write_text(WARNING_TEXT, newline="")
        process.run(["mkntfs", "-q", "-F", "-Q", "-L", LABEL, "-p", str(START // _SECTOR), part], deadline=60)
        process.run(["ntfscp", "-q", part, readme, WARNING], deadline=60)
        with draft.open("wb") as disk:
            disk.write(_partition_table(size))
            _copy_data(part, disk.fileno())
            disk.truncate(size)
        draft.rename(path)
    finally:
        for left in (draft, part, readme):
            left.unlink(missing_ok=True)
    return Image(path, RAW)


def _partition_table(size: int) -> bytes:
    """One partition of NTFS. Cylinders are those of a disk that is too large for them."""
    far = b"\xfe\xff\xff"
    entry = b"\0" + far + bytes([_NTFS]) + far + struct.pack("<II", START // _SECTOR, (size - START) // _SECTOR)
    return bytes(440) + b"temp\0\0" + entry + bytes(3 * len(entry)) + b"\x55\xaa"


def _copy_data(source: Path, target: int) -> None:
    """Copy the data of a file, and not its holes, to where the partition begins."""
    step = 1 << 20
    with source.open("rb") as file:
        size, end = os.fstat(file.fileno()).st_size, 0
        while end < size:
            try:
                begin = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:
                return  # only a hole is left
            end = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
            for at in range(begin, end, step):
                os.pwrite(target, os.pread(file.fileno(), min(step, end - at), at), START + at)
