"""What the checks' readers answer in the sandbox's worker."""

from __future__ import annotations

from typing import Any

from pipeline.checks.listing import listing
from pipeline.checks.run import run_checks
from pipeline.offline.questions import Asked, pack_rows


def inspect(asked: Asked) -> list[dict[str, Any]]:
    """The result of each check of a profile."""
    order = asked.parameters
    ports = order["ports"]
    with asked.disk() as disk:
        results = run_checks(
            disk,
            profile=order["profile"],
            accounts=order["accounts"],
            generations=order["generations"],
            ports=None if ports is None else [(str(protocol), int(port)) for protocol, port in ports],
        )
    return [{"id": each.id, "status": each.status, "evidence": each.evidence} for each in results]


def list_rows(asked: Asked) -> int:
    """The rows of a list, as blobs; their number."""
    with asked.disk() as disk:
        return pack_rows(asked, listing(disk, asked.parameters["list"], asked.parameters["key"]))
