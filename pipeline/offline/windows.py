"""The Windows on a disk: files by Windows' own paths, hives read once, every control set."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property

from pipeline.errors import DiskError
from pipeline.offline.registry import LARGEST, Hive, Value
from pipeline.offline.root import Root

CONFIG = "/Windows/System32/config"
#: The hives that every Windows has.
HIVES = ("SYSTEM", "SOFTWARE", "SAM", "SECURITY", "DEFAULT")


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

    def other_than(self, right: int, key: str, name: str, *, unset: bool = False) -> Iterator[str]:
        """Evidence for each control set whose value is not `right`; `unset`: a set without the value is right too."""
        for control, value in self.in_each_set(key, name):
            if value != right and not (unset and value is None):
                yield f"{control}\\{key}\\{name} is {shown(value)}, not {right}"

    def settings(self, key: str) -> dict[str, Value]:
        """The values of a key of SYSTEM by their names in lower case, as Windows compares them; none of no key."""
        return {name.lower(): value for name, value in (self.hive("SYSTEM").values(key) or {}).items()}


def decoded(raw: bytes, otherwise: str = "utf-8") -> str:
    """Text that Windows wrote in UTF-16, which begins with its mark, or in an older encoding."""
    return raw.decode("utf-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else otherwise, "replace")


def shown(value: Value | None) -> str:
    """A registry value in evidence."""
    if value is None:
        return "not set"
    return value.hex() if isinstance(value, bytes) else str(value)
