"""The media that Setup is started from: the user's own, made to start without a key, and the answer file's."""

from __future__ import annotations

import struct
from pathlib import Path

from pipeline import command
from pipeline.errors import UsageError
from pipeline.guests.access import write_iso
from pipeline.layers import Image
from pipeline.offline.media import NO_PROMPT, PROMPT, SECTOR, open_medium

#: Where the boot record of El Torito lies, what it says, and where it says where its catalog is.
#: "El Torito" Bootable CD-ROM Format Specification 1.0.
_RECORD, _RECORD_ID, _CATALOG_AT = 17, b"\0CD001\1EL TORITO SPECIFICATION", 0x47
#: A bootable entry of the catalog: its first byte, its size, and where its image's first sector stands in it.
_BOOTABLE, _ENTRY, _SECTOR_AT = 0x88, 32, 8
ANSWERS = "autounattend.xml"


def without_prompt(medium: Path, overlay: Path) -> Image | None:
    """An overlay on an installation medium whose UEFI loader does not ask for a key: four bytes are other ones.

    None where the medium has no such loader. Raises UsageError (medium-damaged).
    """
    with open_medium(medium) as opened:
        asking, silent = opened.sector(PROMPT), opened.sector(NO_PROMPT)
    if asking is None or silent is None:
        return None
    place = _entry(medium, asking)
    if place is None:
        return None
    command.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", medium, overlay], deadline=60)
    writes = [
        word
        for index, byte in enumerate(struct.pack("<I", silent))
        for word in ("-c", f"write -P {byte:#04x} {place + index} 1")
    ]
    command.run(["qemu-io", "-f", "qcow2", *writes, overlay], deadline=60)
    return Image(overlay, "qcow2", Image(medium, "raw"))


def _entry(medium: Path, sector: int) -> int | None:
    """Where on the medium the boot catalog says that an image begins at `sector`."""
    with medium.open("rb") as file:
        file.seek(_RECORD * SECTOR)
        record = file.read(SECTOR)
        if not record.startswith(_RECORD_ID):
            raise UsageError(f"{medium.name} does not start a machine: it has no boot record", name="medium-damaged")
        (catalog,) = struct.unpack_from("<I", record, _CATALOG_AT)
        file.seek(catalog * SECTOR)
        entries = file.read(SECTOR)
    for at in range(_ENTRY, len(entries) - _ENTRY + 1, _ENTRY):
        if entries[at] == _BOOTABLE and struct.unpack_from("<I", entries, at + _SECTOR_AT)[0] == sector:
            return int(catalog * SECTOR + at + _SECTOR_AT)
    return None


def answer_medium(path: Path, answers: bytes) -> Image:
    """The CD on which Setup looks for its answer file."""
    write_iso(path, "UNATTEND", {ANSWERS: answers.decode()})
    path.chmod(0o600)
    return Image(path, "raw")
