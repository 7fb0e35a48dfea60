"""Which format a file has: by its bytes, never by its name alone; but a name that says something else is a fault.

A VHD whose footer is lost is a raw disk to every reader, with other sizes and a stray end. So what a name promises
and what the bytes are must agree, unless the caller says which format it is. Pure functions over
`read(offset, length)`.
"""

from __future__ import annotations

import re
import struct
from contextlib import suppress
from pathlib import Path

from pipeline.base.disk_format import QCOW2, RAW, VHD, VHDX, VMDK, known_format
from pipeline.base.errors import DiskError
from pipeline.base.printable import single_line
from pipeline.disk import formats, qcow2, vhdx, vmdk
from pipeline.disk.formats import Read
from pipeline.vhd.footer import COOKIE, FOOTER_SIZE, SECTOR, DiskType, Footer

#: How far before a file's end a footer is looked for that was padded.
STRAY_WITHIN = 4 << 20


def detect_format(read: Read, size: int, path: Path) -> str:
    """qemu's name of the format that a file's bytes say, and its name does not deny; `size` in bytes.

    Raises DiskError: disk-empty, disk-size, disk-packed, disk-format, disk-name-and-content, vhd-padded, and
    `Footer.parse`'s.
    """
    found = detect_content(read, size, path)
    refuse_other_name(path.name, found, read)
    if found == "raw" and size % SECTOR:
        raise DiskError(
            f"{single_line(path.name)}: {size} bytes are not whole sectors of {SECTOR}: it is not a disk, or was cut",
            name="disk-size",
            hint="copy it again from its source, or read it as a raw disk with --format raw",
            evidence=path,
        )
    return found


def detect_content(read: Read, size: int, path: Path) -> str:
    """What the bytes say. Raises DiskError: disk-empty, disk-packed, disk-format, vhd-padded, the footer's names."""
    if size == 0:
        raise DiskError(
            f"{single_line(path.name)} is empty",
            name="disk-empty",
            hint="copy it again from its source; a failed copy may leave an empty file",
            evidence=path,
        )
    # the footer first: sector 0 of a fixed VHD belongs to the guest, who may write any magic there
    tail = read(max(0, size - FOOTER_SIZE), FOOTER_SIZE)
    torn: DiskError | None = None
    if tail.startswith(COOKIE) or tail[1:].startswith(COOKIE):
        try:
            Footer.parse(tail if tail.startswith(COOKIE) else tail[1:])
            return VHD.key
        except DiskError as error:
            torn = error
    head = read(0, 4096)
    if head.startswith(COOKIE) and (torn is None or size > FOOTER_SIZE):
        return VHD.key
    if torn is not None:
        name = single_line(path.name)
        raise DiskError(f"{name}: {torn.message}", name=torn.name, hint=torn.hint, evidence=path)
    if head.startswith(qcow2.MAGIC):
        return QCOW2.key
    if head.startswith(vhdx.MAGIC):
        return VHDX.key
    if vmdk.looks_like(head):
        return VMDK.key
    foreign = formats.recognize_foreign(read, size)
    if foreign is not None:
        raise DiskError(
            f"{single_line(path.name)} is {foreign.title}; goldsmith does not read that as a disk",
            name="disk-packed" if foreign.unpacks else "disk-format",
            hint=f"{foreign.hint} (or --format raw, if its bytes are a disk's)",
            evidence=path,
        )
    at = stray_footer(read, size)
    if at is not None:
        raise DiskError(
            f"{single_line(path.name)} is a VHD with added bytes: its footer is at byte {at}, but the file ends at "
            f"{size}",
            name="vhd-padded",
            hint=f"copy it again from its source, or cut a copy of it: truncate -s {at + FOOTER_SIZE} FILE",
            evidence=path,
        )
    return RAW.key


def refuse_other_name(name: str, found: str, read: Read) -> None:
    """Refuse a file whose name promises another format than `found`, its content.

    Raises DiskError: vhd-no-footer (a raw disk that is called a VHD), disk-name-and-content.
    """
    promise = formats.promised(name)
    if promise is None or promise[0] == found or (promise[1] == "an ISO" and formats.is_medium(read)):
        return
    shown, title = single_line(name), known_format(found).title
    if found == "raw" and promise[0] == VHD.key:
        raise DiskError(
            f"{shown}: its name says VHD, but it has no footer at its end: it was cut, or is not a VHD",
            name="vhd-no-footer",
            hint="copy it again from its source; if it is a raw disk, rename it, or use --format raw",
        )
    content = "nothing that goldsmith knows" if found == "raw" and promise[0] != "raw" else title
    raise DiskError(
        f"{shown}: its name says {promise[1]}, its content is {content}",
        name="disk-name-and-content",
        hint=f"copy it again from its source; if the content is right, rename it, or use --format {found}",
    )


def stray_footer(read: Read, size: int) -> int | None:
    """Where a fixed VHD's footer stands that is not at the file's end but where its disk ends; None if nowhere.

    Looked for in the last MiBs, and behind the end that a GPT names.
    """
    begin = max(0, size - STRAY_WITHIN) // SECTOR * SECTOR
    window = read(begin, size - begin)
    places = [begin + found.start() for found in re.finditer(re.escape(COOKIE), window)]
    header = read(SECTOR, 40)
    if header.startswith(b"EFI PART") and len(header) == 40:
        places.append((struct.unpack_from("<Q", header, 32)[0] + 1) * SECTOR)
    for at in places:
        if at >= size or read(at, 8) != COOKIE:
            continue
        with suppress(DiskError):
            footer = Footer.parse(read(at, FOOTER_SIZE))
            if footer.disk_type == DiskType.FIXED and at in (footer.current_size, footer.virtual_size):
                return at
    return None
