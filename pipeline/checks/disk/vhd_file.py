"""The file that ships: the VHD's footer and its size."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.base.disk_format import VHD
from pipeline.checks.model import ALL, AZURE_LIMITS, WINDOWS_TOO, Skip, Subject, check
from pipeline.vhd.footer import MAX_SIZE, MIB, Footer, fixed_faults, geometry

_SPECIFICATION = "Virtual Hard Disk Image Format Specification 1.0"
#: Azure takes uploads from 20 MiB on, and OS disks of generation 1 up to 2048 GiB; the format ends at 2040 GiB.
SMALLEST = 20 * MIB
_SIZE_FAULTS = ("vhd-file-size", "vhd-not-whole-mib")
_OWN_CHECK = ("vhd-saved-state", "vhd-size-by-creator", *_SIZE_FAULTS)


def _footer(subject: Subject) -> Footer:
    if subject.disk.fmt != VHD.key:
        raise Skip(f"not a VHD ({subject.disk.fmt})")
    tail = subject.disk.tail
    return Footer.parse(tail if tail.startswith(b"conectix") else tail[1:])


@check(
    "vhd-footer",
    "Every field of the VHD footer is correct",
    why="Azure and Hyper-V refuse the disk, or read the footer as data.",
    remedy="goldsmith vhd convert DISK NEW.vhd writes a new footer.",
    source=_SPECIFICATION,
    profiles=ALL,
    needs_root=False,
)
def vhd_footer(subject: Subject) -> Iterator[str]:
    footer = _footer(subject)
    faults = fixed_faults(footer, subject.disk.file_size)
    yield from (what for name, what in faults.items() if name not in _OWN_CHECK)
    right = geometry(footer.current_size)
    subject.note(f"fixed, {footer.current_size} bytes, creator {footer.creator.decode('latin-1').rstrip()}")
    # qemu writes the largest geometry where it was told the exact size
    if footer.geometry not in (right, (65535, 16, 255)):
        yield f"geometry {tuple(footer.geometry)} is not {tuple(right)}, which {footer.current_size} bytes have"


@check(
    "vhd-size",
    "The virtual size is a whole number of MiB in Azure's range, and the file is 512 bytes larger",
    why='Azure says "unsupported virtual size. The size must be a whole number (in MBs)".',
    remedy="goldsmith vhd convert DISK NEW.vhd --move-gpt rounds up to a whole MiB. If the file is longer than "
    "its footer says, --format vpc uses the footer's size.",
    source=AZURE_LIMITS,
    profiles=ALL,
    needs_root=False,
)
def vhd_size(subject: Subject) -> Iterator[str]:
    footer = _footer(subject)
    faults = fixed_faults(footer, subject.disk.file_size)
    yield from (faults[name] for name in _SIZE_FAULTS if name in faults)
    if footer.current_size > MAX_SIZE:
        yield f"{footer.current_size} bytes are more than 2040 GiB"
    if footer.current_size < SMALLEST and subject.profile.startswith("azure"):
        yield f"{footer.current_size} bytes are less than 20 MiB, which Azure requires"
    subject.note(f"{footer.current_size // MIB} MiB + 512 bytes")


@check(
    "vhd-saved-state",
    "The VHD has no saved state",
    why="The footer says that the disk belongs to a suspended machine, so Hyper-V refuses it.",
    remedy="Shut the guest down instead of saving it, then goldsmith vhd convert DISK NEW.vhd.",
    source=_SPECIFICATION,
    profiles=ALL,
    needs_root=False,
)
def vhd_saved_state(subject: Subject) -> Iterator[str]:
    footer = _footer(subject)
    if footer.saved_state:
        yield f"saved state is {footer.saved_state}"


@check(
    "vhd-creator",
    "Every program reads the same size",
    why="If qemu up to version 9 does not know the creator, it computes the size from the geometry, and the end of "
    "the disk is missing.",
    remedy="goldsmith vhd convert DISK NEW.vhd writes a footer that all programs read in the same way.",
    source="qemu: block/vpc.c",
    severity="warn",
    profiles=WINDOWS_TOO,
    needs_root=False,
)
def vhd_creator(subject: Subject) -> Iterator[str]:
    footer = _footer(subject)
    if footer.old_qemu_size != footer.current_size:
        yield f"creator {footer.creator!r}: {footer.old_qemu_size} of {footer.current_size} bytes in qemu up to 9"
