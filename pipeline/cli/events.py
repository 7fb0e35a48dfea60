"""`--events`: what a verb does, as one JSON object a line on stdout, for programs that show it while it happens.

The lines are a promise, as the output of `--json` is: `event_schema` describes them, docs/events.md explains them.
Nothing else is written to stdout. The last line is a `result`, with the document that `--json` prints, or an `error`.
"""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

import typer

from pipeline.cli import door

if TYPE_CHECKING:
    from pipeline.base.errors import GoldsmithError
    from pipeline.base.runs import Event

#: Seconds between two lines about one transfer.
_BETWEEN = 1.0
_TEXT = {"type": "string"}
_NUMBER = {"type": "number", "minimum": 0}
#: The keys of each kind of event, beside `event` and `time`; all are required.
_KINDS: dict[str, dict[str, Any]] = {
    "begin": {"image": _TEXT},
    "start": {"image": _TEXT, "stage": _TEXT, "text": _TEXT},
    "progress": {"image": _TEXT, "stage": _TEXT, "text": _TEXT},
    "line": {"image": _TEXT, "stage": _TEXT, "text": _TEXT},
    "end": {
        "image": _TEXT,
        "stage": _TEXT,
        "state": {"enum": ["kept", "new", "ok", "failed", "interrupted", "skipped"]},
        "detail": _TEXT,
        "seconds": _NUMBER,
    },
    "note": {"image": _TEXT, "text": _TEXT},
    "vm": {"vm": _TEXT, "text": _TEXT},
    "accelerator": {"image": _TEXT, "text": _TEXT},
    "saved": {"image": _TEXT, "folder": _TEXT},
    "transfer": {"text": _TEXT, "done": _NUMBER, "total": _NUMBER, "rate": _NUMBER},
    "result": {"document": {}},
    "error": {
        "name": _TEXT,
        "message": _TEXT,
        "hint": {"type": ["string", "null"]},
        "evidence": {"type": ["string", "null"]},
        "exit_code": {"type": "integer"},
    },
}


def event_schema() -> dict[str, Any]:
    """The JSON schema of one line. New kinds and keys may be added; a reader ignores those that it does not know."""
    kinds = [
        {
            "properties": {"event": {"const": kind}, **keys},
            "required": list(keys),
        }
        for kind, keys in _KINDS.items()
    ]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "goldsmith event",
        "type": "object",
        "properties": {"event": {"enum": list(_KINDS)}, "time": {"type": "string", "format": "date-time"}},
        "required": ["event", "time"],
        "oneOf": kinds,
    }


class EventStream:
    """Writes events to a stream, one line each; several threads may."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._last: tuple[str, float] = ("", 0.0)

    def emit(self, event: str, **facts: object) -> None:
        time_now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps({"event": event, "time": time_now, **facts}, default=str)
        with self._lock:
            print(line, file=self._stream, flush=True)

    def pass_on(self, image: str, line: str) -> None:
        """A line of a child's output: its events as they are, all else as a line of the image."""
        if line.startswith('{"event": '):
            with self._lock:
                print(line, file=self._stream, flush=True)
        else:
            self.emit("line", image=image, stage="", text=line)

    def transfer(self, text: str, done: int, total: int, rate: float) -> None:
        """The progress of a transfer in bytes and bytes a second; a line a second, and one at its end."""
        now = time.monotonic()
        if text == self._last[0] and now - self._last[1] < _BETWEEN and done < total:
            return
        self._last = (text, now)
        self.emit("transfer", text=text, done=done, total=total, rate=round(rate, 1))

    def error(self, error: GoldsmithError) -> None:
        self.emit(
            "error",
            name=error.name,
            message=error.message,
            hint=error.hint,
            evidence=str(error.evidence) if error.evidence else None,
            exit_code=error.exit_code,
        )


class EventListener:
    """Writes what a run does as events of an image; stands where else `Progress` follows the run."""

    def __init__(self, stream: EventStream, image: str) -> None:
        self._stream = stream
        self.image = image

    def __call__(self, event: Event) -> None:
        if event.kind == "end":
            state, _, detail = event.text.partition("\t")
            facts: dict[str, object] = {"state": state, "detail": detail, "seconds": round(event.seconds, 2)}
            self._stream.emit("end", image=self.image, stage=event.stage, **facts)
        elif event.kind == "saved":
            self._stream.emit("saved", image=self.image, folder=event.text)
        elif event.kind in ("note", "accelerator"):
            self._stream.emit(event.kind, image=self.image, text=event.text)
        elif event.kind in _KINDS:
            self._stream.emit(event.kind, image=self.image, stage=event.stage, text=event.text)

    def close(self) -> None:
        """As `Progress` has it; an event is written at once."""


_active: list[EventStream] = []


def current() -> EventStream | None:
    """The stream of this command, if it was called with --events."""
    return _active[-1] if _active else None


def events_option() -> Any:
    """The option `--events`: one JSON object a line on stdout, and everything else on stderr."""
    return typer.Option(
        "--events",
        callback=_begin,
        help="Print one JSON object a line for each thing that happens; the last has the result (docs/events.md).",
    )


def _begin(context: typer.Context, value: bool) -> bool:
    _active.clear()
    if value and not context.resilient_parsing:
        context.with_resource(door.document_only())
        _active.append(EventStream(door.document_stream()))
    return value
