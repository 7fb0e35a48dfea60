"""The media that Setup is started from: the user's own, made to start without a key, and the answer file's."""

from __future__ import annotations

import struct
from pathlib import Path

from pipeline.base import qemu_img
from pipeline.base.disk_format import QCOW2, RAW
from pipeline.cache.layers import Image
from pipeline.disk.media import find_loader_swap
from pipeline.guest.access import write_iso

ANSWERS = "autounattend.xml"


def without_prompt(medium: Path, overlay: Path) -> Image | None:
    """An overlay on an installation medium whose UEFI loader does not ask for a key: four bytes are other ones.

    None where the medium has no such loader. Errors as `find_loader_swap`.
    """
    swap = find_loader_swap(medium)
    if swap is None:
        return None
    qemu_img.create_overlay(overlay, medium, "raw")
    changes = [(swap.place + index, byte) for index, byte in enumerate(struct.pack("<I", swap.sector))]
    qemu_img.patch(overlay, "qcow2", changes)
    return Image(overlay, QCOW2, Image(medium, RAW))


def answer_medium(path: Path, answers: bytes, name: str = ANSWERS) -> Image:
    """The CD on which Setup, or with UNATTEND as its `name` a first boot, looks for its answer file."""
    write_iso(path, "UNATTEND", {name: answers.decode()})
    path.chmod(0o600)
    return Image(path, RAW)
