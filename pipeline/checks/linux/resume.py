"""Where the kernel and its initramfs look for a suspended system."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.checks.disk.boot import grub_entries
from pipeline.checks.model import CannotLook, Subject, check
from pipeline.disk.volumes import closed_kinds

#: Folders of initramfs-tools, whose files are shell: the last RESUME= counts.
_INITRAMFS = (
    "/etc/initramfs-tools/initramfs.conf",
    "/etc/initramfs-tools/conf.d",
    "/usr/share/initramfs-tools/conf.d",
)
#: Files from which a kernel's command line is made.
_COMMAND_LINES = ("/etc/default/grub", "/etc/kernel/cmdline", "/etc/kernel-img.conf", "/boot/cmdline.txt")
_COMMAND_FOLDERS = ("/etc/default/grub.d", "/boot/loader/entries", "/etc/dracut.conf.d", "/etc/cmdline.d")
#: Values that name no device.
_NO_DEVICE = ("", "none", "auto", "0", "no")


def resume_devices(subject: Subject) -> Iterator[tuple[str, str]]:
    """(file, device) of each place that names a device to resume from."""
    for place in _INITRAMFS:
        for path in subject.files_in(place) or [place]:
            for line in subject.lines(path):
                if found := re.match(r"(?:export\s+)?RESUME=(.*)", line):
                    yield path, found[1]
    for entry in grub_entries(subject):
        for word in entry.words:
            if word.startswith("resume="):
                yield entry.path, word.removeprefix("resume=")
    places = [*_COMMAND_LINES, *(path for folder in _COMMAND_FOLDERS for path in subject.files_in(folder))]
    for path in places:
        for line in subject.lines(path):
            for found in re.finditer(r"(?<![\w.])resume=([^\s\"']+)", line):
                yield path, found[1]


@check(
    "resume-device",
    "No boot waits for a swap area that does not exist",
    why="The initramfs waits half a minute for the device to resume from; dracut's waits a minute and a half, or "
    "without end.",
    remedy="echo RESUME=none > /etc/initramfs-tools/conf.d/resume, with no resume= in /etc/default/grub; "
    "update-initramfs -u -k all; update-grub (dracut: grubby --update-kernel=ALL --remove-args=resume; dracut -f).",
    source="initramfs-tools(7), RESUME; dracut.cmdline(7), resume=",
)
def resume_device(subject: Subject) -> Iterator[str]:
    here = {name: volume.kind for volume in subject.disk.filesystems
            for name in (f"uuid={volume.uuid}".lower(), f"label={volume.label}".lower())}  # fmt: skip
    here |= {
        f"{key}={value}".lower(): volume.kind
        for volume in subject.disk.filesystems
        for part in subject.disk.partitions
        if part.number == volume.number
        for key, value in (("partuuid", part.uuid), ("partlabel", part.name))
        if value
    }
    hidden = closed_kinds(subject.disk.filesystems)
    unknown: dict[str, None] = {}
    for path, raw in dict.fromkeys(resume_devices(subject)):
        device = raw.strip().strip("\"'").lower()
        name = re.sub(r"^/dev/disk/by-(uuid|label|partuuid|partlabel)/", r"\1=", device)
        if device in _NO_DEVICE or "$" in device or here.get(name) in ("swap", "swsuspend"):
            continue
        if name in here and "resume_offset=" in subject.root.text(path):
            continue  # a swap file, of which the check `swap` speaks
        if hidden and name not in here:
            unknown[f"{path} names {raw}"] = None
        else:
            yield f"{path} names {raw}, which is not a swap area on this disk"
    if unknown:
        raise CannotLook(f"{'; '.join(unknown)}: what is in {', '.join(hidden)} cannot be read")
