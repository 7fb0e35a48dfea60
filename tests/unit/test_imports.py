"""The floors of the house: imports point down, stages do not import each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pipeline

ROOT = Path(pipeline.__file__).parent

#: Upper floors first. A module may import from its own floor's name or from below.
FLOORS = [
    {"__main__"},
    {"cli"},
    {"refresh"},
    {"patching", "truth"},
    {"build", "crew"},
    {"retention", "compare"},
    {"plan", "care"},
    {"stages"},
    {"proof"},
    {"job"},
    {"evidence"},
    {"checks"},
    {"guests"},
    {"fetch", "gallery", "fabric", "offline", "hypervisor"},
    {"layers", "vhd", "definition"},
    {"record", "scratch"},
    {"store", "command", "digests", "secret_rules"},
    {"files"},
    {"errors", "printable"},
]
LEVEL = {name: number for number, names in enumerate(FLOORS) for name in names}


def imported(path: Path) -> set[str]:
    """The names below `pipeline` that a file imports, with dots: cli.show, errors."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("pipeline.") for alias in node.names if alias.name.startswith("pipeline.")
            }
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "pipeline":
                found |= {alias.name for alias in node.names}
            elif node.module.startswith("pipeline."):
                inner = node.module.removeprefix("pipeline.")
                found |= {f"{inner}.{alias.name}" for alias in node.names}
    return {name for name in found if name != "__version__"}


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


FILES = [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]


def test_every_room_has_a_floor() -> None:
    assert {room(path) for path in FILES} <= set(LEVEL)


def test_imports_point_down() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in FILES
        for name in imported(path)
        if name.split(".")[0] in LEVEL
        and name.split(".")[0] != room(path)
        and LEVEL[name.split(".")[0]] <= LEVEL[room(path)]
        and (name.split(".")[0], room(path)) not in ALLOWED
    ]
    assert wrong == []


#: Doors that stand side by side and lean on one another in one direction only: (imported, importer).
ALLOWED = {("vhd", "offline"), ("store", "command"), ("definition", "gallery"), ("store", "hypervisor")}


def test_stages_do_not_import_each_other() -> None:
    stages = ROOT / "stages"
    assert [
        f"{path.name} imports {name}"
        for path in stages.glob("*.py")
        for name in imported(path)
        if name.startswith("stages")
    ] == []


def test_only_the_doors_touch_libvirt_and_subprocess() -> None:
    for path in FILES:
        names = {
            alias.name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        if room(path) != "hypervisor":
            assert not names & {"libvirt", "libvirt_qemu"}, path
        # what runs inside a guest has no doors
        if room(path) not in ("command", "offline") and path.parent.name != "inside":
            assert "subprocess" not in names, path


def test_only_scratch_makes_temporary_files() -> None:
    """What `clean` does not know of it cannot remove."""
    for path in FILES:
        names = {
            alias.name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in (node.names if isinstance(node, ast.Import) else [ast.alias(node.module or "")])
        }
        if path.parent.name != "inside":
            assert "tempfile" not in names, path


#: Who reads JSON that is no record of goldsmith's: answers of tools, of guests and of the sandbox.
ANSWERS = {"fabric", "hypervisor", "offline", "guests", "checks"}


def test_only_files_reads_records() -> None:
    """One reader bounds, checks and names what is damaged."""
    for path in FILES:
        if room(path) not in {*ANSWERS, "files"}:
            assert "json.load" not in path.read_text(), path
