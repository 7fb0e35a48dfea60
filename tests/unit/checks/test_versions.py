"""The key of an inspection: versions of checks and of readers, never the bytes of their source."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

import pytest

import pipeline
from pipeline.checks import versions
from pipeline.systems.inspection import Part, inspection_of, inspections

ROOT = Path(pipeline.__file__).parent
#: What the sandbox's worker loads and no finding depends on: doors, shapes, words, and the sandbox itself.
PLUMBING = {
    "base", "definition",
    "checks.answers", "checks.sandbox", "checks.versions",
    "disk.confined_exec", "disk.confinement", "disk.pattern_cache", "disk.questions", "disk.sandbox",
    "disk.worker_messages",
    "systems.answers", "systems.listing", "systems.questions",
    # what a Linux is started by without its boot loader: a build asks, no check does
    "systems.linux.boot_files", "systems.linux.direct_boot",
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
    """All modules that the worker loads: `checks.answers`, what each system names, and what these stand on; and what
    counts the results for the gate. What is plumbing leads nowhere.
    """
    found: set[str] = set()
    named = {name.removeprefix("pipeline.") for each in inspections() for name in each.modules}
    todo = ["checks.answers", "gallery.verdict", *sorted(named)]
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


def parts() -> list[tuple[str, Part]]:
    """Every part with its label; a system that shares another's parts adds none."""
    found = dict(versions.COMMON)
    for each in inspections():
        for label, part in each.parts.items():
            assert found.setdefault(label, part) is part, f"{label} stands for two parts"
    return sorted(found.items())


def test_every_check_and_reader_has_a_version() -> None:
    known = [module.removeprefix("pipeline.") for _, part in parts() for module in part.modules]
    assert len(known) == len(set(known))
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
    """Where this fails: raise the part's version if the same disk now gets another answer (checks/versions.py, and
    `inspection.py` of a system).

    GOLDSMITH_REGEN=1 then writes the fingerprints again; without a new version it says that no answer changed.
    """
    lines = [
        f"{label} {part.version} {module} {fingerprint(MODULES[module.removeprefix('pipeline.')])}\n"
        for label, part in parts()
        for module in part.modules
    ]
    golden("inspection-versions.txt", "".join(lines))


def test_a_docstring_changes_no_fingerprint_and_code_does(tmp_path: Path) -> None:
    text = MODULES["checks.disk.boot"].read_text()
    other = tmp_path / "boot.py"
    other.write_text(text.replace('"""', '"""More words. ', 1).replace("\n\n\n", "\n\n\n# a comment\n", 1))
    assert fingerprint(other) == fingerprint(MODULES["checks.disk.boot"])
    other.write_text(text + "\nMORE = 1\n")
    assert fingerprint(other) != fingerprint(MODULES["checks.disk.boot"])


@pytest.mark.parametrize("system", ["linux", "debian", "windows"])
def test_a_reader_of_one_system_is_not_in_the_others_key(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = versions.inspection_inputs(system)
    part = inspection_of("linux").parts["offline.packages"]
    monkeypatch.setitem(
        inspection_of("linux").parts,  # type: ignore[arg-type]  a dict, which nobody else changes
        "offline.packages",
        Part(part.version + 1, part.modules),
    )
    assert (versions.inspection_inputs(system) == before) is (system == "windows")


def test_a_module_that_moves_keeps_its_label_in_keys(golden) -> None:
    """Where this fails a layer would be built again. A new module belongs to an old part or to a new one."""
    lines = [
        f"{system} {kind} {label}\n"
        for system in ("linux", "windows")
        for kind, labels in versions.inspection_inputs(system).items()
        if isinstance(labels, dict)
        for label in sorted(labels)
    ]
    golden("inspection-names-in-keys.txt", "".join(lines))
