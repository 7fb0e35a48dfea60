"""The media that Setup is started from: the user's own, made to start without a key, and the answer file's."""

from __future__ import annotations

import struct
from pathlib import Path

from pipeline import command
from pipeline.guests.access import write_iso
from pipeline.layers import Image
from pipeline.offline.media import find_loader_swap

ANSWERS = "autounattend.xml"


def without_prompt(medium: Path, overlay: Path) -> Image | None:
    """An overlay on an installation medium whose UEFI loader does not ask for a key: four bytes are other ones.

    None where the medium has no such loader. Errors as `find_loader_swap`.
    """
    swap = find_loader_swap(medium)
    if swap is None:
        return None
    command.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", medium, overlay], deadline=60)
    writes = [
        word
        for index, byte in enumerate(struct.pack("<I", swap.sector))
        for word in ("-c", f"write -P {byte:#04x} {swap.place + index} 1")
    ]
    command.run(["qemu-io", "-f", "qcow2", *writes, overlay], deadline=60)
    return Image(overlay, "qcow2", Image(medium, "raw"))


def answer_medium(path: Path, answers: bytes) -> Image:
    """The CD on which Setup looks for its answer file."""
    write_iso(path, "UNATTEND", {ANSWERS: answers.decode()})
    path.chmod(0o600)
    return Image(path, "raw")
