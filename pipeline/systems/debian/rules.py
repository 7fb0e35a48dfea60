"""What a definition that bootstraps Debian may say, beside what holds for every Linux."""

from __future__ import annotations

from typing import Any

from pipeline.definition.document import Document
from pipeline.definition.units import GIB, disk_size

#: A bootstrapped Debian with a kernel, the agent and room for its own updates does not fit in less.
_SMALLEST_DEBIAN = 2 * GIB


def check(document: Document, data: dict[str, Any]) -> None:
    """Put a fault into the document where the disk is too small to bootstrap in."""
    source = data.get("source")
    if not isinstance(source, dict) or "debian" not in source or "disk" not in data:
        return
    try:
        total = disk_size(data["disk"])
    except ValueError:
        return
    if total < _SMALLEST_DEBIAN:
        document.add(("disk",), f"{data['disk']} is too small to bootstrap Debian in", "use at least 2 GiB")
