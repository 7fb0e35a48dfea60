"""A facade on a port of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.facade import Client, serving

#: Bytes that these tests find free, whatever this machine's disk has.
FREE = 512 << 30


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.instances.budget.free_disk", lambda _instances: FREE)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with serving(tmp_path / "store") as found:
        yield found
