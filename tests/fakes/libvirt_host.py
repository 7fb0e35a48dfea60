"""A host of libvirt's own test driver, on which one domain runs.

The host is this connection's alone. All connections of a process share the host `test:///default` as long as one of
them is open, so that a test would find what another one has switched off.
"""

from __future__ import annotations

from pathlib import Path

import libvirt

from pipeline.hypervisor.connection import Connection

#: The id of the domain that runs.
RUNNING = "6695eb01-f6a4-8304-79aa-97f2502e193f"
_HOST = Path(__file__).with_name("libvirt_host.xml")


def open_host() -> Connection:
    return Connection(libvirt.open(f"test://{_HOST}"))
