"""Names say what a thing is: no `told`, `said` or `one`, and a format's driver is named in its row alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline
from pipeline.base.disk_format import VHD

ROOT = Path(pipeline.__file__).parent
TOOLS = ROOT.parent / "tools"
#: Words that name nothing. A message, summary, record, output, entry or item has its own noun.
BANNED = {"told", "said", "one"}
#: Names that another library calls.
FOREIGN = {"handle_one_request"}
#: The table of formats: a row for each, with its driver.
FORMATS = "base/disk_format.py"


def sources() -> list[Path]:
    return [path for folder in (ROOT, TOOLS) for path in sorted(folder.rglob("*.py"))]


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of each name that a module gives or uses: of variables, arguments, attributes, imports, ..."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        for field, value in ast.iter_fields(node):
            if isinstance(node, ast.Constant):
                continue
            # identifiers are the plain texts of a tree: of a name, argument, attribute, import, keyword, pattern
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and field != "type_comment":
                    yield line, text


def banned(text: str) -> list[tuple[int, str]]:
    """The names in a module's text with a banned word between their underscores."""
    return [
        (line, name)
        for line, name in names(ast.parse(text))
        if name not in FOREIGN and BANNED & {word for part in name.lower().split(".") for word in part.split("_")}
    ]


def drivers(text: str) -> list[int]:
    """The lines that spell out the driver of fixed VHDs."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and node.value == VHD.driver
    ]


def test_no_name_is_a_banned_word() -> None:
    files = sources()
    assert any(path.is_relative_to(TOOLS) for path in files)
    found = {str(path.relative_to(ROOT.parent)): banned(path.read_text()) for path in files}
    assert {path: lines for path, lines in found.items() if lines} == {}
    assert [path for path in files if BANNED & set(path.stem.split("_"))] == []


def test_tests_have_no_such_names_either() -> None:
    """The name of a test function is a sentence and may contain these words (CONTRIBUTING.md); no other name may."""
    folder = ROOT.parent / "tests"
    found = {
        str(path.relative_to(folder)): lines
        for path in sorted(folder.rglob("*.py"))
        if (lines := [(line, name) for line, name in banned(path.read_text()) if not name.startswith("test_")])
    }
    assert found == {}
    assert [path for path in folder.rglob("*.py") if BANNED & set(path.stem.split("_"))] == []


def test_a_driver_is_named_in_its_row_alone() -> None:
    places = {str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if drivers(path.read_text())}
    assert places == {FORMATS}


@pytest.mark.parametrize(
    "seed",
    [
        "told = 1",
        "_said = 1",
        "ONE = 1",
        "ONE: int = 1",
        "NUMBER_ONE = 1",
        "open_one()",
        "print(f'{said}')",
        "def told_by(): ...",
        "async def is_said(): ...",
        "class _Said: ...",
        "def f(*, one): ...",
        "def f(*told): ...",
        "f(said=1)",
        "f.told()",
        "lambda one: 1",
        "[1 for one in ()]",
        "import told",
        "import a.said.b",
        "from a.one import b",
        "from a import b as told",
        "def f():\n    global one",
        "def f():\n    one = 1\n    def g():\n        nonlocal one",
        "try:\n    pass\nexcept OSError as said:\n    pass",
        "match 1:\n    case [*told]:\n        pass",
        "match 1:\n    case {**one}:\n        pass",
        "match 1:\n    case A(said=1):\n        pass",
        "if (one := 1):\n    pass",
    ],
)
def test_a_seeded_name_is_found(seed: str) -> None:
    assert banned(seed)


@pytest.mark.parametrize(
    "text",
    [
        "'told'",
        "# one",
        "f('said', 'one')",
        "x = {'one': 1}",
        "none = stone = bones",
        "handle_one_request",
        "b'said'",
    ],
)
def test_texts_and_other_words_are_no_such_names(text: str) -> None:
    assert banned(text) == []


@pytest.mark.parametrize(
    "seed",
    [
        'f("vpc")',
        'f(driver="vpc")',
        'if a == "vpc":\n    pass',
        'a = {"vpc": 1}',
        'match a:\n    case "vpc":\n        pass',
    ],
)
def test_a_seeded_driver_is_found(seed: str) -> None:
    assert drivers(seed) and not drivers(seed.replace("vpc", "raw"))
