"""The Windows on a disk: files by Windows' own paths, hives read once with their logs, every control set."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from pipeline.base.errors import DiskError
from pipeline.disk.hive_logs import MAX_LOG, SUFFIXES, needs_logs
from pipeline.disk.registry import LARGEST, Hive, Value
from pipeline.disk.root import Root

if TYPE_CHECKING:
    from pipeline.disk.disk import Disk

CONFIG = "/Windows/System32/config"
#: The hives that every Windows has.
HIVES = ("SYSTEM", "SOFTWARE", "SAM", "SECURITY", "DEFAULT")
#: A key that each of them has in any Windows: a hive without it says nothing about one, and must not pass for good.
_ALWAYS = {
    "SYSTEM": "Select",
    "SOFTWARE": r"Microsoft\Windows NT\CurrentVersion",
    "SAM": r"SAM\Domains\Account\Users\Names",
    "SECURITY": "Policy",
}


def read_hive(root: Root, path: str, *, allow_dirty: bool = False) -> Hive | None:
    """The hive at a path, its logs beside it replayed; None where there is no such file.

    Raises DiskError: hive-dirty, hive-damaged, hive-too-large, hive-log-too-large.
    """
    data = root.read(path, LARGEST + 1)
    if data is None:
        return None
    # a hive at rest needs none of them, and they may be large
    logs = [root.read(f"{path}{suffix}", MAX_LOG) or b"" for suffix in SUFFIXES] if needs_logs(data) else []
    return Hive(data, logs=logs, allow_dirty=allow_dirty)


def open_hive(disk: Disk, name: str) -> Hive:
    """A hive of the Windows on a disk by its file's name, its logs replayed.

    Raises DiskError: no-windows-root, no-such-key, and as `read_hive`.
    """
    found = None if "/" in name else read_hive(disk.windows, f"{CONFIG}/{name}")
    if found is None:
        raise DiskError(f"{CONFIG} has no hive {name}", name="no-such-key", hint="SYSTEM, SOFTWARE, SAM, SECURITY")
    return found


def need_keys(hive: Hive, path: str, name: str) -> list[str]:
    """The keys below one that is in any Windows. Raises DiskError (no-such-key): nothing can be judged without it."""
    found = hive.keys(path)
    if found is None:
        raise DiskError(
            f"the hive {name} has no key {path}",
            name="no-such-key",
            hint="use the hive of an installed Windows; every Windows has this key",
        )
    return found


class Windows:
    """Hives are opened once and read for many checks."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self._hives: dict[str, Hive | DiskError] = {}
        #: Dirty hives that were asked for, by name: what they show is stale. A check clears it before it looks.
        self.stale: dict[str, Hive] = {}

    def hive(self, name: str) -> Hive:
        """A hive by its file's name in the folder of hives.

        A dirty one whose log is missing is given all the same, and is in `stale` from then on.
        Raises DiskError: no-such-hive, no-such-key, hive-damaged, hive-too-large, hive-log-too-large.
        """
        if name not in self._hives:
            self._hives[name] = self._open(name)
        found = self._hives[name]
        if isinstance(found, DiskError):
            raise found
        if found.dirty:
            self.stale[name] = found
        return found

    def _open(self, name: str) -> Hive | DiskError:
        """The hive, or why it cannot be read: many checks ask, and reading it again would cost each of them."""
        try:
            found = read_hive(self.root, f"{CONFIG}/{name}", allow_dirty=True)
            if found is None:
                return DiskError(
                    f"there is {CONFIG} has no hive {name}",
                    name="no-such-hive",
                    hint="check whether the disk is complete; every Windows has this hive",
                )
            need_keys(found, _ALWAYS.get(name, ""), name)
        except DiskError as error:
            return error
        return found

    @cached_property
    def control_sets(self) -> tuple[str, ...]:
        """Raises DiskError (no-control-set): what is asked of every one of them must not hold of none."""
        names = self.hive("SYSTEM").keys() or []
        found = tuple(name for name in names if re.fullmatch(r"ControlSet\d{3}", name, re.IGNORECASE))
        if not found:
            raise DiskError(
                "the hive SYSTEM has no control set (ControlSet001)",
                name="no-control-set",
                hint="build again; a Windows with this hive cannot start",
            )
        return found

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


#: One for each open disk: a hive may have a hundred MiB.
_WINDOWS: WeakKeyDictionary[Disk, Windows] = WeakKeyDictionary()


def open_windows(disk: Disk) -> Windows:
    """The Windows on an open disk, the same for all who ask. Raises DiskError (no-windows-root)."""
    if disk not in _WINDOWS:
        _WINDOWS[disk] = Windows(disk.windows)
    return _WINDOWS[disk]


def decoded(raw: bytes, otherwise: str = "utf-8") -> str:
    """Text that Windows wrote in UTF-16, which begins with its mark, or in an older encoding."""
    return raw.decode("utf-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else otherwise, "replace")


def shown(value: Value | None) -> str:
    """A registry value in evidence."""
    if value is None:
        return "not set"
    return value.hex() if isinstance(value, bytes) else str(value)
