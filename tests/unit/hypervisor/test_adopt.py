"""What a process learns of a guest that another process has started."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.hypervisor.domain import AGENT_CHANNEL
from pipeline.hypervisor.observation import is_agent_connected

CHANNEL = "<domain><devices><channel type='unix'><target type='virtio' name='{}'{}/></channel></devices></domain>"


@pytest.mark.parametrize(
    ("name", "state", "connected"),
    [
        (AGENT_CHANNEL, " state='connected'", True),
        (AGENT_CHANNEL, " state='disconnected'", False),
        (AGENT_CHANNEL, "", False),
        ("com.redhat.spice.0", " state='connected'", False),
    ],
)
def test_the_agents_channel_may_be_open_already(name: str, state: str, connected: bool) -> None:
    """libvirt tells of changes alone: `vm generalize --run` waited in vain for an agent that answered before."""
    domain: Any = SimpleNamespace(XMLDesc=lambda _flags: CHANNEL.format(name, state))
    assert is_agent_connected(domain) is connected
