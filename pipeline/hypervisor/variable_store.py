"""What a UEFI variable store knows of Secure Boot: OVMF's file of variables, read without any program.

Shapes: edk2, MdeModulePkg/Include/Guid/VariableFormat.h (variable store, authenticated variables); UEFI specification
32.4.1 (EFI_SIGNATURE_LIST).
"""

from __future__ import annotations

import json
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.base.der import DerError, certificate_names
from pipeline.base.secure_boot import AUTHORITIES, authority_named

#: Bytes of a variable store that are read: OVMF's have 128 and 528 KiB.
STORE_LIMIT = 4 << 20
#: Where firmware packages describe themselves to libvirt (QEMU, docs/interop/firmware.json).
DESCRIPTORS = (Path("/etc/qemu/firmware"), Path("/usr/share/qemu/firmware"))
_STORE_GUID = uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792").bytes_le
_X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072").bytes_le
#: VARIABLE_STORE_HEADER, AUTHENTICATED_VARIABLE_HEADER, EFI_SIGNATURE_LIST.
_STORE_HEADER, _VARIABLE_HEADER, _LIST_HEADER = 28, 60, 28
_START, _ADDED = 0x55AA, 0x3F


@dataclass(frozen=True)
class SecureBootKeys:
    """`allowed` are the names of the certificates in db, `revoked` the number of entries in dbx."""

    allowed: tuple[str, ...]
    revoked: int

    @property
    def known(self) -> tuple[str, ...]:
        """Microsoft's authorities among them, by their short names."""
        return tuple(found.label for name in self.allowed if (found := authority_named(name)) is not None)

    @property
    def missing(self) -> tuple[str, ...]:
        """Microsoft's authorities for loaders and for Windows that it does not know."""
        wanted = [each.label for each in AUTHORITIES if each.signs in ("loaders", "Windows loaders")]
        return tuple(label for label in wanted if label not in self.known)


def read_variable_store(data: bytes) -> SecureBootKeys | None:
    """The keys in a variable store; None where it has no store of authenticated variables, or no db."""
    at = data.find(_STORE_GUID)
    if at < 0 or len(data) < at + _STORE_HEADER:
        return None
    (size,) = struct.unpack_from("<I", data, at + 16)
    found = dict(_variables(data[at + _STORE_HEADER : at + size]))
    if "db" not in found:
        return None
    names = []
    for kind, body in _signatures(found["db"]):
        if kind == _X509:
            try:
                names.append(certificate_names(body).subject)
            except DerError:
                names.append("")
    return SecureBootKeys(tuple(names), sum(1 for _ in _signatures(found.get("dbx", b""))))


def _variables(data: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, value) of each variable that was not deleted or replaced."""
    at = 0
    while at + _VARIABLE_HEADER <= len(data):
        start, state = struct.unpack_from("<HB", data, at)
        if start != _START:
            return
        name_size, value_size = struct.unpack_from("<II", data, at + 36)
        name_at = at + _VARIABLE_HEADER
        value_at = name_at + name_size
        if value_at + value_size > len(data):
            return
        if state == _ADDED:
            name = data[name_at:value_at].decode("utf-16-le", "replace").rstrip("\0")
            yield name, data[value_at : value_at + value_size]
        at = (value_at + value_size + 3) & ~3


def _signatures(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(type, body) of each entry of a row of EFI_SIGNATURE_LISTs."""
    at = 0
    while at + _LIST_HEADER <= len(data):
        kind, whole, header, each = struct.unpack_from("<16sIII", data, at)
        first, end = at + _LIST_HEADER + header, at + whole
        # an entry begins with the GUID of its owner
        if each <= 16 or whole < _LIST_HEADER or end > len(data):
            return
        for entry in range(first, end - each + 1, each):
            yield kind, data[entry + 16 : entry + each]
        at = end


def enrolled_stores() -> dict[Path, SecureBootKeys | None]:
    """The variable stores that libvirt takes for Secure Boot with enrolled keys on this host; None for unreadable."""
    found: dict[Path, SecureBootKeys | None] = {}
    hidden: set[str] = set()
    for folder in DESCRIPTORS:
        for path in sorted(folder.glob("*.json")):
            # a descriptor in /etc hides one of its name
            if path.name not in hidden:
                hidden.add(path.name)
                store = _store_of(path)
                if store is not None and store not in found:
                    found[store] = _read(store)
    return found


def _store_of(path: Path) -> Path | None:
    try:
        row: Any = json.loads(path.read_text())
        if "enrolled-keys" not in row["features"] or "x86_64" not in [
            each["architecture"] for each in row["targets"]
        ]:
            return None
        return Path(row["mapping"]["nvram-template"]["filename"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read(path: Path) -> SecureBootKeys | None:
    try:
        with path.open("rb") as file:
            return read_variable_store(file.read(STORE_LIMIT))
    except OSError:
        return None
