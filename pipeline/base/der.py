"""DER as far as signatures and certificates need it: elements one by one, and the names in a certificate (X.690).

The input is anybody's. Every length is checked, nothing is copied more than once, nothing recurses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

SEQUENCE, SET, INTEGER, OCTETS, OBJECT = 0x30, 0x31, 0x02, 0x04, 0x06
#: Elements of one sequence: a signature of Microsoft's has three certificates.
MAX_ELEMENTS = 256
#: Object identifiers of a name's parts, as their bytes: commonName, organizationName (X.520).
_COMMON_NAME, _ORGANIZATION = b"\x55\x04\x03", b"\x55\x04\x0a"
#: Characters of a name that are shown.
_NAME_LIMIT = 128
#: How the kinds of text are encoded: UTF8String, PrintableString, TeletexString, IA5String, BMPString.
_TEXTS = {0x0C: "utf-8", 0x13: "ascii", 0x14: "latin-1", 0x16: "ascii", 0x1E: "utf-16-be"}


class DerError(ValueError):
    """The bytes are no DER, or not of the shape that was expected."""


@dataclass(frozen=True, slots=True)
class Element:
    """`body` is the content, `whole` the element with its tag and length."""

    tag: int
    body: memoryview
    whole: memoryview

    def children(self, tag: int | None = None) -> list[Element]:
        """The elements inside. Raises DerError where this element has another tag than `tag`."""
        if tag is not None and self.tag != tag:
            raise DerError(f"tag {self.tag:#x} where {tag:#x} is expected")
        return list(elements(self.body))


def elements(data: bytes | memoryview) -> Iterator[Element]:
    """The elements that follow each other. Raises DerError."""
    view = memoryview(data)
    count = 0
    while view:
        count += 1
        if count > MAX_ELEMENTS:
            raise DerError(f"more than {MAX_ELEMENTS} elements")
        element = _first(view)
        yield element
        view = view[len(element.whole) :]


def parse(data: bytes | memoryview, tag: int = SEQUENCE) -> Element:
    """The first element; what follows it is padding. Raises DerError."""
    element = _first(memoryview(data))
    if element.tag != tag:
        raise DerError(f"tag {element.tag:#x} where {tag:#x} is expected")
    return element


def _first(view: memoryview) -> Element:
    if len(view) < 2:
        raise DerError("an element is cut off")
    tag, length, start = view[0], view[1], 2
    if tag & 0x1F == 0x1F:
        raise DerError("a tag of more than one byte")
    if length & 0x80:
        count = length & 0x7F
        if not 1 <= count <= 4 or len(view) < 2 + count:
            raise DerError("an indefinite length")
        length, start = int.from_bytes(view[2 : 2 + count], "big"), 2 + count
    if start + length > len(view):
        raise DerError("an element is longer than the element that contains it")
    return Element(tag, view[start : start + length], view[: start + length])


@dataclass(frozen=True, slots=True)
class CertificateNames:
    """Who a certificate is for and who issued it, readable; `subject_raw` and the others are their DER."""

    subject: str
    issuer: str
    subject_raw: bytes
    issuer_raw: bytes
    serial: bytes

    @property
    def is_self_signed(self) -> bool:
        return self.subject_raw == self.issuer_raw


def certificate_names(data: bytes | memoryview) -> CertificateNames:
    """The names in an X.509 certificate. Raises DerError."""
    fields = parse(data).children()
    content = fields[0].children(SEQUENCE) if fields else []
    if content and content[0].tag == 0xA0:
        # an explicit version
        content = content[1:]
    if len(content) < 5:
        raise DerError("a certificate without issuer or subject")
    serial, _, issuer, _, subject = content[:5]
    return CertificateNames(
        read_name(subject), read_name(issuer), bytes(subject.whole), bytes(issuer.whole), bytes(serial.body)
    )


def read_name(name: Element) -> str:
    """A distinguished name's common name, else its organization, else an empty text. Raises DerError."""
    found: dict[bytes, str] = {}
    for part in name.children(SEQUENCE):
        for pair in part.children(SET):
            kind, value = (*pair.children(SEQUENCE), None, None)[:2]
            if kind is not None and value is not None and kind.tag == OBJECT and value.tag in _TEXTS:
                text = bytes(value.body[: 4 * _NAME_LIMIT]).decode(_TEXTS[value.tag], "replace")
                found.setdefault(bytes(kind.body), text[:_NAME_LIMIT])
    return found.get(_COMMON_NAME) or found.get(_ORGANIZATION) or ""
