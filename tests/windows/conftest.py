"""What the tests with the stand-in share. NOT WINDOWS."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.fake_windows.stand import Stand
from tests.harness import new_home, remove


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/windows/test_fake_windows" in str(item.path):
            item.add_marker(pytest.mark.vm)
            item.add_marker(pytest.mark.slow)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="guests are built as root"))


@pytest.fixture(scope="session")
def stand(packages: Path) -> Iterator[Stand]:
    kept = os.environ.get("GOLDSMITH_TEST_HOME")
    home = Path(kept) if kept else new_home("test-windows")
    project = new_home("project-windows")
    try:
        yield Stand.build(home, project, packages)
    finally:
        remove(project)
        if not kept:
            remove(home)
