"""One door to what nobody vouches for: a disk that a guest has written or a user has brought is read in the sandbox.

The worker's modules parse; everybody else asks `disk.sandbox`. What holds for libvirt holds for readers of disks.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

import pipeline

ROOT = Path(pipeline.__file__).parent

#: Modules of `disk` that parse no disk: the door, what asks it (`media` for ISOs), what writes. Every other one
#: is a reader and runs in the sandbox's worker; gpt and formats look at some KiB of headers, bounded.
ASKERS = {
    "__init__", "confined_exec", "confinement", "facts", "formats", "gpt", "mapping", "media", "probe", "questions",
    "punch_holes", "sandbox", "sandbox_worker", "tools", "transfer", "unpack", "unpack_worker", "value_question",
    "worker_messages",
}  # fmt: skip
#: Modules of `checks` that the parent uses: they ask, and judge answers. Every other one runs in the worker.
JUDGES = {"__init__", "html_report", "markdown_report", "sandbox", "versions"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


CHECKS = {name_of(path) for path in (ROOT / "checks").rglob("*.py")}
READERS = {
    "vhd.chain", "vhd.sparse", "systems.linux.boot_files", "systems.installed",
    "systems.windows.sysprep_log",
    *(f"disk.{path.stem}" for path in (ROOT / "disk").glob("*.py") if path.stem not in ASKERS),
    *(name_of(path) for path in (ROOT / "systems").glob("*/installed.py")),
}  # fmt: skip
#: What the worker runs beside the readers, and the shapes that both sides of the door share.
WORKERS = {
    "disk.__init__", "disk.questions", "disk.sandbox_worker", "systems.answers", "systems.listing",
    *(CHECKS - {f"checks.{name}" for name in JUDGES}),
}  # fmt: skip
#: What others may take of readers: shapes that are written, and arithmetic on extents. No name here reads a disk.
SHAPES = {
    ("vhd.write", "vhd.sparse"): {"ABSENT", "ABSOLUTE", "BLOCK_SIZE", "HEADER_SIZE", "RELATIVE", "Header", "Locator"},
    ("disk.gpt", "vhd.chain"): {"overlay"},
}
#: Names by which a disk is opened or held open.
OPENED = {"Disk", "Root", "Volume", "open_disk"}
#: Who makes ISOs; pycdlib reads them in the worker alone.
ISO_WRITERS = {"guest.access", "fabric.media"}


def names_by_module(text: str) -> dict[str, set[str]]:
    """What a file takes of each module below `pipeline`, wherever it does so, but for type checkers alone."""
    tree = ast.parse(text)
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in typing:
            inner = node.module.removeprefix("pipeline").removeprefix(".")
            for alias in node.names:
                found.setdefault(inner, set()).add(alias.name)
                found.setdefault(f"{inner}.{alias.name}".removeprefix("."), set())
        elif isinstance(node, ast.Import):
            for alias in node.names:
                found.setdefault(alias.name.removeprefix("pipeline."), set())
    return found


def violations(sources: Mapping[str, str]) -> Iterable[str]:
    """Who reads disks outside the worker; `sources` maps a module's name below `pipeline` to its text."""
    for module, text in sources.items():
        if module in READERS | WORKERS:
            continue
        if "import pycdlib" in text and module not in ISO_WRITERS:
            yield f"{module} reads ISOs"
        for source, names in names_by_module(text).items():
            taken = names - SHAPES.get((module, source), set())
            if source in READERS and (taken or (module, source) not in SHAPES):
                yield f"{module} takes {', '.join(sorted(taken)) or 'all'} of {source}"
            if source == "disk" and names & OPENED:
                yield f"{module} takes {', '.join(sorted(names))} of {source}"


def test_only_the_sandboxs_worker_reads_disks() -> None:
    assert {"disk.media_reader", "systems.windows.installed"} <= READERS
    assert {"checks.answers", "checks.disk.partitions"} <= WORKERS and "checks.sandbox" not in WORKERS
    assert list(violations({name_of(path): path.read_text() for path in ROOT.rglob("*.py")})) == []


@pytest.mark.parametrize(
    ("module", "line", "found"),
    [
        ("stages.convert", "from pipeline.disk import open_disk", "takes open_disk of disk"),
        ("stages.convert", "from pipeline.disk.disk import open_disk", "takes open_disk of disk.disk"),
        (
            "cli.prove",
            "def f():\n    from pipeline.disk.packages import read_packages",
            "takes read_packages of disk.packages",
        ),
        ("nightly.patch", "from pipeline.disk import registry", "takes all of disk.registry"),
        ("systems.linux.clone_test", "import pipeline.disk.ext4_files", "takes all of disk.ext4_files"),
        ("systems.debian.apt", "from pipeline.systems.linux.installed import InstalledLinux", "takes InstalledLinux"),
        ("checks.sandbox", "from pipeline.disk.root import Root", "takes Root of disk.root"),
        ("disk.mapping", "from pipeline.vhd.sparse import open_sparse", "takes open_sparse of vhd.sparse"),
        ("cli.iso", "import pycdlib", "reads ISOs"),
    ],
)
def test_a_reader_outside_the_worker_is_found(module: str, line: str, found: str) -> None:
    text = (ROOT / f"{module.replace('.', '/')}.py").read_text()
    assert not list(violations({module: text}))
    seen = list(violations({module: f"{text}\n{line}\n"}))
    assert seen and all(found in each for each in seen)


def test_what_is_for_type_checkers_opens_nothing() -> None:
    line = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pipeline.disk.disk import Disk\n"
    assert not list(violations({"stages.convert": line}))
