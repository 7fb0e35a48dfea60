"""Names of disks that depend on their controller: /dev/sda is /dev/nvme0n1 on an Azure size with NVMe disks.

The boot menu itself is for `root-by-uuid`, fstab for `fstab-by-uuid`, resume= for `resume-device`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.checks.model import AZURE, Subject, check
from pipeline.disk.udev_rules import rule_files

#: A disk, or a partition of it, by the kernel's own name.
_KERNEL_NAME = r"/dev/(?:(?:sd|hd|vd|xvd)[a-z]+\d*|nvme\d+n\d+(?:p\d+)?)(?![\w.-])"
#: Files from which a kernel's command line is made. `resume=` is for the check resume-device.
_COMMAND_LINES = ("/etc/default/grub", "/etc/kernel/cmdline")
_COMMAND_FOLDERS = ("/etc/default/grub.d", "/etc/kernel/cmdline.d", "/etc/dracut.conf.d", "/etc/cmdline.d")
_ASKS_FOR = re.compile(r"(?:(?<![\w.])(?:root|cryptdevice)=\S*?|^\s*GRUB_DEVICE\w*=[\"']?)(" + _KERNEL_NAME + ")")
_RAID = ("/etc/mdadm/mdadm.conf", "/etc/mdadm.conf")
_UNITS = ("/etc/systemd/system", "/usr/local/lib/systemd/system")
#: How rules know the controller of Azure's remote NVMe disks, and the bytes of a file of rules that are read.
_REMOTE_MODEL = "MSFT NVMe Accelerator"
_RULES_LIMIT = 1 << 20


@check(
    "nvme-names",
    "No boot waits for a disk that is named by its controller",
    why="Newer Azure sizes have NVMe disks only: /dev/sda is not there, and what waits for it stops the boot.",
    remedy="Write UUID=, /dev/disk/by-uuid/ or /dev/disk/azure/ in place of the named device; update-grub; "
    "update-initramfs -u -k all.",
    source="Azure: NVMe on Linux VMs, udev rules and disk names",
    profiles=AZURE,
)
def nvme_names(subject: Subject) -> Iterator[str]:
    yield from _crypttab(subject)
    places = [*_COMMAND_LINES, *(path for folder in _COMMAND_FOLDERS for path in subject.files_in(folder))]
    for path in places:
        for line in subject.lines(path):
            if found := _ASKS_FOR.search(line):
                yield f"{path}: {found[0].strip()}"
    for path in _RAID:
        for line in subject.lines(path):
            if re.match(r"(?i)(device|array)\s", line) and (found := re.search(_KERNEL_NAME, line)):
                yield f"{path}: {found[0]}"
    for folder in _UNITS:
        for path in subject.files_in(folder):
            if path.endswith((".mount", ".swap")):
                yield from _unit(subject, path)


def _crypttab(subject: Subject) -> Iterator[str]:
    for line in subject.lines("/etc/crypttab"):
        words = line.split()
        options = words[3].split(",") if len(words) > 3 else []
        # what may be missing, or is not opened at boot, cannot stop it
        if len(words) > 1 and not {"noauto", "nofail"} & set(options) and re.match(_KERNEL_NAME, words[1]):
            yield f"/etc/crypttab: {line}"


def _unit(subject: Subject, path: str) -> Iterator[str]:
    lines = list(subject.lines(path))
    if any(re.match(r"Options\s*=.*\bnofail\b", line) for line in lines):
        return
    for line in lines:
        if re.match(r"What\s*=\s*" + _KERNEL_NAME, line):
            yield f"{path}: {line}"


@check(
    "nvme-rules",
    "udev names NVMe data disks by their LUN",
    why="On newer Azure sizes the order of /dev/nvme0n2, n3, ... is not that of the LUNs. waagent's rules name SCSI "
    "disks only.",
    remedy="Install azure-vm-utils (80-azure-disk.rules), or copy its rules to /etc/udev/rules.d.",
    source="Azure/azure-vm-utils; Azure: NVMe on Linux VMs, udev rules and disk names",
    severity="warn",
    profiles=("azure-linux",),
)
def nvme_rules(subject: Subject) -> Iterator[str]:
    found = [path for path in rule_files(subject.root) if _REMOTE_MODEL in subject.root.text(path, _RULES_LIMIT)]
    subject.note(", ".join(found))
    if not found:
        yield "no udev rule knows the controller of Azure's NVMe disks (/dev/disk/azure/data/by-lun/)"
