"""The Windows on a disk as its checks see it: files by Windows' own paths, hives read once, every control set."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cached_property

from pipeline.checks.model import REGISTRY, Check, Run, Severity
from pipeline.errors import DiskError
from pipeline.offline.registry import LARGEST, Hive, Value
from pipeline.offline.root import Root

CONFIG = "/Windows/System32/config"
#: The hives that every Windows has.
HIVES = ("SYSTEM", "SOFTWARE", "SAM", "SECURITY", "DEFAULT")
PROFILES = ("azure-windows",)
AZURE_PREP = "Azure: Prepare a Windows VHD or VHDX to upload"
SYSPREP = "Microsoft: Sysprep (Generalize) a Windows installation; Windows Setup states"
HOUSE = "goldsmith: a master carries nothing of its build"


class Windows:
    """Hives are opened once and read for many checks."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self._hives: dict[str, Hive] = {}

    def hive(self, name: str) -> Hive:
        """Raises DiskError: no-such-hive, hive-dirty, hive-damaged, hive-too-large."""
        if name not in self._hives:
            data = self.root.read(f"{CONFIG}/{name}", LARGEST + 1)
            if data is None:
                raise DiskError(f"there is no hive {name} in {CONFIG}", name="no-such-hive")
            self._hives[name] = Hive(data)
        return self._hives[name]

    @cached_property
    def control_sets(self) -> tuple[str, ...]:
        names = self.hive("SYSTEM").keys() or []
        return tuple(name for name in names if re.fullmatch(r"ControlSet\d{3}", name, re.IGNORECASE))

    def software(self, key: str, name: str) -> Value | None:
        return self.hive("SOFTWARE").value(key, name)

    def in_each_set(self, key: str, name: str) -> Iterator[tuple[str, Value | None]]:
        """A value below every control set, with that set's name: which of them boots is decided at boot."""
        for control in self.control_sets:
            yield control, self.hive("SYSTEM").value(f"{control}\\{key}", name)


def windows_check(
    name: str,
    title: str,
    *,
    why: str,
    remedy: str,
    source: str = AZURE_PREP,
    severity: Severity = "fail",
) -> Callable[[Run], Run]:
    """Register a check of the azure-windows profile."""

    def register(run: Run) -> Run:
        assert name not in REGISTRY, name
        REGISTRY[name] = Check(name, title, why, remedy, source, severity, PROFILES, True, run)
        return run

    return register


def shown(value: Value | None) -> str:
    """A registry value in evidence."""
    if value is None:
        return "not set"
    return value.hex() if isinstance(value, bytes) else str(value)
