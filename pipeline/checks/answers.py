"""What the checks' readers answer in the sandbox's worker."""

from __future__ import annotations

from typing import Any

from pipeline.checks.listing import listing
from pipeline.checks.run import run_checks
from pipeline.disk.questions import Asked, pack_rows
from pipeline.disk.secret_search import Found, search


def search_part(asked: Asked) -> dict[str, Any]:
    """What the search for secrets finds in one of several parts of the disk."""
    with asked.disk() as disk:
        return search(disk, int(asked.parameters["number"]), int(asked.parameters["parts"])).to_json()


def inspect(asked: Asked) -> list[dict[str, Any]]:
    """The result of each check of a profile; `searches` says whether of those that search the whole disk or not."""
    order = asked.parameters
    ports = order["ports"]
    with asked.disk() as disk:
        results = run_checks(
            disk,
            profile=order["profile"],
            accounts=order["accounts"],
            generations=order["generations"],
            ports=None if ports is None else [(str(protocol), int(port)) for protocol, port in ports],
            searches=order.get("searches"),
            found=Found.of_parts(order["found"]) if "found" in order else None,
        )
    return [{"id": each.id, "status": each.status, "evidence": each.evidence} for each in results]


def list_rows(asked: Asked) -> int:
    """The rows of a list, as blobs; their number."""
    with asked.disk() as disk:
        return pack_rows(asked, listing(disk, asked.parameters["list"], asked.parameters["key"]))
