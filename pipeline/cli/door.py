"""The output door: all that goldsmith prints passes here, so that no foreign text reaches a terminal as a command.

Names, headers and records of others are escaped where they are put into a line (`pipeline.printable`); this door
holds for whatever was forgotten there. goldsmith's own colours and rewritten lines carry a mark that is drawn for
each process, which nobody else can know.
"""

from __future__ import annotations

import io
import re
import secrets
import sys
from typing import TextIO

from pipeline.printable import printable

_MARK = secrets.token_hex(8)
_OWN = re.compile(f"\x1b{_MARK}<([^<>]*)>")


class GuardedStream(io.TextIOWrapper):
    """A text stream that escapes what a terminal would obey, and bytes of file names that are not UTF-8."""

    def write(self, text: str) -> int:
        parts = _OWN.split(text)
        # every second part is what the mark holds: goldsmith's own code
        safe = [part if index % 2 else printable(part) for index, part in enumerate(parts)]
        super().write("".join(safe))
        return len(text)


def guard_output() -> None:
    """Put the door before stdout and stderr. For `__main__` alone, and once."""
    sys.stdout = _guarded(sys.stdout)
    sys.stderr = _guarded(sys.stderr)


def _guarded(stream: TextIO) -> TextIO:
    # a stream of a test, or one that is closed, has no bytes below it
    if isinstance(stream, GuardedStream) or not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.flush()
    return GuardedStream(
        stream.buffer,
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=True,
    )


def own(code: str, stream: TextIO | None = None) -> str:
    """A control sequence of goldsmith's own, for `stream` (stdout); nothing where that is no terminal."""
    stream = stream or sys.stdout
    if not stream.isatty():
        return ""
    return f"\x1b{_MARK}<{code}>" if isinstance(stream, GuardedStream) else code


def paint(text: str, colour: str) -> str:
    """`text` in a colour of ISO 6429 ('32' is green), on a terminal only."""
    begin, end = own(f"\x1b[{colour}m"), own("\x1b[0m")
    return f"{begin}{text}{end}"


def unguarded() -> TextIO:
    """stdout without the door, for a drawing library alone; its texts must have been made printable before."""
    return sys.__stdout__ or sys.stdout
