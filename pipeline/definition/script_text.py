"""Can the guest's kernel and its interpreter read a script? Line ends, byte order marks and encodings at rest.

A kernel takes the bytes behind `#!` up to the newline for the interpreter's path, a carriage return too, and a file
that begins with a mark for no script at all; a shell takes the carriage return for part of the last word of a line.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Bytes of one line that are looked at: an interpreter's line is at most 255 (BINPRM_BUF_SIZE), a text's rarely more.
_LONGEST = 64 << 10
#: Bytes from which an encoding without a mark is recognised.
_HEAD = 512
#: Encodings of two and four bytes a character, by their marks; the longer marks first.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
#: Interpreters that read a carriage return before a newline as the end of the line; shells, awk and sed do not.
_LENIENT = re.compile(rb"(?:^|/)(?:python|pypy|node|php|pwsh)[\d.]*$")
#: Bytes that no text has: behind them lies what a self-extracting script unpacks.
_BINARY = re.compile(rb"[\x00-\x06\x0e-\x19\x1c-\x1f]")
_CONVERT = (
    "save the file with Unix line ends: sed -i 's/\\r$//' {path}; `*.sh text eol=lf` in .gitattributes keeps them"
)

_FROM_MAC = "save the file with Unix line ends: tr '\\r' '\\n' <{path} >new && mv new {path}"


@dataclass(frozen=True)
class TextFault:
    """What is wrong with a script; `line` counts from 1."""

    line: int
    message: str
    hint: str


def script_fault(path: Path, shown: str) -> TextFault | None:
    """The first thing in a Linux script that the guest could not read, None for a good one or a binary.

    `shown` is the path in the hint. Raises OSError.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(b"\x7fELF"):
        return None
    if encoding := _wide_encoding(head):
        return TextFault(
            1,
            f"the file is {encoding}, but the guest needs UTF-8",
            f"iconv -f {encoding} -t UTF-8 {shown} | tr -d '\\r' >new && mv new {shown}",
        )
    if head.startswith(codecs.BOM_UTF8):
        return TextFault(
            1,
            "the file begins with a byte order mark (EF BB BF), so its first line would be ignored",
            f"save it as UTF-8 without BOM: LC_ALL=C sed -i '1s/^\\xef\\xbb\\xbf//' {shown}",
        )
    return _line_fault(path, shown)


def windows_script_fault(path: Path, shown: str) -> TextFault | None:
    """The same for PowerShell, which reads either kind of line ends; goldsmith hands it over as UTF-8."""
    with path.open("rb") as file:
        encoding = _wide_encoding(file.read(_HEAD))
    if encoding is None:
        return None
    return TextFault(1, f"the file is {encoding}", f"save it as UTF-8: iconv -f {encoding} -t UTF-8 {shown} >new.ps1")


def _wide_encoding(head: bytes) -> str | None:
    """The name of an encoding with more than one byte a letter, by its mark or by the zero bytes of ASCII letters."""
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    for zeros, name in (
        (rb"(?:[\t\r\n -~]\0){4}", "UTF-16LE"),
        (rb"(?:\0[\t\r\n -~]){4}", "UTF-16BE"),
    ):
        if re.match(zeros, head):
            return name
    return None


def _line_fault(path: Path, shown: str) -> TextFault | None:
    hint = _CONVERT.format(path=shown)
    interpreter = b""
    blank = True
    for number, line in enumerate(_lines(path), 1):
        if _BINARY.search(line):
            return None
        if number == 1 and b"\r" in line and not line.endswith(b"\n"):
            return TextFault(1, "the lines end with only a carriage return (old Mac)", _FROM_MAC.format(path=shown))
        if number == 1 and line.startswith(b"#!"):
            words = line[2:].rstrip(b"\r\n").split()
            interpreter = b" ".join(words[1:2] if words and words[0].endswith(b"/env") else words[:1])
            if b"\r" in line:
                name = words[0].decode("utf-8", "replace") if words else "the interpreter"
                return TextFault(1, f"the line ends with a carriage return, so {name}\\r would not be found", hint)
        elif number > 1 and blank and line.lstrip().startswith(b"#!"):
            return TextFault(
                number,
                "#! is not at the start of the file, so /bin/sh would run the script",
                f"remove what is before it: sed -i '1,{number - 1}d' {shown}",
            )
        blank = blank and not line.strip()
        ended = line.rstrip(b"\n")
        if ended.endswith(b"\r") and not _LENIENT.search(interpreter):
            return TextFault(
                number, "the line ends with a carriage return, which would be part of its last word", hint
            )
    return None


def _lines(path: Path) -> Iterator[bytes]:
    """The lines with their newlines; the rest of a line that is too long is left out."""
    with path.open("rb") as file:
        while line := file.readline(_LONGEST):
            if not line.endswith(b"\n"):
                while (rest := file.readline(_LONGEST)) and not rest.endswith(b"\n"):
                    pass
            yield line
