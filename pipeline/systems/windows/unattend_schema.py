"""Which components an answer file may have in which pass, and which settings: Setup ignores what it does not know.

Windows does not report a misspelt setting: the installation goes on, or stops at a dialog that nobody sees. The
public schema of answer files knows the envelope alone, so the words that goldsmith uses stand here, each from
Microsoft's "Unattended Windows Setup Reference".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from lxml import etree

from pipeline.base.errors import UsageError

NS = "urn:schemas-microsoft-com:unattend"
WCM = "http://schemas.microsoft.com/WMIConfig/2002/State"
_SCHEMA = Path(__file__).with_name("unattend.xsd")

#: What a setting holds: text, a whole number, a truth value, or settings of its own. A list's items carry
#: wcm:action="add".
TEXT, NUMBER, TRUTH = "text", "number", "truth value"
Words = Mapping[str, Any]

_LOCALES: Words = dict.fromkeys(
    ("InputLocale", "SystemLocale", "UILanguage", "UILanguageFallback", "UserLocale"), TEXT
)
_PASSWORD: Words = {"Value": TEXT, "PlainText": TRUTH}
_COMMAND: Words = {"Order": NUMBER, "Path": TEXT, "Description": TEXT, "WillReboot": TEXT}
_LOGON_COMMAND: Words = {"Order": NUMBER, "CommandLine": TEXT, "Description": TEXT, "RequiresUserInput": TRUTH}
_SHELL = "Microsoft-Windows-Shell-Setup"
_SETUP: Words = {
    "DiskConfiguration": {
        "WillShowUI": TEXT,
        "Disk": {
            "DiskID": NUMBER,
            "WillWipeDisk": TRUTH,
            "CreatePartitions": {
                "CreatePartition": {"Order": NUMBER, "Type": TEXT, "Size": NUMBER, "Extend": TRUTH},
            },
            "ModifyPartitions": {
                "ModifyPartition": {
                    "Order": NUMBER,
                    "PartitionID": NUMBER,
                    "Format": TEXT,
                    "Label": TEXT,
                    "Letter": TEXT,
                    "Active": TRUTH,
                    "TypeID": TEXT,
                },
            },
        },
    },
    "ImageInstall": {
        "OSImage": {
            "InstallFrom": {"MetaData": {"Key": TEXT, "Value": TEXT}},
            "InstallTo": {"DiskID": NUMBER, "PartitionID": NUMBER},
            "WillShowUI": TEXT,
        },
    },
    "UserData": {
        "AcceptEula": TRUTH,
        "FullName": TEXT,
        "Organization": TEXT,
        "ProductKey": {"Key": TEXT, "WillShowUI": TEXT},
    },
    "RunSynchronous": {"RunSynchronousCommand": _COMMAND},
    "EnableFirewall": TRUTH,
    "EnableNetwork": TRUTH,
}

#: (pass, component) to its settings.
KNOWN: Mapping[tuple[str, str], Words] = {
    ("windowsPE", "Microsoft-Windows-International-Core-WinPE"): {
        "SetupUILanguage": {"UILanguage": TEXT},
        **_LOCALES,
    },
    ("windowsPE", "Microsoft-Windows-PnpCustomizationsWinPE"): {
        "DriverPaths": {"PathAndCredentials": {"Path": TEXT}},
    },
    ("windowsPE", "Microsoft-Windows-Setup"): _SETUP,
    ("specialize", _SHELL): {"ComputerName": TEXT, "TimeZone": TEXT, "ProductKey": TEXT, "RegisteredOwner": TEXT},
    ("specialize", "Microsoft-Windows-Deployment"): {"RunSynchronous": {"RunSynchronousCommand": _COMMAND}},
    ("oobeSystem", "Microsoft-Windows-International-Core"): _LOCALES,
    ("oobeSystem", _SHELL): {
        "OOBE": {
            "HideEULAPage": TRUTH,
            "HideLocalAccountScreen": TRUTH,
            "HideOEMRegistrationScreen": TRUTH,
            "HideOnlineAccountScreens": TRUTH,
            "HideWirelessSetupInOOBE": TRUTH,
            "ProtectYourPC": NUMBER,
            "UnattendEnableRetailDemo": TRUTH,
        },
        "UserAccounts": {
            "AdministratorPassword": _PASSWORD,
            "LocalAccounts": {
                "LocalAccount": {"Name": TEXT, "Group": TEXT, "DisplayName": TEXT, "Password": _PASSWORD},
            },
        },
        "AutoLogon": {
            "Password": _PASSWORD,
            "Enabled": TRUTH,
            "LogonCount": NUMBER,
            "Username": TEXT,
            "Domain": TEXT,
        },
        "FirstLogonCommands": {"SynchronousCommand": _LOGON_COMMAND},
        "TimeZone": TEXT,
        "RegisteredOwner": TEXT,
    },
}
#: Settings that may be there more than once, each with wcm:action="add".
LISTS = frozenset(
    {
        "Disk",
        "LocalAccount",
        "CreatePartition",
        "ModifyPartition",
        "MetaData",
        "PathAndCredentials",
        "RunSynchronousCommand",
        "SynchronousCommand",
    }
)


def validate(data: bytes) -> None:
    """Raises UsageError (answer-file-invalid) with every fault, each with its line."""
    faults = list(_faults(data))
    if faults:
        raise UsageError(
            f"{len(faults)} errors in the answer file\n" + "\n".join(f"  {fault}" for fault in faults),
            name="answer-file-invalid",
        )


def _faults(data: bytes) -> Iterator[str]:
    try:
        root = etree.fromstring(data, etree.XMLParser(resolve_entities=False, no_network=True))
    except etree.XMLSyntaxError as error:
        yield f"line {error.lineno}: {error.msg}"
        return
    schema = etree.XMLSchema(etree.parse(str(_SCHEMA)))
    if not schema.validate(root):
        for entry in cast(Iterable[Any], schema.error_log):
            yield f"line {entry.line}: {entry.message}"
        return
    for settings in root:
        for component in settings:
            place = (settings.get("pass", ""), component.get("name", ""))
            words = KNOWN.get(place)
            if words is None:
                elsewhere = [name for name, known in KNOWN if known == place[1]]
                hint = f"; it is one of {', '.join(elsewhere)}" if elsewhere else ""
                yield f"line {component.sourceline}: {place[1]} is not a component of {place[0]}{hint}"
            else:
                yield from _settings(component, words, place[1])


def _settings(element: etree._Element, words: Words, path: str) -> Iterator[str]:
    seen: set[str] = set()
    orders: set[str] = set()
    for child in element:
        if not isinstance(child.tag, str):
            continue  # a comment
        name = etree.QName(child).localname
        where = f"line {child.sourceline}: {path}/{name}"
        if etree.QName(child).namespace != NS or name not in words:
            yield f"{where} is not a known setting (known: {', '.join(sorted(words))}"
            continue
        action = child.get(f"{{{WCM}}}action")
        if name in LISTS and action != "add":
            yield f'{where} is an item of a list, without wcm:action="add"'
        if name not in LISTS and (name in seen or action is not None):
            yield f"{where} is duplicated, or does not belong to a list"
        seen.add(name)
        kind = words[name]
        if isinstance(kind, Mapping):
            yield from _settings(child, kind, f"{path}/{name}")
            order = child.findtext(f"{{{NS}}}Order")
            if order is not None and order in orders:
                yield f"{where}: Order {order} is duplicated"
            orders |= {order} if order is not None else set()
        elif len(child) or not _is(kind, child.text or ""):
            yield f"{where}: {(child.text or '')[:40]!r} is not a valid {kind}"


def _is(kind: str, text: str) -> bool:
    if kind == NUMBER:
        return text.isdecimal()
    return text in ("true", "false") if kind == TRUTH else bool(text)
