"""Product keys: the user's own, which is a secret, or Microsoft's public ones for clients of a KMS host.

Consumer, retail and MAK media stop at the key page without one; evaluation media need none, volume media take none.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from pipeline.base.errors import UsageError
from pipeline.disk.media import Edition

#: What the definition says for Microsoft's public key of the edition.
KMS = "kms"
_KEY = re.compile(r"[A-Z0-9]{5}(?:-[A-Z0-9]{5}){4}")
#: Microsoft: "KMS client activation and product keys". By edition id, and the first build that a key is of, newest
#: first. They activate nothing without a key management service in the network.
_PUBLIC: tuple[tuple[str, int, str], ...] = (
    ("ServerStandard", 26100, "TVRH6-WHNXV-R9WG3-9XRFY-MY832"),
    ("ServerStandard", 20348, "VDYBN-27WPP-V4HQT-9VMD4-VMK7H"),
    ("ServerStandard", 17763, "N69G4-B89J2-4G8F4-WWYCC-J464C"),
    ("ServerStandard", 14393, "WC2BQ-8NRM3-FDDYY-2BFGV-KHKQY"),
    ("ServerDatacenter", 26100, "D764K-2NDRG-47T6Q-P8T8W-YP6DF"),
    ("ServerDatacenter", 20348, "WX4NM-KYWYW-QJJR4-XV3QB-6VM33"),
    ("ServerDatacenter", 17763, "WMDGN-G9PQG-XVVXX-R3X43-63DFG"),
    ("ServerDatacenter", 14393, "CB7KF-BWN84-R7R2Y-793K2-8XDDG"),
    ("Professional", 10240, "W269N-WFGWX-YVC9B-4J6C9-T83GX"),
    ("Enterprise", 10240, "NPPR9-FWDCX-D2C8J-H872K-2YT43"),
    ("Education", 10240, "NW6C2-QMPVW-D7KKK-3GKT6-VCFB2"),
    ("EnterpriseS", 17763, "M7XTQ-FN8P6-TTKYV-9D4CC-J462D"),
)


def product_key(wanted: str | Path | None, edition: Edition) -> str | None:
    """The key that the answer file gives. `wanted`: KMS, a file that holds the user's own, or None.

    Raises UsageError: product-key-missing, product-key-form, kms-key-unknown. No message has the key.
    """
    if wanted is None:
        return None
    if isinstance(wanted, Path):
        return read_key(wanted)
    for name, build, key in _PUBLIC:
        if name.lower() == edition.edition.lower() and edition.build >= build:
            return key
    known = ", ".join(dict.fromkeys(name for name, _, _ in _PUBLIC))
    raise UsageError(
        f"there is no public KMS client key for {edition.name} ({edition.edition})",
        name="kms-key-unknown",
        hint=f"there is a key for {known}; evaluation media need none: remove product_key",
    )


def read_key(path: Path) -> str:
    """The product key in a file. Raises UsageError: product-key-missing, product-key-form."""
    try:
        text = path.read_text(encoding="utf-8-sig").strip().upper()
    except OSError as error:
        raise UsageError(
            f"{path} contains no product key: {error.strerror}",
            name="product-key-missing",
            hint="write the key into that file, outside the repository",
        ) from None
    except UnicodeDecodeError:
        text = ""
    if not _KEY.fullmatch(text):
        raise UsageError(
            f"{path} contains no product key",
            name="product-key-form",
            hint="write five groups of five letters and digits",
        )
    return text


def is_key(text: str) -> bool:
    """Whether a text is a product key itself, where a file's name was asked for."""
    return _KEY.fullmatch(text.strip().upper()) is not None


def key_digest(wanted: str | Path | None) -> str | None:
    """What a layer's key says of it: another key is another installation, and none can be had back from this."""
    if isinstance(wanted, Path):
        return hashlib.sha256(f"goldsmith product key {read_key(wanted)}".encode()).hexdigest()
    return wanted
