"""What the checks' readers answer in the sandbox's worker."""

from __future__ import annotations

from typing import Any

from pipeline.checks import run
from pipeline.checks.listing import listing
from pipeline.disk.questions import Asked, pack_rows
from pipeline.disk.secret_search import Found, search
from pipeline.systems.inspection import Inspection
from pipeline.systems.installed import find_or_generic


def search_part(asked: Asked) -> dict[str, Any]:
    """What the search for secrets finds in one of several parts of the disk."""
    with asked.disk() as disk:
        return search(disk, int(asked.parameters["number"]), int(asked.parameters["parts"])).to_json()


def systems_of(asked: Asked) -> list[Inspection]:
    """The systems that the caller knows of."""
    return [Inspection.from_json(row) for row in asked.parameters["systems"]]


def detect(asked: Asked) -> dict[str, Any]:
    """The system on the disk; where none is recognized, what it is read as."""
    with asked.disk() as disk:
        return find_or_generic(disk, systems_of(asked), asked.parameters["profile"])[0].to_json()


def inspect(asked: Asked) -> dict[str, Any]:
    """The system on the disk and the result of each check of a profile, of the system's usual one where none is asked
    for; `searches` says whether of those that search the whole disk or not."""
    order = asked.parameters
    ports = order["ports"]
    with asked.disk() as disk:
        inspected = run.inspect(
            disk,
            profile=order["profile"],
            systems=systems_of(asked),
            accounts=order["accounts"],
            generations=order["generations"],
            ports=None if ports is None else [(str(protocol), int(port)) for protocol, port in ports],
            searches=order.get("searches"),
            found=Found.of_parts(order["found"]) if "found" in order else None,
        )
    results = [{"id": each.id, "status": each.status, "evidence": each.evidence} for each in inspected.results]
    return {"system": inspected.system.to_json(), "results": results}


def list_rows(asked: Asked) -> int:
    """The rows of a list, as blobs; their number."""
    with asked.disk() as disk:
        rows = listing(disk, asked.parameters["list"], asked.parameters["key"], systems_of(asked))
        return pack_rows(asked, rows)
