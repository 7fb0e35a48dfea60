"""The manual pages: one for each command, with all options of its help, and in troff's language."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pipeline.base.errors import HostError
from pipeline.cli import manual
from pipeline.cli.app import app
from tests.tools import needs_tool


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("man") / "man1"
    ended = CliRunner().invoke(app, ["man", str(folder)])
    assert ended.exit_code == 0, ended.output
    return {path.stem: path.read_text() for path in folder.iterdir()}


def all_commands(command: Any, name: str = "goldsmith") -> list[tuple[str, Any]]:
    below = getattr(command, "commands", {}).items()
    inner = [each for word, child in below if not child.hidden for each in all_commands(child, f"{name}-{word}")]
    return [(name, command), *inner]


def test_each_command_has_its_page_with_its_options(pages: dict[str, str]) -> None:
    commands = all_commands(typer.main.get_command(app))
    assert len(commands) > 60
    assert set(pages) == {name for name, _command in commands}
    for name, command in commands:
        plain = pages[name].replace("\\-", "-")
        for parameter in command.params:
            if not getattr(parameter, "hidden", False) and parameter.param_type_name == "option":
                assert max(parameter.opts, key=len) in plain, (name, parameter.opts)


def test_a_page_reads_as_its_help(pages: dict[str, str]) -> None:
    build = pages["goldsmith-build"]
    assert ".SH NAME\ngoldsmith\\-build \\- Build images, reusing every unchanged layer" in build
    assert ".SH EXAMPLES\n.nf\ngoldsmith build debian\\-13\n" in build
    assert ".BR goldsmith\\-gallery\\-list (1)" in pages["goldsmith-gallery"]
    assert ".SH EXIT STATUS" in build


def test_no_line_of_a_text_is_a_request() -> None:
    assert manual._text(".so /etc/passwd") == "\\&.so /etc/passwd"
    assert manual._text("a\\fB-b") == "a\\efB\\-b"


@needs_tool("groff")
def test_groff_reads_every_page_without_a_warning(pages: dict[str, str]) -> None:
    text = "".join(pages.values())
    ended = subprocess.run(
        [shutil.which("groff") or "groff", "-man", "-Tutf8", "-ww", "-rLL=100n", "-K", "utf8"],
        input=text.encode(),
        capture_output=True,
        check=True,
        timeout=120,
    )
    assert ended.stderr == b""
    plain = re.sub(r"\x1b\[\d+m|.\x08", "", ended.stdout.decode())
    assert "--keep-failed" in plain and "An image that passes all checks is promoted" in " ".join(plain.split())


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = CliRunner().invoke(app, ["man", str(tmp_path / "file")])
    assert isinstance(ended.exception, HostError)
    assert ended.exception.name == "cannot-write"
