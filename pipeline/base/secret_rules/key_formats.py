"""Private keys that are bytes, not text: known by their whole structure, so that no program is taken for a key.

ASN.1 as in RFC 8017 (PKCS #1), 5915 (SEC 1), 5208 and 5958 (PKCS #8), 7292 (PKCS #12); OpenSSH's PROTOCOL.key; Java's
sun.security.provider.JavaKeyStore; RFC 4880 for GnuPG's exported keys.
"""

from __future__ import annotations

from collections.abc import Callable

#: Bytes that a key's structure may have; a PKCS #12 file with its certificates has a few KiB.
LIMIT = 16 << 10

_SEQUENCE, _INTEGER, _OCTETS, _OID = 0x30, 0x02, 0x04, 0x06
#: 1.2.840.113549.1.5.13 (PBES2), 1.2.840.113549.1.5.* and 1.12.1.* (older ones).
_ENCRYPTIONS = (bytes.fromhex("2a864886f70d0105"), bytes.fromhex("2a864886f70d010c01"))
#: Algorithms of a key in PKCS #8: RSA, DSA, EC, X25519 to Ed448.
_ALGORITHMS = (
    bytes.fromhex("2a864886f70d0101"),
    bytes.fromhex("2a8648ce3804"),
    bytes.fromhex("2a8648ce3d02"),
    bytes.fromhex("2b656e"),
    bytes.fromhex("2b656f"),
    bytes.fromhex("2b6570"),
    bytes.fromhex("2b6571"),
)
#: 1.2.840.113549.1.7.1 (data), and the bags of PKCS #12 that hold keys.
_DATA = bytes.fromhex("06092a864886f70d010701")
_KEY_BAGS = (bytes.fromhex("060b2a864886f70d010c0a0101"), bytes.fromhex("060b2a864886f70d010c0a0102"))

Node = tuple[int, int, int]


def _node(data: bytes, at: int) -> Node | None:
    """(tag, begin, end) of a value with a definite length that lies whole in the data."""
    if at + 2 > len(data):
        return None
    tag, length, begin = data[at], data[at + 1], at + 2
    if length >= 0x80:
        count = length & 0x7F
        if not 1 <= count <= 3 or begin + count > len(data):
            return None
        length = int.from_bytes(data[begin : begin + count], "big")
        begin += count
    return (tag, begin, begin + length) if begin + length <= len(data) else None


def key_length(data: bytes, at: int) -> int:
    """Bytes of a key that tell it from others: all of it where it says its length."""
    node = _node(data[at : at + LIMIT], 0)
    return node[2] if node is not None and node[0] == _SEQUENCE else 256


def _children(data: bytes, node: Node, limit: int = 12) -> list[Node] | None:
    found: list[Node] = []
    at = node[1]
    while at < node[2] and len(found) < limit:
        child = _node(data[: node[2]], at)
        if child is None:
            return None
        found.append(child)
        at = child[2]
    return found if at == node[2] else None


def der_key(data: bytes, at: int) -> str | None:
    """What kind of private key the DER value at `at` is."""
    window = data[at : at + LIMIT]
    node = _node(window, 0)
    if node is None or node[0] != _SEQUENCE:
        return None
    children = _children(window, node)
    if not children or len(children) < 3 or children[0][0] != _INTEGER:
        return None
    first = window[children[0][1] : children[0][2]]
    tags = [tag for tag, _, _ in children]
    if set(tags) == {_INTEGER}:
        return _of_numbers([int.from_bytes(window[begin:end], "big") for _, begin, end in children])
    if tags[1] == _OCTETS and first == b"\1" and 16 <= children[1][2] - children[1][1] <= 72:
        return "EC, SEC 1" if all(tag in (0xA0, 0xA1) for tag in tags[2:]) else None
    if tags[1:3] == [_SEQUENCE, _OCTETS] and first in (b"\0", b"\1"):
        return "PKCS #8" if _algorithm(window, children[1]).startswith(_ALGORITHMS) else None
    return None


def _of_numbers(numbers: list[int]) -> str | None:
    """RSA by its modulus, which is the product of two of the others; DSA by its public number."""
    if numbers[0] != 0:
        return None
    if len(numbers) == 9:
        return "RSA, PKCS #1" if numbers[1] == numbers[4] * numbers[5] != 0 else None
    if len(numbers) == 6:
        _, p, q, g, public, secret = numbers
        # arithmetic on numbers that a disk names: none larger than keys are
        if q and p.bit_length() <= 4096 and (p - 1) % q == 0 and secret < q:
            return "DSA" if pow(g, secret, p) == public else None
    return None


def encrypted_der_key(data: bytes, at: int) -> str | None:
    window = data[at : at + LIMIT]
    node = _node(window, 0)
    children = _children(window, node) if node else None
    if not children or [tag for tag, _, _ in children] != [_SEQUENCE, _OCTETS]:
        return None
    size = children[1][2] - children[1][1]
    return "PKCS #8, encrypted" if size >= 32 and _algorithm(window, children[0]).startswith(_ENCRYPTIONS) else None


def _algorithm(data: bytes, node: Node) -> bytes:
    first = _node(data, node[1])
    return data[first[1] : first[2]] if first and first[0] == _OID else b""


def pkcs12(data: bytes, at: int) -> str | None:
    """A PKCS #12 file that holds a key: a store of certificates alone is none."""
    if _DATA not in data[at : at + 64]:
        return None
    node = _node(data[at : at + 4] + bytes(1 << 16), 0)
    whole = data[at : at + min(node[2] if node else LIMIT, 256 << 10)]
    return "PKCS #12" if any(bag in whole for bag in _KEY_BAGS) else None


def java_store(data: bytes, at: int) -> str | None:
    """JKS and JCEKS with an entry that is a key (1: private, 3: secret)."""
    if data[at + 4 : at + 8] not in (b"\0\0\0\1", b"\0\0\0\2"):
        return None
    count = int.from_bytes(data[at + 8 : at + 12], "big")
    kind = int.from_bytes(data[at + 12 : at + 16], "big")
    length = int.from_bytes(data[at + 16 : at + 18], "big")
    alias = data[at + 18 : at + 18 + length]
    if not 0 < count < 10_000 or kind not in (1, 3) or not 0 < length < 256 or len(alias) < length:
        return None
    return "Java's key store" if all(byte >= 32 for byte in alias) else None


def openssh(data: bytes, at: int) -> str | None:
    """The bytes inside an OPENSSH PRIVATE KEY: cipher, key derivation, both names with a length before them."""
    here = at + 15
    size = int.from_bytes(data[here : here + 4], "big")
    cipher = data[here + 4 : here + 4 + size]
    return "OpenSSH" if 0 < size < 40 and cipher.isascii() and cipher.replace(b"-", b"").isalnum() else None


def gpg_packet(data: bytes, at: int) -> str | None:
    """A secret key packet, version 4: RSA of a usual length, or a curve by its identifier."""
    head = data[at : at + 32]
    body = head[{0x94: 2, 0x95: 3}.get(head[0], 32) :]
    if len(body) < 12 or body[0] != 4:
        return None
    algorithm = body[5]
    if algorithm in (1, 2, 3):
        bits = int.from_bytes(body[6:8], "big")
        return "OpenPGP" if bits in (1024, 2048, 3072, 4096) and body[8] & 0x80 else None
    curves = (b"\x09\x2b\x06\x01\x04\x01\xda\x47\x0f\x01", b"\x08\x2a\x86\x48\xce\x3d\x03\x01\x07")
    return "OpenPGP" if algorithm in (18, 19, 22) and body[6:].startswith(curves) else None


def keepass(data: bytes, at: int) -> str | None:
    """A version that was published, 1 to 4, behind both signatures of a KeePass database."""
    return "KeePass" if 1 <= int.from_bytes(data[at + 10 : at + 12], "little") <= 4 else None


#: How such a key begins (in Hyperscan's syntax, with DOTALL), how many bytes that are, and who judges it.
FORMS: tuple[tuple[bytes, int, Callable[[bytes, int], str | None]], ...] = (
    (rb"\x30\x82[\x00-\x1f].\x02\x01[\x00\x01][\x02\x04\x30]", 8, der_key),
    (rb"\x30\x81.\x02\x01[\x00\x01][\x02\x04\x30]", 7, der_key),
    (rb"\x30[\x28-\x7f]\x02\x01[\x00\x01][\x02\x04\x30]", 6, der_key),
    (rb"\x30\x82[\x00-\x1f].\x30[\x10-\x7f]\x06[\x09-\x0b]\x2a\x86\x48\x86\xf7\x0d\x01", 15, encrypted_der_key),
    (rb"\x30\x81.\x30[\x10-\x7f]\x06[\x09-\x0b]\x2a\x86\x48\x86\xf7\x0d\x01", 14, encrypted_der_key),
    (rb"\x30\x82..\x02\x01\x03\x30", 8, pkcs12),
    (rb"\x30\x83...\x02\x01\x03\x30", 9, pkcs12),
    (rb"\x30\x80\x02\x01\x03\x30", 6, pkcs12),
    (rb"\xfe\xed\xfe\xed\x00\x00\x00[\x01\x02]", 8, java_store),
    (rb"\xce\xce\xce\xce\x00\x00\x00[\x01\x02]", 8, java_store),
    (rb"openssh-key-v1\x00\x00\x00\x00", 18, openssh),
    (rb"\x95..\x04....[\x01-\x03\x12\x13\x16]", 9, gpg_packet),
    (rb"\x94.\x04....[\x12\x13\x16]", 8, gpg_packet),
    (rb"\x03\xd9\xa2\x9a[\x65\x67]\xfb\x4b\xb5", 8, keepass),
)
