"""A small disk that looks like a generalized Windows Server, made without root and without Windows. NOT WINDOWS.

What it holds is written from Microsoft's public documents, apart from the checks: an ESP with a boot configuration,
an NTFS with hives, logs and drivers where Windows has them. Nothing in it boots.
"""

from __future__ import annotations

import copy
import struct
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.vhd.extents import file_extents
from pipeline.vhd.fixed import write_fixed
from pipeline.vhd.footer import MIB
from tests.fakes import fake_disk, fake_hive
from tests.fakes.fake_disk import tool
from tests.tools import skip_without

SIZE = 64 * MIB
ESP_AT, ESP_SIZE = 1 * MIB, 16 * MIB
NTFS_AT, NTFS_SIZE = 17 * MIB, 46 * MIB
Tree = dict[str, Any]

STATE = "IMAGE_STATE_GENERALIZE_RESEAL_TO_OOBE"
LOADER = "{a5a30fa2-3d06-4e9f-b5f4-a01df9d1fcba}"
BOOTMGR = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
RECOVERY, OTHER_LOADER = "{733b62e6-f608-11eb-825c-c112f60133ab}", "{733b62e5-f608-11eb-825c-c112f60133ab}"
EMS_SETTINGS = "{0ce4991b-e6b3-4b16-b23c-5e0d9250e5d9}"
RDP_RULE = (
    "v2.31|Action=Allow|Active=TRUE|Dir=In|Protocol=6|LPort=3389|App=%SystemRoot%\\system32\\svchost.exe|"
    "Svc=termservice|Name=@FirewallAPI.dll,-28775|Desc=@FirewallAPI.dll,-28756|"
)
#: Azure's platform, in; out it is the same.
PLATFORM_RULE = "v2.31|Action=Allow|Active=TRUE|Dir=In|RA4=168.63.129.16/255.255.255.255|Name=AzurePlatform|"
KEEP_ALIVE = {"KeepAliveEnable": 1, "KeepAliveInterval": 1}
RDP_TCP = {"PortNumber": 3389, "LanAdapter": 0, "UserAuthentication": 1, "KeepAliveTimeout": 1}
#: What sysprep writes down of its command line and its mode.
SETUPACT = (
    "2026-11-22 10:00:00, Info       SYSPRP ParseCommands:Found supported command line option 'OOBE'\r\n"
    "2026-11-22 10:00:01, Info       SYSPRP SysprepSession::CreateSession: Successfully created instance with mode "
    "MODE\r\n"
)
#: What opens a declared port, and the port.
PORT_RULE, PORT_NAME, PORT = (
    "v2.31|Action=Allow|Active=TRUE|Dir=In|Protocol=6|LPort=443|Name=web|",
    "goldsmith-tcp-443",
    ("tcp", 443),
)
#: Driver services and how they start.
DRIVERS = {
    **dict.fromkeys(("vmbus", "storvsc", "storflt", "intelide", "atapi"), 0),
    **dict.fromkeys(("storahci", "stornvme", "viostor", "vioscsi", "disk", "volmgr"), 0),
    "netvsc": 3,
}
SERVICES = {
    **dict.fromkeys(
        ("BFE", "Dhcp", "Dnscache", "IKEEXT", "iphlpsvc", "nsi", "mpssvc", "RemoteRegistry", "w32time"), 2
    ),
    "sacsvr": 2,
    **dict.fromkeys(("Netlogon", "Netman", "TermService"), 3),
    "WindowsAzureGuestAgent": 2,
    "RdAgent": 2,
}


def _control_set() -> Tree:
    services: Tree = {
        name: {"Start": start, "Type": 1, "ErrorControl": 1, "ImagePath": rf"System32\drivers\{name}.sys"}
        for name, start in DRIVERS.items()
    }
    services |= {name: {"Start": start, "Type": 32} for name, start in SERVICES.items()}
    services |= {
        "cdrom": {"Start": 1, "Type": 1, "ImagePath": r"\SystemRoot\System32\drivers\cdrom.sys"},
        "partmgr": {
            "Start": 0,
            "Type": 1,
            "ImagePath": r"System32\drivers\partmgr.sys",
            "Parameters": {"SanPolicy": 1},
        },
        "Tcpip": {
            "Start": 0,
            "Type": 1,
            "ImagePath": r"System32\drivers\tcpip.sys",
            "Parameters": {
                "Hostname": "WIN-GENERALIZED",
                "Domain": "",
                "PersistentRoutes": {},
                "Interfaces": {"{2aa4e4f0-0f4d-4d6d-8d4e-000000000001}": {"EnableDHCP": 1, "NameServer": ""}},
            },
        },
        "SharedAccess": {
            "Parameters": {
                "FirewallPolicy": {
                    **{name: {"EnableFirewall": 1} for name in ("DomainProfile", "StandardProfile", "PublicProfile")},
                    "FirewallRules": {
                        "RemoteDesktop-UserMode-In-TCP": RDP_RULE,
                        PORT_NAME: PORT_RULE,
                        "AzurePlatform-Inbound": PLATFORM_RULE,
                        "AzurePlatform-Outbound": PLATFORM_RULE.replace("Dir=In", "Dir=Out"),
                        "FPS-ICMP4-ERQ-In": "v2.31|Action=Allow|Active=TRUE|Dir=In|Protocol=1|ICMP4=8:*|",
                    },
                }
            }
        },
    }
    return {
        "Control": {
            "ComputerName": {"ComputerName": {"ComputerName": "WIN-GENERALIZED"}},
            "CrashControl": {"CrashDumpEnabled": 2, "AutoReboot": 1},
            "Session Manager": {
                "Environment": {"TEMP": r"%SystemRoot%\TEMP", "TMP": r"%SystemRoot%\TEMP"},
                "Memory Management": {"PagingFiles": [r"?:\pagefile.sys"]},
                "Power": {"HiberbootEnabled": 0},
            },
            "Terminal Server": {
                "fDenyTSConnections": 0,
                "WinStations": {"RDP-Tcp": RDP_TCP},
            },
            "TimeZoneInformation": {"RealTimeIsUniversal": 1, "TimeZoneKeyName": "UTC"},
        },
        "Services": services,
    }


def _system() -> Tree:
    return {
        "Select": {"Current": 1, "Default": 1, "Failed": 0, "LastKnownGood": 2},
        "ControlSet001": _control_set(),
        "ControlSet002": _control_set(),
        "MountedDevices": {"\\DosDevices\\C:": bytes(range(12))},
        "Setup": {
            "SystemSetupInProgress": 1,
            "SetupType": 2,
            "CmdLine": r"oobe\windeploy.exe",
            "OOBEInProgress": 1,
            "Status": {"SysprepStatus": {"GeneralizationState": 7, "CleanupState": 2}},
        },
    }


def _software() -> Tree:
    current = {
        "Component Based Servicing": {
            "SessionIdHigh": 31,
            "Packages": {
                "Package_for_KB5034439~31bf3856ad364e35~amd64~~20348.2201.1.0": {"CurrentState": 0x70},
                "Package_for_KB5030000~31bf3856ad364e35~amd64~~20348.1000.1.0": {"CurrentState": 0x50},
            },
        },
        "Setup": {"State": {"ImageState": STATE}},
        "ReserveManager": {"ActiveScenario": 0},
        "WindowsUpdate": {"Auto Update": {"AUOptions": 3}},
        "Uninstall": {
            "{6b1e3b8e-7a4e-4a55-9d0a-0e6f7d8b2c11}": {
                "DisplayName": "QEMU guest agent",
                "DisplayVersion": "107.0.1",
            },
            "Connection Manager": {"SystemComponent": 1},
        },
        "Internet Settings": {
            "Connections": {"WinHttpSettings": struct.pack("<III", 0x18, 0, 1) + bytes(12)},
        },
    }
    return {
        "Microsoft": {
            "Windows": {"CurrentVersion": current},
            "Windows NT": {
                "CurrentVersion": {
                    "ProductName": "NOT WINDOWS (a stand-in for tests)",
                    "CurrentBuild": "20348",
                    "UBR": 2201,
                    "EditionID": "ServerStandard",
                    "SoftwareProtectionPlatform": {"SkipRearm": 0},
                    "Winlogon": {"AutoAdminLogon": "0", "Shell": "explorer.exe"},
                }
            },
        },
        "Policies": {"Microsoft": {"Windows NT": {"Terminal Services": KEEP_ALIVE}}},
    }


def _sam() -> Tree:
    tree: Tree = {"SAM": {"Domains": {"Account": {"Users": {"Names": {}}}}}}
    for rid, name in enumerate(("Administrator", "Guest", "DefaultAccount", "WDAGUtilityAccount"), 500):
        add_account(tree, name, rid)
    return tree


def add_account(sam: Tree, name: str, rid: int, *, password: bool = False) -> None:
    """A local account; with a password, its hash as Windows 10 keeps it (32 bytes behind 24)."""
    users = sam["SAM"]["Domains"]["Account"]["Users"]
    users["Names"][name] = {"": fake_hive.Raw(rid, b"")}
    empty = struct.pack("<HHI", 1, 2, 0) + bytes(range(16))
    parts = {0x0C: name.encode("utf-16-le"), 0x9C: empty, 0xA8: empty + (b"\xa5" * 32 if password else b"")}
    head, data = bytearray(0xCC), b""
    for at, part in parts.items():
        struct.pack_into("<III", head, at, len(data), len(part), 0)
        data += part.ljust(-(-len(part) // 4) * 4, b"\0")
    users[f"{rid:08X}"] = {"F": bytes(80), "V": bytes(head) + data}


def _bcd() -> Tree:
    """As a real one: its menu has one Windows; the recovery environment and a loader of no menu are there too."""
    return {
        "Objects": {
            BOOTMGR: {
                "Description": {"Type": 0x10100002},
                "Elements": {
                    "23000003": {"Element": LOADER},
                    "24000001": {"Element": [LOADER]},
                    "26000020": {"Element": b"\1"},
                    "25000004": {"Element": struct.pack("<Q", 5)},
                    "16000020": {"Element": b"\1"},
                },
            },
            RECOVERY: {
                "Description": {"Type": 0x10200003},
                "Elements": {"26000022": {"Element": b"\1"}, "46000010": {"Element": b"\1"}},
            },
            OTHER_LOADER: {"Description": {"Type": 0x10200003}, "Elements": {}},
            LOADER: {
                "Description": {"Type": 0x10200003},
                "Elements": {
                    "260000b0": {"Element": b"\1"},
                    "16000009": {"Element": b"\0"},
                    "250000e0": {"Element": struct.pack("<Q", 1)},
                },
            },
            EMS_SETTINGS: {
                "Description": {"Type": 0x20100000},
                "Elements": {
                    "15000022": {"Element": struct.pack("<Q", 1)},
                    "15000023": {"Element": struct.pack("<Q", 115200)},
                },
            },
        }
    }


def _files() -> dict[str, bytes]:
    system = "Windows/System32"
    found = {f"{system}/drivers/{name}.sys": b"MZ NOT A DRIVER" for name in (*DRIVERS, "cdrom", "partmgr", "tcpip")}
    return {
        **found,
        f"{system}/Sysprep/Sysprep_succeeded.tag": b"",
        f"{system}/Sysprep/Panther/setuperr.log": b"",
        f"{system}/Sysprep/Panther/setupact.log": SETUPACT.replace("MODE", "<null>").encode(),
        "Windows/Setup/State/State.ini": f"[State]\r\nImageState={STATE}\r\n".encode(),
        "Windows/explorer.exe": b"MZ NOT WINDOWS",
        "Users/Public/desktop.ini": b"",
        "Users/Default/NTUSER.DAT": b"",
        "Users/Administrator/desktop.ini": b"",
        "ProgramData/x": b"",
    }


def answer(password: str) -> bytes:
    """An answer file as Setup keeps it."""
    return (
        '<?xml version="1.0" encoding="utf-8"?><unattend xmlns="urn:schemas-microsoft-com:unattend">'
        '<settings pass="oobeSystem"><component name="Microsoft-Windows-Shell-Setup"><UserAccounts>'
        f"<AdministratorPassword><Value>{password}</Value><PlainText>false</PlainText></AdministratorPassword>"
        "</UserAccounts></component></settings></unattend>"
    ).encode()


@dataclass
class Model:
    """A disk before it is written: change it, then `build` it."""

    hives: dict[str, Tree] = field(
        default_factory=lambda: copy.deepcopy(
            {
                "SYSTEM": _system(),
                "SOFTWARE": _software(),
                "SAM": _sam(),
                "SECURITY": {"Policy": {"Secrets": {}}},
                "DEFAULT": {},
            }
        )
    )
    bcd: Tree | None = field(default_factory=_bcd)
    files: dict[str, bytes] = field(default_factory=_files)
    #: Hives whose sequence numbers are to differ.
    dirty: set[str] = field(default_factory=set)
    #: Hives that are dirty and have a log beside them: what stands in the file, before it.
    logged: dict[str, Tree] = field(default_factory=dict)
    #: Hives that somebody else made.
    foreign: dict[str, bytes] = field(default_factory=dict)
    volume_flags: int = 0
    size: int = SIZE

    def control(self, which: int = 1) -> Tree:
        found: Tree = self.hives["SYSTEM"][f"ControlSet00{which}"]
        return found


def need_tools() -> None:
    skip_without("mkfs.ntfs", "wimlib-imagex", "sgdisk", "mcopy")


def hive(tree: Tree, name: str, *, dirty: bool = False) -> bytes:
    data = fake_hive.build(tree, name)
    if not dirty:
        return data
    torn = bytearray(data)
    struct.pack_into("<I", torn, 4, 9)
    return fake_hive.seal(bytes(torn))


def build(model: Model, folder: Path) -> Path:
    """The disk, raw: GPT, an ESP, Microsoft's reserved partition left out, an NTFS."""
    tree = folder / "tree"
    config = tree / "Windows/System32/config"
    config.mkdir(parents=True)
    for name, keys in model.hives.items():
        data = hive(keys, name, dirty=name in model.dirty)
        if name in model.logged:
            before = hive(model.logged[name], name, dirty=True)
            (config / f"{name}.LOG1").write_bytes(fake_hive.log(before, data, 10))
            data = before
        (config / name).write_bytes(model.foreign.get(name, data))
    for name, data in model.files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    ntfs, wim = folder / "ntfs.img", folder / "tree.wim"
    ntfs_size = model.size - NTFS_AT - MIB
    with ntfs.open("wb") as file:
        file.truncate(ntfs_size)
    tool("mkfs.ntfs", "-q", "-F", "-L", "Windows", "-s", "512", "-p", NTFS_AT // 512, "-H", "16", "-S", "63", ntfs)
    # without it, page and hibernation files would be left out
    everything = folder / "everything.ini"
    everything.write_text("[ExclusionList]\n")
    tool("wimlib-imagex", "capture", tree, wim, "--compress=none", f"--config={everything}")
    tool("wimlib-imagex", "apply", wim, "1", ntfs)
    set_volume_flags(ntfs, model.volume_flags)
    esp = folder / "esp.img"
    with esp.open("wb") as file:
        file.truncate(ESP_SIZE)
    tool("mkfs.vfat", "-i", "1234ABCD", "-n", "SYSTEM", esp)
    tool("mmd", "-i", esp, "::EFI", "::EFI/Boot", "::EFI/Microsoft", "::EFI/Microsoft/Boot")
    boot = folder / "boot"
    boot.write_bytes(fake_disk.pe(b"NOT A BOOT MANAGER"))
    tool("mcopy", "-i", esp, boot, "::EFI/Boot/bootx64.efi")
    if model.bcd is not None:
        boot.write_bytes(hive(model.bcd, "BCD"))
        tool("mcopy", "-i", esp, boot, "::EFI/Microsoft/Boot/BCD")
    disk = folder / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(model.size)
    ntfs_end = (NTFS_AT + ntfs_size) // 512 - 1
    tool("sgdisk", f"-n1:{ESP_AT // 512}:{NTFS_AT // 512 - 1}", "-t1:EF00", f"-n2:{NTFS_AT // 512}:{ntfs_end}",
         "-t2:0700", disk)  # fmt: skip
    tool("dd", f"if={esp}", f"of={disk}", "bs=1M", f"seek={ESP_AT // MIB}", "conv=notrunc,sparse")
    tool("dd", f"if={ntfs}", f"of={disk}", "bs=1M", f"seek={NTFS_AT // MIB}", "conv=notrunc,sparse")
    return disk


def as_vhd(raw: Path, target: Path) -> Path:
    write_fixed(file_extents(raw), target, unique_id=uuid.UUID(int=8), timestamp=1_700_000_000)
    return target


def set_volume_flags(ntfs: Path, flags: int) -> None:
    """Write the flags of $VOLUME_INFORMATION (0x70) of $Volume, which is file record 3."""
    with ntfs.open("r+b") as file:
        boot = file.read(512)
        cluster = struct.unpack_from("<H", boot, 11)[0] * boot[13]
        (table,) = struct.unpack_from("<Q", boot, 48)
        (per_record,) = struct.unpack_from("<b", boot, 64)
        record = 1 << -per_record if per_record < 0 else per_record * cluster
        at = table * cluster + 3 * record
        file.seek(at)
        data = file.read(record)
        assert data[:4] == b"FILE"
        (place,) = struct.unpack_from("<H", data, 20)
        while (kind := struct.unpack_from("<I", data, place)[0]) != 0x70:
            assert kind != 0xFFFFFFFF
            place += struct.unpack_from("<I", data, place + 4)[0]
        value = place + struct.unpack_from("<H", data, place + 20)[0]
        file.seek(at + value + 10)
        file.write(struct.pack("<H", flags))
