"""The `${...}` and `%{...}` in a text: cut into parts, and put together again with values."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.packer.limits import Budget, NotKnown, Unknown, known

_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_LETTERS = {"n": "\n", "t": "\t", "r": "\r"}


@dataclass(frozen=True)
class Part:
    """A part of a text: kind is text, value, if, else, endif, for or endfor.

    `node` is the expression of a value, of a condition or of a list. `trims` are the marks ~ before and after.
    """

    kind: str
    text: str = ""
    node: Any = None
    names: tuple[str, ...] = ()
    trims: tuple[bool, bool] = (False, False)


def to_text(value: Any) -> str:
    """A value as a text has it. Raises NotKnown for an unknown value, a list and a map."""
    known(value)
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, int | float):
        return str(value)
    raise NotKnown("a text, not a list, a map or null")


def to_json(value: Any) -> str:
    """A value as JSON, as jsonencode() writes it."""

    def refuse(other: Any) -> Any:
        raise NotKnown(other.reason if isinstance(other, Unknown) else "a value that JSON has")

    return json.dumps(value, separators=(",", ":"), default=refuse)


def unescape(text: str) -> str:
    """A quoted text without its backslashes."""

    def letter(found: re.Match[str]) -> str:
        word = found[1]
        if word[0] in "uU" and len(word) > 1:
            number = int(word[1:], 16)
            return chr(number) if number < 0x110000 and not 0xD800 <= number < 0xE000 else "�"
        return _LETTERS.get(word, word)

    return _ESCAPE.sub(letter, text)


def without_indent(text: str) -> str:
    """The lines of `<<-`: without the indent that all of them have."""
    lines = text.splitlines(keepends=True)
    indents = [len(line) - len(line.lstrip(" \t")) for line in lines if line.strip()]
    least = min(indents, default=0)
    return "".join(line[least:] if line.strip() else line.lstrip(" \t") for line in lines)


def cut_text(text: str, parse: Callable[[str], Any]) -> list[Part]:
    """The parts of a text without quotes. Raises NotKnown for a sequence that does not end."""
    parts: list[Part] = []
    plain: list[str] = []
    place = 0
    while place < len(text):
        begin = re.compile(r"\$\$\{|%%\{|\$\{|%\{").search(text, place)
        if begin is None:
            break
        plain.append(text[place : begin.start()])
        if len(begin[0]) == 3:  # written twice, it means itself
            plain.append(begin[0][1:])
            place = begin.end()
            continue
        end = _end_of_sequence(text, begin.end())
        if plain:
            parts.append(Part("text", text="".join(plain)))
            plain = []
        parts.append(_sequence(begin[0], text[begin.end() : end], parse))
        place = end + 1
    plain.append(text[place:])
    if rest := "".join(plain):
        parts.append(Part("text", text=rest))
    return parts


def _end_of_sequence(text: str, place: int) -> int:
    """The place of the bracket that ends a sequence; brackets in quotes do not count."""
    depth, quoted = 1, False
    while place < len(text):
        letter = text[place]
        if quoted and letter == "\\":
            place += 1
        elif letter == '"':
            quoted = not quoted
        elif not quoted:
            depth += (letter == "{") - (letter == "}")
            if depth == 0:
                return place
        place += 1
    raise NotKnown("a } that ends a ${ or a %{")


def _sequence(begin: str, body: str, parse: Callable[[str], Any]) -> Part:
    trims = (body.startswith("~"), body.endswith("~"))
    body = body.strip("~").strip()
    if begin == "${":
        return Part("value", node=parse(body), trims=trims)
    word, _, rest = body.partition(" ")
    if word == "if":
        return Part("if", node=parse(rest), trims=trims)
    if word == "for":
        names, _, collection = rest.partition(" in ")
        return Part("for", node=parse(collection), names=tuple(re.findall(r"[\w-]+", names)), trims=trims)
    if word in ("else", "endif", "endfor"):
        return Part(word, trims=trims)
    raise NotKnown(f"the template directive {word[:40]}")


def render(
    parts: Sequence[Part], names: Mapping[str, Any], evaluate: Callable[[Any, Mapping[str, Any]], Any], budget: Budget
) -> str:
    """The text of all parts. Raises NotKnown."""
    out, rest = _render(_trimmed(parts), names, evaluate, budget)
    if rest:
        raise NotKnown(f"a text in which {rest[0].kind} has a beginning")
    return out


def _render(
    parts: Sequence[Part], names: Mapping[str, Any], evaluate: Callable[[Any, Mapping[str, Any]], Any], budget: Budget
) -> tuple[str, Sequence[Part]]:
    """The text up to the first else or end that has no beginning here, and the parts from there on."""
    from pipeline.packer.hcl import rounds, to_bool

    out: list[str] = []
    with budget:
        while parts and parts[0].kind in ("text", "value", "if", "for"):
            part, parts = parts[0], parts[1:]
            if part.kind == "text":
                out.append(part.text)
            elif part.kind == "value":
                out.append(to_text(evaluate(part.node, names)))
            else:
                yes, no, parts = _bodies(parts)
                if part.kind == "if":
                    body = yes if to_bool(evaluate(part.node, names)) else no
                    out.append(_render(body, names, evaluate, budget)[0])
                else:
                    for inner in rounds(part.names, evaluate(part.node, names), names, budget):
                        out.append(_render(yes, inner, evaluate, budget)[0])
        return budget.text("".join(out)), parts


def _bodies(parts: Sequence[Part]) -> tuple[list[Part], list[Part], Sequence[Part]]:
    """What is between a beginning and its else, between that and its end, and what follows. Raises NotKnown."""
    bodies: tuple[list[Part], list[Part]] = ([], [])
    depth, which = 0, 0
    for index, part in enumerate(parts):
        if depth == 0 and part.kind in ("endif", "endfor"):
            return bodies[0], bodies[1], parts[index + 1 :]
        if depth == 0 and part.kind == "else":
            which = 1
            continue
        depth += (part.kind in ("if", "for")) - (part.kind in ("endif", "endfor"))
        bodies[which].append(part)
    raise NotKnown("an %{ endif } or %{ endfor }")


def _trimmed(parts: Sequence[Part]) -> list[Part]:
    """The parts without the blanks that a ~ removes beside it."""
    out = list(parts)
    for index, part in enumerate(parts):
        if part.trims[0] and index and out[index - 1].kind == "text":
            out[index - 1] = Part("text", text=out[index - 1].text.rstrip())
        if part.trims[1] and index + 1 < len(out) and out[index + 1].kind == "text":
            out[index + 1] = Part("text", text=out[index + 1].text.lstrip())
    return out
