"""The floors of the house: imports point down, stages do not import each other."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import pipeline

ROOT = Path(pipeline.__file__).parent


def read_floors() -> list[set[str]]:
    """The floors as docs/architecture.md lists them, upper ones first."""
    page = (ROOT.parent / "docs/architecture.md").read_text()
    block = page.split("```floors\n")[1].split("```")[0]
    return [set(line.split("  ")[0].split()) for line in block.splitlines()]


FLOORS = read_floors()


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


LEVEL = {name: number for number, names in enumerate(FLOORS) for name in names}


def imported(path: Path) -> set[str]:
    """The names below `pipeline` that a file imports, with dots: cli.show, errors."""
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("pipeline.") for alias in node.names if alias.name.startswith("pipeline.")
            }
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: write the whole name of the imported module"
            if node.module == "pipeline":
                found |= {alias.name for alias in node.names}
            elif node.module.startswith("pipeline."):
                inner = node.module.removeprefix("pipeline.")
                found |= {f"{inner}.{alias.name}" for alias in node.names}
    return {name for name in found if name != "__version__"}


def room(path: Path) -> str:
    """The room of a file of pipeline/. `__main__` only starts the command line, and belongs to its room."""
    name = path.relative_to(ROOT).parts[0].removesuffix(".py")
    return "cli" if name == "__main__" else name


def not_downward(from_room: str, names: set[str]) -> list[str]:
    """Of the names that a module of a room imports, those of another room that is not on a lower floor."""
    rooms = {name: name.split(".")[0] for name in sorted(names)}
    return [name for name, of in rooms.items() if of != from_room and LEVEL[of] <= LEVEL[from_room]]


FILES = [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]


def test_every_room_has_a_floor() -> None:
    assert {room(path) for path in FILES} == set(LEVEL)
    # `__main__` imports cli, so a drawing has it as a floor of its own
    assert len(FLOORS) + 1 <= 13


def test_no_module_lies_loose() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == {"__init__", "__main__", "context"}


def test_imports_point_down() -> None:
    """A module may import from its own room, and from rooms of lower floors."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in FILES
        for name in not_downward(room(path), imported(path))
    ]
    assert wrong == []


def test_an_import_that_points_up_or_sideways_is_found(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        "from pipeline.base import files\nimport pipeline.vhd.footer\nfrom pipeline.disk import disk\n"
        "def late():\n    from pipeline.checks.model import Subject\n    import pipeline.gallery.listing\n"
    )
    assert not_downward("disk", imported(module)) == ["checks.model.Subject", "gallery.listing"]
    assert not_downward("cli", imported(module)) == []
    relative = tmp_path / "relative.py"
    relative.write_text("from ..cli import show\n")
    with pytest.raises(AssertionError, match="whole name"):
        imported(relative)


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
            for node in ast.walk(parsed(path))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        if room(path) != "hypervisor":
            assert not names & {"libvirt", "libvirt_qemu"}, path
        # what runs inside a guest has no doors
        if path != ROOT / "base/process.py" and room(path) != "disk" and path.parent.name != "inside":
            assert "subprocess" not in names, path


def test_only_one_module_names_qemu_img() -> None:
    """An argument list that begins with qemu-img or qemu-io is made in one place."""
    named = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in FILES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.List) and node.elts and isinstance(node.elts[0], ast.Constant)
        if node.elts[0].value in ("qemu-img", "qemu-io")
    }
    assert named == {"base.qemu_img"}


def test_only_scratch_makes_temporary_files() -> None:
    """What `clean` does not know of it cannot remove."""
    for path in FILES:
        names = {
            alias.name.split(".")[0]
            for node in ast.walk(parsed(path))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in (node.names if isinstance(node, ast.Import) else [ast.alias(node.module or "")])
        }
        if path.parent.name != "inside":
            assert "tempfile" not in names, path


#: Modules that read JSON that is not a record of goldsmith: answers of tools, of guests and of the sandbox,
#: templates of Packer.
ANSWERS = {"fabric", "hypervisor", "disk", "guest", "systems", "network", "checks", "packer"}


def test_only_files_reads_records() -> None:
    """One reader bounds, checks and names what is damaged."""
    for path in FILES:
        if room(path) not in ANSWERS and path not in (ROOT / "base/files.py", ROOT / "base/qemu_img.py"):
            assert "json.load" not in path.read_text(), path


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        (
            "pipeline.engine.plan, pipeline.engine.preconditions, pipeline.cli.build",
            "libvirt lxml pycdlib cryptography rich sh pipeline.fabric pipeline.disk.sandbox "
            "pipeline.checks.model pipeline.hypervisor.machine pipeline.systems.linux.session "
            "pipeline.systems.windows.session",
        ),
        (
            "pipeline.gallery.listing, pipeline.cli.gallery",
            "libvirt lxml pycdlib cryptography rich yaml pipeline.definition pipeline.cache.layers "
            "pipeline.checks.model",
        ),
    ],
)
def test_what_only_looks_loads_nothing_of_guests(module: str, unwanted: str) -> None:
    """A plan and a list of masters start in a fraction of a second: see docs/reports/listing.md."""
    code = f"import sys, {module}; print(*sorted(set({unwanted.split()}) & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert loaded.stdout.split() == []
