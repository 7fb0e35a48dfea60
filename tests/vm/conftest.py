"""One golden build a run, by the real command line; everything else stands on it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from pipeline.cache.digests import chunk_digests
from tests.conftest import TOGETHER
from tests.harness import DEADLINE, ROOT, Lab, new_home, remove, wait_for

#: (owner, group, mode, tree of sha256) of a file.
Seal = tuple[int, int, int, str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/vm" in str(item.path):
            item.add_marker(pytest.mark.vm)
            item.add_marker(pytest.mark.slow)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="guests are built as root"))


@pytest.fixture(scope="session")
def kept() -> Path | None:
    """A store to use and keep: GOLDSMITH_TEST_HOME names one, to spare an author the golden build."""
    named = os.environ.get("GOLDSMITH_TEST_HOME")
    return Path(named) if named else None


@pytest.fixture(scope="session")
def home(kept: Path | None, worker_id: str, request: pytest.FixtureRequest) -> Iterator[Path]:
    """This process's own store. One process alone uses the one to keep: two would meet each other's runs there."""
    alone = worker_id == "master" or (worker_id == "gw0" and not _somebody_needs_layers(request))
    if kept is not None and (alone or _needs_layers(os.environ["PYTEST_CURRENT_TEST"])):
        yield kept
        return
    folder = new_home("test")
    yield folder
    remove(folder)


@pytest.fixture(scope="session")
def golden_build(home: Path, kept: Path | None, request: pytest.FixtureRequest) -> Lab:
    """The repository's own debian-12, built from nothing (unless the store was given).

    Of several processes the one that runs tests/vm/test_golden.py builds it, and what TOGETHER names with it, because
    they need its layers and runs too. The others get a copy of its master.
    """
    shared = getattr(request.config, "workerinput", {}).get("shared")
    if shared is None:
        build_golden(home)
    else:
        copy = Path(shared) / "debian-12"
        if _needs_layers(os.environ["PYTEST_CURRENT_TEST"]) or not _somebody_needs_layers(request):
            with FileLock(f"{copy}.lock"):
                if not copy.exists():
                    _build_for_all(kept or home, copy)
        else:
            _wait_for_another(copy)
        if not (home / "gallery/debian-12/golden").exists():
            (home / "gallery").mkdir(parents=True, exist_ok=True)
            copy_versions(copy, home / "gallery/debian-12")
    RECORDED.update(seals(home))
    return Lab(ROOT, home)


def _needs_layers(test: str) -> bool:
    file = test.partition("::")[0]
    return TOGETHER.get(file, file) == "tests/vm/test_golden.py"


def _somebody_needs_layers(request: pytest.FixtureRequest) -> bool:
    return any(_needs_layers(item.nodeid) for item in request.session.items)


def _build_for_all(home: Path, copy: Path) -> None:
    try:
        build_golden(home)
        copy_versions(home / "gallery/debian-12", copy)
    except BaseException:
        copy.with_name("failed").touch()
        raise


def _wait_for_another(copy: Path) -> None:
    wait_for("the golden build of another process", lambda: copy.exists() or _has_failed(copy), DEADLINE)
    assert not _has_failed(copy), "the golden build failed in another process"


def _has_failed(copy: Path) -> bool:
    return copy.with_name("failed").exists()


def build_golden(home: Path) -> None:
    done = Lab(ROOT, home).run("build", "debian-12")
    assert done.returncode == 0, done.stdout + done.stderr


def copy_versions(source: Path, target: Path) -> None:
    """All versions of an image as they are, with their channels. The target appears whole."""
    fresh = target.with_name(f"{target.name}.new")
    subprocess.run(["cp", "-a", "--sparse=always", source, fresh], check=True)
    fresh.rename(target)


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
    """The seals of every committed layer's disk and every master."""
    layers = (path for path in home.glob("layers/*/disk.*") if (path.parent / "record.json").exists())
    masters = (path for path in home.glob("gallery/*/*/disk.vhd") if not path.parent.is_symlink())
    return {str(path): seal(path) for path in sorted((*layers, *masters))}


def seal(path: Path) -> Seal:
    status = path.stat()
    return status.st_uid, status.st_gid, status.st_mode & 0o7777, chunk_digests(path).tree


@pytest.fixture(scope="session", autouse=True)
def nothing_changes_what_is_committed(home: Path) -> Iterator[None]:
    """After every run the owner, mode and hash of each layer and master are as they were when they were made."""
    yield
    for path, sealed in RECORDED.items():
        if Path(path).exists():
            assert seal(Path(path)) == sealed, f"{path} was {sealed}, is {seal(Path(path))}"


RECORDED: dict[str, Seal] = {}


@pytest.fixture(scope="session")
def sealed(golden_build: Lab) -> dict[str, Seal]:
    """The seals as the golden build left them; compared again at the session's end."""
    return RECORDED
