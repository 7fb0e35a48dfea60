"""How things are printed: errors, tables, progress. Plain lines where there is no terminal."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.base.errors import DiskError, GoldsmithError
from pipeline.base.printable import printable, single_line
from pipeline.cli import door

if TYPE_CHECKING:
    from rich.live import Live

    from pipeline.base.runs import Event
    from pipeline.cli.events import EventListener

#: Width of the stage's name in a progress line.
_NAME = 12


def print_error(error: GoldsmithError) -> None:
    """What, why, where to look, how to go on. On stderr."""
    # a disk's text must not forge a line; a definition has a line for each fault
    foreign = isinstance(error, DiskError)
    lines = [single_line(error.message)] if foreign else printable(error.message).rstrip("\n").split("\n")
    # lines with a place of their own are bare, so that an editor jumps there
    out = list(lines) if error.has_places else [f"goldsmith: {lines[0]}", *lines[1:]]
    if error.has_places:
        out.append(f"goldsmith: {len(lines)} fault{'s' if len(lines) > 1 else ''}")
    if error.evidence:
        out.append(f"  look   {single_line(error.evidence)}")
    if error.hint:
        out.append(f"  hint   {printable(error.hint)}")
    print("\n".join(out), file=sys.stderr)


class _DamageShown(logging.Handler):
    """Prints each damaged record that was skipped, once, on stderr: path, reason, and what to do."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        error = getattr(record, "record", None)
        if not isinstance(error, GoldsmithError) or error.message in self._seen:
            return
        self._seen.add(error.message)
        print(f"goldsmith: skipped {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  hint   {error.hint}", file=sys.stderr)


class _WaitShown(logging.Handler):
    """Prints on stderr what a command waits for."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"goldsmith: {single_line(record.getMessage())}", file=sys.stderr, flush=True)


def show_waits() -> None:
    """From now on say which process a command waits for."""
    log = logging.getLogger("goldsmith.waits")
    log.handlers = [_WaitShown()]
    log.propagate = False


def show_damage() -> None:
    """From now on say which damaged records are skipped."""
    log = logging.getLogger("goldsmith.records")
    log.handlers = [_DamageShown()]
    log.propagate = False
    # a completion in the same process has silenced it
    log.setLevel(logging.NOTSET)


def print_json(data: object) -> None:
    """One document on stdout, also where `--json` has sent all else to stderr."""
    print(json.dumps(data, indent=2, default=str), file=door.document_stream())


def print_text(text: str) -> None:
    """A text on stdout, also where all else goes to stderr; nothing for an empty one."""
    if text:
        print(text, file=door.document_stream())


def booted(cell: str, seen: Mapping[str, Any]) -> str:
    """The result of a clone in a few words; a clone that was not provisioned has no boot time."""
    seconds = seen.get("seconds", {}).get("ssh")
    return f"{cell} booted in {seconds:.0f} s" if seconds is not None else f"{cell} passed"


def name_digest(digest: str) -> str:
    """A version's digest with its kind."""
    return digest if digest.startswith("tree:") else f"sha256 {digest}"


def table(rows: Sequence[Sequence[str]], header: Sequence[str], *, empty: str = "") -> None:
    """Aligned columns; where there are no rows nothing but `empty`, on stderr."""
    if not rows:
        if empty:
            print(empty, file=sys.stderr)
        return
    cells = [[single_line(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    # one write: a terminal, and the door before it, take as long for a line as for a page
    print("\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells))


def size(number: int) -> str:
    """Bytes for people: 8.0 GiB, 512.0 MiB."""
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def follow(*, verbose: bool = False, image: str = "") -> Progress | EventListener:
    """What follows a run: its events as JSON if the command has --events, else lines for people."""
    from pipeline.cli import events

    stream = events.current()
    return Progress(verbose=verbose) if stream is None else events.EventListener(stream, image)


class Progress:
    """Follows a run: on a terminal one live line a stage, elsewhere a plain line at each stage's end."""

    def __init__(self, *, verbose: bool = False) -> None:
        self._terminal = sys.stdout.isatty()
        self._verbose = verbose
        self._live: Live | None = None
        self._current: tuple[str, str] | None = None
        self._title = ""
        self._began = 0.0
        #: Units of one stage that ended, shown as one line: stage, state, seconds, details.
        self._held: tuple[str, str, float, list[str]] | None = None
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._handle(event)

    def _handle(self, event: Event) -> None:
        if event.kind == "start":
            self._start(event.stage, event.text)
        elif event.kind == "progress" and self._current:
            self._current = (event.stage, event.text)
            self._draw()
        elif event.kind == "line" and self._verbose:
            self._line(f"{'':{_NAME}} | {event.text}")
        elif event.kind == "line" and self._current and self._terminal:
            self._current = (event.stage, f"{self._title}: {event.text.strip()}")
        elif event.kind == "end":
            self._end(event)
        elif event.kind in ("accelerator", "note"):
            self._flush()
            self._line(f"{event.kind:{_NAME}} {event.text}")

    def _start(self, stage: str, text: str) -> None:
        if self._held and self._held[0] != stage:
            self._flush()
        if self._held is None:
            self._began = time.monotonic()
        self._current = (stage, text)
        self._title = text
        if self._terminal and self._live is None:
            from rich.console import Console
            from rich.live import Live

            # its own prints pass the door; what it draws is made printable first
            self._live = Live(
                console=Console(file=door.unguarded()),
                refresh_per_second=4,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
                get_renderable=self._renderable,
            )
            self._live.start()
        elif not self._terminal:
            self._line(f"{stage:{_NAME}} ...             {text}")

    def _end(self, event: Event) -> None:
        state, _, detail = event.text.partition("\t")
        self._stop()
        if self._held and self._held[:2] == (event.stage, state):
            _, _, seconds, details = self._held
            self._held = (event.stage, state, seconds + event.seconds, [*details, detail])
        else:
            self._flush()
            self._held = (event.stage, state, event.seconds, [detail])
        self._current = None

    def _flush(self) -> None:
        if self._held is None:
            return
        stage, state, seconds, details = self._held
        self._held = None
        took = f"{seconds:6.1f} s" if seconds else f"{'':8}"
        summary = details[0] if len(details) == 1 else f"{len(details)} layers: {', '.join(details)}"
        self._line(f"{stage:{_NAME}} {state:6} {took}  {summary}".rstrip())

    def _renderable(self) -> Any:
        from rich.text import Text

        if self._current is None:
            return Text("")
        stage, text = self._current
        return Text(
            f"{stage:{_NAME}} {time.monotonic() - self._began:5.0f} s  {single_line(text)}",
            no_wrap=True,
            overflow="ellipsis",
        )

    def _draw(self) -> None:
        if self._live is not None:
            self._live.refresh()

    def _line(self, text: str) -> None:
        text = single_line(text)
        if self._live is not None:
            from rich.text import Text

            self._live.console.print(Text(text))
        else:
            print(text, flush=True)

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def close(self) -> None:
        with self._lock:
            self._stop()
            self._flush()
