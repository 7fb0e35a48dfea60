"""The table of disk formats is the only place that knows QEMU's name of a VHD."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pipeline

ROOT = Path(pipeline.__file__).parent
TABLE = ROOT / "base" / "disk_format.py"


def names_of_vhd(text: str) -> list[int]:
    """The lines of literals that name a VHD as QEMU does. Docstrings and the ends of file names are none."""
    tree = ast.parse(text)
    documentation = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node not in documentation
        and (node.value == "vpc" or re.search(r"(-f|-F|-O) vpc\b", node.value))
    ]


def test_no_other_module_names_a_format_of_qemus() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in ROOT.rglob("*.py")
        if path != TABLE
        for line in names_of_vhd(path.read_text())
    }
    assert found == set()


def test_the_census_sees_a_literal() -> None:
    assert names_of_vhd('"""vpc"""\nfmt = "vpc"\nargv = f"qemu-img create -F vpc {fmt}"\nsuffix = ".vpc"\n') == [2, 3]
    assert names_of_vhd(TABLE.read_text())
