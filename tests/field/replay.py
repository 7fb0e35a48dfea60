"""An archive of the field as a test: what guests asked, printed and complained about there is judged by today's code.

A replay finds what has changed since: an answer of the fabric that is another one, a console whose end is no longer
recognized, a message that is no longer known. It needs no guest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import PurePosixPath

from pipeline.checks.run import all_checks
from pipeline.fabric import Extension
from pipeline.fabric.answers import answer
from pipeline.fabric.guest_record import parse_exchange
from pipeline.fabric.instance import IMDS, WIRESERVER, Exchange, Instance
from pipeline.fabric.wireserver import health_report
from pipeline.hypervisor.console import LOGIN, disaster
from pipeline.systems.linux.boot_messages import Message, explain
from tests.field.archive import FieldArchive

#: Requests whose answer depends on a header that the fabric's log does not keep: the guest's certificate, the version
#: that it has already.
_NOT_KEPT = re.compile(r"comp=certificates|^/vmSettings\b")
_MESSAGE = re.compile(r"(\d) ([^:]+): (.*)   \[(known: .*|NOT KNOWN|no complaint)\]")


@dataclass(frozen=True)
class Replayed:
    """What was replayed of one file: how many of its parts, how many cannot be, and what is another now."""

    file: str
    parts: int
    left_out: int
    differences: tuple[str, ...]


def replay(archive: FieldArchive) -> list[Replayed]:
    """Replay each file of an archive that can be, in the order of their names."""
    readers = {"fabric.jsonl": _fabric, "boot-messages.log": _messages, "checks.json": _checks}
    found = []
    for name in sorted(archive.files):
        last = PurePosixPath(name).name
        if last in readers:
            found.append(readers[last](name, archive.text(name), archive))
        elif last.endswith("serial.log"):
            found.append(_console(name, archive.files[name], archive))
    return found


def console_state(serial: bytes) -> str:
    """What a console says about its guest: the name of its failure, `login`, or `nothing`."""
    lost = disaster(serial, 0)
    return lost[0] if lost else "login" if LOGIN.search(serial) else "nothing"


def _fabric(name: str, text: str, _archive: FieldArchive) -> Replayed:
    """Each request of a guest gets the answer that it got there, and counts as the same report."""
    instance = _instance()
    parts, left_out, differences = 0, 0, []
    for line in filter(None, text.split("\n")):
        row = json.loads(line)
        exchange = parse_exchange(row)
        if exchange is None or not _can_be_replayed(exchange):
            left_out += 1
            continue
        parts += 1
        what = f"{exchange.request.method} {exchange.request.target}"
        differences += [f"{what}: {each}" for each in _other_answer(instance, exchange, row)]
    return Replayed(name, parts, left_out, tuple(differences))


def _can_be_replayed(exchange: Exchange) -> bool:
    """Whether the answer depends on nothing but what the log keeps. A site outside is each definition's own."""
    request = exchange.request
    return request.host in (IMDS, WIRESERVER) and not _NOT_KEPT.search(request.target) and not exchange.response.drop


def _other_answer(instance: Instance, exchange: Exchange, row: dict[str, object]) -> Iterator[str]:
    request = exchange.request
    if request.host == IMDS and exchange.response.status != 400:
        # without this header the metadata service refuses; the log does not keep it
        request = replace(request, headers={**request.headers, "metadata": "true"})
    now, then = answer(instance, request), exchange.response
    if (now.status, now.drop) != (then.status, then.drop):
        yield f"answered {'nothing' if now.drop else now.status}, there {'nothing' if then.drop else then.status}"
    report, recorded = health_report(request), row.get("report")
    state = recorded.get("state") if isinstance(recorded, dict) else None
    if (report.state if report else None) != state:
        yield f"counts as the report {report.state if report else 'none'}, there {state or 'none'}"


def _messages(name: str, text: str, archive: FieldArchive) -> Replayed:
    """Each message that was known there is known."""
    emulated = archive.field.get("accelerator") != "kvm"
    parts, differences = 0, []
    for line in filter(None, text.split("\n")):
        if not (found := _MESSAGE.fullmatch(line)):
            differences.append(f"no line of a log of messages: {line[:80]}")
            continue
        parts += 1
        message = Message(found[2], found[3], int(found[1]))
        if found[4].startswith("known: ") and explain(message, emulated=emulated) is None:
            differences.append(f"no longer known: {message}")
    return Replayed(name, parts, 0, tuple(differences))


def _checks(name: str, text: str, _archive: FieldArchive) -> Replayed:
    """Each check that judged the disk there is a check still, of the same severity."""
    now = {check.id: check.severity for check in all_checks()}
    rows = json.loads(text)
    differences = [
        f"the check {row['id']} is {now.get(row['id'], 'gone')}, there {row['severity']}"
        for row in rows
        if now.get(row["id"]) != row["severity"]
    ]
    return Replayed(name, len(rows), 0, tuple(differences))


def _console(name: str, serial: bytes, archive: FieldArchive) -> Replayed:
    """A console is recognized as there."""
    state, then = console_state(serial), archive.field.get("consoles", {}).get(name)
    if then is None:
        return Replayed(name, 0, 1, ())
    return Replayed(name, 1, 0, () if state == then else (f"recognized as {state}, there as {then}",))


@cache
def _instance() -> Instance:
    """A VM as the fabric knows it; no answer's status depends on whose it is."""
    extension = Extension.make("field")
    return Instance("vm", "user", "ssh-ed25519 AAAA", "00:0d:3a:00:00:01", "10.83.0.2", extension=extension)
