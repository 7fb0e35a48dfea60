"""Every command line of goldsmith's that the documents show is one that its command line takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from pipeline.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "how-to").glob("*.md"))]
#: A line of an indented block that calls goldsmith, behind a prompt, sudo, an assignment or a path.
LINE = re.compile(r"^ {4,}(?:\$ |# )?(?:sudo )?(?:[A-Z_]+=\S+ )*(?:\S*/)?goldsmith ((?:[a-z]|--)[^|>#`]*)")


def command_lines() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for line in text.splitlines():
            if match := LINE.match(line):
                found.append((page.name, match[1].strip()))
    return found


def options_of(command: Any) -> set[str]:
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_the_command_line_takes_it(page: str, line: str) -> None:
    words = shlex.split(line.split("  ")[0], comments=True)
    command: Any = typer.main.get_command(app)
    known = options_of(command) | {"--help", "-h"}
    for word in words:
        if word.startswith("-"):
            assert word.split("=")[0] in known, f"{page}: goldsmith {line}: no option {word}"
        elif word in getattr(command, "commands", ()):
            command = command.commands[word]
            known |= options_of(command)
        elif default := getattr(command, "default_verb", None):
            command = command.commands[default]
            known |= options_of(command)
    assert not hasattr(command, "commands"), f"{page}: goldsmith {line}: no such command"


def test_there_are_many() -> None:
    assert len(command_lines()) > 40
