"""The fabric's name service for one guest (RFC 1035): a few names, each with one IPv4 address. Pure.

A question has one name. Unknown names are refused: no query is passed to another name service.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

PORT = 53
#: Seconds for which an answer may be kept: a name may lead to another VM a minute later.
TTL = 10
_HEAD = struct.Struct(">HHHHHH")
_RESPONSE, _AUTHORITATIVE, _RECURSION_WANTED, _RECURSION, _OPCODE = 0x8000, 0x0400, 0x0100, 0x0080, 0x7800
_FORMAT_ERROR, _REFUSED = 1, 5
_A, _ANY, _INTERNET = 1, 255, 1
#: Bytes of a name, and of one of its labels.
_LONGEST_NAME, _LONGEST_LABEL = 255, 63


@dataclass(frozen=True)
class Zone:
    """The names that a guest can resolve, in lower case. Each name below one of `domains` leads to its address."""

    names: Mapping[str, str] = field(default_factory=dict)
    domains: Mapping[str, str] = field(default_factory=dict)

    def resolve(self, name: str) -> str | None:
        name = name.lower().rstrip(".")
        if name in self.names:
            return self.names[name]
        return next(
            (address for domain, address in self.domains.items() if name == domain or name.endswith(f".{domain}")),
            None,
        )


@dataclass(frozen=True)
class Question:
    """A question as it came: the number of its message, its flags, its name, and its bytes."""

    number: int
    flags: int
    name: str
    kind: int
    data: bytes


def parse_question(packet: bytes) -> Question | None:
    """The question of a query; None if it is not a query with exactly one question."""
    try:
        number, flags, questions, *_ = _HEAD.unpack_from(packet)
        if flags & (_RESPONSE | _OPCODE) or questions != 1:
            return None
        labels: list[str] = []
        at = _HEAD.size
        while (length := packet[at]) != 0:
            if length > _LONGEST_LABEL or at - _HEAD.size > _LONGEST_NAME:
                return None
            labels.append(packet[at + 1 : at + 1 + length].decode("ascii"))
            at += 1 + length
        kind, family = struct.unpack_from(">HH", packet, at + 1)
    except (struct.error, IndexError, UnicodeDecodeError):
        return None
    if family != _INTERNET:
        return None
    return Question(number, flags, ".".join(labels), kind, packet[_HEAD.size : at + 5])


def answer(question: Question, zone: Zone) -> bytes:
    """The answer's bytes: the address, no address of another kind, or a refusal."""
    address = zone.resolve(question.name)
    flags = _RESPONSE | _RECURSION | (question.flags & _RECURSION_WANTED)
    if address is None:
        return _HEAD.pack(question.number, flags | _REFUSED, 1, 0, 0, 0) + question.data
    found = b""
    if question.kind in (_A, _ANY):
        # 0xc00c: the name of the question
        found = struct.pack(">HHHIH", 0xC00C, _A, _INTERNET, TTL, 4) + ipaddress.IPv4Address(address).packed
    flags |= _AUTHORITATIVE
    return _HEAD.pack(question.number, flags, 1, 1 if found else 0, 0, 0) + question.data + found
