"""Answer files: what Windows Setup asks, and what a clone's first boot asks, answered beforehand. Pure.

Built as trees, never as text, and held to `vocabulary` before anybody gets them.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lxml import etree

from pipeline.disk.media import AGENT, DRIVERS
from pipeline.systems.windows.unattend_schema import NS, WCM, validate

#: Drive letters that a medium may get in WinPE and in the installed Windows: any other disk moves them.
LETTERS = "DEFGHI"
#: MiB. Microsoft: UEFI/GPT-based and BIOS/MBR-based hard drive partitions; 260 for disks with 4K sectors.
ESP, MSR, SYSTEM_RESERVED = 260, 16, 500
#: The name under which Windows looks for an answer file on a medium at its first boot.
UNATTEND = "Unattend.xml"
_SHELL = "Microsoft-Windows-Shell-Setup"
_WINLOGON = r"HKLM\SOFTWARE\Microsoft\Windows NT\CurrentVersion\Winlogon"
_LAB = r"HKLM\SYSTEM\Setup\LabConfig"
#: What a machine without them has Setup pass over. Only where the definition switches TPM or Secure Boot off.
_BYPASSES = {"tpm": "BypassTPMCheck", "secure_boot": "BypassSecureBootCheck"}


@dataclass(frozen=True)
class Machine:
    """What Setup finds: its firmware, and whether it has what Windows 11 wants."""

    generation: Literal[1, 2] = 2
    secure_boot: bool = True
    tpm: bool = True


@dataclass(frozen=True)
class Wishes:
    """What the installed Windows is to be. `password` is the administrator's, for as long as it is built."""

    image: int
    drivers: str
    password: str
    locale: str = "en-US"
    timezone: str = "UTC"
    product_key: str | None = None


def installation(wishes: Wishes, machine: Machine) -> bytes:
    """autounattend.xml: from an empty disk to a guest agent that answers. Raises UsageError (answer-file-invalid)."""
    file = _File()
    file.locale("windowsPE", "Microsoft-Windows-International-Core-WinPE", wishes.locale, setup=True)
    paths = [rf"{letter}:\{driver}\{wishes.drivers}\amd64" for letter in LETTERS for driver in DRIVERS]
    pnp = file.component("windowsPE", "Microsoft-Windows-PnpCustomizationsWinPE")
    _list(_sub(pnp, "DriverPaths"), "PathAndCredentials", [{"Path": path} for path in paths], keyed=True)
    _setup(file.component("windowsPE", "Microsoft-Windows-Setup"), wishes, machine)
    _fill(file.component("specialize", _SHELL), {"ComputerName": "*", "TimeZone": wishes.timezone})
    # Windows 11 encrypts by itself where it finds a TPM, and sysprep refuses an encrypted disk
    before = [
        r"reg add HKLM\SYSTEM\CurrentControlSet\Control\BitLocker /v PreventDeviceEncryption /t REG_DWORD /d 1 /f"
    ]
    deployment = file.component("specialize", "Microsoft-Windows-Deployment")
    _list(_sub(deployment, "RunSynchronous"), "RunSynchronousCommand", _ordered("Path", before))
    file.locale("oobeSystem", "Microsoft-Windows-International-Core", wishes.locale)
    shell = file.component("oobeSystem", _SHELL)
    _fill(_sub(shell, "OOBE"), _OOBE)
    _fill(
        _sub(_sub(shell, "UserAccounts"), "AdministratorPassword"),
        {"Value": hidden(wishes.password, "AdministratorPassword"), "PlainText": False},
    )
    logon = _sub(shell, "AutoLogon")
    _fill(_sub(logon, "Password"), {"Value": hidden(wishes.password, "Password"), "PlainText": False})
    _fill(logon, {"Enabled": True, "LogonCount": 1, "Username": "Administrator"})
    _list(_sub(shell, "FirstLogonCommands"), "SynchronousCommand", _ordered("CommandLine", first_logon()))
    return file.text()


def first_boot(locale: str = "en-US", timezone: str = "UTC") -> bytes:
    """The answer file that sysprep caches on the disk with `oobe: {skip: true}`, for clones without a medium.

    Nothing is asked, nobody is logged on, no password is set.
    """
    file = _File()
    _fill(file.component("specialize", _SHELL), {"ComputerName": "*", "TimeZone": timezone})
    file.locale("oobeSystem", "Microsoft-Windows-International-Core", locale)
    _fill(_sub(file.component("oobeSystem", _SHELL), "OOBE"), _OOBE)
    return file.text()


def azure(name: str, user: str, password: str, locale: str = "en-US", timezone: str = "UTC") -> bytes:
    """Unattend.xml of Azure's medium: the clone gets its name, and an administrator by whom one can sign in.

    Windows reads it at the first boot of a generalized disk unless an answer file is cached on the disk (Microsoft:
    "Windows Setup Automation Overview", implicit answer file search order). The account exists in the clone only.
    """
    file = _File()
    _fill(file.component("specialize", _SHELL), {"ComputerName": name, "TimeZone": timezone})
    file.locale("oobeSystem", "Microsoft-Windows-International-Core", locale)
    shell = file.component("oobeSystem", _SHELL)
    _fill(_sub(shell, "OOBE"), _OOBE)
    accounts = _sub(_sub(shell, "UserAccounts"), "LocalAccounts")
    (account,) = _list(accounts, "LocalAccount", [{"Name": user, "Group": "Administrators"}])
    _fill(_sub(account, "Password"), {"Value": hidden(password, "Password"), "PlainText": False})
    return file.text()


def first_logon() -> list[str]:
    """The commands of the one logon that an installation has: the agent comes in, passwords and traces go."""
    letters = " ".join(LETTERS)
    agent = AGENT.replace("/", "\\")
    return [
        f'cmd /c "for %d in ({letters}) do if exist %d:{agent} msiexec /i %d:{agent} /qn /norestart"',
        f'cmd /c "reg delete "{_WINLOGON}" /v DefaultPassword /f & reg delete "{_WINLOGON}" /v AutoLogonCount /f & '
        f'reg add "{_WINLOGON}" /v AutoAdminLogon /t REG_SZ /d 0 /f"',
        r'cmd /c "del /f /q %SystemRoot%\Panther\unattend*.xml %SystemRoot%\Panther\Unattend\*.xml"',
    ]


#: No page of the first boot is shown; 3 leaves the updates to anyone who configures them.
_OOBE: Mapping[str, Any] = {
    "HideEULAPage": True,
    "HideLocalAccountScreen": True,
    "HideOEMRegistrationScreen": True,
    "HideOnlineAccountScreens": True,
    "HideWirelessSetupInOOBE": True,
    "ProtectYourPC": 3,
}


def draw_password() -> str:
    """A password of 24 characters, for one use. Windows' policy wants three of its kinds of characters."""
    while True:
        password = secrets.token_urlsafe(18)
        kinds = (str.islower, str.isupper, str.isdigit)
        if all(any(map(kind, password)) for kind in kinds):
            return password


def hidden(password: str, purpose: str) -> str:
    """A password as Windows System Image Manager writes it: out of sight, and no secret."""
    return base64.b64encode((password + purpose).encode("utf-16-le")).decode()


def _setup(component: etree._Element, wishes: Wishes, machine: Machine) -> None:
    disk_configuration = _sub(component, "DiskConfiguration")
    target = _disk(disk_configuration, machine.generation)
    _fill(disk_configuration, {"WillShowUI": "OnError"})
    image = _sub(_sub(component, "ImageInstall"), "OSImage")
    _list(_sub(image, "InstallFrom"), "MetaData", [{"Key": "/IMAGE/INDEX", "Value": str(wishes.image)}])
    _fill(_sub(image, "InstallTo"), {"DiskID": 0, "PartitionID": target})
    _fill(image, {"WillShowUI": "OnError"})
    user = _sub(component, "UserData")
    _fill(user, {"AcceptEula": True})
    # without the element Setup stops at the key page, also where the medium needs no key
    key = {"Key": wishes.product_key} if wishes.product_key else {}
    _fill(_sub(user, "ProductKey"), {**key, "WillShowUI": "OnError"})
    missing = [name for what, name in _BYPASSES.items() if not getattr(machine, what)]
    if missing:
        commands = [f"reg add {_LAB} /v {name} /t REG_DWORD /d 1 /f" for name in missing]
        _list(_sub(component, "RunSynchronous"), "RunSynchronousCommand", _ordered("Path", commands))


def _disk(configuration: etree._Element, generation: int) -> int:
    """The disk's partitions; the number of Windows'."""
    if generation == 2:
        created = [
            {"Order": 1, "Type": "EFI", "Size": ESP},
            {"Order": 2, "Type": "MSR", "Size": MSR},
            {"Order": 3, "Type": "Primary", "Extend": True},
        ]
        modified: list[dict[str, Any]] = [
            {"Order": 1, "PartitionID": 1, "Format": "FAT32", "Label": "System"},
            {"Order": 2, "PartitionID": 2},
            {"Order": 3, "PartitionID": 3, "Format": "NTFS", "Label": "Windows", "Letter": "C"},
        ]
    else:
        created = [
            {"Order": 1, "Type": "Primary", "Size": SYSTEM_RESERVED},
            {"Order": 2, "Type": "Primary", "Extend": True},
        ]
        modified = [
            {"Order": 1, "PartitionID": 1, "Format": "NTFS", "Label": "System Reserved", "Active": True},
            {"Order": 2, "PartitionID": 2, "Format": "NTFS", "Label": "Windows", "Letter": "C"},
        ]
    (disk,) = _list(configuration, "Disk", [{"DiskID": 0, "WillWipeDisk": True}])
    _list(_sub(disk, "CreatePartitions"), "CreatePartition", created)
    _list(_sub(disk, "ModifyPartitions"), "ModifyPartition", modified)
    return len(created)


class _File:
    """An answer file in the making: a pass and a component are made when they are first asked for."""

    def __init__(self) -> None:
        # lxml takes None as the default namespace's prefix; its stubs do not know that
        self._root = etree.Element(f"{{{NS}}}unattend", nsmap={None: NS, "wcm": WCM})  # type: ignore[dict-item]
        self._passes: dict[str, etree._Element] = {}

    def component(self, when: str, name: str) -> etree._Element:
        if when not in self._passes:
            self._passes[when] = _sub(self._root, "settings")
            self._passes[when].set("pass", when)
        made = _sub(self._passes[when], "component")
        for key, value in {
            "name": name,
            "processorArchitecture": "amd64",
            "publicKeyToken": "31bf3856ad364e35",
            "language": "neutral",
            "versionScope": "nonSxS",
        }.items():
            made.set(key, value)
        return made

    def locale(self, when: str, name: str, locale: str, *, setup: bool = False) -> None:
        made = self.component(when, name)
        if setup:
            _fill(_sub(made, "SetupUILanguage"), {"UILanguage": locale})
        _fill(made, dict.fromkeys(("InputLocale", "SystemLocale", "UILanguage", "UserLocale"), locale))

    def text(self) -> bytes:
        data: bytes = etree.tostring(self._root, xml_declaration=True, encoding="utf-8", pretty_print=True)
        validate(data)
        return data


def _sub(parent: etree._Element, name: str) -> etree._Element:
    return etree.SubElement(parent, f"{{{NS}}}{name}")


def _fill(element: etree._Element, settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        _sub(element, name).text = str(value).lower() if isinstance(value, bool) else str(value)


def _list(
    parent: etree._Element, name: str, items: Sequence[Mapping[str, Any]], *, keyed: bool = False
) -> list[etree._Element]:
    found = []
    for number, item in enumerate(items, 1):
        made = _sub(parent, name)
        made.set(f"{{{WCM}}}action", "add")
        if keyed:
            made.set(f"{{{WCM}}}keyValue", str(number))
        _fill(made, item)
        found.append(made)
    return found


def _ordered(name: str, commands: Sequence[str]) -> list[dict[str, Any]]:
    return [{"Order": number, name: command} for number, command in enumerate(commands, 1)]
