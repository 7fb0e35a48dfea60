"""Azure's resource disk: fast, local, emptied when a VM moves, and missing at many sizes. No master has one.

Agents find it by Hyper-V's bus alone, which there is not outside of Hyper-V: so rules, fstab and settings are read at
rest, and no clone here shows the real path.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from pipeline.checks.disk.partitions import RESOURCE_DISK
from pipeline.checks.linux.agents import has_azure_init, has_cloud_init, has_waagent, read_settings
from pipeline.checks.model import AZURE, AZURE_DOC, LISA, Skip, Subject, check
from pipeline.disk.udev_rules import rule_files

_WAAGENT = "/etc/waagent.conf"
#: What a rule that gives the disk its name has in it: cloud-init's own, waagent's, azure-vm-utils'.
_NAMES_IT = re.compile(r"\bazure_resource\b|disk/azure/resource|\}=\"resource\"")
#: Bytes of a rule file that are read.
_RULES_LIMIT = 1 << 20


@check(
    "resource-disk-rules",
    "udev gives the resource disk its name",
    why="cloud-init mounts the resource disk by this name. Without it the disk stays an unused NTFS disk.",
    remedy="Restore cloud-init's 66-azure-ephemeral.rules, or install azure-vm-utils; remove what hides it in "
    "/etc/udev/rules.d.",
    source=LISA,
    profiles=AZURE,
)
def resource_disk_rules(subject: Subject) -> Iterator[str]:
    if not has_cloud_init(subject):
        raise Skip("no cloud-init, and waagent asks Hyper-V's bus")
    found = [path for path in rule_files(subject.root) if _NAMES_IT.search(subject.root.text(path, _RULES_LIMIT))]
    subject.note(", ".join(found))
    if not found:
        yield "no udev rule names the resource disk (/dev/disk/cloud/azure_resource or /dev/disk/azure/resource)"


@check(
    "resource-disk-mount",
    "One agent mounts the resource disk",
    why="Programs expect it at its mount point, with Azure's warning file. Without an agent nobody formats it.",
    remedy="Without cloud-init: ResourceDisk.Format=y in /etc/waagent.conf. With cloud-init: leave ephemeral0 out of "
    "its mounts.",
    source=LISA,
    severity="warn",
    profiles=AZURE,
)
def resource_disk_mount(subject: Subject) -> Iterator[str]:
    if has_cloud_init(subject):
        for path in ("/etc/cloud/cloud.cfg", *subject.files_in("/etc/cloud/cloud.cfg.d", ".cfg")):
            # mounts: [ephemeral0] or [ephemeral0, null] takes cloud-init's own entry away
            if re.search(r"\[\s*[\"']?ephemeral0(\.1)?[\"']?\s*(,\s*(null|~)\s*)?\]", subject.root.text(path)):
                yield f"{path}: cloud-init is told not to mount the resource disk"
        return
    settings = read_settings(subject, _WAAGENT) if has_waagent(subject) else {}
    if settings.get("Provisioning.Agent") != "waagent" and not has_azure_init(subject):
        raise Skip("cloud-init would mount it, and is missing")
    if settings.get("ResourceDisk.Format", "n") != "y":
        yield f"{_WAAGENT}: ResourceDisk.Format is not y, and there is no cloud-init"


@check(
    "resource-disk-place",
    "The resource disk hides no files of the image",
    why="What lies below its mount point cannot be seen on Azure.",
    remedy="Choose an empty folder, such as /mnt: ResourceDisk.MountPoint in /etc/waagent.conf, or the line in "
    "/etc/fstab.",
    source=AZURE_DOC,
    profiles=AZURE,
)
def resource_disk_place(subject: Subject) -> Iterator[str]:
    settings = read_settings(subject, _WAAGENT) if has_waagent(subject) else {}
    asked = [(line, words[1]) for line, words in _lines(subject)]
    if settings.get("ResourceDisk.Format") == "y":
        asked.append(
            (f"{_WAAGENT}: ResourceDisk.MountPoint", settings.get("ResourceDisk.MountPoint", "/mnt/resource"))
        )
    for where, folder in asked:
        place = posixpath.normpath(folder)
        inside = sorted(set(subject.root.listdir(place)) - {"lost+found"})
        if inside:
            yield f"{where}: {place} has {inside[0]}" + (f" and {len(inside) - 1} more" if len(inside) > 1 else "")


@check(
    "resource-disk-fstab",
    "A size without a resource disk boots",
    why="Many sizes have none: a mount of it that may not fail stops their boot.",
    remedy="Add nofail to its line in /etc/fstab, as cloud-init writes it.",
    source=AZURE_DOC,
    profiles=AZURE,
)
def resource_disk_fstab(subject: Subject) -> Iterator[str]:
    for line, words in _lines(subject):
        options = words[3].split(",") if len(words) > 3 else []
        if not {"nofail", "noauto"} & set(options):
            yield line


def _lines(subject: Subject) -> Iterator[tuple[str, list[str]]]:
    """fstab's lines that mount the resource disk, with their words. Swap on it is asked for by `swap` alone."""
    for line in subject.lines("/etc/fstab"):
        words = line.split()
        if len(words) > 2 and RESOURCE_DISK.match(words[0]) and words[2] != "swap":
            yield f"/etc/fstab: {line}", words
