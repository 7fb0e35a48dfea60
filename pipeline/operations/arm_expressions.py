"""Expressions of ARM templates, as far as templates of VMs use them: `[concat(parameters('vmName'), '-nic')]`.

The grammar is Azure's: a call with arguments, texts in single quotes ('' for a quote), whole numbers, and members by
`.name` or `[index]` behind a call. https://learn.microsoft.com/azure/azure-resource-manager/templates/template-expressions
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.base.errors import UsageError

#: A function of an expression: it gets its arguments, evaluated.
Function = Callable[[Sequence[Any]], Any]
#: Nested calls, in number: no template of use has more.
_DEEPEST = 32
_TOKEN = re.compile(r"\s*(?:(?P<name>[A-Za-z_]\w*)|(?P<number>-?\d+)|(?P<text>'(?:[^']|'')*')|(?P<mark>[().,\[\]]))")


def evaluate(value: Any, functions: Mapping[str, Function]) -> Any:
    """A value of a template with all expressions in it replaced by their results.

    Raises UsageError: template-expression for one that cannot be read, template-function for an unknown function,
    and what the functions raise.
    """
    if isinstance(value, Mapping):
        return {key: evaluate(each, functions) for key, each in value.items()}
    if isinstance(value, list):
        return [evaluate(each, functions) for each in value]
    if not isinstance(value, str) or not (value.startswith("[") and value.endswith("]")):
        return value
    if value.startswith("[["):
        return value[1:]  # a text that begins with a bracket
    return _Reader(value[1:-1], functions).read()


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str


class _Reader:
    """Reads and evaluates one expression."""

    def __init__(self, text: str, functions: Mapping[str, Function]) -> None:
        self._text = text
        self._functions = {name.lower(): function for name, function in functions.items()}
        self._tokens = self._split()
        self._position = 0
        self._depth = 0

    def read(self) -> Any:
        value = self._value()
        if self._position != len(self._tokens):
            raise self._invalid(f"{self._tokens[self._position].text!r} is not expected there")
        return value

    def _split(self) -> list[_Token]:
        tokens, position, end = [], 0, len(self._text.rstrip())
        while position < end:
            found = _TOKEN.match(self._text, position)
            if found is None:
                raise self._invalid(f"it cannot be read from {self._text[position : position + 20]!r} on")
            kind = str(found.lastgroup)
            tokens.append(_Token(kind, found[kind]))
            position = found.end()
        return tokens

    def _invalid(self, why: str) -> UsageError:
        return UsageError(
            f"the expression [{self._text}] is not valid: {why}",
            name="template-expression",
            hint="write [function('text', ...)], with single quotes; a text that begins with [ is written [[",
        )

    def _next(self, *kinds: str) -> _Token:
        if self._position == len(self._tokens):
            raise self._invalid("its end is missing")
        token = self._tokens[self._position]
        if token.kind not in kinds and token.text not in kinds:
            raise self._invalid(f"{token.text!r} is not expected there")
        self._position += 1
        return token

    def _is_next(self, mark: str) -> bool:
        return self._position < len(self._tokens) and self._tokens[self._position] == _Token("mark", mark)

    def _value(self) -> Any:
        token = self._next("text", "number", "name")
        if token.kind == "text":
            return token.text[1:-1].replace("''", "'")
        if token.kind == "number":
            return int(token.text)
        value = self._call(token.text)
        while self._is_next(".") or self._is_next("["):
            value = self._member(value)
        return value

    def _call(self, name: str) -> Any:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._invalid(f"it has more than {_DEEPEST} nested calls")
        self._next("(")
        arguments: list[Any] = []
        while not self._is_next(")"):
            if arguments:
                self._next(",")
            arguments.append(self._value())
        self._next(")")
        self._depth -= 1
        function = self._functions.get(name.lower())
        if function is None:
            raise UsageError(
                f"goldsmith does not know the function {name} of [{self._text}]",
                name="template-function",
                hint=f"write its result; known functions are {', '.join(sorted(self._functions))}",
            )
        return function(arguments)

    def _member(self, value: Any) -> Any:
        if self._next(".", "[").text == ".":
            key: Any = self._next("name").text
        else:
            key = self._value()
            self._next("]")
        try:
            return value[key]
        except (KeyError, IndexError, TypeError):
            raise self._invalid(f"there is no {key!r}") from None


def concat(arguments: Sequence[Any]) -> Any:
    """Texts and numbers joined to a text, or lists to a list. Raises UsageError (template-value)."""
    if arguments and all(isinstance(each, list) for each in arguments):
        return [item for each in arguments for item in each]
    if not arguments or not all(isinstance(each, str | int) for each in arguments):
        raise bad_value("concat joins texts, or lists")
    return "".join(map(str, arguments))


def bad_value(why: str, hint: str = "correct the template, or the parameters file") -> UsageError:
    """A value that a template cannot have."""
    return UsageError(why, name="template-value", hint=hint)
