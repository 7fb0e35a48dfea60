"""Reads installation and driver media in the sandbox's worker: UDF and ISO 9660, install.wim, the boot catalog.

Only headers and directories are read: a medium of 5 GB takes a hundredth of a second. Who wants to know asks `media`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pycdlib
from lxml import etree
from pycdlib.pycdlibexception import PyCdlibException

from pipeline.base.errors import UsageError
from pipeline.disk.media import AGENT, DRIVERS, MAX_EDITIONS, MAX_NAMES, NO_PROMPT, PROMPT, SECTOR
from pipeline.disk.questions import Asked

#: The header of a WIM, and where it says where its XML is. Microsoft: Windows Imaging File Format (WIM).
_WIM_MAGIC, _WIM_HEADER, _XML_AT = b"MSWIM\0\0\0", 208, 72
_LARGEST_XML = 8 << 20
#: PROCESSOR_ARCHITECTURE_* of winnt.h, as answer files spell them.
_ARCHITECTURES = {"0": "x86", "5": "arm", "9": "amd64", "12": "arm64"}
#: Where the boot record of El Torito lies, what it says, and where it says where its catalog is.
#: "El Torito" Bootable CD-ROM Format Specification 1.0.
_RECORD, _RECORD_ID, _CATALOG_AT = 17, b"\0CD001\1EL TORITO SPECIFICATION", 0x47
#: A bootable entry of the catalog: its first byte, its size, and where its image's first sector stands in it.
_BOOTABLE, _ENTRY, _SECTOR_AT = 0x88, 32, 8
_DOWNLOAD_AGAIN = "compare the medium's checksum with the publisher's, and download it again"


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
        """The names in a folder; empty if it is not a folder."""
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
            raise UsageError(f"the medium has no {path}", name="no-such-file")
        try:
            with self._iso.open_file_from_iso(**{self._by: place}) as file:
                file.seek(offset)
                return bytes(file.read(size))
        except (PyCdlibException, OSError):
            raise UsageError(
                f"{path} cannot be read: the medium is damaged or incomplete",
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
    """Raises UsageError: no-medium."""
    iso = pycdlib.PyCdlib()
    try:
        iso.open(str(path))
    except (MemoryError, RecursionError):
        # the worker's own answer says that it takes too much
        raise
    except Exception:
        # a hostile input is judged: the library has no bound on what it raises for one, and its words reach nobody
        raise UsageError(
            f"{path.name} cannot be read as an installation medium",
            name="no-medium",
            hint="use an .iso file, and compare its checksum with the publisher's",
        ) from None
    try:
        yield Medium(iso, iso.pvd.volume_identifier.decode("ascii", "replace").strip())
    finally:
        iso.close()


def answer_medium(asked: Asked) -> dict[str, Any]:
    """What the medium holds; the parameter `kind` is installation, drivers or '' for whichever it is.

    Raises UsageError: no-medium, medium-unknown, no-installation, no-drivers, wim-is-split, wim-is-esd, wim-damaged.
    """
    path, kind = asked.path, asked.parameters["kind"]
    with open_medium(path) as medium:
        if not kind:
            kind = _kind(path, medium)
        return _installation(path, medium) if kind == "installation" else _drivers(path, medium)


def answer_loader(asked: Asked) -> dict[str, Any]:
    """Where the boot catalog names the loader that asks for a key, and the first sector of the one that does not.

    Empty where the medium has none. Raises UsageError: no-medium, medium-damaged.
    """
    with open_medium(asked.path) as medium:
        asking, silent = medium.sector(PROMPT), medium.sector(NO_PROMPT)
    place = None if asking is None or silent is None else _entry(asked.path, asking)
    return {} if place is None else {"place": place, "sector": silent}


def _entry(path: Path, sector: int) -> int | None:
    """Where on the medium the boot catalog says that an image begins at `sector`."""
    with path.open("rb") as file:
        file.seek(_RECORD * SECTOR)
        record = file.read(SECTOR)
        if not record.startswith(_RECORD_ID) or len(record) < SECTOR:
            raise UsageError(
                f"{path.name} cannot boot a machine, because it has no boot record",
                name="medium-damaged",
                hint=_DOWNLOAD_AGAIN,
            )
        (catalog,) = struct.unpack_from("<I", record, _CATALOG_AT)
        file.seek(catalog * SECTOR)
        entries = file.read(SECTOR)
    for at in range(_ENTRY, len(entries) - _ENTRY + 1, _ENTRY):
        if entries[at] == _BOOTABLE and struct.unpack_from("<I", entries, at + _SECTOR_AT)[0] == sector:
            return int(catalog * SECTOR + at + _SECTOR_AT)
    return None


def _kind(path: Path, medium: Medium) -> str:
    if medium.find("/sources") is not None:
        return "installation"
    if any(medium.find(f"/{driver}") for driver in DRIVERS):
        return "drivers"
    raise UsageError(
        f"{path.name} ({medium.label}) is neither a Windows installation medium nor virtio-win's",
        name="medium-unknown",
        hint="a Windows medium has a folder sources; virtio-win.iso has folders such as viostor",
    )


def _installation(path: Path, medium: Medium) -> dict[str, Any]:
    names = {name.lower() for name in medium.names("/sources")}
    if "install.wim" not in names:
        raise _no_image(path, medium, names)
    return {
        "kind": "installation",
        "label": medium.label,
        "editions": _editions(medium, "/sources/install.wim"),
        "no_prompt": medium.find(NO_PROMPT) is not None,
        "bios": medium.find("/boot/etfsboot.com") is not None,
    }


def _no_image(path: Path, medium: Medium, names: set[str]) -> UsageError:
    if "install.swm" in names:
        parts = sorted(name for name in names if name.startswith("install") and name.endswith(".swm"))
        return UsageError(
            f"{path.name}: its image is split into several files ({', '.join(parts)})",
            name="wim-is-split",
            hint="wimlib-imagex join install.wim install*.swm, and make an ISO with the result; or use the "
            "original ISO",
        )
    if "install.esd" in names:
        return UsageError(
            f"{path.name}: its image is install.esd, as the media creation tool makes it",
            name="wim-is-esd",
            hint="use the ISO of the evaluation center or the volume licensing center, which has install.wim",
        )
    return UsageError(
        f"{path.name} ({medium.label}) has no sources/install.wim",
        name="no-installation",
        hint="use a Windows installation ISO",
    )


def _editions(medium: Medium, path: str) -> list[dict[str, Any]]:
    head = medium.read(path, 0, _WIM_HEADER)
    if not head.startswith(_WIM_MAGIC) or len(head) < _WIM_HEADER:
        raise _damaged(f"{path} is not a WIM")
    size = int.from_bytes(head[_XML_AT : _XML_AT + 7], "little")
    (offset,) = struct.unpack_from("<Q", head, _XML_AT + 8)
    if not 0 < size <= _LARGEST_XML:
        raise _damaged(f"{path}: its description has {size} bytes")
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    try:
        root = etree.fromstring(medium.read(path, offset, size).decode("utf-16").encode(), parser)
    except (UnicodeError, etree.XMLSyntaxError):
        raise _damaged(f"{path}: its description cannot be read: it is not XML") from None
    images = root.findall("IMAGE")
    if len(images) > MAX_EDITIONS:
        raise _damaged(f"{path}: its description has {len(images)} images")
    return [_edition(path, image) for image in images]


def _edition(path: str, image: etree._Element) -> dict[str, Any]:
    def number(text: str | None) -> int:
        text = (text or "0").strip()
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise _damaged(f"{path}: its description has {text[:40]!r} in place of a number")
        return int(text)

    windows = image.find("WINDOWS")
    text = windows.findtext if windows is not None else (lambda _name: None)
    build = text("VERSION/BUILD") or "0"
    languages = windows.findall("LANGUAGES/LANGUAGE") if windows is not None else []
    return {
        "index": number(image.get("INDEX")),
        "name": image.findtext("NAME") or "",
        "edition": text("EDITIONID") or "",
        "kind": text("INSTALLATIONTYPE") or "",
        "architecture": _ARCHITECTURES.get(text("ARCH") or "", text("ARCH") or ""),
        "build": int(build) if build.isascii() and build.isdigit() and len(build) < 9 else 0,
        "languages": [each.text or "" for each in languages[:MAX_NAMES]],
        "size": number(image.findtext("TOTALBYTES")),
    }


def _damaged(message: str) -> UsageError:
    return UsageError(message, name="wim-damaged", hint=_DOWNLOAD_AGAIN)


def _drivers(path: Path, medium: Medium) -> dict[str, Any]:
    found = {driver: list(_releases(medium, driver))[:MAX_NAMES] for driver in DRIVERS if medium.find(f"/{driver}")}
    if not found:
        raise UsageError(
            f"{path.name} ({medium.label}) has none of {', '.join(DRIVERS)}",
            name="no-drivers",
            hint="use virtio-win.iso as the virtio-win project publishes it",
        )
    return {"kind": "drivers", "label": medium.label, "drivers": found, "agent": medium.find(AGENT) is not None}


def _releases(medium: Medium, driver: str) -> Iterator[str]:
    for release in medium.names(f"/{driver}"):
        if any(name.lower().endswith(".inf") for name in medium.names(f"/{driver}/{release}/amd64")):
            yield release
