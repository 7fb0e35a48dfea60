"""What is installed in a Windows at rest, by its own registry: the system itself, its programs, its updates."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.disk.packages import Package
from pipeline.disk.registry import Hive, Value
from pipeline.disk.windows import need_keys

_VERSION = r"Microsoft\Windows NT\CurrentVersion"
#: Where installers register what they have installed: 64-bit programs, and 32-bit ones.
_PROGRAMS = {
    r"Microsoft\Windows\CurrentVersion\Uninstall": "amd64",
    r"Wow6432Node\Microsoft\Windows\CurrentVersion\Uninstall": "x86",
}
_SERVICING = r"Microsoft\Windows\CurrentVersion\Component Based Servicing\Packages"
#: An update in component based servicing: Package_for_KB5034439~31bf3856ad364e35~amd64~~20348.2201.1.0
_UPDATE = re.compile(r"Package_for_(?P<name>[^~]+)~[^~]*~(?P<arch>[^~]*)~[^~]*~(?P<version>[\d.]+)")
#: CurrentState of a package that is installed. Microsoft: CBS package states.
_INSTALLED = 0x70
_STATE = "install ok installed"


def read_system(software: Hive) -> dict[str, str]:
    """The system by os-release's words. Raises DiskError (no-such-key): it is not the hive of a Windows."""
    need_keys(software, _VERSION, "SOFTWARE")
    values = {name.lower(): value for name, value in (software.values(_VERSION) or {}).items()}
    build = _text(values.get("currentbuild"))
    revision = values.get("ubr")
    version = f"{build}.{revision}" if isinstance(revision, int) else build
    name = _text(values.get("productname")) or "Windows"
    return {
        "ID": "windows",
        "NAME": name,
        "VERSION_ID": version,
        "VARIANT_ID": _text(values.get("editionid")),
        "PRETTY_NAME": f"{name} {version}".strip(),
    }


def read_programs(software: Hive) -> Iterator[Package]:
    """Programs and updates; what registers itself without a name is a part of something else.

    Raises DiskError (no-such-key): a Windows without a list of programs is not one, and its list is not empty.
    """
    need_keys(software, next(iter(_PROGRAMS)), "SOFTWARE")
    for above, architecture in _PROGRAMS.items():
        for key in software.keys(above) or []:
            name = _text(software.value(f"{above}\\{key}", "DisplayName"))
            if name:
                version = _text(software.value(f"{above}\\{key}", "DisplayVersion"))
                yield Package(name, version, architecture, _STATE)
    for key in software.keys(_SERVICING) or []:
        found = _UPDATE.fullmatch(key)
        if found and software.value(f"{_SERVICING}\\{key}", "CurrentState") == _INSTALLED:
            yield Package(found["name"], found["version"], found["arch"], _STATE)


def _text(value: Value | None) -> str:
    return value.strip() if isinstance(value, str) else ""
