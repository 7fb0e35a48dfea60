"""Only the command line looks at the environment: where things land is handed in."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pipeline
from pipeline.base import scratch, surroundings
from pipeline.base.store import Store
from pipeline.base.surroundings import Places
from pipeline.cli.environment import hand_in_environment, locate_store, signing_key

ROOT = Path(pipeline.__file__).parent
_LOOKS = {("os", name) for name in ("environ", "environb", "getenv", "getenvb", "putenv", "path.expanduser")} | {
    ("Path", "home")
}
#: Programs of other processes, which read what goldsmith set for them: Ansible's plugin, and what runs in a guest.
_OTHER_PROGRAMS = ("callbacks", "inside")


def looks_at_environment(text: str) -> list[int]:
    """The lines on which a module looks at the environment, or at the home folder that it names."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute):
            if (ast.unparse(node.value), node.attr) in _LOOKS or node.attr == "expanduser":
                found.append(node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            found += [node.lineno for alias in node.names if ("os", alias.name) in _LOOKS]
    return sorted(found)


def test_only_the_command_line_looks_at_the_environment() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted(ROOT.rglob("*.py"))
        if path.relative_to(ROOT).parts[0] not in ("cli", "__main__.py")
        and not set(path.parts) & set(_OTHER_PROGRAMS)
        for line in looks_at_environment(path.read_text())
    ]
    assert found == []


def test_the_census_sees_each_way_to_look() -> None:
    text = 'import os\nos.environ["A"]\nos.getenv("A")\nPath.home()\nPath("~").expanduser()\nfrom os import environ\n'
    assert looks_at_environment(text) == [2, 3, 4, 5, 6]


def test_the_command_line_says_where_things_land(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "GOLDSMITH_HOME": "store",
        "GOLDSMITH_KEY": "keys/own.key",
        "XDG_CACHE_HOME": "cache",
        "XDG_STATE_HOME": "state",
        "TMPDIR": "temporary",
    }.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    hand_in_environment()
    store = locate_store()
    assert (store.root, store.host.key, store.host.cache) == (
        tmp_path / "store",
        tmp_path / "keys/own.key",
        tmp_path / "cache/goldsmith",
    )
    assert signing_key() == store.host.key
    assert surroundings.places() == Places(tmp_path / "store", tmp_path / "state/goldsmith", tmp_path / "temporary")
    assert tmp_path / "store/scratch" in scratch.journals()


def test_without_a_command_line_the_places_are_the_users_and_the_default_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GOLDSMITH_HOME", "/elsewhere")
    monkeypatch.setenv("HOME", "/elsewhere")
    surroundings.hand_in({}, Places)
    try:
        assert surroundings.places().home == surroundings.DEFAULT_HOME
        assert surroundings.places().own_state == surroundings.user_home() / ".local/state/goldsmith"
        assert surroundings.variables() == {}
        assert Store(Path("/s")).host.key == Path("/etc/goldsmith/signing.key")
    finally:
        hand_in_environment()
