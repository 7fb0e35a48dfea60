"""The authorities whose certificates the firmware of Azure, Hyper-V and OVMF has for Secure Boot.

Microsoft: "Windows Secure Boot certificate expiration and CA updates". Firmware compares certificates; anyone who
reads a disk at rest sees names.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Authority:
    """`name` is the certificate's common name, `year` its generation; `signs` is what it signs."""

    name: str
    year: int
    signs: str
    label: str


#: What shim is signed by is `loaders`, what Windows' own boot manager is signed by is `windows`.
AUTHORITIES = (
    Authority("Microsoft Corporation UEFI CA 2011", 2011, "loaders", "Microsoft UEFI CA 2011"),
    Authority("Microsoft UEFI CA 2023", 2023, "loaders", "Microsoft UEFI CA 2023"),
    Authority("Microsoft Windows Production PCA 2011", 2011, "Windows loaders", "Windows PCA 2011"),
    Authority("Windows UEFI CA 2023", 2023, "Windows loaders", "Windows UEFI CA 2023"),
    Authority("Microsoft Option ROM UEFI CA 2023", 2023, "option ROMs", "Microsoft Option ROM UEFI CA 2023"),
)
_BY_NAME = {authority.name: authority for authority in AUTHORITIES}


def authority_named(name: str) -> Authority | None:
    """The authority of a certificate's common name, None for anybody else's."""
    return _BY_NAME.get(name)
