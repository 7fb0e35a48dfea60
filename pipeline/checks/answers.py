"""What the checks' readers answer in the sandbox's worker."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from pipeline.checks import run
from pipeline.checks.disk.secret_scan import look_up_places
from pipeline.disk.disk import Disk
from pipeline.disk.questions import Asked
from pipeline.disk.secret_search import Found
from pipeline.systems.answers import systems_of

#: Between an inspection's two questions: the disk, open, and what has been read of it. A worker reads one disk.
_begun: list[tuple[run.BegunInspection, ExitStack]] = []


def inspect(asked: Asked) -> dict[str, Any]:
    """The system on the disk and the result of each check of a profile, of the system's usual one where none is asked
    for."""
    with asked.disk() as disk:
        return _to_json(run.judge(_begin(disk, asked)))


def inspect_but_secrets(asked: Asked) -> dict[str, Any]:
    """As `inspect`, of the checks that do not search the whole disk. Anyone who asks this has others search it, and
    asks `inspect_secrets` then.
    """
    with ExitStack() as stack:
        begun = _begin(stack.enter_context(asked.disk()), asked)
        inspected = run.judge(begun, searches=False)
        look_up_places(begun.subject)
        _begun.append((begun, stack.pop_all()))
        return _to_json(inspected)


def inspect_secrets(asked: Asked) -> dict[str, Any]:
    """The results that `inspect_but_secrets` left out; `found` is what the searches of the parts have found."""
    begun, opened = _begun.pop()
    with opened:
        begun.subject.found = Found.of_parts(asked.parameters["found"])
        return _to_json(run.judge(begun, searches=True))


def _begin(disk: Disk, asked: Asked) -> run.BegunInspection:
    order = asked.parameters
    ports = order["ports"]
    return run.begin(
        disk,
        order["profile"],
        systems_of(asked),
        order["accounts"],
        order["generations"],
        None if ports is None else [(str(protocol), int(port)) for protocol, port in ports],
    )


def _to_json(inspected: run.Inspected) -> dict[str, Any]:
    results = [{"id": each.id, "status": each.status, "evidence": each.evidence} for each in inspected.results]
    return {"system": inspected.system.to_json(), "results": results}
