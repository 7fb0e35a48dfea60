"""The filter of all output, so that no foreign text reaches a terminal as a control sequence.

Names, headers and records of others are escaped where they are put into a line (`pipeline.base.printable`); this
filter catches the places that were forgotten. goldsmith's own colours and rewritten lines carry a mark that is drawn
for each process, so that no other program can know it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

from pipeline.base.errors import HostError
from pipeline.base.printable import printable

_MARK = secrets.token_hex(8)
_OWN = re.compile(f"\x1b{_MARK}<([^<>]*)>")


class GuardedStream(io.TextIOWrapper):
    """A text stream that escapes control sequences, and bytes of file names that are not UTF-8."""

    def write(self, text: str) -> int:
        if text == "":
            return 0  # a library that only tries what kind of stream this is must not meet a full disk
        parts = _OWN.split(text)
        # every second part lies between two marks: goldsmith's own sequence
        safe = [part if index % 2 else printable(part) for index, part in enumerate(parts)]
        try:
            super().write("".join(safe))
        except OSError as error:
            _judge_failure(self, error)
        return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            _judge_failure(self, error)


_gone: list[GuardedStream] = []


def reader_is_gone() -> bool:
    """Whether the reader of the output has closed it: `goldsmith ... | head -1`."""
    return bool(_gone)


def _judge_failure(stream: GuardedStream, error: OSError) -> None:
    """From now on write to nowhere. Without a reader the main thread is interrupted as by a signal: nobody waits for
    the result. Raises HostError (output-not-written) for all other failures, such as a full disk.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
    if not isinstance(error, BrokenPipeError):
        raise HostError(
            f"the output could not be written: {error.strerror}",
            name="output-not-written",
            hint="free space there, or write the output to another place",
        ) from None
    if not _gone:
        _gone.append(stream)
        # the handler of `__main__` asks `reader_is_gone`; whatever thread wrote, the main one ends the command
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGHUP)


def guard_output() -> None:
    """Put the filter before stdout and stderr. Called once, by `__main__` only."""
    _open_closed_streams()
    sys.stdout = _guarded(sys.stdout)
    sys.stderr = _guarded(sys.stderr)


def _open_closed_streams() -> None:
    """Give each of the three streams that the caller has closed a place: else an opened file would get its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    # Python has None for a stream that was closed when it started
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


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
    """A control sequence of goldsmith's own, for `stream` (stdout); empty if that is not a terminal."""
    stream = stream or sys.stdout
    if not stream.isatty():
        return ""
    return f"\x1b{_MARK}<{code}>" if isinstance(stream, GuardedStream) else code


def has_colour(stream: TextIO | None = None) -> bool:
    """Whether `stream` (stdout) is a terminal whose owner wants colours: https://no-color.org, and TERM=dumb."""
    stream = stream or sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str) -> str:
    """`text` in a colour of ISO 6429 ('32' is green), where colours are wanted."""
    if not has_colour():
        return text
    begin, end = own(f"\x1b[{colour}m"), own("\x1b[0m")
    return f"{begin}{text}{end}"


def unguarded() -> TextIO:
    """stdout without the filter, only for a drawing library; its texts must have been made printable before."""
    return sys.__stdout__ or sys.stdout


# ---- JSON alone on stdout ----------------------------------------------------------------------------------------

_document: list[TextIO] = []


@contextlib.contextmanager
def document_only() -> Iterator[None]:
    """While the block runs, all prints go to stderr, and stdout is reserved for `document_stream`."""
    _document.append(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _document.pop()


def document_stream() -> TextIO:
    """The real stdout, for a verb's JSON."""
    return _document[-1] if _document else sys.stdout
