"""What all tests share, and in which order and process the guests' tests run."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

import pipeline.systems.registry  # noqa: F401  definitions are read by the rules of the systems that are registered
from pipeline.cli.environment import hand_in_environment
from tests.harness import new_home, remove

# tests call what the command line calls, and it hands this in before
hand_in_environment()

# the same examples in every run, on a host of any load
hypothesis.settings.register_profile(
    "same", derandomize=True, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)
hypothesis.settings.load_profile("same")

GOLDEN = Path(__file__).parent / "golden"

#: Files of guests whose tests one process runs in one go: they need the layers or the paths of the golden build, or
#: use the same names of networks.
TOGETHER = {
    "tests/vm/test_handmade.py": "tests/vm/test_golden.py",
    "tests/vm/test_refresh_nights.py": "tests/vm/test_golden.py",
    "tests/vm/test_way_out.py": "tests/vm/test_wires.py",
    "tests/vm/test_qemu_img_calls.py": "tests/vm/test_wires.py",
    "tests/vm/test_kills.py": "tests/vm/test_wires.py",
    "tests/vm/test_small_guests.py": "tests/vm/test_wires.py",
}
#: The order in which files of guests are begun: first the golden build and what needs none, then the longest first.
#: What is not named comes after them.
LONGEST_FIRST = (
    "tests/vm/test_golden.py",
    "tests/windows/test_fake_windows.py",
    "tests/vm/test_builds.py",
    "tests/vm/test_warm.py",
    "tests/vm/test_data_disks.py",
    "tests/vm/test_capture_walk.py",
    "tests/vm/test_wires.py",
    "tests/vm/test_instances.py",
)
#: A folder that all test processes of one run have in common; only the process that starts the others makes it.
SHARED = pytest.StashKey[Path]()


@pytest.fixture
def golden():
    """Compare a text with tests/golden/NAME; GOLDSMITH_REGEN=1 writes it again."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if os.environ.get("GOLDSMITH_REGEN"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"{path} is missing: GOLDSMITH_REGEN=1 writes it"
        assert text == path.read_text()

    return compare


@pytest.fixture(scope="session")
def packages(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Where Debian packages that stand-ins are made of are fetched to, once for all test processes."""
    shared = getattr(request.config, "workerinput", {}).get("shared")
    if shared is not None:
        yield Path(shared) / "packages"
        return
    folder = new_home("packages")
    yield folder
    remove(folder)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What a test draws with `random` is the same in every run."""
    random.seed(item.nodeid)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first: what is begun last decides when the last process ends."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Before xdist starts a process: tell it the folder that all processes of this run share."""
    stash = node.config.stash
    if SHARED not in stash:
        stash[SHARED] = new_home("shared")
    node.workerinput["shared"] = str(stash[SHARED])


def pytest_unconfigure(config: pytest.Config) -> None:
    if SHARED in config.stash:
        remove(config.stash[SHARED])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object | None:
    """`--dist loadgroup`: a file runs in one process, the longest files are begun first.

    xdist's own groups (3.8) are lost with pytest 9, which no longer lets it rename a test.
    """
    from xdist.scheduler import LoadScopeScheduling

    class LongestFirst(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return TOGETHER.get(file, file)

        def _assign_work_unit(self, node: Any) -> None:
            self.workqueue.move_to_end(min(self.workqueue, key=place_in_order), last=False)
            super()._assign_work_unit(node)

    return LongestFirst(config, log) if config.getvalue("dist") == "loadgroup" else None


def place_in_order(file: str) -> int:
    """The place of a file of guests in the order in which they are begun."""
    return LONGEST_FIRST.index(file) if file in LONGEST_FIRST else len(LONGEST_FIRST)
