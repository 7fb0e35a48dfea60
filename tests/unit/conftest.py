"""Unit tests know nothing of the host's own store."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that does not exist, wherever a test names none."""
    monkeypatch.setenv("GOLDSMITH_HOME", str(tmp_path / "no-store"))
    monkeypatch.setattr("pipeline.cli.environment.host_facts", lambda: tmp_path / "host-facts")
