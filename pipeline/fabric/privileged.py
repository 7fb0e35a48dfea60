"""The parts of the fabric that need root: its namespace, its wires, its sockets, and starting the server that gets
them.

It runs in a command, or in the unit at the host's start, for as long as that takes; it reads no data of
guests. `FabricServer` serves; it is a process of its own without rights (`service_process`).
"""

from __future__ import annotations

import hashlib
import os
import pwd
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.base import process
from pipeline.base.errors import HostError
from pipeline.base.store import FABRIC_USER
from pipeline.fabric import SERVED, open_way_out, open_wire_sockets
from pipeline.fabric.registrations import Registration
from pipeline.network.egress import Egress
from pipeline.network.namespaces import NAME, NAMESPACES, OUT, Namespace, Wire, end_processes
from pipeline.network.routes import Member, connect_members, refuse_wire

#: Where servers have their sockets, a folder each; a sweep of runs does not look here.
RUNTIME = Path("/run/goldsmith-fabric")
#: The module that serves.
SERVER = "pipeline.fabric.service_process"
#: Bytes of one file that the server writes: its own log is small, and those of guests are bounded by `limits`.
LARGEST_FILE = 16 << 20


def server_user() -> tuple[int, int]:
    """The server's user and group. Raises HostError."""
    try:
        entry = pwd.getpwnam(FABRIC_USER)
    except KeyError:
        raise HostError(
            f"the user {FABRIC_USER}, under which the fabric serves VMs, does not exist",
            name="fabric-user-missing",
            hint=f"make setup creates it; by hand: useradd --system --shell /usr/sbin/nologin {FABRIC_USER}",
        ) from None
    return entry.pw_uid, entry.pw_gid


def _way_out_token(label: str) -> str:
    return hashlib.sha256(f"{label}{OUT}".encode()).hexdigest()[:4]


@dataclass(frozen=True)
class Host:
    """One store's fabric on this host: its namespace and its folder below /run."""

    label: str

    @property
    def namespace(self) -> Namespace:
        return Namespace(self.label, hashlib.sha256(self.label.encode()).hexdigest()[:4])

    @property
    def folder(self) -> Path:
        return RUNTIME / self.label

    @property
    def control(self) -> Path:
        return self.folder / "control"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def make_folder(self) -> None:
        """Raises HostError (needs-root)."""
        if os.geteuid() != 0:
            raise HostError(
                "the fabric for VMs needs root",
                name="needs-root",
                hint="run the command as root, with sudo for example",
            )
        for folder in (RUNTIME, self.folder):
            folder.mkdir(mode=0o700, exist_ok=True)

    def lay(self) -> None:
        """Create the namespace with Azure's addresses if it is missing. Raises HostError (namespace-refused)."""
        self.namespace.lay({address for address, _ in SERVED})

    def attach_wire(self, registration: Registration) -> Wire:
        """Create a VM's wire if it is missing; its interfaces always have the same names."""
        namespace, instance = self.namespace, registration.instance
        refuse_wire(namespace, registration.number)
        return namespace.attach(
            registration.number, gateway=instance.gateway, address=instance.address, mac=instance.mac
        )

    def connect_networks(self, registrations: Sequence[Registration]) -> None:
        """Set the routes: the members of a private network reach each other; all other VMs stay isolated."""
        members = [Member(each.number, each.instance.address, each.data.network) for each in registrations]
        connect_members(self.namespace, members)

    def open_way_out(self, registration: Registration) -> None:
        """Open a VM's own way out, as builds have it, unless it is open and complete. Raises HostError
        (egress-failed).
        """
        number = registration.number
        label = f"{self.label}-{number}"
        bridge = self.namespace.name_wire(number).bridge
        logs = self.folder / f"out-{number}"
        open_way_out(label, logs, bridge, registration.instance, _way_out_token(label), keep=True)

    def close_way_out(self, number: int) -> None:
        """Close a VM's way out, if it has one."""
        label = f"{self.label}-{number}"
        way = Egress(label, self.folder, token=_way_out_token(label))
        if way.path.exists():
            way.close()

    def sweep_wires(self, registrations: Sequence[Registration]) -> None:
        """Remove the wires and the ways out of VMs that are not registered any more."""
        kept = {each.number for each in registrations}
        for path in NAMESPACES.glob(f"{NAME}{self.label}-*{OUT}"):
            number = path.name.removeprefix(f"{NAME}{self.label}-").removesuffix(OUT)
            if number.isdecimal() and int(number) not in kept:
                self.close_way_out(int(number))
        self.namespace.sweep_wires(kept)

    def has_wire(self, number: int) -> bool:
        namespace = self.namespace
        return namespace.has_wire(namespace.name_wire(number))

    def detach_wire(self, number: int) -> None:
        namespace = self.namespace
        namespace.detach(namespace.name_wire(number))

    def open_listeners(self) -> list[socket.socket]:
        """The sockets for HTTP, which all guests share."""
        return [self.namespace.listen(address, port) for address, port in SERVED]

    def open_sockets(self, registration: Registration) -> tuple[socket.socket, socket.socket]:
        """The sockets of a VM's wire, for its lease and its names."""
        namespace = self.namespace
        return open_wire_sockets(namespace, namespace.name_wire(registration.number), registration.instance)

    def start_server(self, records: Path) -> process.Child:
        """Start the server; it serves no guest until it gets sockets. Raises HostError (fabric-user-missing)."""
        uid, gid = server_user()
        self.log.unlink(missing_ok=True)
        argv = [sys.executable, "-m", SERVER]
        argv += ["--control", str(self.control), "--namespace", str(self.namespace.path)]
        argv += ["--records", str(records), "--user", str(uid), "--group", str(gid)]
        return process.start(
            argv, self.log, log_limit=LARGEST_FILE, env={"PYTHONPATH": str(Path(__file__).parents[2])}
        )

    def end_server(self) -> None:
        """End the server of the namespace; the load balancers of endpoints run on there."""
        if self.namespace.is_laid:
            end_processes(self.namespace.name, SERVER)
        self.control.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the fabric from the host, except its folder below /run with its lock."""
        self.control.unlink(missing_ok=True)
        self.sweep_wires([])
        self.namespace.remove()
