"""A shell waits at each Tab: completing the names of a store or a project loads no YAML, no checks, no hypervisor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline

#: Modules that take a shell's time, and that no name of a store or project needs. (The parser itself loads pydantic.)
HEAVY = {"yaml", "libvirt", "cryptography", "lxml", "filelock", "pipeline.definition", "pipeline.checks"}


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("goldsmith vm ssh ", ["web1"]),
        ("goldsmith gallery show ", ["web"]),
        ("goldsmith gallery show web@2", ["web@2026.1121.0"]),
        ("goldsmith runs show ", ["R1", "R2"]),
        ("goldsmith --project {project} build ", ["shop", "web"]),
    ],
)
def test_names_are_completed_without_the_rest_of_goldsmith(line: str, wanted: list[str], tmp_path: Path) -> None:
    for name in (
        "instances/web1",
        "instances/.locks",
        "gallery/web/2026.1121.0",
        "gallery/.lists",
        "runs/R1",
        "runs/R2",
        "project/images",
    ):
        (tmp_path / name).mkdir(parents=True)
    for name in ("shop", "web"):
        (tmp_path / f"project/images/{name}.yaml").write_text("goldsmith: 1\n")
    line = line.format(project=tmp_path / "project")
    count = len(line.split()) - (0 if line.endswith(" ") else 1)
    asked = {"_GOLDSMITH_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(count)}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pipeline"],
        env={**os.environ, **asked, "GOLDSMITH_HOME": str(tmp_path)},
        cwd=Path(pipeline.__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == wanted, done.stderr
    loaded = {row.rpartition("|")[2].strip() for row in done.stderr.splitlines() if row.startswith("import time:")}
    assert loaded & HEAVY == set()
    assert "pipeline.cli.app" in loaded
