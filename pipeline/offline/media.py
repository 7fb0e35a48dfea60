"""Installation and driver media without mounting them: UDF and ISO 9660, the images inside install.wim, drivers.

Only headers and directories are read: a medium of 5 GB takes a hundredth of a second.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pycdlib
from lxml import etree
from pycdlib.pycdlibexception import PyCdlibException

from pipeline.errors import UsageError

#: Bytes of a sector of a medium (ECMA-119).
SECTOR = 2048
#: The header of a WIM, and where it says where its XML is. Microsoft: Windows Imaging File Format (WIM).
_WIM_MAGIC, _WIM_HEADER, _XML_AT = b"MSWIM\0\0\0", 208, 72
_LARGEST_XML = 8 << 20
#: PROCESSOR_ARCHITECTURE_* of winnt.h, as answer files spell them.
_ARCHITECTURES = {"0": "x86", "5": "arm", "9": "amd64", "12": "arm64"}
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


class Medium:
    """An open medium; names are found without regard to case, as Windows does."""

    def __init__(self, iso: Any, label: str) -> None:
        self.label = label
        self._iso = iso
        self.udf = bool(iso.has_udf())
        if self.udf:
            self._by = "udf_path"
        elif iso.has_joliet():
            self._by = "joliet_path"
        else:
            self._by = "rr_path" if iso.has_rock_ridge() else "iso_path"

    def names(self, folder: str) -> list[str]:
        """The names in a folder; none where it is no folder."""
        place = self.find(folder)
        if place is None:
            return []
        try:
            children = list(self._iso.list_children(**{self._by: place}))
        except PyCdlibException:
            return []
        return sorted(
            name for child in children if child is not None and (name := self._name(child)) not in ("", ".", "..")
        )

    def find(self, path: str) -> str | None:
        """A path as the medium spells it, None where it is not there."""
        here = ""
        for part in (part for part in path.split("/") if part):
            children = self._children(here or "/")
            match = next((name for name in children if name.lower() == part.lower()), None)
            if match is None:
                return None
            here = f"{here}/{match}"
        return here or "/"

    def _children(self, place: str) -> list[str]:
        try:
            return [self._name(child) for child in self._iso.list_children(**{self._by: place}) if child is not None]
        except PyCdlibException:
            return []

    def _name(self, child: Any) -> str:
        if self._by == "rr_path" and child.rock_ridge is not None:
            return str(child.rock_ridge.name().decode("utf-8", "replace"))
        raw = child.file_identifier()
        text = raw.decode("utf-16-be" if self._by == "joliet_path" and len(raw) > 1 else "utf-8", "replace")
        return str(text).partition(";")[0]

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Raises UsageError (no-such-file, medium-damaged)."""
        place = self.find(path)
        if place is None:
            raise UsageError(f"there is no {path} on the medium", name="no-such-file")
        try:
            with self._iso.open_file_from_iso(**{self._by: place}) as file:
                file.seek(offset)
                return bytes(file.read(size))
        except (PyCdlibException, OSError):
            raise UsageError(
                f"{path} cannot be read: the medium is damaged or cut off there",
                name="medium-damaged",
                hint="compare its checksum with the publisher's, and download it again",
            ) from None

    def sector(self, path: str) -> int | None:
        """Where a file's data begins on the medium; None where it is not there. On UDF only."""
        place = self.find(path)
        if place is None or not self.udf:
            return None
        record = self._iso.get_record(udf_path=place)
        if not record.alloc_descs:
            return None
        partition = self._iso.udf_main_descs.partitions[0]
        return int(partition.part_start_location + record.alloc_descs[0].log_block_num)


@contextmanager
def open_medium(path: Path) -> Iterator[Medium]:
    """Raises UsageError: medium-missing, no-medium."""
    if not path.is_file():
        raise UsageError(
            f"{path} is no file", name="medium-missing", hint="name an .iso file; pipes and devices are not read"
        )
    iso = pycdlib.PyCdlib()
    try:
        iso.open(str(path))
    except Exception as error:
        # a hostile input is judged: the library has no bound on what it raises for one
        raise UsageError(
            f"{path.name} is no medium that can be read: {error}",
            name="no-medium",
            hint="an .iso file as it was downloaded; is it whole?",
        ) from None
    try:
        yield Medium(iso, iso.pvd.volume_identifier.decode("ascii", "replace").strip())
    finally:
        iso.close()


def recognize(path: Path) -> Installation | DriverMedium:
    """What kind of medium this is. Raises UsageError as `installation` and `drivers`, or medium-unknown."""
    with open_medium(path) as medium:
        if medium.find("/sources") is not None:
            return _installation(path, medium)
        if any(medium.find(f"/{driver}") for driver in DRIVERS):
            return _drivers(path, medium)
        raise UsageError(
            f"{path.name} ({medium.label}) is neither a Windows installation medium nor virtio-win's",
            name="medium-unknown",
            hint="the one has a folder sources, the other folders such as viostor",
        )


def installation(path: Path) -> Installation:
    """A Windows installation medium.

    Raises UsageError: medium-missing, no-medium, no-installation, wim-is-split, wim-is-esd, wim-damaged.
    """
    with open_medium(path) as medium:
        return _installation(path, medium)


def drivers(path: Path) -> DriverMedium:
    """A virtio-win medium. Raises UsageError: medium-missing, no-medium, no-drivers."""
    with open_medium(path) as medium:
        return _drivers(path, medium)


def _installation(path: Path, medium: Medium) -> Installation:
    names = {name.lower() for name in medium.names("/sources")}
    if "install.wim" not in names:
        raise _no_image(path, medium, names)
    return Installation(
        path=path,
        label=medium.label,
        editions=tuple(_editions(medium, "/sources/install.wim")),
        no_prompt=medium.find(NO_PROMPT) is not None,
        bios=medium.find("/boot/etfsboot.com") is not None,
    )


def _no_image(path: Path, medium: Medium, names: set[str]) -> UsageError:
    if "install.swm" in names:
        parts = sorted(name for name in names if name.startswith("install") and name.endswith(".swm"))
        return UsageError(
            f"{path.name}: its image is split ({', '.join(parts)})",
            name="wim-is-split",
            hint="wimlib-imagex join install.wim install*.swm, and an ISO with that; or take the original one",
        )
    if "install.esd" in names:
        return UsageError(
            f"{path.name}: its image is install.esd, as the media creation tool makes it",
            name="wim-is-esd",
            hint="take the ISO from the evaluation center or the volume licensing center; it has install.wim",
        )
    return UsageError(
        f"{path.name} ({medium.label}) has no sources/install.wim",
        name="no-installation",
        hint="a Windows installation ISO has one",
    )


def _editions(medium: Medium, path: str) -> Iterator[Edition]:
    head = medium.read(path, 0, _WIM_HEADER)
    if not head.startswith(_WIM_MAGIC) or len(head) < _WIM_HEADER:
        raise UsageError(f"{path} is no WIM", name="wim-damaged")
    size = int.from_bytes(head[_XML_AT : _XML_AT + 7], "little")
    (offset,) = struct.unpack_from("<Q", head, _XML_AT + 8)
    if not 0 < size <= _LARGEST_XML:
        raise UsageError(f"{path}: its description has {size} bytes", name="wim-damaged")
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    try:
        root = etree.fromstring(medium.read(path, offset, size).decode("utf-16").encode(), parser)
    except (UnicodeError, etree.XMLSyntaxError):
        raise UsageError(
            f"{path}: its description cannot be read: it is no XML",
            name="wim-damaged",
            hint="compare the medium's checksum with the publisher's, and download it again",
        ) from None
    for image in root.iterfind("IMAGE"):
        windows = image.find("WINDOWS")
        text = windows.findtext if windows is not None else (lambda _name: None)
        build = text("VERSION/BUILD") or "0"
        yield Edition(
            index=int(image.get("INDEX") or 0),
            name=image.findtext("NAME") or "",
            edition=text("EDITIONID") or "",
            kind=text("INSTALLATIONTYPE") or "",
            architecture=_ARCHITECTURES.get(text("ARCH") or "", text("ARCH") or ""),
            build=int(build) if build.isdigit() else 0,
            languages=tuple(
                each.text or "" for each in (windows.iterfind("LANGUAGES/LANGUAGE") if windows is not None else ())
            ),
            size=int(image.findtext("TOTALBYTES") or 0),
        )


def _drivers(path: Path, medium: Medium) -> DriverMedium:
    found = {driver: tuple(_releases(medium, driver)) for driver in DRIVERS if medium.find(f"/{driver}")}
    if not found:
        raise UsageError(
            f"{path.name} ({medium.label}) has none of {', '.join(DRIVERS)}",
            name="no-drivers",
            hint="virtio-win.iso, as the virtio-win project publishes it",
        )
    return DriverMedium(path, medium.label, found, medium.find(AGENT) is not None)


def _releases(medium: Medium, driver: str) -> Iterator[str]:
    for release in medium.names(f"/{driver}"):
        if any(name.lower().endswith(".inf") for name in medium.names(f"/{driver}/{release}/amd64")):
            yield release


def choose(medium: Installation, wanted: str) -> Edition:
    """The edition by its name, its id or its index. Raises UsageError (edition-unknown, edition-ambiguous)."""
    known = "; ".join(f"{each.index} {each.name}" for each in medium.editions)
    found = [
        each
        for each in medium.editions
        if wanted.lower() in (each.name.lower(), each.edition.lower(), str(each.index))
    ]
    if not found:
        raise UsageError(
            f"{medium.path.name} has no edition {wanted}", name="edition-unknown", hint=f"it has {known or 'none'}"
        )
    if len(found) > 1:
        raise UsageError(
            f"{medium.path.name} has more than one {wanted}", name="edition-ambiguous", hint=f"it has {known}"
        )
    return found[0]
