"""What installation media and driver media hold; nothing is mounted, and the sandbox's worker reads them.

The worker's part is `media_reader`; here the questions are asked and the answers checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.base.errors import DiskError, UsageError
from pipeline.disk import sandbox
from pipeline.disk.questions import Question, clean_text, lies

#: Bytes of a sector of a medium (ECMA-119).
SECTOR = 2048
#: Where firmware is told to find the loader that asks for a key, and the one that does not.
PROMPT, NO_PROMPT = "/efi/microsoft/boot/efisys.bin", "/efi/microsoft/boot/efisys_noprompt.bin"
#: The drivers that an installation under QEMU wants, as the virtio-win medium has them.
DRIVERS = ("viostor", "vioscsi", "NetKVM", "vioserial", "Balloon")
AGENT = "/guest-agent/qemu-ga-x86_64.msi"
#: The folder of a driver by the first build that it is for (virtio-win's own names), newest first.
RELEASES = (
    (26100, "server", "2k25"),
    (20348, "server", "2k22"),
    (17763, "server", "2k19"),
    (14393, "server", "2k16"),
    (22000, "client", "w11"),
    (10240, "client", "w10"),
)


@dataclass(frozen=True)
class Edition:
    """One image inside an installation medium; `size` is in bytes, unpacked."""

    index: int
    name: str
    edition: str
    kind: str
    architecture: str
    build: int
    languages: tuple[str, ...]
    size: int

    @property
    def drivers(self) -> str | None:
        """The folder that virtio-win has its drivers in; None for a release that it does not know."""
        family = "server" if self.kind.lower().startswith("server") else "client"
        return next((folder for build, kind, folder in RELEASES if kind == family and self.build >= build), None)


@dataclass(frozen=True)
class Installation:
    """A Windows installation medium. `no_prompt`: it brings a loader that does not ask for a key."""

    path: Path
    label: str
    editions: tuple[Edition, ...]
    no_prompt: bool
    bios: bool

    def to_json(self) -> dict[str, Any]:
        return {"kind": "installation", **asdict(self), "path": str(self.path)}


@dataclass(frozen=True)
class DriverMedium:
    """A virtio-win medium: the releases that each driver is there for (amd64), and whether it has the agent."""

    path: Path
    label: str
    drivers: dict[str, tuple[str, ...]]
    agent: bool

    def to_json(self) -> dict[str, Any]:
        return {"kind": "drivers", **asdict(self), "path": str(self.path)}


#: What pycdlib and the readers of dates would import late.
_LATE = ("pycdlib", "_strptime", "lxml.etree")
MEDIUM = Question("medium", "pipeline.disk.media_reader:answer_medium", modules=_LATE)
LOADER = Question("medium-loader", "pipeline.disk.media_reader:answer_loader", modules=_LATE)
#: Errors that say what the user has named: wrong usage, as they were before a worker read media.
_USAGE = frozenset({
    "no-medium", "medium-unknown", "medium-damaged", "no-such-file", "no-installation", "no-drivers",
    "wim-is-split", "wim-is-esd", "wim-damaged",
})  # fmt: skip
#: Images of one medium and names of one list: Microsoft's media have a dozen images, and forty languages at most.
MAX_EDITIONS, MAX_NAMES, MAX_TEXT = 256, 256, 256


@dataclass(frozen=True)
class LoaderSwap:
    """Four bytes that make a medium start without a key: `place` of the sector number in the file, and its value."""

    place: int
    sector: int


def recognize(path: Path) -> Installation | DriverMedium:
    """What kind of medium this is. Raises UsageError as `installation` and `drivers`, or medium-unknown."""
    value = _ask(MEDIUM, path, {"kind": ""})
    return _to_drivers(path, value) if value.get("kind") == "drivers" else _to_installation(path, value)


def installation(path: Path) -> Installation:
    """A Windows installation medium.

    Raises UsageError: medium-missing, no-medium, no-installation, wim-is-split, wim-is-esd, wim-damaged; DiskError
    as `sandbox.ask`.
    """
    return _to_installation(path, _ask(MEDIUM, path, {"kind": "installation"}))


def drivers(path: Path) -> DriverMedium:
    """A virtio-win medium. Raises UsageError: medium-missing, no-medium, no-drivers; DiskError as `sandbox.ask`."""
    return _to_drivers(path, _ask(MEDIUM, path, {"kind": "drivers"}))


def find_loader_swap(path: Path) -> LoaderSwap | None:
    """What to change on a medium so that its UEFI loader asks for no key; None where it has no such loader.

    Raises UsageError (medium-missing, no-medium, medium-damaged); DiskError as `sandbox.ask`.
    """
    value = _ask(LOADER, path, {})
    if not value:
        return None
    size = path.stat().st_size
    place = _number(path, value.get("place"), size - 4)
    return LoaderSwap(place, _number(path, value.get("sector"), min(size // SECTOR, (1 << 32) - 1)))


def _ask(question: Question, path: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    if not path.is_file():
        raise UsageError(
            f"{path} is not a file", name="medium-missing", hint="name an .iso file; pipes and devices cannot be read"
        )
    try:
        value = sandbox.ask(question, path, parameters=parameters).value
    except DiskError as error:
        if error.name in _USAGE:
            raise UsageError(error.message, name=error.name, hint=error.hint) from None
        raise
    if not isinstance(value, dict):
        raise lies(path)
    return value


def _to_installation(path: Path, value: Mapping[str, Any]) -> Installation:
    editions = value.get("editions")
    if value.get("kind") != "installation" or not isinstance(editions, list) or len(editions) > MAX_EDITIONS:
        raise lies(path)
    return Installation(
        path,
        _text(path, value.get("label")),
        tuple(_to_edition(path, each) for each in editions),
        value.get("no_prompt") is True,
        value.get("bios") is True,
    )


def _to_edition(path: Path, value: object) -> Edition:
    if not isinstance(value, dict):
        raise lies(path)
    return Edition(
        index=_number(path, value.get("index"), (1 << 31) - 1),
        **{name: _text(path, value.get(name)) for name in ("name", "edition", "kind", "architecture")},
        build=_number(path, value.get("build"), (1 << 31) - 1),
        languages=_texts(path, value.get("languages")),
        size=_number(path, value.get("size"), (1 << 63) - 1),
    )


def _to_drivers(path: Path, value: Mapping[str, Any]) -> DriverMedium:
    found = value.get("drivers")
    if value.get("kind") != "drivers" or not isinstance(found, dict) or not set(found) <= set(DRIVERS):
        raise lies(path)
    releases = {name: _texts(path, each) for name, each in found.items()}
    return DriverMedium(path, _text(path, value.get("label")), releases, value.get("agent") is True)


def _number(path: Path, value: object, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise lies(path)
    return value


def _text(path: Path, value: object) -> str:
    if not isinstance(value, str):
        raise lies(path)
    return clean_text(value, MAX_TEXT)


def _texts(path: Path, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_NAMES:
        raise lies(path)
    return tuple(_text(path, each) for each in value)


def choose(medium: Installation, wanted: str) -> Edition:
    """The edition by its name, its index, its id, or its id and installation type ("ServerStandard Server Core").

    Volume media have one id for two images, with and without a desktop. Raises UsageError (edition-unknown,
    edition-ambiguous).
    """
    known = "; ".join(f"{each.index} {each.name} ({each.edition} {each.kind})" for each in medium.editions)
    word = " ".join(wanted.lower().split())
    found = [
        each
        for each in medium.editions
        if word in (each.name.lower(), each.edition.lower(), f"{each.edition} {each.kind}".lower(), str(each.index))
    ]
    if not found:
        raise UsageError(
            f"{medium.path.name} has no edition {wanted}",
            name="edition-unknown",
            hint=f"the medium has {known or 'no editions'}",
        )
    if len(found) > 1:
        ways = " or ".join(f'"{each.edition} {each.kind}"' for each in found)
        raise UsageError(
            f"{medium.path.name} has more than one {wanted}",
            name="edition-ambiguous",
            hint=f"write {ways}, or the index; the medium has {known}",
        )
    return found[0]
