"""Single changes to the fake Windows disk, each with the one check that must name it; and changes that are none."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from tests.fakes.fake_windows_disk import (
    BOOTMGR,
    EMS_SETTINGS,
    LOADER,
    OTHER_LOADER,
    PLATFORM_RULE,
    PORT_NAME,
    PORT_RULE,
    RDP_RULE,
    RECOVERY,
    SETUPACT,
    Model,
    add_account,
    answer,
)

Change = Callable[[Model], None]

CURRENT = ("Microsoft", "Windows", "CurrentVersion")
WINLOGON = ("Microsoft", "Windows NT", "CurrentVersion", "Winlogon")
FIREWALL = ("Services", "SharedAccess", "Parameters", "FirewallPolicy")
CARD = ("Services", "Tcpip", "Parameters", "Interfaces", "{2aa4e4f0-0f4d-4d6d-8d4e-000000000001}")
RDP = ("Control", "Terminal Server", "WinStations", "RDP-Tcp")
SYSPREP = "Windows/System32/Sysprep"


def at(tree: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for name in path:
        tree = tree.setdefault(name, {})
    return tree


def system(*path: str, **values: object) -> Change:
    """Values of the second control set: it is the one that nobody looks at."""
    return lambda model: at(model.control(2), path).update(values)


def without(*path: str) -> Change:
    return lambda model: void(at(model.control(2), path[:-1]).pop(path[-1]))


def software(*path: str, **values: object) -> Change:
    return lambda model: at(model.hives["SOFTWARE"], path).update(values)


def setup(**values: object) -> Change:
    return lambda model: model.hives["SYSTEM"]["Setup"].update(values)


def file(path: str, data: bytes) -> Change:
    return lambda model: model.files.update({path: data})


def gone(path: str) -> Change:
    return lambda model: void(model.files.pop(path))


def bcd(name: str, element: str, value: bytes) -> Change:
    def change(model: Model) -> None:
        assert model.bcd is not None
        model.bcd["Objects"][name]["Elements"][element] = {"Element": value}

    return change


def security(*path: str, **values: object) -> Change:
    return lambda model: at(model.hives["SECURITY"], path).update(values)


def setup_key(**values: object) -> Change:
    return lambda model: model.hives["SYSTEM"]["Setup"].update(values)


def menu(name: str, **elements: bytes) -> Change:
    """Another system in the boot manager's menu."""

    def change(model: Model) -> None:
        assert model.bcd is not None
        objects = model.bcd["Objects"]
        objects[BOOTMGR]["Elements"]["24000001"]["Element"].append(name)
        objects[name]["Elements"] = {element: {"Element": value} for element, value in elements.items()}

    return change


def inherited(model: Model) -> None:
    """The console is set where all loaders inherit from."""
    assert model.bcd is not None
    objects = model.bcd["Objects"]
    console = objects[LOADER]["Elements"].pop("260000b0")
    objects[LOADER]["Elements"]["14000006"] = {"Element": ["{6efb52bf-1766-41db-a6b3-0ee5eff72bd7}"]}
    objects["{6efb52bf-1766-41db-a6b3-0ee5eff72bd7}"] = {
        "Description": {"Type": 0x20200003},
        "Elements": {"260000b0": console},
    }


def logged(model: Model) -> None:
    """The hive's file is of a time at which nothing was right; its log makes it what it is."""
    model.logged = {"SYSTEM": {"Select": {"Current": 7}, "ControlSet001": {}}, "SAM": {"SAM": {}}}


def void(_: object) -> None:
    pass


DEFECTS: dict[str, tuple[str, Change]] = {
    # generalized?
    "Windows was merely shut down": (
        "win-image-state",
        software(*CURRENT, "Setup", "State", ImageState="IMAGE_STATE_COMPLETE"),
    ),
    "sysprep stopped between its witnesses": (
        "win-state-ini",
        file("Windows/Setup/State/State.ini", b"[State]\r\nImageState=IMAGE_STATE_UNDEPLOYABLE\r\n"),
    ),
    "no State.ini": ("win-state-ini", gone("Windows/Setup/State/State.ini")),
    "sysprep has not said that it succeeded": ("win-sysprep-tag", gone(f"{SYSPREP}/Sysprep_succeeded.tag")),
    "the next boot is an ordinary one": ("win-setup-phase", setup(SetupType=0)),
    "the next boot runs something else": ("win-setup-phase", setup(CmdLine="cmd.exe")),
    "a provider of sysprep failed": (
        "win-sysprep-errors",
        file(f"{SYSPREP}/Panther/setuperr.log", b"Error  SYSPRP Package x was installed for a user\r\n"),
    ),
    "generalized for QEMU only": (
        "win-mode-vm",
        file(f"{SYSPREP}/Panther/setupact.log", SETUPACT.replace("MODE", "VM").encode()),
    ),
    "the rearm was skipped": (
        "win-rearm",
        software("Microsoft", "Windows NT", "CurrentVersion", "SoftwareProtectionPlatform", SkipRearm=1),
    ),
    "a member of a domain": ("win-domain", system("Services", "Tcpip", "Parameters", Domain="corp.example")),
    "reserved storage in use": ("win-reserved-storage", software(*CURRENT, "ReserveManager", ActiveScenario=3)),
    # at rest?
    "a hive that was not written to its end": ("win-hives", lambda model: model.dirty.add("DEFAULT")),
    "a hive that is not there": ("win-hives", lambda model: void(model.hives.pop("DEFAULT"))),
    "NTFS is dirty": ("win-ntfs-clean", lambda model: setattr(model, "volume_flags", 1)),
    "a restart is pending": (
        "win-pending",
        lambda model: at(model.hives["SOFTWARE"], (*CURRENT, "Component Based Servicing", "RebootPending")).clear(),
    ),
    "files are to be renamed at the next boot": (
        "win-pending-renames",
        system("Control", "Session Manager", PendingFileRenameOperations=[r"\??\C:\a", "", r"\??\C:\b", ""]),
    ),
    "fast startup": ("win-hibernation", system("Control", "Session Manager", "Power", HiberbootEnabled=1)),
    "a hibernated disk": ("win-hibernation", file("hiberfil.sys", b"hibr")),
    # left over
    "the answer file's password": (
        "win-answer-passwords",
        file(f"{SYSPREP}/unattend.xml", answer("UABhAHMAcwA=")),
    ),
    "Setup's own answer file": (
        "win-answer-cached",
        file("Windows/Panther/unattend.xml", answer("*SENSITIVE*DATA*DELETED*")),
    ),
    "an answer file in Panther's folder for it": (
        "win-answer-cached",
        file("Windows/Panther/Unattend/Autounattend.xml", answer("*SENSITIVE*DATA*DELETED*")),
    ),
    "an answer file that the registry names": (
        "win-answer-cached",
        setup_key(UnattendFile=r"C:\answers.xml"),
    ),
    "a password in a second answer file": ("win-answer-passwords", file(f"{SYSPREP}/oobe.xml", answer("hunter2"))),
    "automatic logon": ("win-autologon", software(*WINLOGON, AutoAdminLogon="1")),
    "a password in the registry": ("win-autologon", software(*WINLOGON, DefaultPassword="hunter2")),
    "the profile of the build's user": ("win-users", file("Users/packer/NTUSER.DAT", b"")),
    "what was typed in PowerShell": (
        "win-history",
        file(
            "Users/Administrator/AppData/Roaming/Microsoft/Windows/PowerShell/PSReadLine/ConsoleHost_history.txt",
            b"net user\r\n",
        ),
    ),
    "a memory dump": ("win-dumps", file("Windows/Minidump/112226-01.dmp", b"PAGEDU64")),
    "a page file with data": ("win-pagefile", file("pagefile.sys", bytes(3 << 20) + b"hunter2" + bytes(8192))),
    "a page file in its own record": ("win-pagefile", file("pagefile.sys", bytes(30) + b"hunter2")),
    "a swap file with data": ("win-pagefile", file("swapfile.sys", b"hunter2".ljust(8192, b"\0"))),
    "the password of the answer file's logon": (
        "win-lsa-password",
        security("Policy", "Secrets", "DefaultPassword", "CurrVal", **{"": bytes(92)}),
    ),
    "an earlier password of it": (
        "win-lsa-password",
        security("Policy", "Secrets", "DefaultPassword", "OldVal", **{"": bytes(92)}),
    ),
    "the administrator's password": (
        "win-account-passwords",
        lambda model: add_account(model.hives["SAM"], "Administrator", 500, password=True),
    ),
    "a page file on a drive of the build's": (
        "win-pagefile",
        system("Control", "Session Manager", "Memory Management", PagingFiles=[r"E:\pagefile.sys 0 0"]),
    ),
    "a drive letter of the build's medium": (
        "win-drive-letters",
        lambda model: model.hives["SYSTEM"]["MountedDevices"].update({"\\DosDevices\\D:": b"cd"}),
    ),
    "an account of the build's": (
        "win-guest-account",
        lambda model: add_account(model.hives["SAM"], "packer", 1001),
    ),
    # boots?
    "storvsc does not start at boot": ("win-boot-drivers", system("Services", "storvsc", Start=3)),
    "a start override": ("win-boot-drivers", system("Services", "vmbus", "StartOverride", **{"0": 3})),
    "no AHCI": ("win-other-drivers", system("Services", "storahci", Start=3)),
    "a driver without its file": ("win-driver-files", gone("Windows/System32/drivers/volmgr.sys")),
    "the control set that boots is gone": (
        "win-control-set",
        lambda model: model.hives["SYSTEM"]["Select"].update(Current=3),
    ),
    "the DVD's driver is off": ("win-cdrom", system("Services", "cdrom", Start=4)),
    "no console on the serial port": ("win-ems", bcd(LOADER, "260000b0", b"\0")),
    "a console at another speed": ("win-ems", bcd(EMS_SETTINGS, "15000023", struct.pack("<Q", 9600))),
    "a second system in the menu, without a console": (
        "win-ems",
        menu(OTHER_LOADER, **{"16000009": b"\0", "250000e0": struct.pack("<Q", 1)}),
    ),
    "a second system in the menu, with automatic repair": (
        "win-boot-recovery",
        menu(OTHER_LOADER, **{"260000b0": b"\1", "250000e0": struct.pack("<Q", 1)}),
    ),
    "automatic repair": ("win-boot-recovery", bcd(LOADER, "16000009", b"\1")),
    "a failed boot stops in a menu": ("win-boot-recovery", bcd(LOADER, "250000e0", struct.pack("<Q", 0))),
    "no menu on the serial port": ("win-ems-menu", bcd(BOOTMGR, "16000020", b"\0")),
    "a menu that waits for ever": ("win-ems-menu", bcd(BOOTMGR, "25000004", struct.pack("<Q", 0xFFFFFFFF))),
    "no console behind the serial port": ("win-ems-console", system("Services", "sacsvr", Start=3)),
    # lets its user in?
    "Remote Desktop is off": ("win-rdp", system("Control", "Terminal Server", fDenyTSConnections=1)),
    "Remote Desktop at another port": ("win-rdp", system(*RDP, PortNumber=3390)),
    "Remote Desktop off by policy": (
        "win-rdp-policy",
        software("Policies", "Microsoft", "Windows NT", "Terminal Services", fDenyTSConnections=1),
    ),
    "Remote Desktop without authentication": ("win-rdp-nla", system(*RDP, UserAuthentication=0)),
    "Remote Desktop's certificate": ("win-rdp-certificate", system(*RDP, SSLCertificateSHA1Hash=bytes(20))),
    "Remote Desktop lets idle connections die": ("win-rdp-nla", system(*RDP, KeepAliveTimeout=0)),
    "Remote Desktop without keep-alive by policy": (
        "win-rdp-nla",
        software("Policies", "Microsoft", "Windows NT", "Terminal Services", KeepAliveEnable=0),
    ),
    "the clock's service starts on demand": ("win-services", system("Services", "w32time", Start=3)),
    "the platform is kept out": (
        "win-firewall-platform",
        system(*FIREWALL, "FirewallRules", **{"AzurePlatform-Inbound": PLATFORM_RULE.replace("TRUE", "FALSE")}),
    ),
    "the platform's rule is for one port": (
        "win-firewall-platform",
        system(
            *FIREWALL,
            "FirewallRules",
            **{"AzurePlatform-Inbound": PLATFORM_RULE.replace("|RA4", "|Protocol=6|LPort=80|RA4")},
        ),
    ),
    "the boot manager has no console": ("win-ems-menu", bcd(BOOTMGR, "26000020", b"\0")),
    "a client without the console's capability": ("win-ems-console", without("Services", "sacsvr")),
    "the platform is not spoken to": (
        "win-firewall-platform",
        without(*FIREWALL, "FirewallRules", "AzurePlatform-Outbound"),
    ),
    "a service is off": ("win-services", system("Services", "mpssvc", Start=4)),
    "the firewall is off": ("win-firewall", system(*FIREWALL, "PublicProfile", EnableFirewall=0)),
    "the firewall keeps Remote Desktop out": (
        "win-firewall-rdp",
        system(*FIREWALL, "FirewallRules", **{"RemoteDesktop-UserMode-In-TCP": RDP_RULE.replace("TRUE", "FALSE")}),
    ),
    "a declared port was never opened": ("win-ports", without(*FIREWALL, "FirewallRules", PORT_NAME)),
    "a declared port's rule is off": (
        "win-ports",
        system(*FIREWALL, "FirewallRules", **{PORT_NAME: PORT_RULE.replace("TRUE", "FALSE")}),
    ),
    "a declared port is open to its own network only": (
        "win-ports",
        system(*FIREWALL, "FirewallRules", **{PORT_NAME: PORT_RULE.replace("|Name", "|RA4=LocalSubnet|Name")}),
    ),
    "a declared port is open in one profile only": (
        "win-ports",
        system(*FIREWALL, "FirewallRules", **{PORT_NAME: PORT_RULE.replace("|LPort", "|Profile=Domain|LPort")}),
    ),
    "a declared port's rule blocks it": (
        "win-ports",
        system(*FIREWALL, "FirewallRules", **{PORT_NAME: PORT_RULE.replace("Allow", "Block")}),
    ),
    "another port than its rule says": (
        "win-ports",
        system(*FIREWALL, "FirewallRules", **{PORT_NAME: PORT_RULE.replace("443", "4443")}),
    ),
    "a port of the parent's that nobody declares": (
        "win-ports",
        system(*FIREWALL, "FirewallRules", **{"goldsmith-udp-53": PORT_RULE.replace("443", "53")}),
    ),
    "local time in the hardware clock": ("win-utc", without("Control", "TimeZoneInformation", "RealTimeIsUniversal")),
    "disks stay offline": ("win-san-policy", system("Services", "partmgr", "Parameters", SanPolicy=4)),
    "a static address": ("win-network", system(*CARD, EnableDHCP=0, IPAddress=["192.0.2.7"])),
    "a name server of the build's network": ("win-network", system(*CARD, NameServer="192.0.2.53")),
    "a persistent route": (
        "win-network",
        system("Services", "Tcpip", "Parameters", "PersistentRoutes", **{"0.0.0.0,0.0.0.0,192.0.2.1,1": ""}),
    ),
    "a proxy": (
        "win-proxy",
        software(
            *CURRENT,
            "Internet Settings",
            "Connections",
            WinHttpSettings=struct.pack("<IIII", 0x18, 0, 3, 10) + b"proxy:3128",
        ),
    ),
    "no dump, no restart": ("win-crash", system("Control", "CrashControl", AutoReboot=0)),
    "TEMP on another drive": ("win-temp", system("Control", "Session Manager", "Environment", TEMP=r"E:\temp")),
    "no agent of Azure's": (
        "win-agent",
        lambda model: [model.control(2)["Services"].pop(n) for n in ("WindowsAzureGuestAgent", "RdAgent")],
    ),
}


#: Other disks that are good: nothing may be found on them.
GOOD: dict[str, Change] = {
    "State.ini in UTF-16": file(
        "Windows/Setup/State/State.ini",
        "\ufeff[State]\r\nImageState=IMAGE_STATE_GENERALIZE_RESEAL_TO_OOBE\r\n".encode("utf-16-le"),
    ),
    "a page file of zeros": file("pagefile.sys", bytes(2 << 20)),
    "dirty hives with their logs": logged,
    "a console that all loaders inherit": inherited,
    "a menu with a Windows PE": menu(RECOVERY, **{"26000022": b"\1"}),
    "an earlier sysprep for one hypervisor": file(
        f"{SYSPREP}/Panther/setupact.log",
        (SETUPACT.replace("MODE", "VM") + SETUPACT.replace("MODE", "<null>")).encode(),
    ),
    "an answer file with a struck password, where Windows does not look first": file(
        f"{SYSPREP}/oobe.xml", answer("*SENSITIVE*DATA*DELETED*")
    ),
    "a driver by its full path": system("Services", "viostor", ImagePath=r"\SystemRoot\System32\drivers\viostor.sys"),
    "a page file on Azure's temporary disk": system(
        "Control", "Session Manager", "Memory Management", PagingFiles=[r"D:\pagefile.sys 0 0"]
    ),
    "cloudbase-init beside Azure's agent": system("Services", "cloudbase-init", Start=2, Type=16),
    "a rule of somebody else's": system(*FIREWALL, "FirewallRules", **{"web": PORT_RULE.replace("443", "80")}),
    "a declared port's rule with a description": system(
        *FIREWALL, "FirewallRules", **{PORT_NAME: PORT_RULE + "Desc=for the shop|EmbedCtxt=web|"}
    ),
    "services that start earlier": system("Services", "TermService", Start=2),
}
