"""Serves guests on sockets that it gets: HTTP, DHCP and names. It creates no socket and needs no rights.

A guest is known by its address (HTTP) or by the socket of its wire (DHCP, names). A proof's fabric and the service
of instances use this same server, in two processes.
"""

from __future__ import annotations

import contextlib
import ipaddress
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.fabric import dhcp, limits, names
from pipeline.fabric.answers import Answer, answer
from pipeline.fabric.guest_record import GuestRecord
from pipeline.fabric.instance import IMDS, INTERNAL_DOMAIN, WIRESERVER, Instance, Report, Request, Response
from pipeline.fabric.server import Listener

#: Is called after each request with the report that it made, if it made one.
OnRequest = Callable[[GuestRecord, Report | None], None]
#: Seconds for the thread to close sockets: it is never busy for longer with one guest.
_CLOSING = 10.0
#: Bytes of a datagram that are read: an Ethernet frame has no more.
_LARGEST_DATAGRAM = 2048


def lease_of(instance: Instance, *, outside: bool = False) -> dhcp.Lease:
    """The guest's lease. With a way `outside` its default route and its resolver are there."""
    gateway = instance.gateway
    router = instance.way_out if outside else gateway
    routes = [("0.0.0.0/0", router), (f"{WIRESERVER}/32", gateway), (f"{IMDS}/32", gateway)]
    if outside:
        routes.append((f"{ipaddress.IPv4Interface(f'{gateway}/16').network}", gateway))  # its peers
    interface = ipaddress.IPv4Interface(f"{instance.address}/{instance.network.prefixlen}")
    return dhcp.Lease(instance.mac, interface, gateway, router, routes, WIRESERVER)


def zone_of(instance: Instance) -> names.Zone:
    """The names that every guest can resolve; other names are refused."""
    site = instance.site
    own = {site.host.lower(): site.address} if site is not None and site.named else {}
    return names.Zone(own, {INTERNAL_DOMAIN: WIRESERVER})


@dataclass
class _Wire:
    """One guest's two sockets, and how many datagrams it may still send in this second."""

    record: GuestRecord
    lease: dhcp.Lease
    zone: names.Zone
    sockets: tuple[socket.socket, ...]
    left: float = float(limits.DATAGRAMS)
    filled: float = field(default_factory=time.monotonic)

    def take(self) -> bool:
        now = time.monotonic()
        self.left = min(float(limits.DATAGRAMS), self.left + (now - self.filled) * limits.DATAGRAMS)
        self.filled = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


class FabricServer:
    """Serves the guests that are attached, until `close`."""

    def __init__(self, say: Answer = answer, on_request: OnRequest | None = None) -> None:
        self._say = say
        self._on_request = on_request
        self._limits = limits.Limits()
        self._listeners: list[Listener] = []
        self._records: dict[str, GuestRecord] = {}
        self._wires: dict[str, _Wire] = {}
        self._lock = threading.Lock()
        self._datagrams = _Datagrams()

    def listen(self, listener: socket.socket) -> None:
        """Answer HTTP at a socket that is bound and listens."""
        server = Listener(listener, self._answer, self._limits)
        server.start()
        self._listeners.append(server)

    def is_listening(self) -> bool:
        """Whether it has sockets for HTTP."""
        return bool(self._listeners)

    def attach(
        self, record: GuestRecord, dhcp_socket: socket.socket, name_socket: socket.socket, *, outside: bool = False
    ) -> None:
        """Serve a guest: HTTP from its address, its lease and its names at the sockets of its wire."""
        instance = record.instance
        wire = _Wire(record, lease_of(instance, outside=outside), zone_of(instance), (dhcp_socket, name_socket))
        with self._lock:
            self._records[instance.address] = record
            self._wires[instance.vm_id] = wire
        self._datagrams.add(dhcp_socket, wire, _answer_dhcp)
        self._datagrams.add(name_socket, wire, _answer_name)

    def change(self, record: GuestRecord, *, outside: bool = False) -> None:
        """Replace a guest's data; its address and its sockets stay the same."""
        instance = record.instance
        with self._lock:
            wire = self._wires[instance.vm_id]
            wire.record, wire.zone = record, zone_of(instance)
            wire.lease = lease_of(instance, outside=outside)
            self._records[instance.address] = record

    def detach(self, vm_id: str) -> None:
        """Stop serving a guest; its sockets are closed when this returns."""
        with self._lock:
            wire = self._wires.pop(vm_id, None)
            if wire is not None:
                self._records.pop(wire.record.instance.address, None)
        if wire is not None:
            self._datagrams.remove(wire.sockets)

    def set_names(self, vm_id: str, names_of_peers: Mapping[str, str]) -> None:
        """The names of other VMs that a guest can resolve, beside those that every guest can."""
        with self._lock:
            wire = self._wires.get(vm_id)
        if wire is not None:
            common = zone_of(wire.record.instance)
            wire.zone = names.Zone({**names_of_peers, **common.names}, common.domains)

    def find(self, vm_id: str) -> GuestRecord | None:
        with self._lock:
            wire = self._wires.get(vm_id)
        return wire.record if wire is not None else None

    def attached(self) -> list[str]:
        """The ids of the guests that are served."""
        with self._lock:
            return list(self._wires)

    def close(self) -> None:
        for listener in self._listeners:
            listener.stop()
        self._listeners.clear()
        for vm_id in self.attached():
            self.detach(vm_id)
        self._datagrams.close()

    def _answer(self, address: str, request: Request) -> Response | None:
        with self._lock:
            record = self._records.get(address)
        if record is None:
            return None
        response = self._say(record.instance, request)
        report = record.record(request, response)
        if self._on_request is not None:
            self._on_request(record, report)
        return response


def _answer_dhcp(wire: _Wire, at: socket.socket, packet: bytes, _sender: tuple[str, int]) -> None:
    reply = dhcp.answer(packet, wire.lease)
    if reply is None:
        if ignored := dhcp.describe(packet):
            wire.record.record_dhcp((f"{ignored} ignored",))
        return
    wire.record.record_dhcp(reply.log)
    at.sendto(reply.packet, (reply.to, dhcp.CLIENT_PORT))


def _answer_name(wire: _Wire, at: socket.socket, packet: bytes, sender: tuple[str, int]) -> None:
    question = names.parse_question(packet)
    if question is not None:
        at.sendto(names.answer(question, wire.zone), sender)


_Handler = Callable[[_Wire, socket.socket, bytes, tuple[str, int]], None]


class _Datagrams:
    """One thread that reads all datagram sockets. A guest that sends too many datagrams is not read for a moment."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._selector.register(self._far, selectors.EVENT_READ)
        self._lock = threading.Lock()
        self._gone: list[socket.socket] = []
        self._tidied = threading.Condition(self._lock)
        self._resting: list[tuple[float, socket.socket, tuple[_Wire, _Handler]]] = []
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="fabric-datagrams", daemon=True)

    def add(self, sock: socket.socket, wire: _Wire, handler: _Handler) -> None:
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ, (wire, handler))
        with self._lock:
            # not before there is something to read: what a process gives up then, this thread gives up too
            if self._thread.ident is None:
                self._thread.start()
        self._wake()

    def remove(self, sockets: Sequence[socket.socket]) -> None:
        """Wait until the thread has closed them. Only the thread closes sockets, so it never reads a closed one."""
        with self._lock:
            self._gone += sockets
        self._wake()
        with self._tidied:
            self._tidied.wait_for(lambda: all(each.fileno() == -1 for each in sockets), _CLOSING)

    def close(self) -> None:
        self._closed = True
        self._wake()
        if self._thread.ident is not None:
            self._thread.join()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._near.send(b"x")

    def _run(self) -> None:
        while not self._closed:
            timeout = 1 / limits.DATAGRAMS * 10 if self._resting else None
            for key, _ in self._selector.select(timeout):
                if key.data is None:
                    self._far.recv(4096)
                else:
                    self._read(key)
            self._tidy()
        self._tidy()
        self._selector.close()
        self._near.close()
        self._far.close()

    def _read(self, key: selectors.SelectorKey) -> None:
        sock, (wire, handler) = key.fileobj, key.data
        assert isinstance(sock, socket.socket)
        if not wire.take():
            # what it sends meanwhile, the kernel drops
            self._selector.unregister(sock)
            self._resting.append((time.monotonic() + 10 / limits.DATAGRAMS, sock, key.data))
            return
        # an error in an answer concerns this guest only
        with contextlib.suppress(Exception):
            packet, sender = sock.recvfrom(_LARGEST_DATAGRAM)
            handler(wire, sock, packet, sender)

    def _tidy(self) -> None:
        """Close the sockets of removed guests, and read again from guests whose pause is over."""
        with self._lock:
            gone, self._gone = self._gone, []
        now = time.monotonic()
        rested = [entry for entry in self._resting if entry[0] <= now or entry[1] in gone]
        self._resting = [entry for entry in self._resting if entry not in rested]
        for _, sock, data in rested:
            if sock not in gone:
                self._selector.register(sock, selectors.EVENT_READ, data)
        for sock in gone:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(sock)
            sock.close()
        if gone:
            with self._tidied:
                self._tidied.notify_all()
