"""What is wrong with a definition, and where: one line a fault, all of them in one error."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.base.errors import UsageError


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong; `str()` of it is the line that the user reads.

    `line` and `column` count characters from 1. `key` is written as in `steps[1].playbook`, counted from 0,
    and is empty where the fault is the file's own. `file` is relative to the project where it lies inside.
    `name` is stable, for scripts.
    """

    file: str
    line: int
    column: int
    key: str
    message: str
    hint: str = ""
    name: str = "definition"

    def __str__(self) -> str:
        parts = [f"{self.file}:{self.line}:{self.column}", self.key, self.message]
        text = ": ".join(part for part in parts if part)
        return printable(f"{text} ({self.hint})" if self.hint else text)


class DefinitionError(UsageError):
    """One or more definitions are wrong; the message is all fault lines, in the order of the files.

    The error has the name of its faults where all have the same, else `definition`.
    """

    has_places = True

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        names = {fault.name for fault in self.faults}
        name = names.pop() if len(names) == 1 else "definition"
        super().__init__("\n".join(str(fault) for fault in self.faults), name=name)
        self.hint = None  # each line has its own


class Wrong(ValueError):
    """A value that cannot be meant. `at` leads from the value to the part of it that is wrong."""

    def __init__(self, message: str, hint: str = "", at: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.at = at


def closest(word: str, known: Iterable[str]) -> str:
    """The known word that was probably meant, as a hint (`shop.yml?`), or nothing."""
    names = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    return f"{names[found[0]]}?" if found else ""


def printable(text: str) -> str:
    """The text on one line that every terminal and encoding can show; what it cannot is escaped."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def shown(value: object, limit: int = 60) -> str:
    """A value from a definition as a message quotes it: short, and named for what YAML made of it."""
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case None:
            return "nothing"
    text = str(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
