"""Build the documentation as a site of static pages: `make docs`, or python tools/docs_site.py [FOLDER].

The pages are those of docs/, README.md as the first page, CONTRIBUTING.md and CHANGELOG.md. Two reference pages are
written from the code each time, so that they cannot be out of date: the help of every verb, and every key of a
definition with its type and default. The site is in FOLDER (default: build/site). It loads nothing from the network,
and a broken link ends the build.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "mkdocs.yml"
#: Where the pages are collected for mkdocs; mkdocs.yml names it.
PAGES = ROOT / "build" / "pages"
#: Files outside of docs/, and what they are called on the site.
OTHERS = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
COMMANDS, SCHEMA = "commands.md", "definition-keys.md"
#: Characters of a line of help on a page.
WIDTH = 100
#: Types of a JSON schema in the words of the pages.
_KINDS = {
    "string": "text",
    "object": "mapping",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
}
_LINK = re.compile(r"(?P<text>\]\()(?P<target>[^)\s#]+\.(?:md|png|svg))(?P<rest>[^)]*\))")


class BrokenLink(Exception):
    """A page links to a file that the site does not have."""


# ---- the pages of the tree -----------------------------------------------------------------------------------------


def place_of(source: Path) -> str | None:
    """The name of a file of the tree on the site, None if it is not there."""
    name = str(source.relative_to(ROOT))
    return OTHERS.get(name, name.removeprefix("docs/") if name.startswith("docs/") else None)


def with_links(text: str, source: Path) -> str:
    """A page's text, with its links to other files of the tree as they are on the site. Raises BrokenLink."""
    here = place_of(source)
    assert here is not None

    def on_site(found: re.Match[str]) -> str:
        target = found["target"]
        if "://" in target:
            return found[0]
        path = Path(os.path.normpath(source.parent / target))
        place = place_of(path) if path.is_relative_to(ROOT) else None
        if place is None or not path.is_file():
            raise BrokenLink(f"{source.relative_to(ROOT)} links to {target}, which is not on the site")
        return f"{found['text']}{os.path.relpath(place, Path(here).parent)}{found['rest']}"

    return _LINK.sub(on_site, text)


def collect(folder: Path) -> None:
    """Write all pages into an empty folder. Raises BrokenLink."""
    for source in (*(ROOT / name for name in OTHERS), *sorted((ROOT / "docs").rglob("*"))):
        place = place_of(source)
        if not source.is_file() or place is None:
            continue
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".md":
            target.write_text(with_links(source.read_text(), source))
        else:
            shutil.copyfile(source, target)
    (folder / COMMANDS).write_text(commands_page())
    (folder / SCHEMA).write_text(schema_page())


# ---- the command line ----------------------------------------------------------------------------------------------


def commands_page() -> str:
    """The help of every verb, as the command line prints it."""
    import typer

    from pipeline.cli.app import app

    root: Any = typer.main.get_command(app)
    head = (
        "# All commands\n\nWritten from the command line itself. [command-line.md](command-line.md) explains output, "
        "exit codes and completion.\n"
    )
    return head + "".join(_sections(root, ("goldsmith",), None))


def _sections(command: Any, words: tuple[str, ...], parent: Any) -> Iterator[str]:
    context = command.make_context(
        words[-1], [], parent=parent, resilient_parsing=True, terminal_width=WIDTH, max_content_width=WIDTH
    )
    help_text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    level = min(len(words) + 1, 3)
    yield f"\n{'#' * level} {' '.join(words)}\n\n```text\n{help_text.strip()}\n```\n"
    for name, verb in getattr(command, "commands", {}).items():
        if not verb.hidden:
            yield from _sections(verb, (*words, name), context)


# ---- the keys of a definition --------------------------------------------------------------------------------------


def schema_page() -> str:
    """Every key of a definition, from the model that `goldsmith schema` prints."""
    import pipeline.systems.registry  # noqa: F401  systems add their names and keys to the schema
    from pipeline.definition.schema import json_schema

    found = json_schema()
    parts = [
        "# All keys of a definition\n\nWritten from the model with which `goldsmith validate` checks definitions; "
        "`goldsmith schema` prints it for editors. [definition.md](definition.md) explains the keys with examples.\n",
        _table("The image", found, found["$defs"]),
    ]
    parts += [
        _table(name, part, found["$defs"]) for name, part in sorted(found["$defs"].items()) if "properties" in part
    ]
    return "\n".join(parts)


def _table(title: str, part: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    rows = [f"## {title}", ""]
    if text := part.get("description"):
        rows += [" ".join(str(text).split()), ""]
    rows += ["| key | what | type | default |", "|---|---|---|---|"]
    for name, key in part["properties"].items():
        default = (
            "required" if name in part.get("required", ()) else f"`{key['default']}`" if "default" in key else ""
        )
        text = key.get("description") or parts.get(str(key.get("$ref")).rpartition("/")[2], {}).get("description", "")
        words = (f"`{name}`", " ".join(str(text).split()), _type(key, parts), default)
        rows.append(f"| {' | '.join(word.replace('|', chr(92) + '|') for word in words)} |")
    return "\n".join(rows) + "\n"


def _type(key: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    """The type of a key in words; a part with keys of its own is a link to its table."""
    if reference := key.get("$ref"):
        name = str(reference).rpartition("/")[2]
        if "properties" in parts[name]:
            return f"[{name}](#{name.lower()})"
        # `${name}` may stand in place of any value: the pages about parameters say so once
        return "" if name == "Parameter" else name
    if choices := key.get("anyOf") or key.get("oneOf"):
        return " or ".join(dict.fromkeys(word for each in choices if (word := _type(each, parts))))
    if "const" in key or "enum" in key:
        return ", ".join(f"`{value}`" for value in key.get("enum") or [key["const"]])
    if key.get("type") == "array":
        return f"list of {_type(key.get('items') or {}, parts)}".removesuffix(" of ")
    return _KINDS.get(str(key.get("type")), "")


# ---- the site ------------------------------------------------------------------------------------------------------


def build(site: Path) -> None:
    """Build the site into a folder. Raises BrokenLink, and what mkdocs raises for a broken link or a missing page."""
    from mkdocs.commands.build import build as build_site
    from mkdocs.config import load_config

    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir(parents=True)
    collect(PAGES)
    config = load_config(str(CONFIG), site_dir=str(site), strict=True)
    config.nav = [*config.nav, *_other_pages(config.nav)]
    config.plugins.on_startup(command="build", dirty=False)
    try:
        build_site(config)
    finally:
        config.plugins.on_shutdown()


def _other_pages(nav: list[Any]) -> list[dict[str, list[str]]]:
    """A section of the navigation with the pages that mkdocs.yml does not name; reports are found by links alone."""
    named = {page for section in nav for pages in section.values() for entry in pages for page in entry.values()}
    found = {str(path.relative_to(PAGES)) for path in PAGES.rglob("*.md")}
    more = sorted(page for page in found - named if not page.startswith("reports/"))
    return [{"More": more}] if more else []


def main() -> int:
    sys.path.insert(0, str(ROOT))
    logging.basicConfig(level=logging.WARNING, format="%(message)s")  # what mkdocs finds wrong
    site = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT / "build" / "site"
    try:
        build(site)
    except BrokenLink as error:
        print(error, file=sys.stderr)
        return 1
    print(f"docs         {site / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
