"""The text in which LVM2 describes a volume group: sections in braces, `name = value`, lists in brackets.

By LVM2's libdm/libdm-config.c. Text of a disk at rest is foreign: depth, length and number of values are bounded.
"""

from __future__ import annotations

import re
from typing import Any

_TOKEN = re.compile(
    rb"""\s+ | \#[^\n]* | (?P<string>"(?:[^"\\]|\\.)*") | (?P<number>-?[0-9]+(?:\.[0-9]+)?(?![\w.+-]))
    | (?P<mark>[{}\[\]=,]) | (?P<name>[\w.+/@-]+)""",
    re.VERBOSE | re.DOTALL,
)
_MAX_DEPTH, _MAX_TOKENS = 16, 400_000
#: A value of any key: a number, a string, or a list of both.
Token = tuple[str, bytes]


def parse_text(text: bytes) -> dict[str, Any]:
    """Sections as dicts, lists as lists, numbers as int, all else as str. Raises ValueError."""
    tokens = _tokens(text.rstrip(b"\0"))
    tokens.reverse()
    return _section(tokens, 0)


def _tokens(text: bytes) -> list[Token]:
    found: list[Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"it cannot be read at byte {at}")
        if match.lastgroup is not None:
            found.append((match.lastgroup, match.group()))
        if len(found) > _MAX_TOKENS:
            raise ValueError("it is too long")
        at = match.end()
    return found


def _section(tokens: list[Token], depth: int) -> dict[str, Any]:
    """What stands up to the closing brace, or to the end of the text on the outermost level."""
    if depth > _MAX_DEPTH:
        raise ValueError("it is nested too deep")
    found: dict[str, Any] = {}
    while tokens:
        kind, raw = tokens.pop()
        if (kind, raw) == ("mark", b"}"):
            if depth:
                return found
            raise ValueError("a brace is closed that was not opened")
        if kind == "mark":
            raise ValueError("a value without a name")
        name = _string(raw) if kind == "string" else raw.decode("ascii", "replace")
        match tokens.pop() if tokens else ("", b""):
            case ("mark", b"{"):
                found[name] = _section(tokens, depth + 1)
            case ("mark", b"="):
                found[name] = _value(tokens)
            case _:
                raise ValueError(f"{name[:40]!r} has no value")
    if depth:
        raise ValueError("it ends within a section")
    return found


def _value(tokens: list[Token]) -> Any:
    if tokens and tokens[-1] == ("mark", b"["):
        tokens.pop()
        found = []
        while tokens and tokens[-1] != ("mark", b"]"):
            found.append(_single(tokens))
            if tokens and tokens[-1] == ("mark", b","):
                tokens.pop()
        if not tokens:
            raise ValueError("it ends within a list")
        tokens.pop()
        return found
    return _single(tokens)


def _single(tokens: list[Token]) -> int | str:
    kind, raw = tokens.pop() if tokens else ("", b"")
    if kind == "number" and b"." not in raw and len(raw) < 20:
        return int(raw)
    if kind == "string":
        return _string(raw)
    if kind in ("number", "name"):
        return raw.decode("ascii", "replace")
    raise ValueError("a name without a value")


def _string(raw: bytes) -> str:
    return re.sub(rb"\\(.)", rb"\1", raw[1:-1], flags=re.DOTALL).decode("utf-8", "replace")
