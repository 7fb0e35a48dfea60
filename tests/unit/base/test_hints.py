"""Every error says what to do: at each place that raises one, found in the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline
from pipeline.base.errors import GuestError, UsageError
from pipeline.base.hints import HINTS
from pipeline.base.process import CommandFailed, CommandTimeout

ROOT = Path(pipeline.__file__).parent
KINDS = {"GoldsmithError", "CheckFailed", "UsageError", "HostError", "BuildError", "GuestError", "DiskError"}
#: Words that fill the place of an instruction.
GENERIC = re.compile(
    r"mend the cause|fix the (problem|error|cause)|something (is|went) wrong|"
    r"^(please )?try again\.?$|^see the log\.?$"
)
SHORTEST = 12


def raised() -> Iterator[tuple[str, ast.Call]]:
    """Every call of an error's class in the product, and where it stands."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in KINDS:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def words(node: ast.expr) -> list[str] | None:
    """The texts that an expression may give, "" for None; None where only a run can tell."""
    if isinstance(node, ast.Constant):
        return [str(node.value or "")]
    if isinstance(node, ast.JoinedStr):
        return ["".join(str(part.value) if isinstance(part, ast.Constant) else "PLACEHOLDER" for part in node.values)]
    if isinstance(node, ast.IfExp):
        both = words(node.body), words(node.orelse)
        return None if None in both else [text for texts in both for text in texts or ()]
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
        return words(node.values[-1])
    return None


def fault(call: ast.Call) -> str | None:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    names = words(given["name"]) if "name" in given else ["failed"]
    hints = words(given["hint"]) if "hint" in given else [""]
    for hint in hints or ():
        for name in names if names is not None else [""]:
            text = hint or HINTS.get(name, "")
            if names is None and not hint:
                return "its name is not written there, so that it needs a hint of its own"
            if len(text) < SHORTEST or GENERIC.search(text):
                return f"{name}: {text!r} says nothing to do"
    return None


def test_every_place_that_raises_says_what_to_do() -> None:
    """A new error needs `hint=`, or a line for its name in pipeline/base/hints.py."""
    sites = list(raised())
    assert len(sites) > 350
    assert [f"{place}: {why}" for place, call in sites if (why := fault(call))] == []


def test_no_hint_of_the_table_is_generic_or_unused() -> None:
    source = "".join(path.read_text() for path in ROOT.rglob("*.py") if path.name != "hints.py")
    for name, text in HINTS.items():
        assert len(text) >= SHORTEST and not GENERIC.search(text), name
        assert f'"{name}"' in source, f"nothing raises {name}"


@pytest.mark.parametrize(
    ("call", "good"),
    [
        ('UsageError("x", name="no-such-thing")', False),
        ('UsageError("x", name="no-such-thing", hint=None)', False),
        ('UsageError("x", name="no-such-thing", hint="mend the cause")', False),
        ('UsageError("x", name="a", hint="grow the disk of it" if a else None)', False),
        ('UsageError("x", name=error.name)', False),
        ('UsageError("x")', False),
        ('UsageError("x", name="image-locked")', True),
        ('UsageError("x", name="a", hint=f"look at {log} for its end")', True),
        ('UsageError("x", name="a", hint=error.hint or "grow the disk of it")', True),
        ('UsageError("x", name=error.name, hint=error.hint)', True),
    ],
)
def test_the_judge_of_hints_judges(call: str, good: bool) -> None:
    (node,) = [each for each in ast.walk(ast.parse(call)) if isinstance(each, ast.Call)]
    assert (fault(node) is None) is good


def test_an_error_without_a_hint_of_its_own_has_its_names() -> None:
    assert GuestError("x", name="guest-agent-silent").hint == HINTS["guest-agent-silent"]
    assert UsageError("x", name="image-locked", hint="wait").hint == "wait"
    assert CommandFailed(["a"], 1, "", "", None).hint
    assert CommandTimeout(["a"], 1.0).hint
