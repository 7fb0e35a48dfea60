"""No branch on the operating system outside its own folder: everybody else asks the system that they were given."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pipeline
from pipeline.systems import registry
from pipeline.systems.inspection import profiles

ROOT = Path(pipeline.__file__).parent
#: What the systems here are called, by themselves, by definitions and by profiles.
NAMES = {name for system in registry.all_systems() for name in (system.name, system.os)} | set(profiles())
FOLDERS = {path.parent.name for path in ROOT.glob("systems/*/system.py")}
#: Sources of definitions that one system alone knows.
SOURCES = {"DebianSource", "IsoSource"}
#: Where a folder of a system's own may lie, beside `systems`: its checks.
OWN = ("systems", "checks")


def branches(text: str, room: tuple[str, ...]) -> list[str]:
    """The branches on an operating system in a module's text; `room` is its place below pipeline/, folder by folder.

    They are: a comparison with a system's name, and a choice by it from a table; a test for the class of a session,
    or for a source that one system alone knows; an argument or field with a system's name (the language of
    definitions has such keys); an import from a system's folder by anybody but that system.
    """
    own = room[1] if len(room) > 2 and room[0] in OWN and room[1] in FOLDERS else None
    if own is not None and room[0] == "systems":
        return []
    found = []
    for node in ast.walk(ast.parse(text)):
        what = _branch(node, own, defines=room[0] == "definition")
        if what:
            found.append(f"{'/'.join(room)}:{getattr(node, 'lineno', 0)}: {what}")
    return found


def _branch(node: ast.AST, own: str | None, *, defines: bool) -> str:
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        if any(name in NAMES for side in sides for name in _texts(side)):
            return f"compares with a system's name: {ast.unparse(node)}"
        if any(_name(side) in ("os", "system") for side in sides) and any(_texts(side) for side in sides):
            return f"compares a system with a word: {ast.unparse(node)}"
    if isinstance(node, ast.MatchValue) and any(name in NAMES for name in _texts(node.value)):
        return f"chooses by a system's name: {ast.unparse(node)}"
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Attribute) and node.slice.attr == "os":
        return f"chooses by a system's name: {ast.unparse(node)}"
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
        tested = {name for each in ast.walk(node.args[1]) if (name := _name(each))}
        if any(name.endswith("Session") for name in tested):
            return f"tests for a session's class: {ast.unparse(node)}"
        if tested & SOURCES and not defines:
            return f"tests for a source that one system knows: {ast.unparse(node)}"
    if isinstance(node, ast.arg | ast.keyword) and node.arg in FOLDERS:
        return f"an argument named {node.arg}"
    if isinstance(node, ast.AnnAssign) and _name(node.target) in FOLDERS and not defines:
        return f"a field named {_name(node.target)}"
    if isinstance(node, ast.ImportFrom | ast.Import):
        names = [alias.name for alias in node.names]
        whole = [f"{node.module}.{name}" for name in names] if isinstance(node, ast.ImportFrom) else names
        for name in whole:
            parts = name.split(".")
            if parts[:2] == ["pipeline", "systems"] and parts[2:3] and parts[2] in FOLDERS - {own}:
                return f"takes {name}"
    return ""


def _texts(node: ast.AST) -> list[str]:
    """The texts that a side of a comparison is, or holds as a tuple, list or set."""
    elements = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    return [each.value for each in elements if isinstance(each, ast.Constant) and isinstance(each.value, str)]


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def census() -> list[str]:
    return [
        branch
        for path in sorted(ROOT.rglob("*.py"))
        for branch in branches(path.read_text(), path.relative_to(ROOT).parts)
    ]


def test_there_is_no_branch_outside_systems() -> None:
    assert census() == []


@pytest.mark.parametrize(
    ("seed", "where"),
    [
        ('if definition.os == "windows":\n    pass\n', "stages/provision.py"),
        ('agent = "sysprep" if shape.os != "linux" else "none"\n', "definition/load.py"),
        ('if self.name in ("debian", "ubuntu"):\n    pass\n', "engine/plan.py"),
        ('if context.system.os == "solaris":\n    pass\n', "context.py"),
        ('if subject.profile == "azure-windows":\n    pass\n', "checks/disk/boot.py"),
        ('match definition.os:\n    case "windows":\n        pass\n', "prove/__init__.py"),
        ("profile = PROFILES[definition.os]\n", "stages/inspect.py"),
        ("if isinstance(context.session, WindowsSession):\n    pass\n", "engine/runner.py"),
        ("ready = isinstance(session, linux.GuestSession | WindowsSession)\n", "context.py"),
        ("if isinstance(source, DebianSource):\n    pass\n", "stages/acquire.py"),
        ("spec = Spec(windows=True)\n", "prove/matrix.py"),
        ("def disaster(text, *, windows):\n    pass\n", "hypervisor/console.py"),
        ("class Spec:\n    windows: bool = False\n", "hypervisor/domain.py"),
        ("from pipeline.systems.windows import updates\n", "nightly/patch.py"),
        ("def f():\n    from pipeline.systems.windows.session import WindowsSession\n", "context.py"),
        ("from pipeline.systems import debian\n", "cli/iso.py"),
        ("import pipeline.systems.linux.snapshots\n", "maintenance/gc.py"),
        ("from pipeline.systems.windows.firewall import PREFIX\n", "checks/linux/agents.py"),
        ("from pipeline.systems.linux.boot_files import boots_directly\n", "checks/disk/source_disk.py"),
        ("from pipeline.systems.windows.session import WindowsSession\n", "systems/registry.py"),
    ],
)
def test_a_seeded_branch_is_found(seed: str, where: str) -> None:
    path = ROOT / where
    text = path.read_text() if path.exists() else ""
    before = branches(text, tuple(where.split("/")))
    after = branches(f"{text}\n{seed}", tuple(where.split("/")))
    assert before == [] and len(after) == 1, after


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ('if source.os == "windows":\n    pass\n', "systems/windows/system.py"),
        ("from pipeline.systems.windows.firewall import PREFIX\n", "checks/windows/access.py"),
        ("from pipeline.systems.linux.service_identity import TABLE\n", "checks/linux/service_identity.py"),
        ("from pipeline.systems import registry\n", "stages/acquire.py"),
        ("if parent.os != definition.os:\n    pass\n", "engine/preconditions.py"),
    ],
)
def test_what_is_no_branch_is_let_be(line: str, where: str) -> None:
    assert branches(line, tuple(where.split("/"))) == []
