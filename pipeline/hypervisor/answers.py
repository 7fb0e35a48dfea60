"""What a guest agent's answers must look like. The guest decides what stands in them: each is judged before use.

https://qemu.readthedocs.io/en/v7.2.0/interop/qemu-ga-ref.html. Every function raises
GuestError(`guest-agent-malformed`) for an answer of another shape.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
from dataclasses import dataclass
from typing import Any, NoReturn

from pipeline.base.errors import GuestError

MALFORMED = "guest-agent-malformed"
#: Characters of one answer. libvirt takes 10 MiB at most, and a program's output is 16 MiB at most.
LARGEST = 32 << 20
#: Levels of nesting; the deepest answer of qemu-ga's has six.
DEPTH = 32
#: Numbers are 64 bits wide there.
_HIGHEST = (1 << 63) - 1
#: Exit codes: Windows' have 32 bits and no sign, a signal is negative.
_CODES = range(-(1 << 31), 1 << 32)
#: Network cards, and addresses of one, that are looked at.
_MOST = 256


@dataclass(frozen=True)
class Status:
    """What `guest-exec-status` says. A program that a signal ended has the code -1."""

    exited: bool
    code: int
    out: bytes
    err: bytes


def printable(text: str, most: int = 300) -> str:
    """A guest's words as a terminal may show them."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:most])


def refuse(command: str, why: str) -> NoReturn:
    raise GuestError(
        f"the guest agent's answer to {command} cannot be used: {why}",
        name=MALFORMED,
        hint="the guest's qemu-guest-agent gives invalid answers: reinstall its package; see agent.log",
    )


def returned(command: str, reply: object) -> Any:
    """The `return` value of an answer's text."""
    if not isinstance(reply, str) or len(reply) > LARGEST:
        refuse(command, "it is not text" if not isinstance(reply, str) else f"it has {len(reply)} characters")
    try:
        answer = json.loads(reply, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        refuse(command, f"it is not JSON ({type(error).__name__})")
    if not isinstance(answer, dict) or "return" not in answer:
        refuse(command, "it has no `return`")
    if _depth(answer) > DEPTH:
        refuse(command, f"it is nested deeper than {DEPTH} levels")
    return answer["return"]


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _depth(value: object) -> int:
    depth, level = 0, [value]
    while level and depth <= DEPTH:
        depth += 1
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return depth


def number(command: str, value: object, what: str, *, least: int = 0, most: int = _HIGHEST) -> int:
    """A whole number in its bounds; JSON's true and false are none."""
    if not isinstance(value, int) or isinstance(value, bool):
        refuse(command, f"{what} is not a whole number")
    if not least <= value <= most:
        refuse(command, f"{what} is out of range")
    return value


def field(command: str, value: object, name: str) -> Any:
    """A field that must be there."""
    if not isinstance(value, dict):
        refuse(command, "`return` is not an object")
    if name not in value:
        refuse(command, f"{name} is missing")
    return value[name]


def data(command: str, value: object, what: str) -> bytes:
    """Bytes in base64."""
    if not isinstance(value, str):
        refuse(command, f"{what} is not text")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        refuse(command, f"{what} is not base64")


def pid(command: str, value: object) -> int:
    """`guest-exec`'s."""
    return number(command, field(command, value, "pid"), "pid", least=1)


def status(command: str, value: object) -> Status:
    """`guest-exec-status`'s."""
    exited = field(command, value, "exited")
    if not isinstance(exited, bool):
        refuse(command, "exited is neither true nor false")
    assert isinstance(value, dict)
    code = number(command, value.get("exitcode", -1), "exitcode", least=_CODES[0], most=_CODES[-1])
    return Status(
        exited,
        code,
        data(command, value.get("out-data", ""), "out-data"),
        data(command, value.get("err-data", ""), "err-data"),
    )


def chunk(command: str, value: object, asked: int) -> tuple[bytes, bool]:
    """`guest-file-read`'s: what was read, at most `asked` bytes, and whether the file ends there."""
    read = data(command, field(command, value, "buf-b64"), "buf-b64")
    count, eof = field(command, value, "count"), field(command, value, "eof")
    if number(command, count, "count", most=asked) != len(read):
        refuse(command, "count is not the number of bytes that came")
    if not isinstance(eof, bool):
        refuse(command, "eof is neither true nor false")
    # nothing more has come, whatever eof says: to ask again would be for ever
    return read, eof or not read


def addresses(command: str, value: object) -> list[str]:
    """`guest-network-get-interfaces`'s: the IPv4 addresses but the loopback's."""
    found: list[str] = []
    for card in _items(command, value, "`return`"):
        for entry in _items(command, card.get("ip-addresses", []), "ip-addresses"):
            if entry.get("ip-address-type") == "ipv4":
                try:
                    address = ipaddress.IPv4Address(str(entry.get("ip-address")))
                except ValueError:
                    refuse(command, "an address is not an IPv4 address")
                if not address.is_loopback:
                    found.append(str(address))
    return found


def _items(command: str, value: object, what: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or len(value) > _MOST or not all(isinstance(item, dict) for item in value):
        refuse(command, f"{what} is not a list of at most {_MOST} objects")
    return value
