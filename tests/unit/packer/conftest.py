"""A folder for templates, and the import of a template as the command line does it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.base.errors import GoldsmithError
from pipeline.cli.app import app

Import = Callable[..., dict[str, Any]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "template").mkdir()
    return tmp_path / "template"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project" / "images").mkdir(parents=True)
    return tmp_path / "project"


@pytest.fixture
def run_import(folder: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Import:
    """Write a template, import it, and return the JSON of the verb; raises the verb's error."""
    monkeypatch.setenv("GOLDSMITH_HOME", str(tmp_path / "store"))
    # no test asks the archive of Debian for its list of packages
    monkeypatch.setattr("pipeline.engine.preconditions._Looker._archive", lambda *_words: None)

    def run(text: str, *words: str, name: str = "shop.pkr.hcl") -> dict[str, Any]:
        (folder / name).write_text(text)
        line = ["--project", str(project), "import", "packer", str(folder / name), "--json", *words]
        result = CliRunner().invoke(app, line)
        if isinstance(result.exception, GoldsmithError):
            raise result.exception
        assert result.exit_code == 0, result.output
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    return run
