"""`goldsmith vm forward`, `rdp`: forward a port of this host to a port of a VM while the command runs."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from pipeline.base.errors import HostError, Interrupted
from pipeline.cli.vm.access import running
from pipeline.cli.vm.options import Name, open_fleet

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.instances.fleet import Fleet
    from pipeline.instances.record import Record

#: The port of Windows' remote desktop.
RDP = 3389
Local = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--local", min=1, max=65535, metavar="PORT", help="The port on this host (default: a free port)."),
]


def register(noun: typer.Typer) -> None:
    noun.command("forward")(forward)
    noun.command("rdp")(rdp)


def forward(
    name: Name,
    port: Annotated[int, typer.Argument(min=1, max=65535, metavar="PORT", help="The TCP port in the VM.")],
    local: Local = None,
) -> None:
    """Make a port of a VM reachable at this host's loopback until Ctrl-C.

    Example:
      goldsmith vm forward web 80 --local 8080
    """
    fleet = open_fleet("forward")
    _relay(fleet, running(fleet, name), port, local, lambda here: print(f"127.0.0.1:{here}", flush=True))


def rdp(
    name: Name,
    file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(metavar="[FILE]", help="The .rdp file to write (default: NAME.rdp)."),
    ] = None,
    local: Local = None,
) -> None:
    """Write an .rdp file for a Windows VM, and forward its port until Ctrl-C.

    Example:
      goldsmith vm rdp win win.rdp
    """
    from pipeline.base import scratch, surroundings

    fleet = open_fleet("rdp")
    path = file or Path(f"{name}.rdp")
    surroundings.refuse_guarded(path)
    record = running(fleet, name)

    def write(here: int) -> None:
        lines = (
            f"full address:s:127.0.0.1:{here}",
            f"username:s:{record.user}",
            "prompt for credentials:i:1",
            "authentication level:i:0",  # the guest's certificate is its own
        )
        scratch.write_file(path, "".join(f"{line}\r\n" for line in lines).encode())
        print(f"{path}: 127.0.0.1:{here}, {record.user}; Ctrl-C ends it", flush=True)

    _relay(fleet, record, RDP, local, write)


def _relay(fleet: Fleet, record: Record, port: int, local: int | None, on_open: Callable[[int], None]) -> None:
    from pipeline.fabric import service
    from pipeline.guest.access import free_port
    from pipeline.network.relay import Relay

    fabric = service.ensure(fleet.store)
    here = local or free_port()
    try:
        relay = Relay(here, lambda timeout: fabric.connect(record.id, port, timeout))
    except OSError as error:
        raise HostError(
            f"port {here} of this host cannot be used: {error.strerror}",
            name="port-taken",
            hint="choose another port with --local PORT",
        ) from None
    try:
        # whoever reads the line may interrupt before it has been written to its end
        with contextlib.suppress(Interrupted):
            on_open(here)
            threading.Event().wait()
    finally:
        relay.close()
