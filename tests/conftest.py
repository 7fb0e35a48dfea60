"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def golden():
    """Compare a text with tests/golden/NAME; GOLDSMITH_REGEN=1 writes it anew."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if os.environ.get("GOLDSMITH_REGEN"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"{path} is missing: GOLDSMITH_REGEN=1 writes it"
        assert text == path.read_text()

    return compare


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object | None:
    """`--dist loadgroup`: the tests of one folder run in one process, because guests share one golden build.

    xdist's own groups (3.8) are lost with pytest 9, which no longer lets it rename a test.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFolder(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return str(Path(nodeid.split("::", 1)[0]).parent)

    return ByFolder(config, log) if config.getvalue("dist") == "loadgroup" else None
