"""The text of HCL2: python-hcl2's grammar gives the tree, and this evaluates its expressions.

Values are str, bool, int, float, None, list, dict and Unknown. Nothing is run and nothing is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lark import Token, Tree
from lark.exceptions import UnexpectedInput, VisitError

from pipeline.base.errors import UsageError
from pipeline.packer.limits import Budget, NotKnown, Unknown, known, require_light, too_large
from pipeline.packer.text_template import Part, cut_text, render, to_text, unescape, without_indent

Node = Tree[Token] | Token
Names = Mapping[str, Any]
#: A function gets its evaluated arguments.
Functions = Mapping[str, Callable[..., Any]]

#: Characters that open and close what a parser has to nest.
_NESTING = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}
_MOST_NESTED = 400


def parse(text: str, name: str) -> Tree[Token]:
    """The tree of an HCL2 file. Raises UsageError (packer-syntax), (packer-too-large)."""
    from hcl2.api import parses_to_tree

    depth = 0
    for letter in text:
        depth += _NESTING.get(letter, 0)
        if depth > _MOST_NESTED:
            raise too_large(f"{name} has more than {_MOST_NESTED} nested brackets")
    try:
        tree: Tree[Token] = parses_to_tree(text if text.endswith("\n") else f"{text}\n")
    except (UnexpectedInput, VisitError) as error:
        place = f"{name}:{getattr(error, 'line', 1)}:{getattr(error, 'column', 1)}"
        raise UsageError(
            f"{place}: this is not the syntax of HCL2",
            name="packer-syntax",
            hint="run packer validate on the template, then import it again",
        ) from error
    return tree


def trees(node: Tree[Token]) -> list[Tree[Token]]:
    """The parts of a node, without its punctuation, line ends and comments."""
    return [each for each in node.children if isinstance(each, Tree) and each.data != "new_line_or_comment"]


def name_of(node: Node) -> str:
    """An identifier, or the text of a label."""
    if isinstance(node, Token):
        return str(node)
    return "".join(name_of(each) for each in node.children if not (isinstance(each, Token) and each == '"'))


def has_token(node: Tree[Token], kind: str) -> bool:
    return any(isinstance(each, Token) and each.type == kind for each in node.children)


class Evaluator:
    """Evaluates expressions with a set of functions, within a budget."""

    def __init__(self, functions: Functions, budget: Budget) -> None:
        self._functions = functions
        self.budget = budget

    def text(self, text: str, names: Names) -> Any:
        """The value of a text with `${...}` in it, such as the body of a heredoc."""
        return self._render(cut_text(text, self._expression), names)

    def _expression(self, text: str) -> Tree[Token]:
        return trees(trees(trees(parse(f"x = (\n{text}\n)", "an expression"))[0])[0])[-1]

    def try_value(self, node: Node, names: Names) -> Any:
        """As `value`, with Unknown for what cannot be computed."""
        try:
            return self.value(node, names)
        except NotKnown as error:
            return Unknown(error.reason)

    def value(self, node: Node, names: Names) -> Any:
        """The value of an expression. Raises NotKnown, UsageError (packer-too-large)."""
        with self.budget:
            if isinstance(node, Token):
                raise NotKnown(f"the expression {str(node)[:60]!r}")
            rule: Callable[[Tree[Token], Names], Any] | None = getattr(self, f"_{node.data}", None)
            if rule is None:
                raise NotKnown(f"an expression of the kind {node.data}")
            return rule(node, names)

    # -- terms ---------------------------------------------------------------------------------------------------

    def _expr_term(self, node: Tree[Token], names: Names) -> Any:
        return self.value(trees(node)[0], names)

    @staticmethod
    def _int_lit(node: Tree[Token], _names: Names) -> Any:
        return _number(lambda: int(name_of(node)[:400]))

    @staticmethod
    def _float_lit(node: Tree[Token], _names: Names) -> Any:
        return _number(lambda: float(name_of(node)[:400]))

    @staticmethod
    def _literal_value(node: Tree[Token], _names: Names) -> bool | None:
        return {"true": True, "false": False, "null": None}[name_of(node)]

    @staticmethod
    def _identifier(node: Tree[Token], names: Names) -> Any:
        name = name_of(node)
        if name not in names:
            raise NotKnown(f"{name}, which is not known here")
        return known(names[name])

    def _string(self, node: Tree[Token], names: Names) -> Any:
        return self._render([_part_of_string(each) for each in trees(node)], names)

    def _heredoc_template(self, node: Tree[Token], names: Names) -> Any:
        return self.text(_heredoc(name_of(node)), names)

    def _heredoc_template_trim(self, node: Tree[Token], names: Names) -> Any:
        return self.text(without_indent(_heredoc(name_of(node))), names)

    def _tuple(self, node: Tree[Token], names: Names) -> list[Any]:
        self.budget.items(len(node.children))
        return [self.try_value(each, names) for each in trees(node)]

    def _object(self, node: Tree[Token], names: Names) -> dict[str, Any]:
        self.budget.items(len(node.children))
        return {
            to_text(self._key(key, names)): self.try_value(value, names)
            for key, value in (trees(element) for element in trees(node))
        }

    def _key(self, node: Tree[Token], names: Names) -> Any:
        (inner,) = trees(node)
        if inner.data == "keyword" or (inner.data == "expr_term" and trees(inner)[0].data == "identifier"):
            return name_of(inner)
        return self.value(inner, names)

    # -- operators -----------------------------------------------------------------------------------------------

    def _conditional(self, node: Tree[Token], names: Names) -> Any:
        condition, yes, no = trees(node)
        return self.value(yes if to_bool(self.value(condition, names)) else no, names)

    def _binary_op(self, node: Tree[Token], names: Names) -> Any:
        # the grammar nests a chain to the left: it is walked in a loop, so that its length is not its depth
        terms = []
        first: Tree[Token] = node
        while first.data == "binary_op":
            first, term = trees(first)
            terms.append(trees(term))
        left = self.value(first, names)
        for sign, right in reversed(terms):
            # a line end or a comment may stand before it in the same token
            left = self._combine(name_of(sign).split()[-1], left, right, names)
        return left

    def _combine(self, sign: str, left: Any, right: Tree[Token], names: Names) -> Any:
        if sign in ("&&", "||"):
            if to_bool(left) == (sign == "||"):
                return to_bool(left)
            return to_bool(self.value(right, names))
        value = self.value(right, names)
        if sign in ("==", "!="):
            same = type(left) is type(value) and left == value
            if {type(left), type(value)} == {int, float}:
                same = left == value
            return same == (sign == "==")
        return _calculate(sign, to_number(left), to_number(value))

    def _unary_op(self, node: Tree[Token], names: Names) -> Any:
        value = self.value(trees(node)[0], names)
        return not to_bool(value) if has_token(node, "NOT") else -to_number(value)

    # -- parts of values -----------------------------------------------------------------------------------------

    def _get_attr_expr_term(self, node: Tree[Token], names: Names) -> Any:
        base, step = trees(node)
        return self._step(self.value(base, names), step, names)

    _index_expr_term = _get_attr_expr_term

    def _step(self, value: Any, step: Tree[Token], names: Names) -> Any:
        if step.data == "get_attr":
            return get_item(value, name_of(trees(step)[0]))
        if step.data == "short_index":
            return get_item(value, int(name_of(step).lstrip(".")[:9]))
        return get_item(value, self.value(trees(step)[0], names))

    def _attr_splat_expr_term(self, node: Tree[Token], names: Names) -> Any:
        base, splat = trees(node)
        value = self.value(base, names)
        items = [] if value is None else value if isinstance(value, list) else [value]
        out = []
        for item in items:
            found = known(item)
            for step in trees(splat):
                found = self._step(found, step, names)
            out.append(found)
        return out

    _full_splat_expr_term = _attr_splat_expr_term

    def _for_tuple_expr(self, node: Tree[Token], names: Names) -> list[Any]:
        intro, body, *condition = trees(node)
        return [self.try_value(body, inner) for inner in self._rounds(intro, names) if self._holds(condition, inner)]

    def _for_object_expr(self, node: Tree[Token], names: Names) -> dict[str, Any]:
        intro, key, body, *condition = trees(node)
        out: dict[str, Any] = {}
        for inner in self._rounds(intro, names):
            if not self._holds(condition, inner):
                continue
            name, value = to_text(self.value(key, inner)), self.try_value(body, inner)
            if has_token(node, "ELLIPSIS"):
                out.setdefault(name, []).append(value)
            else:
                out[name] = value
        return out

    def _rounds(self, intro: Tree[Token], names: Names) -> Iterator[Names]:
        *variables, collection = trees(intro)
        yield from rounds([name_of(each) for each in variables], self.value(collection, names), names, self.budget)

    def _holds(self, condition: Sequence[Tree[Token]], names: Names) -> bool:
        return all(to_bool(self.value(trees(each)[0], names)) for each in condition)

    # -- functions and templates ---------------------------------------------------------------------------------

    def _function_call(self, node: Tree[Token], names: Names) -> Any:
        name = name_of(node.children[0])
        listed = next((each for each in trees(node) if each.data == "arguments"), None)
        words = trees(listed) if listed is not None else []
        if name in ("try", "can"):
            return self._attempt(name, words, names)
        if name not in self._functions:
            raise NotKnown(f"the function {name}, which goldsmith does not have")
        values = [self.value(each, names) for each in words]
        if listed is not None and has_token(listed, "ELLIPSIS") and values and isinstance(values[-1], list):
            values[-1:] = values[-1]
        require_light(values)
        try:
            found = self._functions[name](*values)
        except (TypeError, ValueError, IndexError, KeyError, ArithmeticError, AttributeError) as error:
            raise NotKnown(f"{name}(), which fails here: {str(error)[:200]}") from error
        return self._measured(found)

    def _attempt(self, name: str, words: Sequence[Tree[Token]], names: Names) -> Any:
        reason = f"{name}() without a value"
        for each in words:
            try:
                found = known(self.value(each, names))
            except NotKnown as error:
                reason = error.reason
            else:
                return True if name == "can" else found
        if name == "can":
            return False
        raise NotKnown(reason)

    def _measured(self, found: Any) -> Any:
        if isinstance(found, str):
            return self.budget.text(found)
        if isinstance(found, list | dict):
            self.budget.items(len(found))
        return found

    def _render(self, parts: Sequence[Part], names: Names) -> Any:
        if len(parts) == 1 and parts[0].kind == "value":
            return self.value(parts[0].node, names)  # a text of nothing but one expression keeps its type
        return render(parts, names, self.value, self.budget)


def rounds(variables: Sequence[str], collection: Any, names: Names, budget: Budget) -> Iterator[Names]:
    """The names of each round of a `for`: of one variable, or of a key and a value."""
    known(collection)
    if isinstance(collection, dict):
        pairs: list[tuple[Any, Any]] = list(collection.items())
    elif isinstance(collection, list):
        pairs = list(enumerate(collection))
    else:
        raise NotKnown("a list or a map behind `in`")
    budget.items(len(pairs))
    for key, value in pairs:
        yield {**names, **dict(zip(variables, (key, value) if len(variables) > 1 else (value,), strict=False))}


def get_item(value: Any, key: Any) -> Any:
    """The item of a list or of a map. Raises NotKnown."""
    known(value)
    if isinstance(value, list) and not isinstance(key, bool):
        index = key if isinstance(key, int) else int(key) if isinstance(key, str) and key.isdecimal() else None
        if index is not None and 0 <= index < len(value):
            return known(value[index])
    elif isinstance(value, Mapping):
        word = to_text(key)
        if word in value:
            return known(value[word])
    raise NotKnown(f"{str(key)[:60]}, which is not there")


def to_number(value: Any) -> int | float:
    """A number, also one that is written as a text. Raises NotKnown."""
    known(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,18}(\.\d{1,18})?", value):
        return float(value) if "." in value else int(value)
    raise NotKnown("a number")


def to_bool(value: Any) -> bool:
    """A truth value, also one that is written as a text. Raises NotKnown."""
    known(value)
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return bool(value == "true")
    raise NotKnown("true or false")


def _calculate(sign: str, left: float, right: float) -> Any:
    operations: dict[str, Callable[[], Any]] = {
        "+": lambda: left + right,
        "-": lambda: left - right,
        "*": lambda: left * right,
        "/": lambda: left / right if left % right else left // right,
        "%": lambda: left % right,
        "<": lambda: left < right,
        ">": lambda: left > right,
        "<=": lambda: left <= right,
        ">=": lambda: left >= right,
    }
    return _number(operations[sign])


def _number(calculate: Callable[[], Any]) -> Any:
    try:
        found = calculate()
    except (ArithmeticError, ValueError) as error:
        raise NotKnown(f"a number: {error}") from error
    if isinstance(found, int) and found.bit_length() > 512:
        raise NotKnown("a number of at most 512 bits")
    return found


def _part_of_string(node: Tree[Token]) -> Part:
    """A part of a quoted text."""
    (inner,) = node.children
    if isinstance(inner, Token):
        text = str(inner)
        escaped = inner.type in ("ESCAPED_INTERPOLATION", "ESCAPED_DIRECTIVE")
        return Part("text", text=text[1:] if escaped else unescape(text))
    before = inner.children[1:2] == ["~"]
    after = inner.children[-2:-1] == ["~"]
    parts = trees(inner)
    match inner.data:
        case "interpolation":
            return Part("value", node=parts[0])
        case "template_if_start":
            return Part("if", node=parts[0], trims=(before, after))
        case "template_for_start":
            names = tuple(name_of(each) for each in parts[:-1])
            return Part("for", node=parts[-1], names=names, trims=(before, after))
        case other:
            return Part(other.removeprefix("template_"), trims=(before, after))


def _heredoc(text: str) -> str:
    """The body of a heredoc: what is between its first and its last line."""
    lines = text.splitlines(keepends=True)
    return "".join(lines[1:-1])
