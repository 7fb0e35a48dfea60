"""Azure's resource disk in a clone: handed over as Azure does, and expected to be mounted by the image's cloud-init.

Agents find the real one on Hyper-V's bus, by the id of its device, and so none under QEMU. cloud-init goes by a name
that udev gives it. A rule that is written into the clone alone, before cloud-init sets up disks, gives this name to
the disk that stands in. What follows is the image's own: its settings, its tools, its file systems. waagent has no
such name, and its way to the disk is not tested.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path

from pipeline.base import process
from pipeline.base.disk_format import RAW
from pipeline.cache.layers import Image
from pipeline.prove.result import CloneResult

#: What is on the disk that Azure hands over: an NTFS of this label, with this file
#: (https://learn.microsoft.com/azure/virtual-machines/managed-disks-overview#temporary-disk).
LABEL, WARNING = "Temporary Storage", "DATALOSS_WARNING_README.txt"
WARNING_TEXT = "WARNING: THIS IS A TEMPORARY DISK. Any data stored on this drive is SUBJECT TO LOSS.\r\n"
#: What the check is called in results.
CHECK = "resource disk"
#: The disk's serial number, by which the clone's rule knows it.
SERIAL = "temporary-storage"
#: Bytes of the disk, and where its one partition begins.
SIZE, START = 64 << 20, 1 << 20
_SECTOR = 512
_NTFS = 0x07

#: By ID_SERIAL, which a partition has from its disk.
_RULE = f"""\
SUBSYSTEM=="block", ENV{{DEVTYPE}}=="disk", ENV{{ID_SERIAL}}=="*{SERIAL}", SYMLINK+="disk/cloud/azure_resource"
SUBSYSTEM=="block", ENV{{DEVTYPE}}=="partition", ENV{{ID_SERIAL}}=="*{SERIAL}", \\
  SYMLINK+="disk/cloud/azure_resource-part%n"
"""
#: Runs in the clone as cloud-init's bootcmd, which comes before its disk_setup and mounts.
_NAME_IT = f"""\
mkdir -p /run/udev/rules.d
cat >/run/udev/rules.d/67-resource-disk.rules <<'END'
{_RULE}END
udevadm control --reload
udevadm trigger --action=change --subsystem-match=block
udevadm settle
"""

#: As cloud-init's own data source of Azure has it (BUILTIN_CLOUD_EPHEMERAL_DISK_CONFIG). It adds this by itself only
#: where the disk has its name when the data source is looked for, which is before any custom data is read.
_SET_UP = """\
disk_setup:
  ephemeral0: {table_type: gpt, layout: [100], overwrite: true}
fs_setup:
  - {filesystem: ext4, device: ephemeral0.1}
"""

#: Lines for the look at a clone, which runs as root: where the disk is mounted, and by which file system.
LOOK = r"""
r=$(readlink -e /dev/disk/cloud/azure_resource-part1) || r=$(readlink -e /dev/disk/cloud/azure_resource)
echo "resource-disk=$r $([ -n "$r" ] && findmnt -n -r -o TARGET,FSTYPE --source "$r" | head -n 1)"
""".strip()


def custom_data() -> str:
    """Lines for a `#cloud-config`: the rule for the disk that stands in, and what is to be made of the disk."""
    return f"bootcmd:\n  - [sh, -c, {json.dumps(_NAME_IT)}]\n{_SET_UP}"


def create_resource_disk(path: Path) -> Image:
    """A new raw disk as Azure hands it over; one is there already after a reimage, and is made anew.

    Raises HostError where ntfs-3g is missing.
    """
    part, readme = path.with_suffix(".ntfs"), path.with_suffix(".txt")
    try:
        with part.open("wb") as file:
            file.truncate(SIZE - START)
        readme.write_text(WARNING_TEXT)
        process.run(["mkntfs", "-q", "-F", "-Q", "-L", LABEL, "-p", str(START // _SECTOR), part], deadline=60)
        process.run(["ntfscp", "-q", part, readme, WARNING], deadline=60)
        with path.open("wb") as disk:
            disk.write(_partition_table())
            disk.seek(START)
            _copy_data(part, disk.fileno())
            disk.truncate(SIZE)
    finally:
        part.unlink(missing_ok=True)
        readme.unlink(missing_ok=True)
    return Image(path, RAW)


def _partition_table() -> bytes:
    """One partition of NTFS. Cylinders are those of a disk too large for them."""
    far = b"\xfe\xff\xff"
    entry = b"\0" + far + bytes([_NTFS]) + far + struct.pack("<II", START // _SECTOR, (SIZE - START) // _SECTOR)
    return bytes(440) + b"temp\0\0" + entry + bytes(3 * len(entry)) + b"\x55\xaa"


def _copy_data(source: Path, target: int) -> None:
    """Copy the data of a file, and not its holes, to where the target stands."""
    with source.open("rb") as file:
        base = os.lseek(target, 0, os.SEEK_CUR)
        end = 0
        while True:
            try:
                begin = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
            os.pwrite(target, os.pread(file.fileno(), end - begin, begin), base + begin)


def judge_resource_disk(result: CloneResult, seen: Mapping[str, str]) -> None:
    """Judge where the clone has mounted it. Without cloud-init nobody takes the name that the disk has here."""
    if not seen.get("cloud-init"):
        result.see(CHECK, "not tested: without cloud-init, waagent finds it on Hyper-V's bus alone", True)
        return
    device, _, mounted = seen.get("resource-disk", "").strip().partition(" ")
    if not device:
        result.see(CHECK, "the clone gave it no name", False)
    elif not mounted:
        result.see(CHECK, f"{device} is not mounted", False)
    else:
        where, _, kind = mounted.partition(" ")
        result.see(CHECK, f"{kind} on {where}", True)
