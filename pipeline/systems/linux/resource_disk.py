"""Azure's resource disk in a clone: handed over as Azure does, and expected to be mounted by the image's cloud-init.

Agents find the real one on Hyper-V's bus, by the id of its device, and so none under QEMU. cloud-init goes by a name
that udev gives it. A rule that is written into the clone alone, before cloud-init sets up disks, gives this name to
the disk that stands in. What follows is the image's own: its settings, its tools, its file systems. waagent has no
such name, and its way to the disk is not tested.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pipeline.cache.layers import Image
from pipeline.instances.resource_disk import SERIAL, write_resource_disk
from pipeline.prove.result import CloneResult

#: What the check is called in results.
CHECK = "resource disk"
#: Bytes of the disk.
SIZE = 64 << 20

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
    return write_resource_disk(path, SIZE)


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
