"""The documentation as a site: it is built without a broken link, and has every verb and every key."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from pipeline.cli.app import app
from tests.harness import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import docs_site


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the pages are collected: not that of a build which may run at the same time."""
    folder = tmp_path / "pages"
    config = tmp_path / "mkdocs.yml"
    config.write_text(docs_site.CONFIG.read_text().replace("docs_dir: build/pages", f"docs_dir: {folder}"))
    monkeypatch.setattr(docs_site, "CONFIG", config)
    monkeypatch.setattr(docs_site, "PAGES", folder)
    return folder


def verbs(command: Any, words: str) -> Iterator[str]:
    for name, verb in getattr(command, "commands", {}).items():
        if not verb.hidden:
            yield f"{words} {name}"
            yield from verbs(verb, f"{words} {name}")


def test_the_site_is_built_and_loads_nothing(pages: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    docs_site.build(site)
    found = {str(path.relative_to(site)) for path in site.rglob("*.html")}
    assert {"index.html", "commands.html", "errors.html", "how-to/failed-build.html"} <= found
    loaded = re.compile(r"<(?:script|img|iframe)[^>]* src=\"?https?:|<link[^>]* href=\"?https?:[^>]*stylesheet")
    assert [page for page in found if loaded.search((site / page).read_text())] == []


@pytest.mark.parametrize(
    "link", ["[x](nowhere.md)", "[x](building.md#no-such-heading)", "[x](../pipeline/context.py.md)"]
)
def test_a_broken_link_ends_the_build(
    link: str, pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def collect(folder: Path) -> None:
        (folder / "index.md").write_text(docs_site.with_links(f"# Page\n\n{link}\n", ROOT / "docs" / "index.md"))
        (folder / "building.md").write_text("# Building\n")

    monkeypatch.setattr(docs_site, "collect", collect)
    text = docs_site.CONFIG.read_text()
    docs_site.CONFIG.write_text(text[: text.index("nav:")] + "nav: [{Start: [{Start: index.md}]}]\n")
    with pytest.raises((docs_site.BrokenLink, SystemExit)):
        docs_site.build(tmp_path / "site")


def test_the_page_of_commands_has_every_verb() -> None:
    headings = re.findall(r"^#+ (goldsmith .*)$", docs_site.commands_page(), re.MULTILINE)
    assert headings == list(verbs(typer.main.get_command(app), "goldsmith"))


def test_the_page_of_keys_has_every_key() -> None:
    from pipeline.definition.schema import json_schema

    text = docs_site.schema_page()
    schema = json_schema()
    parts = [schema, *(part for part in schema["$defs"].values() if "properties" in part)]
    assert [key for part in parts for key in part["properties"] if f"| `{key}` |" not in text] == []
    assert "| `os` | The operating system. | `linux`, `windows` | `linux` |" in text
