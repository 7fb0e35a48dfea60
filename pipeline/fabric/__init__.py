"""Azure as a guest sees it: addresses, DHCP, WireServer, metadata service, provisioning medium; for many VMs at once.

The guest's own agent is tested unchanged: its requests and its reports are recorded.
The fabric does not imitate Hyper-V: the static checks cover vmbus, storvsc and netvsc.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from pipeline.definition import DataDisk
from pipeline.fabric import dhcp, names
from pipeline.fabric.answers import Answer, answer
from pipeline.fabric.extension import Extension, HandlerStatus
from pipeline.fabric.guest_record import GuestRecord
from pipeline.fabric.instance import (
    HTTP_PORT,
    IMDS,
    INTERNAL_DOMAIN,
    PLUGIN_PORT,
    WIRESERVER,
    Event,
    Exchange,
    Instance,
    Report,
    Request,
    Response,
    Site,
)
from pipeline.fabric.serving import FabricServer
from pipeline.network.egress import Egress, Place, host_addresses
from pipeline.network.endpoints import host_destinations
from pipeline.network.namespaces import Namespace, Wire, address_of, sweep_networks
from pipeline.network.relay import Relay

__all__ = [
    "Event",
    "Exchange",
    "Extension",
    "Fabric",
    "Guest",
    "HandlerStatus",
    "Instance",
    "Report",
    "Request",
    "Response",
    "Site",
    "answer",
    "draw_mac",
    "sweep_networks",
]

#: Where every fabric serves HTTP.
SERVED = ((WIRESERVER, HTTP_PORT), (WIRESERVER, PLUGIN_PORT), (IMDS, HTTP_PORT))


def draw_mac() -> str:
    """A MAC address with Microsoft's prefix, as guests on Azure see it."""
    return "00:0d:3a:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3))


class Guest(GuestRecord):
    """One attached VM: its wire, the relays to its ports, and the record of its requests."""

    def __init__(self, instance: Instance, wire: Wire, logs: Path) -> None:
        super().__init__(instance, logs)
        self.wire = wire
        self._relays: list[Relay] = []
        self._way_out: Egress | None = None

    @property
    def bridge(self) -> str:
        return self.wire.bridge


class Fabric:
    """A fabric for one run: entering it creates it, leaving it removes it completely from the host."""

    def __init__(self, label: str, say: Answer = answer, site: Site | None = None) -> None:
        self._namespace = Namespace(label)
        self._say = say
        self._site = site
        self._guests: list[Guest] = []
        self._numbers = iter(range(8192))
        self._lock = threading.Lock()
        self._server: FabricServer | None = None

    def __enter__(self) -> Fabric:
        try:
            served = list(SERVED)
            served += [(self._site.address, self._site.port)] if self._site else []
            self._namespace.lay({address for address, _ in served})
            self._server = FabricServer(self._say)
            for address, port in served:
                self._server.listen(self._namespace.listen(address, port))
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        with contextlib.ExitStack() as last:
            last.callback(self._namespace.remove)
            if self._server is not None:
                last.callback(self._server.close)
            for guest in list(self._guests):
                last.callback(self.detach, guest)
        self._server = None

    def attach(
        self,
        name: str,
        user: str,
        public_key: str,
        logs: Path,
        *,
        custom_data: bytes = b"",
        user_data: bytes = b"",
        data_disks: Sequence[DataDisk] = (),
        extension: Extension | None = None,
        provisioned: bool = True,
        outside: bool = False,
    ) -> Guest:
        """A new VM: its address, its wire, its lease and its names. `logs` gets `fabric.jsonl` and `dhcp.log`.

        A VM that is not `provisioned` finds no metadata service. Its agent installs and runs an `extension`.
        A VM with a way `outside` reaches the public network; of one fabric one VM at a time.
        """
        assert self._server is not None, "the fabric is not entered"
        with self._lock:
            number = next(self._numbers)
        instance = Instance(
            name=name,
            user=user,
            public_key=public_key,
            mac=draw_mac(),
            address=address_of(number),
            custom_data=custom_data,
            user_data=user_data,
            data_disks=tuple(data_disks),
            site=self._site,
            extension=extension,
            provisioned=provisioned,
        )
        logs.mkdir(parents=True, exist_ok=True)
        wire = self._namespace.attach(number, gateway=instance.gateway, address=instance.address, mac=instance.mac)
        guest = Guest(instance, wire, logs)
        with self._lock:
            self._guests.append(guest)
        try:
            self._server.attach(guest, *open_wire_sockets(self._namespace, wire, instance), outside=outside)
            if outside:
                guest._way_out = open_way_out(self._namespace.label, logs, wire.bridge, instance)
        except BaseException:
            self.detach(guest)
            raise
        return guest

    def detach(self, guest: Guest) -> None:
        """Detach a VM from the fabric. Its records stay."""
        with self._lock:
            if guest in self._guests:
                self._guests.remove(guest)
        for relay in guest._relays:
            relay.close()
        if guest._way_out is not None:
            guest._way_out.close()
            guest._way_out = None
        if self._server is not None:
            self._server.detach(guest.instance.vm_id)
        self._namespace.detach(guest.wire)

    def forward(self, guest: Guest, host_port: int, guest_port: int) -> None:
        """Make a port of the guest reachable at a port of the host's loopback."""
        address = guest.instance.address
        guest._relays.append(Relay(host_port, lambda timeout: self._namespace.connect(address, guest_port, timeout)))


def open_way_out(
    label: str, logs: Path, bridge: str, instance: Instance, token: str | None = None, *, keep: bool = False
) -> Egress:
    """A VM's own way out over the bridge of its wire, as builds have one. Raises HostError (egress-failed).

    `keep`: one that is open and whole stays as it is.
    """
    place = Place(
        gateway=instance.way_out,
        prefix=instance.network.prefixlen,
        resolver=instance.way_out,
        guests=(instance.address,),
        bridge=bridge,
        inner_domain=INTERNAL_DOMAIN,
        inner_resolver=instance.gateway,
    )
    if keep:
        there = Egress(label, logs, place=place, token=token)
        if there.is_open():
            return there
        there.close()
    logs.mkdir(mode=0o700, exist_ok=True)
    way = Egress(label, logs, host_destinations(host_addresses()), place=place, token=token)
    way.open()
    return way


def open_wire_sockets(namespace: Namespace, wire: Wire, instance: Instance) -> tuple[socket.socket, socket.socket]:
    """The sockets of a guest's wire on which its lease and its names are served."""
    # a guest without an address yet sends to all, so this one is bound to no address
    leases = namespace.listen_datagrams("0.0.0.0", dhcp.SERVER_PORT, wire.inner)  # noqa: S104
    try:
        return leases, namespace.listen_datagrams(instance.gateway, names.PORT, wire.inner)
    except BaseException:
        leases.close()
        raise
