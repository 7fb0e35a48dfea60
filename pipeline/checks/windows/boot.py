"""Will it find its disk, on this hypervisor and on others, and can anybody see it boot?"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.base.errors import DiskError
from pipeline.checks.model import CannotLook, Subject, windows_check
from pipeline.disk import bcdstore
from pipeline.disk.bcdstore import BootStore
from pipeline.disk.root import Root
from pipeline.disk.volumes import UNIX
from pipeline.disk.windows import read_hive, shown

#: What brings the disk on Hyper-V and Azure, generation 1 and 2.
HYPERV = ("vmbus", "storvsc", "storflt", "intelide", "atapi")
#: What brings it elsewhere: AHCI, NVMe, QEMU's virtio.
OTHERS = ("storahci", "stornvme", "viostor", "vioscsi")
_SERVICES = r"Services"
#: Seconds that the boot manager's menu may stand. Azure's document says 5.
_LONGEST_MENU = 30
_DOC = "Azure: Prepare a Windows VHD or VHDX to upload; Boot configuration data reference"


@windows_check(
    "win-control-set",
    "The control set that boots exists",
    why="Windows stops with INACCESSIBLE_BOOT_DEVICE or worse.",
    remedy="Build again, because the hive is damaged.",
    source="Microsoft: HKLM\\SYSTEM\\Select",
    waivable=False,
)
def control_set(subject: Subject) -> Iterator[str]:
    current = subject.windows.hive("SYSTEM").value("Select", "Current")
    if not isinstance(current, int):
        yield f"Select\\Current is {shown(current)}"
    elif f"ControlSet{current:03}" not in subject.windows.control_sets:
        yield f"ControlSet{current:03} does not exist"


@windows_check(
    "win-boot-drivers",
    "The drivers of Hyper-V's disks start at boot, in every control set",
    why="Without them the clone stops with INACCESSIBLE_BOOT_DEVICE (0x7B).",
    remedy=r"Set Start to 0 in Services\NAME and delete its StartOverride, in every control set.",
)
def boot_drivers(subject: Subject) -> Iterator[str]:
    for name in HYPERV:
        yield from _starts(subject, name)


@windows_check(
    "win-other-drivers",
    "The drivers of other hypervisors' disks start at boot",
    why="Without them the master boots on Azure, but not from AHCI, NVMe or virtio.",
    remedy=r"Install the virtio drivers; set Start to 0 in Services\NAME.",
    source="goldsmith: one master, several hypervisors",
    severity="warn",
)
def other_drivers(subject: Subject) -> Iterator[str]:
    for name in OTHERS:
        yield from _starts(subject, name)


def _starts(subject: Subject, name: str) -> Iterator[str]:
    system = subject.windows.hive("SYSTEM")
    for control in subject.windows.control_sets:
        key = f"{control}\\{_SERVICES}\\{name}"
        start = system.value(key, "Start")
        if start != 0:
            yield f"{control}: {name} Start is {shown(start)}"
        override = {value for value in (system.values(f"{key}\\StartOverride") or {}).values() if value != 0}
        if override:
            yield f"{control}: {name} has a StartOverride of {', '.join(sorted(map(shown, override)))}"


@windows_check(
    "win-driver-files",
    "The file of each boot-start driver exists",
    why="A driver without its file stops the boot before anything is logged.",
    remedy="Install the driver again, or remove the service.",
    source="Microsoft: kernel driver services, ImagePath",
)
def driver_files(subject: Subject) -> Iterator[str]:
    system, root = subject.windows.hive("SYSTEM"), subject.windows.root
    for control in subject.windows.control_sets:
        services = system.keys(f"{control}\\{_SERVICES}")
        if not services:
            raise CannotLook(f"{control} has no services")
        for name in services:
            values = subject.windows.settings(f"{control}\\{_SERVICES}\\{name}")
            if values.get("start") != 0 or values.get("type", 1) not in (1, 2):
                continue
            path = _driver_path(name, str(values.get("imagepath") or ""))
            if path is not None and not root.is_file(path):
                yield f"{control}: {name}: {path.replace('/', chr(92))} does not exist"


def _driver_path(name: str, image: str) -> str | None:
    """Where a boot-start driver's file lies; None for a place that only the running system knows."""
    if not image:
        return f"/Windows/System32/drivers/{name}.sys"
    path = re.sub(r"^\\?(\?\?\\)?(SystemRoot|%SystemRoot%|C:\\Windows)\\", "", image.strip('"'), flags=re.IGNORECASE)
    path = path.split(" ", 1)[0].replace("\\", "/")
    return f"/Windows/{path}" if re.match(r"system32/", path, re.IGNORECASE) else None


@windows_check(
    "win-cdrom",
    "The CD-ROM driver starts with the system",
    why="Azure's provisioning medium is a DVD. Without the driver the clone never becomes Ready.",
    remedy=r"Set Services\cdrom Start to 1.",
)
def cdrom(subject: Subject) -> Iterator[str]:
    yield from subject.windows.other_than(1, r"Services\cdrom", "Start")


@windows_check(
    "win-ems",
    "Emergency Management Services use the serial port",
    why="Otherwise Azure's serial console shows nothing, and a clone that does not boot cannot be reached.",
    remedy="bcdedit /ems {current} on; bcdedit /emssettings EMSPORT:1 EMSBAUDRATE:115200",
    source=_DOC,
)
def ems(subject: Subject) -> Iterator[str]:
    bcd = _bcd(subject)
    for loader in bcd.loaders():
        if not bcd.is_on(loader, bcdstore.EMS):
            yield f"{loader}: ems is off"
    port, baud = (bcd.number(bcdstore.EMS_SETTINGS, name) for name in (bcdstore.EMS_PORT, bcdstore.EMS_BAUD))
    if (port, baud) != (1, 115200):
        yield f"emssettings: port {shown(port)}, {shown(baud)} baud"


@windows_check(
    "win-ems-menu",
    "The boot manager shows its menu on the serial port",
    why="Without the menu, nobody can choose another way to boot from Azure's serial console.",
    remedy="bcdedit /set {bootmgr} displaybootmenu yes; bcdedit /set {bootmgr} timeout 5; "
    "bcdedit /set {bootmgr} bootems yes",
    severity="warn",
    source=_DOC,
)
def ems_menu(subject: Subject) -> Iterator[str]:
    bcd = _bcd(subject)
    for element, name in ((bcdstore.MENU, "displaybootmenu"), (bcdstore.BOOT_EMS, "bootems")):
        if not bcd.is_on(bcdstore.BOOTMGR, element):
            yield f"{{bootmgr}}: {name} is off"
    timeout = bcd.number(bcdstore.BOOTMGR, bcdstore.TIMEOUT)
    # a menu that waits for ever stops each clone
    if not timeout or timeout > _LONGEST_MENU:
        yield f"{{bootmgr}}: timeout is {shown(timeout)}, not 1 to {_LONGEST_MENU} seconds"


@windows_check(
    "win-ems-console",
    "The console of Emergency Management Services starts",
    why="Otherwise the serial port gives no prompt, and a clone without a network cannot be repaired.",
    remedy="Set-Service sacsvr -StartupType Automatic; on a client first "
    "Add-WindowsCapability -Online -Name Windows.Desktop.EMS-SAC.Tools~~~~0.0.1.0",
    severity="warn",
    source=_DOC,
)
def ems_console(subject: Subject) -> Iterator[str]:
    yield from subject.windows.other_than(2, rf"{_SERVICES}\sacsvr", "Start")


@windows_check(
    "win-boot-recovery",
    "A failed boot is tried again, without a menu",
    why="Nobody can press a key, so the clone would wait in automatic repair without end.",
    remedy="bcdedit /set {current} recoveryenabled Off; bcdedit /set {current} bootstatuspolicy IgnoreAllFailures",
    source=_DOC,
)
def boot_recovery(subject: Subject) -> Iterator[str]:
    bcd = _bcd(subject)
    for loader in bcd.loaders():
        if bcd.number(loader, bcdstore.RECOVERY) != 0:
            yield f"{loader}: recoveryenabled is not off"
        if bcd.number(loader, bcdstore.POLICY) != 1:
            yield f"{loader}: bootstatuspolicy is not IgnoreAllFailures"


def _bcd(subject: Subject) -> BootStore:
    """The boot configuration: on the ESP, or in Boot of whatever partition has one. Raises DiskError (no-bcd)."""
    for volume in subject.disk.filesystems:
        if not volume.readable or volume.kind in UNIX:
            continue
        root = Root(subject.disk.filesystem(volume))
        for path in ("/EFI/Microsoft/Boot/BCD", "/Boot/BCD"):
            hive = read_hive(root, path, allow_dirty=True)
            if hive is not None:
                if hive.dirty:
                    subject.windows.stale[path] = hive
                return BootStore(hive)
    raise DiskError(
        "neither EFI\\Microsoft\\Boot nor Boot has a BCD",
        name="no-bcd",
        hint="run bcdboot C:\\Windows, which writes a BCD; without it the disk does not boot",
    )
