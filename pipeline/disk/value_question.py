"""Asks whether known values stand on a disk, such as secrets of the build; `value_search` answers in the sandbox."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.disk import sandbox
from pipeline.disk.questions import Question, clean_text, lies

VALUES = Question("values", "pipeline.disk.value_search:find_values")


@dataclass(frozen=True)
class FoundValue:
    """Where a value stands: `form` as in `base.secret_forms`, `path` empty where no file has the place."""

    name: str
    form: str
    offset: int
    layers: tuple[str, ...]
    path: str

    def __str__(self) -> str:
        inside = f" (inside {' in '.join(reversed(self.layers))})" if self.layers else ""
        form = "" if self.form == "plain" else f" in {self.form}"
        return f"{self.name}{form} in {self.path or f'no file, at byte {self.offset} of the disk'}{inside}"


def search_disk(
    path: Path, fmt: str | None, needles: Sequence[tuple[str, str, bytes]], *, within: Path | None = None
) -> tuple[list[FoundValue], list[str]]:
    """Search a disk for values (name, form, bytes): what was found, and what could not be searched.

    At most twenty places are given. Raises DiskError as `sandbox.ask`.
    """
    order = {"needles": [[name, form, base64.b64encode(data).decode()] for name, form, data in needles]}
    with sandbox.Worker([VALUES], path, fmt, within=within) as worker:
        value = worker.ask(VALUES, order).value
    try:
        hits = [
            FoundValue(
                needles[number][0], needles[number][1], int(offset), tuple(map(clean_text, layers)), clean_text(at)
            )
            for number, offset, layers, at in value["hits"]
        ]
        return hits, [clean_text(gap) for gap in value["gaps"]]
    except (KeyError, TypeError, ValueError, IndexError):
        raise lies(path) from None
