"""NVMe disks: the sizes of Azure from v6 on have no others, so a disk's name must not depend on its controller.

The names are those of azure-vm-utils, by the system's own udev rules, which know Azure's controller by its model.
QEMU's controller has another model and stands in: the clone's own rules are made to name it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.base import process
from pipeline.base.printable import shorten
from pipeline.definition import DataDisk
from pipeline.hypervisor.domain import NVME_DATA, NVME_OS
from pipeline.prove.result import CloneResult
from pipeline.systems.linux.clone import Clone

#: The model of the controller of Azure's remote disks, and of the one that stands in, as `*/model` in /sys has it.
AZURE_MODEL, STAND_IN = "MSFT NVMe Accelerator v1.0", "QEMU NVMe Ctrl"
#: What the checks are called in results.
DISKS, NAMES = "NVMe disks", "disk names"
#: What the clone has printed, in its folder.
LOG = "disk-names.log"
#: Bytes of the blank data disk.
BLANK_SIZE = 64 << 20
#: Seconds for udev to work through its events; nothing else runs by then. By KVM: True.
SETTLE = {True: 15, False: 60}

#: Runs as root in the clone. It prints a namespace for each of `root` and the names below /dev/disk/azure.
_LOOK = r"""
for folder in /etc /run /usr/lib /lib; do
  [ -d "$folder/udev/rules.d" ] && grep -rl 'MODEL' "$folder/udev/rules.d"
done 2>/dev/null | sort -u | while read -r file; do
  sed -i 's/MODEL/STAND_IN/g' "$file"
done
udevadm control --reload
udevadm trigger --action=change --subsystem-match=block
udevadm settle --timeout=SETTLE
namespace() {
  disk=$(basename "$(readlink -f "$1")")
  cat "/sys/class/block/$disk/nsid" "/sys/class/block/$disk/../nsid" 2>/dev/null | head -n 1
}
echo "root=$(namespace "$(findmnt -n -o SOURCE /)")"
echo "os=$(namespace /dev/disk/azure/os)"
for name in /dev/disk/azure/data/by-lun/*; do
  case $name in *-part*|*'*') continue;; esac
  echo "lun${name##*/}=$(namespace "$name")"
done
"""


def blank_disk(disks: Sequence[DataDisk]) -> DataDisk:
    """A blank data disk at the first LUN that none of `disks` has."""
    taken = {disk.lun for disk in disks}
    return DataDisk(next(lun for lun in range(len(taken) + 1) if lun not in taken), BLANK_SIZE)


def check_nvme_disks(clone: Clone, result: CloneResult, disks: Sequence[DataDisk]) -> None:
    """Judge in the running clone that it has booted from NVMe, and that each disk has its name of Azure."""
    settle = SETTLE[clone.spec.kvm]
    try:
        output = clone.steps.ssh("sudo -n sh -s", stdin=look_script(settle), deadline=settle + clone.timeouts.command)
    except (process.CommandFailed, process.CommandTimeout) as error:
        why = shorten(getattr(error, "stderr", "").strip()) or "no answer"
        result.see(NAMES, f"the names of the disks could not be read: {why}", False)
        return
    (clone.logs / LOG).write_text(output.stdout)
    lines = (line.partition("=") for line in output.stdout.splitlines())
    judge_nvme_disks(result, {name: value.strip() for name, _, value in lines}, disks)


def judge_nvme_disks(result: CloneResult, seen: Mapping[str, str], disks: Sequence[DataDisk]) -> None:
    """Judge what the clone has printed: the namespace of `root`, `os`, and `lunN` for each name of a data disk."""
    root = seen.get("root", "")
    good = root == str(NVME_OS)
    result.see(DISKS, f"booted from namespace {root}" if good else "the root file system is not on the OS disk", good)
    wanted = {"os": NVME_OS, **{f"lun{disk.lun}": disk.lun + NVME_DATA for disk in disks}}
    wrong = [
        f"{_path(name)} {f'is namespace {seen[name]}, not {number}' if seen.get(name) else 'is missing'}"
        for name, number in wanted.items()
        if seen.get(name) != str(number)
    ]
    result.see(NAMES, "; ".join(wrong) or ", ".join(_path(name) for name in wanted), not wrong)


def _path(name: str) -> str:
    return f"/dev/disk/azure/{name}" if name == "os" else f"/dev/disk/azure/data/by-lun/{name.removeprefix('lun')}"


def look_script(settle: int) -> str:
    """What runs in the clone."""
    script = _LOOK.replace("SETTLE", str(settle)).replace("STAND_IN", STAND_IN)
    return script.replace("MODEL", AZURE_MODEL)
