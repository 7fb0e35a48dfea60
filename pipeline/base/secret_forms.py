"""The forms in which programs write a secret down, and texts and files without it.

A guest writes what it was given: to its console, in base64 into a unit's environment, in UTF-16 into a registry.
Nothing here knows what kind of secret it is; the rules for keys and tokens of unknown value are in `secret_rules`.
"""

from __future__ import annotations

import base64
import json
import mmap
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path

#: Bytes of the shortest secret: shorter ones stand on any disk by chance.
SHORTEST = 8
#: Bytes of the longest secret. Keys and tokens are shorter; what is longer is data, which `copy` brings.
LONGEST_SECRET = 64 << 10
#: Bytes of a long secret that are searched for: as many do not stand on a disk by chance.
PIECE = 192


def piece(value: bytes) -> bytes:
    """The part of a secret that is searched for: of several lines the middle one of the longest, of that PIECE bytes.

    A program may write the lines of a key with other ends between them. The lines that frame a key in PEM are the
    same in every key. SHORTEST bytes or more where `value` has as many beside white space.
    """
    lines = _lines(value) if _is_text(value) else []
    if lines:
        longest = [line for line in lines if len(line) == max(map(len, lines))]
        value = longest[len(longest) // 2]
    start = max(0, (len(value) - PIECE) // 2)
    return value[start : start + PIECE]


def encoded_forms(value: bytes) -> dict[str, bytes]:
    """A value by the name of each encoding in which it may be written; the same bytes are in once."""
    forms = {"plain": value, "hex": value.hex().encode(), "HEX": value.hex().upper().encode()}
    forms |= {f"base64 {shift}": text for shift, text in enumerate(_base64(value))}
    if _is_text(value):
        text = value.decode()
        little, big = text.encode("utf-16-le"), text.encode("utf-16-be")
        forms |= {"UTF-16LE": little, "UTF-16BE": big}
        forms |= {f"base64 of UTF-16 {shift}": each for shift, each in enumerate(_base64(little))}
        forms["percent"] = urllib.parse.quote(text, safe="").encode()
        forms["JSON"] = json.dumps(text)[1:-1].encode()
    forms |= {f"{name}, URL-safe": form.translate(_URL_SAFE) for name, form in forms.items() if "base64" in name}
    known: dict[bytes, str] = {}
    for name, form in forms.items():
        known.setdefault(form, name)
    return {name: form for form, name in known.items()}


_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def _base64(value: bytes) -> Iterator[bytes]:
    """The characters of base64 that a value alone decides, at each of the three places where it may begin."""
    for before in range(3):
        text = base64.b64encode(b"\0" * before + value)
        yield text[-(-before * 8 // 6) : (before + len(value)) * 8 // 6]


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _lines(value: bytes) -> list[bytes]:
    """The lines of a text that are secret by themselves: long enough, and not the frame of a key in PEM."""
    lines = (line.strip() for line in value.splitlines())
    return [line for line in lines if len(line) >= SHORTEST and not line.startswith(b"-----")]


class Mask:
    """Writes `[secret NAME]` over the secrets in a text, and stars over those in a file."""

    def __init__(self) -> None:
        self._forms: dict[bytes, str] = {}
        self._texts: list[tuple[str, str]] = []

    def add(self, name: str, value: bytes) -> None:
        """Mask this secret too, whole and line by line."""
        for part in (value.strip(), *_lines(value)):
            if len(part) >= SHORTEST:
                self._forms |= dict.fromkeys(encoded_forms(part).values(), name)
        # the longest first: a line is a part of the whole
        ordered = sorted(self._forms.items(), key=lambda item: len(item[0]), reverse=True)
        self._forms = dict(ordered)
        self._texts = [(form.decode(), name) for form, name in ordered if _is_text(form) and b"\0" not in form]

    def text(self, text: str) -> str:
        for form, name in self._texts:
            if form in text:
                text = text.replace(form, f"[secret {name}]")
        return text

    def find(self, data: bytes) -> str | None:
        """The name of a secret in `data`, or None."""
        return next((name for form, name in self._forms.items() if form in data), None)

    def file(self, path: Path) -> int:
        """Overwrite each secret in a file with stars, in place: how many there were. Raises OSError."""
        if not self._forms or path.stat().st_size == 0:
            return 0
        found = 0
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
            for form in self._forms:
                at = data.find(form)
                while at >= 0:
                    data[at : at + len(form)] = b"*" * len(form)
                    found += 1
                    at = data.find(form, at + len(form))
        return found

    def folder(self, folder: Path) -> int:
        """`file` for all files below a folder that are not links."""
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
        return sum(self.file(path) for path in files) if self._forms else 0


def needles(values: Mapping[str, bytes]) -> list[tuple[str, str, bytes]]:
    """(name of the secret, name of the form, bytes) of all that is searched for on a disk."""
    return [(name, how, form) for name, value in values.items() for how, form in encoded_forms(piece(value)).items()]
