"""The key of an inspection: versions of checks and of readers, never the bytes of their source."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

import pytest

import pipeline
from pipeline.checks import versions

ROOT = Path(pipeline.__file__).parent
#: What the sandbox's worker loads and no finding depends on: doors, shapes, words, and the sandbox itself.
PLUMBING = {
    "base", "definition",
    "checks.answers", "checks.listing", "checks.sandbox", "checks.versions",
    "disk.confined_exec", "disk.confinement", "disk.pattern_cache", "disk.questions", "disk.sandbox",
    "disk.worker_messages",
}  # fmt: skip


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(path): path for path in ROOT.rglob("*.py")}


def imported(name: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline"):
            module = (node.module or "").removeprefix("pipeline").removeprefix(".")
            found |= {module, *(f"{module}.{alias.name}".removeprefix(".") for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("pipeline.") for alias in node.names}
    return found & set(MODULES)


def loaded_by_an_inspection() -> set[str]:
    """All modules that `checks.answers`, which the worker calls, stands on; what is plumbing leads nowhere."""
    found: set[str] = set()
    todo = ["checks.answers"]
    while todo:
        name = todo.pop()
        if name and name not in found:
            found.add(name)
            if name == "checks.answers" or not is_plumbing(name):
                todo += imported(name)
    return {name for name in found if not is_plumbing(name) and MODULES[name].name != "__init__.py"}


def is_plumbing(name: str) -> bool:
    if name.startswith("base.secret_rules"):
        return False
    return name in PLUMBING or name.split(".")[0] in PLUMBING


def test_every_check_and_reader_has_a_version() -> None:
    known = {**versions.BOTH, **versions.LINUX, **versions.WINDOWS}
    assert len(known) == len(versions.BOTH) + len(versions.LINUX) + len(versions.WINDOWS)
    assert set(known) == loaded_by_an_inspection()


def fingerprint(path: Path) -> str:
    """A digest of what a module does: its syntax without docstrings, comments and places."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and body:
            first = body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:12]


def test_code_that_changed_has_a_new_version_or_judges_as_before(golden) -> None:
    """Where this fails: raise the module's version in checks/versions.py if the same disk now gets another answer.

    GOLDSMITH_REGEN=1 then writes the fingerprints anew; without a new version it says that no answer changed.
    """
    known = {**versions.BOTH, **versions.LINUX, **versions.WINDOWS}
    lines = [f"{name} {known[name]} {fingerprint(MODULES[name])}\n" for name in sorted(known)]
    golden("inspection-versions.txt", "".join(lines))


def test_a_docstring_changes_no_fingerprint_and_code_does(tmp_path: Path) -> None:
    text = MODULES["checks.disk.boot"].read_text()
    other = tmp_path / "boot.py"
    other.write_text(text.replace('"""', '"""More words. ', 1).replace("\n\n\n", "\n\n\n# a comment\n", 1))
    assert fingerprint(other) == fingerprint(MODULES["checks.disk.boot"])
    other.write_text(text + "\nMORE = 1\n")
    assert fingerprint(other) != fingerprint(MODULES["checks.disk.boot"])


@pytest.mark.parametrize("system", ["linux", "windows"])
def test_a_reader_of_one_system_is_not_in_the_others_key(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = versions.inspection_inputs(system)
    monkeypatch.setitem(versions.LINUX, "disk.packages", versions.LINUX["disk.packages"] + 1)
    assert (versions.inspection_inputs(system) == before) is (system == "windows")


def test_a_module_that_moves_keeps_its_name_in_keys(golden) -> None:
    """Where this fails a layer would be built again. A new module is a new line; moved ones go to NAMES_IN_KEYS."""
    lines = []
    for system in ("linux", "windows"):
        inputs = versions.inspection_inputs(system)
        lines += [f"{system} {kind} {name}\n" for kind in ("checks", "readers") for name in sorted(inputs[kind])]
    golden("inspection-names-in-keys.txt", "".join(lines))
