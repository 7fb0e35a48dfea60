"""One golden build a run, by the real command line; everything else stands on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.digests import chunk_digests
from tests.campaigns.lab import ROOT, Lab, new_home, remove

#: (owner, group, mode, tree of sha256) of a file.
Seal = tuple[int, int, int, str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/vm" in str(item.path):
            item.add_marker(pytest.mark.vm)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="guests are built as root"))


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """The tests' own store. GOLDSMITH_TEST_HOME names one to use and keep, to spare an author the golden build."""
    kept = os.environ.get("GOLDSMITH_TEST_HOME")
    folder = Path(kept) if kept else new_home("test")
    yield folder
    if not kept:
        remove(folder)


@pytest.fixture(scope="session")
def golden_build(home: Path) -> Lab:
    """The repository's own debian-12, built from nothing (unless the store was given)."""
    lab = Lab(ROOT, home)
    done = lab.run("build", "debian-12")
    assert done.returncode == 0, done.stdout + done.stderr
    return lab


@pytest.fixture(scope="session")
def master(golden_build: Lab) -> Path:
    return Path(golden_build.master("debian-12")["path"])


@pytest.fixture(scope="session")
def lab(home: Path, golden_build: Lab) -> Iterator[Lab]:
    """A user's own project on the same store."""
    folder = new_home("project")
    yield Lab(folder, home)
    remove(folder)


def seals(home: Path) -> dict[str, Seal]:
    """Owner, mode and content of every committed layer's disk and every master."""
    found = {}
    for pattern in ("layers/*/disk.*", "gallery/*/*/disk.vhd"):
        for path in sorted(home.glob(pattern)):
            if path.parent.parent.name == "layers" and not (path.parent / "record.json").exists():
                continue
            status = path.stat()
            found[str(path)] = (status.st_uid, status.st_gid, status.st_mode & 0o7777, chunk_digests(path).tree)
    return found


@pytest.fixture(scope="session", autouse=True)
def nothing_changes_what_is_committed(home: Path) -> Iterator[None]:
    """After every run the owner, mode and hash of each layer and master are as they were when they were made."""
    yield
    record = RECORDED
    now = seals(home)
    for path, seal in record.items():
        if path in now:
            assert now[path] == seal, f"{path} was {seal}, is {now[path]}"


RECORDED: dict[str, Seal] = {}


@pytest.fixture(scope="session")
def sealed(home: Path, golden_build: Lab) -> dict[str, Seal]:
    """The seals as the golden build left them; compared again at the session's end."""
    RECORDED.update(seals(home))
    return RECORDED
