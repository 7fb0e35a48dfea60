"""A guest that has power and nothing else: a boot sector, assembled from power.S beside it."""

from __future__ import annotations

from enum import Enum
from importlib import resources
from pathlib import Path

from pipeline.base.disk_format import RAW
from pipeline.cache.layers import Image

#: What the guest writes to its serial port.
READY, BUTTON, OFF, RESTART = (f"power: {what}\r\n".encode() for what in ("ready", "button", "off", "restart"))
#: Ticks of the firmware's clock in a second.
TICKS = 18.2
#: Where the boot sector has its parameters: ticks (two bytes, the lower first) and a letter.
_AFTER, _MODE = 507, 509
_SIZE = 1 << 20


class Behaviour(Enum):
    """What the guest does; `after` says when."""

    BUTTON = "b"  # powers off when its button is pressed; before `after` it does not look
    POWERS_OFF = "o"  # by itself
    RESTARTS = "r"  # by itself, again and again
    DEAF = "d"  # nothing, for ever


def boot_sector() -> bytes:
    return resources.files(__package__).joinpath("power.bin").read_bytes()


def power_disk(path: Path, behaviour: Behaviour, after: float = 0.0) -> Image:
    """Write a disk of 1 MiB that BIOS boots. `after` are seconds from its first word; at most an hour."""
    ticks = round(after * TICKS)
    if not 0 <= ticks < 1 << 16:
        raise ValueError(f"{after} s are {ticks} ticks, and the guest counts to {1 << 16}")
    sector = bytearray(boot_sector())
    sector[_AFTER:_MODE] = ticks.to_bytes(2, "little")
    sector[_MODE] = ord(behaviour.value)
    with path.open("wb") as file:
        file.write(sector)
        file.truncate(_SIZE)
    return Image(path, RAW)
