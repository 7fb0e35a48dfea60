"""EFI programs with signatures of the shape that firmware expects; nobody's key has signed them."""

from __future__ import annotations

import hashlib
import struct

_SIGNED_DATA = bytes.fromhex("2a864886f70d010702")
_INDIRECT_DATA = bytes.fromhex("2b060104018237020104")
_SHA256 = bytes.fromhex("608648016503040201")
BOTH = UEFI_2011, UEFI_2023 = "Microsoft Corporation UEFI CA 2011", "Microsoft UEFI CA 2023"
DEBIAN = "Debian Secure Boot CA"


def der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    length = bytes([len(body)]) if len(body) < 128 else b"\x82" + struct.pack(">H", len(body))
    return bytes([tag]) + length + body


def _name(text: str) -> bytes:
    return der(0x30, der(0x31, der(0x30, der(6, b"\x55\x04\x03"), der(0x0C, text.encode()))))


def _certificate(subject: str, issuer: str) -> bytes:
    content = [der(0xA0, der(2, b"\2")), der(2, b"\7"), der(0x30), _name(issuer), der(0x30), _name(subject)]
    return der(0x30, der(0x30, *content))


def signature(digest: bytes, issuer: str, root: str = "Root") -> bytes:
    """A ContentInfo with a signer below `issuer`, whose own certificate is by `root`."""
    algorithm = der(0x30, der(6, _SHA256))
    info = der(0x30, der(0x30), der(0x30, algorithm, der(4, digest)))
    content = der(0x30, der(6, _INDIRECT_DATA), der(0xA0, info))
    certificates = der(0xA0, _certificate("Signer", issuer), _certificate(issuer, root))
    signer = der(0x30, der(2, b"\1"), der(0x30, _name(issuer), der(2, b"\7")))
    data = der(0x30, der(2, b"\1"), der(0x31), content, certificates, der(0x31, signer))
    return der(0x30, der(6, _SIGNED_DATA), der(0xA0, data))


def pe(text: bytes, *issuers: str, machine: int = 0x8664) -> bytes:
    """A PE32+ file with one .sbat section that holds `text`, and a signature below each of `issuers`."""
    optional = struct.pack("<H", 0x20B) + bytes(58) + struct.pack("<I", 512) + bytes(44)
    optional += struct.pack("<I", 16) + bytes(128)
    section = b".sbat\0\0\0" + struct.pack("<IIII", len(text), 4096, 512, 512) + bytes(16)
    head = b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0"
    head += struct.pack("<HHIIIHH", machine, 1, 0, 0, 0, len(optional), 0x22) + optional + section
    data = bytearray(head.ljust(512, b"\0") + text.ljust(512, b"\0"))
    checksum, directory = 64 + 24 + 64, 64 + 24 + 112 + 32
    covered = data[:checksum] + data[checksum + 4 : directory] + data[directory + 8 :]
    table = b""
    for issuer in issuers:
        entry = signature(hashlib.sha256(covered).digest(), issuer)
        table += struct.pack("<IHH", 8 + len(entry), 0x200, 2) + entry + bytes(-len(entry) % 8)
    if table:
        struct.pack_into("<II", data, directory, len(data), len(table))
    return bytes(data) + table


def without_signature(data: bytes, number: int) -> bytes:
    """An EFI program without the signature `number` of its table; the others stay valid."""
    directory = struct.unpack_from("<I", data, 60)[0] + 24 + 112 + 32
    start, size = struct.unpack_from("<II", data, directory)
    entries, at = [], start
    while at < start + size:
        length = (struct.unpack_from("<I", data, at)[0] + 7) & ~7
        entries.append(data[at : at + length])
        at += length
    del entries[number]
    table = b"".join(entries)
    return data[:directory] + struct.pack("<II", start, len(table)) + data[directory + 8 : start] + table
