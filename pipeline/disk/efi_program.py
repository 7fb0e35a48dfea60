"""EFI programs at rest: who signed them, whether a signature is for this content, and their SBAT levels.

Sources: Microsoft, PE Format (certificate table, section table) and Authenticode PE signature format (the digest);
rhboot/shim, SBAT.md. No signature is verified by a key: names and digests show what an image was shipped with.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.base.der import (
    INTEGER,
    OCTETS,
    SEQUENCE,
    SET,
    CertificateNames,
    DerError,
    Element,
    certificate_names,
    read_name,
)
from pipeline.base.der import parse as parse_der
from pipeline.base.errors import DiskError

#: Bytes of a program that are read: shim has 1 MiB, GRUB with its modules 4 MiB, bootmgfw 3 MiB.
PROGRAM_LIMIT = 16 << 20
#: What a well-formed program has far fewer of: sections (Windows' own limit is 96), signatures, certificates of one.
_MAX_SECTIONS, _MAX_SIGNATURES, _MAX_CERTIFICATES = 96, 16, 64
_MAX_LEVELS, _LEVEL_TEXT = 64, 64
#: WIN_CERTIFICATE's type of an Authenticode signature.
_PKCS_SIGNED_DATA = 2
#: Object identifiers as their bytes: SPC_INDIRECT_DATA, and the digests.
_INDIRECT_DATA = bytes.fromhex("2b060104018237020104")
_DIGESTS = {
    bytes.fromhex("2b0e03021a"): "sha1",
    bytes.fromhex("608648016503040201"): "sha256",
    bytes.fromhex("608648016503040202"): "sha384",
    bytes.fromhex("608648016503040203"): "sha512",
}


@dataclass(frozen=True)
class Signature:
    """`issuers` are the authorities above the signer, the nearest first; `is_for_content` by the signed digest."""

    signer: str
    issuers: tuple[str, ...]
    is_for_content: bool


@dataclass(frozen=True)
class SbatLevel:
    """One component's generation: firmware and shim refuse a generation below the revoked one."""

    component: str
    generation: int

    def __str__(self) -> str:
        return f"{self.component},{self.generation}"


@dataclass(frozen=True)
class Section:
    """`size` is what is in use, `raw_size` what the file has of it."""

    name: str
    offset: int
    size: int
    raw_size: int


class EfiProgram:
    """A PE32+ program as bytes. Raises DiskError (efi-program-damaged) where it is none."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        (at,) = struct.unpack_from("<I", data.ljust(64, b"\0"), 60)
        # signature, COFF header (20), optional header of PE32+ with 16 data directories (240)
        if not data.startswith(b"MZ") or data[at : at + 4] != b"PE\0\0" or len(data) < at + 24 + 240:
            raise _damaged("it is not a PE32+ program")
        self.machine, count, symbols, symbol_count, optional = struct.unpack_from("<HHxxxxIIH", data, at + 4)
        magic, self._headers = *struct.unpack_from("<H", data, at + 24), *struct.unpack_from("<I", data, at + 24 + 60)
        if magic != 0x20B or count > _MAX_SECTIONS:
            raise _damaged("it is not a PE32+ program")
        self._checksum_at, self._directory_at = at + 24 + 64, at + 24 + 112 + 4 * 8
        self._table = struct.unpack_from("<II", data, self._directory_at)
        self._names_at = symbols + 18 * symbol_count if symbols else 0
        self.sections = tuple(self._section(at + 24 + optional + 40 * number) for number in range(count))

    def _section(self, at: int) -> Section:
        if at + 40 > len(self.data):
            raise _damaged("its section table is cut off")
        raw, virtual, size, offset = struct.unpack_from("<8sI4xII", self.data, at)
        name = raw.rstrip(b"\0")
        if name[:1] == b"/" and name[1:].isdigit() and self._names_at:
            # longer names stand behind the symbol table
            start = self._names_at + int(name[1:])
            name = self.data[start : start + 64].split(b"\0", 1)[0]
        return Section(name.decode("latin-1"), offset, min(size, virtual) if virtual else size, size)

    def section(self, name: str) -> bytes:
        """The content of the first section of a name, empty where there is none."""
        found = next((each for each in self.sections if each.name == name), None)
        return b"" if found is None else self.data[found.offset : found.offset + found.size]

    @property
    def sbat(self) -> tuple[SbatLevel, ...]:
        """The levels in its .sbat section, the format's own left out."""
        found = []
        text = self.section(".sbat").split(b"\0", 1)[0].decode("utf-8", "replace")
        for line in text.splitlines()[:_MAX_LEVELS]:
            component, _, rest = line.partition(",")
            generation = rest.partition(",")[0]
            if component != "sbat" and generation.isascii() and generation.isdigit() and len(generation) < 10:
                found.append(SbatLevel(component[:_LEVEL_TEXT], int(generation)))
        return tuple(found)

    @property
    def signatures(self) -> tuple[Signature, ...]:
        """Its Authenticode signatures in the order of the table; none where it has no table.

        Raises DiskError (efi-signature-damaged).
        """
        try:
            return tuple(self._signature(each) for each in self._signed_data())
        except DerError as error:
            raise _damaged_signature(str(error)) from None

    def _signed_data(self) -> Iterator[bytes]:
        offset, size = self._table
        if not offset or not size:
            return
        end = offset + size
        if end > len(self.data):
            raise _damaged_signature("the certificate table reaches beyond the end of the file")
        count = 0
        while offset + 8 <= end:
            length, _, kind = struct.unpack_from("<IHH", self.data, offset)
            if length < 8 or offset + length > end:
                raise _damaged_signature("an entry of the certificate table is longer than the table")
            if kind == _PKCS_SIGNED_DATA:
                count += 1
                if count > _MAX_SIGNATURES:
                    raise _damaged_signature(f"more than {_MAX_SIGNATURES} signatures")
                yield self.data[offset + 8 : offset + length]
            # entries are aligned to 8 bytes
            offset += (length + 7) & ~7

    def _signature(self, signed: bytes) -> Signature:
        # ContentInfo: its type, and SignedData in an explicit [0]
        content = _children(_children(parse_der(signed), 2)[1], 1)[0]
        parts = content.children(SEQUENCE)
        _, _, encapsulated = _at_least(parts, 3)[:3]
        certificates = [_names(each) for part in parts if part.tag == 0xA0 for each in part.children()]
        if len(certificates) > _MAX_CERTIFICATES:
            raise DerError(f"more than {_MAX_CERTIFICATES} certificates")
        infos = [part for part in parts[3:] if part.tag == SET]
        signers = infos[-1].children(SET) if infos else []
        if not signers:
            raise DerError("nobody has signed")
        issuer, serial = _children(_children(signers[0], 2)[1], 2)[:2]
        if serial.tag != INTEGER:
            raise DerError("a signer without a serial number")
        signer, issuers = _chain(issuer, bytes(serial.body), certificates)
        return Signature(signer, issuers, self._is_for_content(encapsulated))

    def _is_for_content(self, encapsulated: Element) -> bool:
        kind, wrapped = _children(encapsulated, 2)[:2]
        if bytes(kind.body) != _INDIRECT_DATA:
            return False
        _, digest_info = _children(_children(wrapped, 1)[0], 2)[:2]
        algorithm, digest = _children(digest_info, 2)[:2]
        name = _DIGESTS.get(bytes(_children(algorithm, 1)[0].body))
        return name is not None and digest.tag == OCTETS and bytes(digest.body) == self.digest(name)

    def digest(self, algorithm: str = "sha256") -> bytes:
        """The Authenticode digest: the header, the sections by their place, and what follows them.

        Left out are the checksum, the certificate table and where it stands; a gap between sections is not covered.
        """
        hasher = hashlib.new(algorithm, usedforsecurity=False)
        end = self._table[0] if self._table[0] and self._table[1] else len(self.data)
        view = memoryview(self.data)[:end]
        hasher.update(view[: self._checksum_at])
        hasher.update(view[self._checksum_at + 4 : self._directory_at])
        hasher.update(view[self._directory_at + 8 : self._headers])
        hashed = self._headers
        for offset, _, size in sorted(
            (each.offset, each.name, each.raw_size) for each in self.sections if each.raw_size
        ):
            hasher.update(view[offset : offset + size])
            hashed += size
        # the extra data: as many bytes as are not counted yet, taken from the end of what was counted
        hasher.update(view[hashed:])
        return hasher.digest()


def _chain(issuer: Element, serial: bytes, certificates: list[CertificateNames]) -> tuple[str, tuple[str, ...]]:
    """The signer's name and the names above it, as far as the signature's own certificates lead."""
    wanted = bytes(issuer.whole)
    own = next((each for each in certificates if (each.issuer_raw, each.serial) == (wanted, serial)), None)
    found = [read_name(issuer)]
    by_subject = {each.subject_raw: each for each in certificates}
    above = by_subject.get(wanted)
    while above is not None and not above.is_self_signed and len(found) <= len(certificates):
        found.append(above.issuer)
        above = by_subject.get(above.issuer_raw)
    return own.subject if own else "", tuple(found)


def _names(certificate: Element) -> CertificateNames:
    return certificate_names(certificate.whole)


def _children(element: Element, least: int) -> list[Element]:
    return _at_least(element.children(), least)


def _at_least(found: list[Element], least: int) -> list[Element]:
    if len(found) < least:
        raise DerError("a part is missing")
    return found


def _damaged(what: str) -> DiskError:
    return DiskError(
        f"an EFI program is damaged: {what}",
        name="efi-program-damaged",
        hint="install the distribution's shim and GRUB packages again",
    )


def _damaged_signature(what: str) -> DiskError:
    return DiskError(
        f"a signature of an EFI program is damaged: {what}",
        name="efi-signature-damaged",
        hint="install the distribution's signed shim and GRUB packages again (shim-signed, grub-efi-amd64-signed)",
    )
