"""YAML as plain data, with the place of every key and value, and without the traps of YAML 1.1.

PyYAML reads YAML 1.1, where `on` is true, `1.10` is 1.1, `12:30:00` is 45000 and `0644` is 420. A definition
that says one of these means the text, so each is a fault with the hint to quote it. The parser's nodes are
walked here, not constructed, because only nodes know their line and column.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from pipeline.definition.diagnostics import DefinitionError, Fault, shown

Place = tuple[str | int, ...]
Mark = tuple[int, int]

#: A definition is a page of text; more is a mistake, and would only be slow to refuse.
MAX_BYTES = 1024 * 1024
#: Aliases count each time they are used, so that nine lines cannot become a billion nodes.
MAX_NODES = 20_000
MAX_DEPTH = 40

_TAG = "tag:yaml.org,2002:"
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")


@dataclass
class Document:
    """The content of a file: plain data, and the place of each key and value (line, column, from 1).

    A document that is merged from several files has in `files` the places that come from a file other than its own,
    and in `parameters` the places whose value has parameters in it, each with a description of where they were set;
    `unresolved` are the places whose parameters have no value.
    """

    file: str
    data: Any = None
    keys: dict[Place, Mark] = field(default_factory=dict)
    values: dict[Place, Mark] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    files: dict[Place, str] = field(default_factory=dict)
    parameters: dict[Place, str] = field(default_factory=dict)
    unresolved: set[Place] = field(default_factory=set)
    _count: int = 0

    def add(
        self, place: Place, message: str, hint: str = "", *, at_key: bool = False, name: str = "definition"
    ) -> None:
        """Report a fault at a value (or at its key); a place that is not written stands where its parent does."""
        file, line, column = self.position(place, at_key=at_key)
        if set_by := next((self.parameters[up] for up in ancestors(place) if up in self.parameters), ""):
            hint = f"{hint}; {set_by}" if hint else set_by
        self.faults.append(Fault(file, line, column, spell(place), message, hint, name))

    def position(self, place: Place, *, at_key: bool = False) -> tuple[str, int, int]:
        """The file, line and column of a value (or of its key), or of the nearest mapping or list around it."""
        marks = self.keys if at_key else self.values
        found = place
        while found and found not in marks:
            marks, found = self.values, found[:-1]
        line, column = marks.get(found, (1, 1))
        return self.files.get(found, self.file), line, column


class TooMuch(Exception):
    """The document is deeper or larger than any valid definition; the fault has been reported."""


def ancestors(place: Place) -> list[Place]:
    """The place and all places around it, innermost first."""
    return [place[:depth] for depth in range(len(place), -1, -1)]


def spell(place: Place) -> str:
    """`steps[1].playbook`: a place as messages write it."""
    text = ""
    for part in place:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{shown(part)}" if text else shown(part)
    return text


def parse(raw: bytes, file: str) -> Document:
    """Read a definition's bytes; errors are in the document's faults, never raised.

    `data` is the readable part, for the later checks; None if the text is not YAML.
    """
    document = Document(file)
    if len(raw) > MAX_BYTES:
        document.add((), f"has {len(raw)} bytes, but a definition may have at most {MAX_BYTES}")
        return document
    try:
        root = _compose(raw, file)
    except DefinitionError as error:
        document.faults.extend(error.faults)
        return document
    if root is None:
        document.add((), "is empty", "write a new definition with goldsmith init NAME")
        return document
    try:
        document.data = _value(document, root, (), ())
    except TooMuch:
        document.data = None
    return document


def _compose(raw: bytes, file: str) -> yaml.Node | None:
    """The parser's nodes; raises DefinitionError where the bytes are not YAML."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = _end_of(raw[: error.start].decode("utf-8-sig", "replace"))
        message = f"byte 0x{raw[error.start]:02x} is not UTF-8"
        raise DefinitionError([Fault(file, line, column, "", message, "save the file as UTF-8")]) from error
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise DefinitionError(_syntax_faults(error, text, file)) from error
    except yaml.reader.ReaderError as error:
        line, column = _end_of(text[: error.position])
        message = f"has a character that YAML does not allow (U+{ord(text[error.position]):04X})"
        raise DefinitionError([Fault(file, line, column, "", message)]) from error
    except RecursionError as error:
        raise DefinitionError([Fault(file, 1, 1, "", "is nested too deeply")]) from error
    except ValueError as error:
        # PyYAML lets a few escape from its own conversions, such as chr() of an escape beyond Unicode.
        raise DefinitionError([Fault(file, 1, 1, "", f"is not YAML: {error}")]) from error


def _end_of(text: str) -> Mark:
    return text.count("\n") + 1, len(text) - (text.rfind("\n") + 1) + 1


def _syntax_faults(error: yaml.MarkedYAMLError, text: str, file: str) -> list[Fault]:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    problem = error.problem or error.context or "cannot be read"
    if "'\\t'" in problem:
        # The scanner stops at the first tab; the user would rather see them all.
        indents = ((number, re.match(r"\s*", row)) for number, row in enumerate(text.split("\n"), 1))
        found = [(number, indent[0].index("\t") + 1) for number, indent in indents if indent and "\t" in indent[0]]
        marks = sorted({(line, column), *found})
        return [
            Fault(
                file, at, col, "", "the line is indented with a tab, but YAML needs spaces", "indent with two spaces"
            )
            for at, col in marks
        ]
    if "duplicate anchor" in problem:
        return [Fault(file, line, column, "", problem)]
    if "undefined alias" in problem:
        name = problem.split("'")[1] if "'" in problem else ""
        return [Fault(file, line, column, "", f"the alias *{name} has no anchor", "quote it if text is meant")]
    if "single document" in (error.context or ""):
        return [
            Fault(
                file,
                line,
                column,
                "",
                "the file has a second document, but must have one definition",
                "remove the ---",
            )
        ]
    hint = "quote text that contains ': ' or begins with a special character" if "mapping values" in problem else ""
    if error.context and error.context_mark and error.context_mark.line + 1 != line:
        problem = f"{problem}, {error.context} on line {error.context_mark.line + 1}"
    return [Fault(file, line, column, "", f"is not YAML: {problem}", hint)]


def _mark(node: yaml.Node) -> Mark:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _value(document: Document, node: yaml.Node, place: Place, above: tuple[yaml.Node, ...]) -> Any:
    document.values[place] = _mark(node)
    document._count += 1
    if any(node is parent for parent in above):
        document.add(place, "the alias refers to a value that contains it")
        raise TooMuch
    if document._count > MAX_NODES or len(above) > MAX_DEPTH:
        what = f"has more than {MAX_NODES} values, including aliases" if document._count > MAX_NODES else "too deep"
        document.add(place[:4], f"is {what}, which is not allowed")
        raise TooMuch
    above = (*above, node)
    if isinstance(node, yaml.MappingNode):
        if node.tag != f"{_TAG}map":
            document.add(place, f"the tag {node.tag} is not allowed in a definition", "remove it")
        return _mapping(document, node, place, above)
    if isinstance(node, yaml.SequenceNode):
        if node.tag != f"{_TAG}seq":
            document.add(place, f"the tag {node.tag} is not allowed in a definition", "remove it")
        return [_value(document, item, (*place, index), above) for index, item in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)
    return _scalar(document, node, place)


def _mapping(
    document: Document, node: yaml.MappingNode, place: Place, above: tuple[yaml.Node, ...]
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        line, column = _mark(key_node)
        if not isinstance(key_node, yaml.ScalarNode):
            document.faults.append(Fault(document.file, line, column, spell(place), "a key must be text"))
            continue
        key = key_node.value
        inner = (*place, key)
        if key in lines:
            message = f"is duplicated; the first is on line {lines[key]}"
            document.faults.append(Fault(document.file, line, column, spell(inner), message, "remove one"))
            continue
        lines[key] = line
        document.keys[inner] = (line, column)
        if key_node.tag == f"{_TAG}merge":
            document.add(inner, "merge keys (<<) are not allowed", "write out all keys", at_key=True)
            continue
        if key_node.tag != f"{_TAG}str":
            read = _constructed(key_node)
            document.add(inner, f"YAML reads this key as {read}, not as text", f'quote it: "{key}"', at_key=True)
        result[key] = _value(document, value_node, inner, above)
    return result


def _scalar(document: Document, node: yaml.ScalarNode, place: Place) -> Any:
    """The value of a scalar. A scalar that YAML 1.1 would misread is a fault, and gives its text."""
    text: str = node.value
    kind = node.tag.removeprefix(_TAG)
    value: Any = text
    if odd := next((letter for letter in text if letter == "\0" or "\ud800" <= letter <= "\udfff"), None):
        document.add(place, f"has an invalid character (U+{ord(odd):04X})")
        value = ""
    elif kind in ("str", "value", "merge"):
        pass
    elif kind == "null":
        value = None
    elif kind == "bool" and text.lower() in ("true", "false"):
        value = text.lower() == "true"
    elif kind == "int" and _INTEGER.fullmatch(text) and text != "-0":
        value = int(text)
    elif kind == "float" and _is_plain_float(text):
        value = float(text)
    elif kind in ("bool", "int", "float", "timestamp"):
        read = _constructed(node)
        hint = f'quote it if text is meant: "{shown(text)}"'
        if kind == "bool":
            hint = f"write {read}, or {hint}"
        document.add(place, f"{shown(text)} is read as {read} by YAML 1.1", hint)
    else:
        document.add(place, f"the tag {node.tag} is not allowed in a definition", "remove it")
    return value


def _is_plain_float(text: str) -> bool:
    try:
        return len(text) < 20 and text[-1:].isdigit() and repr(float(text)) == text
    except ValueError:
        return False


def _constructed(node: yaml.ScalarNode) -> str:
    """What YAML 1.1 makes of a scalar, for the message."""
    if len(node.value) > 40:
        return "a number"
    constructor = yaml.constructor.SafeConstructor()
    try:
        value = constructor.construct_object(node)
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        # An explicit tag on a text that is nothing of the kind: PyYAML's constructors fail in ways of their own.
        return f"a {node.tag.removeprefix(_TAG)}"
    if node.tag == f"{_TAG}timestamp":
        return f"the date {value}"
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    return f"the number {value}"


def missing_values(document: Document) -> list[Place]:
    """Keys with nothing after the colon, outside of a step's `vars`, where Ansible has a use for null."""
    found: list[Place] = []

    def walk(value: Any, place: Place) -> None:
        if value is None:
            found.append(place)
        elif isinstance(value, dict):
            for key, item in value.items():
                if not (len(place) == 2 and place[0] == "steps" and key == "vars" and item is not None):
                    walk(item, (*place, key))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                walk(item, (*place, index))

    walk(document.data, ())
    return found
