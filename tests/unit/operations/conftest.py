"""What a verb answers must not depend on how full this machine's disk is."""

from __future__ import annotations

import pytest

#: Bytes that these tests find free: more than their VMs and disks may take, and less than the largest wish.
FREE = 512 << 30


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.instances.budget.free_disk", lambda _instances: FREE)
