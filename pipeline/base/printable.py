"""Foreign text made harmless: file names, headers of disks, records, answers of guests, before a person reads them.

A terminal obeys escape codes, and a right-to-left override turns a line around. Both are shown as Python would
write them in a string (`\\x1b`, `\\u202e`), so that nothing is lost and nothing is obeyed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

#: Control characters but newline and tab; the directions of Unicode (TR9), its invisible and its line characters;
#: halves of surrogates, which stand for bytes of a file name that are not UTF-8.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)
_BREAKS = re.compile("[\n\t]")


def printable(text: object) -> str:
    """`text` with every character escaped that a terminal would obey; newlines and tabs stay."""
    return _UNSAFE.sub(_escaped, str(text))


def single_line(text: object, limit: int = 0) -> str:
    """As `printable`, newlines and tabs escaped too; with `limit` cut to that many characters and marked."""
    whole = str(text)
    cut = whole if not limit or len(whole) <= limit else f"{whole[:limit]}..."
    return _BREAKS.sub(_escaped, printable(cut))


def shorten(text: str, limit: int = 2000) -> str:
    """`text` of at most `limit` characters: cut between words where there are any, and marked."""
    if len(text) <= limit:
        return text
    begin, space, _ = text[: limit - 4].rpartition(" ")
    return f"{begin if space and len(begin) > limit // 2 else text[: limit - 4]} ..."


def listed(names: Iterable[str], limit: int = 10, *, newest: bool = False) -> str:
    """`a, b and 5 more`: the first `limit` names, or the last ones where the `newest` come last; empty without names.

    For messages: a project has thousands of images, a gallery years of versions.
    """
    every = list(names)
    shown = (every[-limit:] if newest else every[:limit]) if len(every) > limit else every
    return ", ".join(shown) + (f" and {len(every) - limit} {'older' if newest else 'more'}" if every != shown else "")


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character) or _code(ord(character))


def _code(number: int) -> str:
    if number <= 0xFF:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"
