"""tools/requirements.lock and tools/build.lock: what a release installs, as `make lock` writes it."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.harness import ROOT

DESCRIBED = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LINE = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9.-]*)==(?P<version>\S+) --hash=sha256:[0-9a-f]{64}(?:  # compiled on the host)?"
)
LOCKS = ("tools/requirements.lock", "tools/build.lock")


def load_tool() -> Any:
    spec = importlib.util.spec_from_file_location("release_lock", ROOT / "tools" / "lock.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def locked(name: str) -> dict[str, str]:
    """The version of each package of a lock, by its canonical name; every line must be a pin with one digest."""
    first, *lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert first.startswith("# For Python 3.")
    found = [LINE.fullmatch(line) for line in lines]
    assert None not in found, [line for line, match in zip(lines, found, strict=True) if match is None]
    return {canonicalize_name(match["name"]): match["version"] for match in found if match is not None}


def unsatisfied(requirements: list[str], versions: dict[str, str]) -> list[str]:
    """The requirements whose package is not locked, or not in a version of their range."""
    missing = []
    for text in requirements:
        wanted = Requirement(text)
        version = versions.get(canonicalize_name(wanted.name))
        if version is None or version not in wanted.specifier:
            missing.append(f"{text}, locked: {version}")
    return missing


def test_the_locks_satisfy_the_ranges_of_the_project() -> None:
    project = DESCRIBED["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["azure"]]
    assert unsatisfied(wanted, locked(LOCKS[0])) == [], "run make lock"
    assert unsatisfied(DESCRIBED["build-system"]["requires"], locked(LOCKS[1])) == [], "run make lock"


def test_a_range_that_was_raised_is_found() -> None:
    versions = {"lark": "1.3.1"}
    assert unsatisfied(["lark>=1.1.5,<2"], versions) == []
    assert unsatisfied(["lark>=2"], versions) == ["lark>=2, locked: 1.3.1"]
    assert unsatisfied(["rich>=13"], versions) == ["rich>=13, locked: None"]


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_host(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "://" not in text and "--index-url" not in text and "@" not in text


def report(**download: Any) -> dict[str, Any]:
    return {"install": [{"metadata": {"name": "Some_Thing", "version": "1.0"}, "download_info": download}]}


def test_a_package_without_a_digest_is_refused(tmp_path: Path) -> None:
    lines_of = load_tool().lines_of
    digest = {"hashes": {"sha256": "a" * 64}}
    pinned = f"some-thing==1.0 --hash=sha256:{'a' * 64}"
    assert lines_of(report(url="some_thing-1.0-py3-none-any.whl", archive_info=digest)) == [pinned]
    assert lines_of(report(url="some_thing-1.0.tar.gz", archive_info=digest)) == [f"{pinned}  # compiled on the host"]
    with pytest.raises(ValueError, match=r"no sha256 of some-thing 1\.0"):
        lines_of(report(url=tmp_path.as_uri(), dir_info={}))
