"""How much of a stranger's template is read and computed, and what stands for a value that is not known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.base.errors import UsageError

#: Bytes of one template or text file. Packer's largest public templates have 60 KiB.
FILE_BYTES = 1 << 20
#: Files of one folder that belong to one template.
FILES = 64
#: Bytes of all files that are copied into the project, and their number.
COPIED_BYTES = 64 << 20
COPIED_FILES = 2000
#: Nested expressions, blocks and templates.
DEPTH = 60
#: Expressions that are evaluated for one template.
STEPS = 200_000
#: Characters of one text, items of one list.
TEXT = 1 << 20
ITEMS = 10_000


@dataclass(frozen=True)
class Unknown:
    """Stands for a value that cannot be computed here; `reason` completes: "it needs ..."."""

    reason: str


class NotKnown(Exception):
    """An expression needs a value that is not known here. It ends one expression, not the import."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Budget:
    """Counts what a template costs. Raises UsageError (packer-too-large) where it costs too much."""

    def __init__(self) -> None:
        self._steps = STEPS
        self._depth = 0
        self._text = 16 * TEXT

    def __enter__(self) -> Budget:
        self._steps -= 1
        self._depth += 1
        if self._steps < 0:
            raise too_large(f"it has more than {STEPS} expressions to evaluate")
        if self._depth > DEPTH:
            raise too_large(f"its expressions are nested more than {DEPTH} deep")
        return self

    def __exit__(self, *_error: object) -> None:
        self._depth -= 1

    def text(self, text: str) -> str:
        """The text, if it is not too long, and not too much with those before."""
        self._text -= len(text)
        if len(text) > TEXT or self._text < 0:
            raise too_large(f"a text has more than {TEXT} characters, or all texts have more than {16 * TEXT}")
        return text

    @staticmethod
    def items(count: int) -> int:
        if count > ITEMS:
            raise too_large(f"a list has more than {ITEMS} items")
        return count


def weigh(value: object, most: int = 8 * TEXT) -> int:
    """The characters and items of a value as if it were written out; stops beyond `most`."""
    waiting, weight = [value], 0
    while waiting and weight <= most:
        found = waiting.pop()
        weight += 1
        if isinstance(found, str):
            weight += len(found)
        elif isinstance(found, list | tuple):
            waiting.extend(found)
        elif isinstance(found, dict):
            waiting.extend(found)
            waiting.extend(found.values())
    return weight


def require_light(value: object) -> None:
    """Raise UsageError (packer-too-large) for a value that is too large when it is written out."""
    if weigh(value) > 8 * TEXT:
        raise too_large(f"a value has more than {8 * TEXT} characters")


def too_large(why: str) -> UsageError:
    return UsageError(
        f"the template is too large: {why}",
        name="packer-too-large",
        hint="import a smaller template, or write the definition: goldsmith init NAME",
    )


def known(value: object) -> object:
    """The value; raises NotKnown if it is Unknown."""
    if isinstance(value, Unknown):
        raise NotKnown(value.reason)
    return value


@dataclass(frozen=True)
class Folder:
    """The folders that a template may read: its own, and `root`, which the user has named."""

    path: Path
    root: Path

    def find(self, word: str) -> Path:
        """The path that a template names, absolute, without links. Raises NotKnown if it is outside or missing."""
        if "\0" in word or len(word) > 4096:
            raise NotKnown("a path that no file can have")
        for base in (self.path, self.root):
            try:
                found = (base / word).resolve()
                is_there = found.exists()
            except (OSError, RuntimeError) as error:
                raise NotKnown(f"{word}, which cannot be read: {error}") from error
            if not is_there:
                continue
            if not any(found.is_relative_to(each) for each in (self.path, self.root)):
                raise NotKnown(f"{word}, which is outside of {self.root} and was not read; --root FOLDER permits it")
            return found
        raise NotKnown(f"{word}, which does not exist in {self.root}")

    def read(self, word: str) -> str:
        """The text of a file. Raises NotKnown."""
        return self.read_bytes(word).decode("utf-8", "replace")

    def read_bytes(self, word: str) -> bytes:
        """The bytes of a regular file of at most FILE_BYTES. Raises NotKnown."""
        path = self.find(word)
        if not path.is_file():
            raise NotKnown(f"{word}, which is not a file")
        try:
            with path.open("rb") as stream:
                data = stream.read(FILE_BYTES + 1)
        except OSError as error:
            raise NotKnown(f"{word}, which cannot be read: {error.strerror}") from error
        if len(data) > FILE_BYTES:
            raise NotKnown(f"{word}, which has more than {FILE_BYTES} bytes")
        return data
