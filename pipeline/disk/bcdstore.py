"""The boot configuration (BCD) of a Windows disk: which loaders its boot manager starts, and how they are set.

A store is a registry hive: objects by their id, each with elements by their number. Microsoft: BCD reference.
"""

from __future__ import annotations

from pipeline.base.errors import DiskError
from pipeline.disk.registry import Hive, Value

#: The boot manager's own id, and its elements: the default entry, the menu, what the next boot alone starts.
BOOTMGR = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
_DEFAULT, _DISPLAY_ORDER, _BOOT_SEQUENCE = "23000003", "24000001", "24000002"
#: The type of an operating system's loader, and its elements.
_LOADER = 0x10200003
#: Of the boot manager: its menu, the seconds that it stands, and whether it is shown on the serial port.
MENU, TIMEOUT, BOOT_EMS = "26000020", "25000004", "16000020"
EMS, RECOVERY, POLICY = "260000b0", "16000009", "250000e0"
_WINPE, _INHERIT = "26000022", "14000006"
#: The object of the settings of the serial console, and its elements.
EMS_SETTINGS, EMS_PORT, EMS_BAUD = "{0ce4991b-e6b3-4b16-b23c-5e0d9250e5d9}", "15000022", "15000023"
#: Objects that one may inherit from, one above the other.
_MAX_DEPTH = 16


class BootStore:
    """One boot configuration. Raises DiskError as its hive does."""

    def __init__(self, hive: Hive) -> None:
        self._hive = hive

    def loaders(self) -> list[str]:
        """The systems that the boot manager starts: by default, from its menu, and once at the next boot.

        A loader that none of them names is not started, and the recovery environment (a Windows PE) is not the system
        that ships. Raises DiskError (no-loader).
        """
        default = self._ids(BOOTMGR, _DEFAULT)
        for name in default:
            if self._hive.keys(f"Objects\\{name}") is None:
                raise _no_loader(f"its default entry {name} does not exist")
        wanted = [
            *default,
            *self._ids(BOOTMGR, _DISPLAY_ORDER),
            *self._ids(BOOTMGR, _BOOT_SEQUENCE),
        ]
        found = [
            name
            for name in dict.fromkeys(name.lower() for name in wanted)
            if self._hive.value(f"Objects\\{name}\\Description", "Type") == _LOADER and not self.is_on(name, _WINPE)
        ]
        if not found:
            wanted = list(dict.fromkeys(wanted))
            raise _no_loader(f"{', '.join(wanted)} is none" if wanted else "it has neither a default nor a menu")
        return found

    def is_on(self, name: str, element: str) -> bool:
        return self.number(name, element) == 1

    def number(self, name: str, element: str) -> int | None:
        """An element that is a number or a switch, the object's own or inherited; None where none is set."""
        found = self._element(name, element)
        if isinstance(found, bytes):
            return int.from_bytes(found[:8], "little") if found else None
        return found if isinstance(found, int) else None

    def _element(self, name: str, element: str) -> Value | None:
        todo, seen = [name], set[str]()
        while todo and len(seen) < _MAX_DEPTH:
            here = todo.pop(0).lower()
            if here in seen:
                continue
            seen.add(here)
            found = self._hive.value(f"Objects\\{here}\\Elements\\{element}", "Element")
            if found is not None:
                return found
            todo += self._ids(here, _INHERIT)
        return None

    def _ids(self, name: str, element: str) -> list[str]:
        found = self._hive.value(f"Objects\\{name}\\Elements\\{element}", "Element")
        if isinstance(found, str):
            return [found]
        return [each for each in found if each] if isinstance(found, list) else []


def _no_loader(why: str) -> DiskError:
    return DiskError(
        f"the BCD's boot manager starts no Windows: {why}",
        name="no-loader",
        hint="run bcdboot C:\\Windows, which rewrites the boot configuration",
    )
