"""`goldsmith vm console`, `screenshot`, `logs`, `top`: observe a VM."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from pipeline.base.errors import GuestError, NotFound
from pipeline.cli.vm.access import running
from pipeline.cli.vm.options import AsJson, Name, open_fleet

if TYPE_CHECKING:
    from pipeline.fabric.instance import Exchange
    from pipeline.hypervisor.usage import Usage
    from pipeline.instances.fleet import Fleet
    from pipeline.instances.record import Record

#: The number of bytes shown from the end of a log.
LOG_TAIL = 1 << 20


def register(noun: typer.Typer) -> None:
    for verb in (console, screenshot, logs, top):
        noun.command(verb.__name__)(verb)


def console(name: Name) -> None:
    """Connect to the serial console of a VM. Ctrl-] disconnects.

    Example:
      goldsmith vm console web
    """
    from pipeline.hypervisor.persistent import find_domain
    from pipeline.hypervisor.terminal import join_console

    fleet = open_fleet("console")
    record = running(fleet, name)
    domain = find_domain(fleet.connection, record.id)
    print(f"the console of {name}; Ctrl-] leaves it", file=sys.stderr, flush=True)
    with _RawTerminal():
        join_console(fleet.connection, domain, sys.stdin.fileno(), sys.stdout.fileno())


class _RawTerminal:
    """Send each key to the guest at once, also Ctrl-C, while the block runs. Does nothing without a
    terminal."""

    def __enter__(self) -> None:
        import termios
        import tty

        self._was = termios.tcgetattr(0) if os.isatty(0) else None
        if self._was is not None:
            tty.setraw(0)

    def __exit__(self, *_: object) -> None:
        import termios

        if self._was is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, self._was)


def screenshot(
    name: Name,
    file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(metavar="[FILE]", help="The PNG file to write (default: NAME.png)."),
    ] = None,
) -> None:
    """Save a picture of a VM's screen.

    Example:
      goldsmith vm screenshot web web.png
    """
    from pipeline.base import scratch, surroundings
    from pipeline.hypervisor.observation import take_picture
    from pipeline.hypervisor.persistent import find_domain

    fleet = open_fleet("screenshot")
    path = file or Path(f"{name}.png")
    surroundings.refuse_guarded(path)
    record = running(fleet, name)
    domain = find_domain(fleet.connection, record.id)
    picture = take_picture(fleet.connection, domain) if domain is not None else None
    if picture is None:
        raise GuestError(
            f"{name} has no screen to take a picture of", name="vm-no-screen", hint=f"goldsmith vm show {name}"
        )
    scratch.write_file(path, picture)
    print(path)


class Log(StrEnum):
    SERIAL = "serial"
    FABRIC = "fabric"
    DHCP = "dhcp"


def logs(
    name: Name,
    which: Annotated[
        Log, typer.Option("--log", help="serial: its console; fabric: its agent's requests; dhcp: its leases.")
    ] = Log.SERIAL,
) -> None:
    """Show a VM's serial console, or its requests to the fabric.

    Example:
      goldsmith vm logs web --log fabric
    """
    from pipeline.fabric import service

    fleet = open_fleet("logs")
    record = fleet.instances.get(name)
    files = {
        "serial.log": fleet.logs(record) / "serial.log",
        **service.log_files(fleet.store, record.id),
    }
    path = files.get({Log.SERIAL: "serial.log", Log.FABRIC: "fabric.jsonl", Log.DHCP: "dhcp.log"}[which])
    if path is None or not path.is_file():
        raise NotFound(
            f"{name} has no {which} log yet", name="vm-no-log", hint=f"goldsmith vm show {name} shows its state"
        )
    if which is Log.FABRIC:
        print("\n".join(map(_describe, service.read_exchanges(fleet.store, record.id))))
        return
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - LOG_TAIL))
        text = log.read(LOG_TAIL).decode(errors="replace")
    print(text.replace("\r\n", "\n").rstrip("\n"))


def _describe(exchange: Exchange) -> str:
    """A request and its answer on one line: time, status, request, report."""
    from pipeline.fabric.wireserver import health_report

    request, response = exchange.request, exchange.response
    report = health_report(request)
    words = f"  {report.state} {report.substatus} {report.description}".rstrip() if report is not None else ""
    status = "dropped" if response.drop else response.status
    return f"{exchange.at:8.2f} s  {status}  {request.method} {request.host}:{request.port}{request.target}{words}"


def top(
    names: Annotated[Optional[list[str]], typer.Argument(metavar="[NAME]...", help="The VMs (default: all).")] = None,  # noqa: UP045
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, metavar="SECONDS", help="Measure for this number of seconds.")
    ] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Measure for a moment how much processor, memory, disk and network VMs use.

    Example:
      goldsmith vm top web --seconds 5
    """
    from pipeline.cli.show import print_json, size, table

    fleet = open_fleet("top")
    records = [fleet.instances.get(name) for name in names] if names else fleet.instances.all()
    used = _measure(fleet, records, seconds)
    if as_json:
        print_json([{"name": name, **asdict(usage)} for name, usage in used.items()])
        return
    rows = [
        (
            name,
            f"{usage.cpu:.0%}",
            size(usage.memory),
            *(f"{size(int(rate))}/s" for rate in (usage.read, usage.written, usage.received, usage.sent)),
        )
        for name, usage in used.items()
    ]
    table(rows, ("name", "cpu", "memory", "read", "written", "received", "sent"), empty="no VM runs")


def _measure(fleet: Fleet, records: list[Record], seconds: float) -> dict[str, Usage]:
    from pipeline.hypervisor.persistent import find_domain
    from pipeline.hypervisor.usage import take_samples, usage_between

    found = {record.id: find_domain(fleet.connection, record.id) for record in records}
    domains = [domain for domain in found.values() if domain is not None and domain.isActive()]
    first = take_samples(fleet.connection, domains)
    threading.Event().wait(seconds)
    last = take_samples(fleet.connection, domains)
    names = {record.id: record.name for record in records}
    return {names[key]: usage_between(first[key], last[key]) for key in first if key in last}
