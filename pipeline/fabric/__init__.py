"""Azure as a guest sees it: addresses, DHCP, WireServer, metadata service, provisioning medium; for many VMs at once.

The guest's own agent is the judge: what it asks and what it reports is recorded, and nothing in the guest is changed.
What this cannot be is Hyper-V: vmbus, storvsc and netvsc are for the static checks.
"""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from pipeline.base import process
from pipeline.base.errors import HostError
from pipeline.definition import DataDisk
from pipeline.fabric import imds, limits, wireserver
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
from pipeline.fabric.server import Listener
from pipeline.network.namespaces import Namespace, Wire, address_of, sweep_networks
from pipeline.network.relay import Relay

__all__ = [
    "Event",
    "Exchange",
    "Fabric",
    "Guest",
    "Instance",
    "Report",
    "Request",
    "Response",
    "Site",
    "answer",
    "sweep_networks",
]

#: What the fabric says to a guest. Another one is bad weather, for those who want to see what guests make of it.
Answer = Callable[[Instance, Request], Response]
#: Seconds for dnsmasq to say that it serves, and its words for that.
DHCP_DEADLINE = 10.0
_SERVING = "sockets bound"


def answer(instance: Instance, request: Request) -> Response:
    """What Azure would say, or the site outside."""
    if instance.site and (request.host, request.port) == (instance.site.address, instance.site.port):
        there = request.method in ("GET", "HEAD") and request.target == instance.site.target
        return Response(200, instance.user_data, "application/octet-stream") if there else Response(404)
    if request.host == IMDS and not instance.provisioned:
        # the agents would take what the metadata service says of the VM for an order to provision it
        return Response(503, drop=True)
    asked = imds.answer if request.host == IMDS else wireserver.answer
    return asked(instance, request) or Response(404, b"", "text/plain")


class Guest:
    """One attached VM: its wire, its DHCP server, the ways to its ports, and the record of what it said."""

    def __init__(self, instance: Instance, wire: Wire, logs: Path) -> None:
        self.instance = instance
        self.wire = wire
        self.exchanges: deque[Exchange] = deque(maxlen=limits.KEPT_EXCHANGES)
        self.reports: deque[Report] = deque(maxlen=limits.KEPT_REPORTS)
        self.events: deque[Event] = deque(maxlen=limits.KEPT_EVENTS)
        self._log_left = limits.LOG
        self._log = logs / "fabric.jsonl"
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._dhcp: process.Child | None = None
        self._relays: list[Relay] = []

    @property
    def bridge(self) -> str:
        return self.wire.bridge

    @property
    def report(self) -> Report | None:
        """What the guest said last of its provisioning. A plain `Ready` for a working VM repeats itself."""
        with self._lock:
            return self.reports[-1] if self.reports else None

    def begin(self) -> None:
        """Forget what was reported: another boot begins. The record on disk goes on."""
        with self._lock:
            self.reports.clear()
            self.exchanges.clear()
            self.events.clear()
            self._began = time.monotonic()

    def asked(self) -> list[Exchange]:
        with self._lock:
            return list(self.exchanges)

    def record(self, request: Request, response: Response) -> None:
        """Keep what was said, as far as `limits` goes: the newest in memory, the first in the log."""
        exchange = Exchange(
            round(time.monotonic() - self._began, 2), _kept_request(request), _kept_response(response)
        )
        said = wireserver.health_report(request) if request.host == WIRESERVER else None
        events = wireserver.events(request) if request.host == WIRESERVER else []
        with self._lock:
            self.exchanges.append(exchange)
            self.events += events
            if said is not None:
                self.reports.append(said)
            self._write(json.dumps(_as_json(exchange, said)) + "\n")

    def _write(self, line: str) -> None:
        if self._log_left <= 0:
            return
        if len(line) > self._log_left:
            line = json.dumps({"note": f"the log has reached its limit of {limits.LOG >> 20} MiB"}) + "\n"
            self._log_left = 0
        self._log_left -= len(line)
        with self._log.open("a") as log:
            log.write(line)


def _kept_request(request: Request) -> Request:
    """The request as the record keeps it: its bodies and words bounded."""
    headers = {
        name: value[: limits.KEPT_HEADER] for name in limits.KEPT_HEADERS if (value := request.headers.get(name))
    }
    return replace(
        request, target=request.target[: limits.KEPT_TARGET], headers=headers, body=request.body[: limits.KEPT_BODY]
    )


def _kept_response(response: Response) -> Response:
    return replace(response, body=response.body[: limits.KEPT_BODY])


def _as_json(exchange: Exchange, report: Report | None) -> dict[str, object]:
    asked, said = exchange.request, exchange.response
    data: dict[str, object] = {
        "at": exchange.at,
        "to": f"{asked.host}:{asked.port}",
        "method": asked.method,
        "target": asked.target,
        "agent": asked.headers.get("user-agent") or asked.headers.get("x-ms-agent-name", ""),
        "status": "dropped" if said.drop else said.status,
    }
    if report is not None:
        data["report"] = {"state": report.state, "substatus": report.substatus, "description": report.description}
    for name, body in (("body", asked.body), ("answer", said.body)):
        if body:
            try:
                data[name] = body.decode()
            except UnicodeDecodeError:
                data[name] = "base64:" + base64.b64encode(body).decode()
    return data


class Fabric:
    """A fabric for one run. Enter it to lay it; leave it and nothing of it stays on the host."""

    def __init__(self, label: str, say: Answer = answer, site: Site | None = None) -> None:
        self._namespace = Namespace(label)
        self._say = say
        self._site = site
        self._guests: dict[str, Guest] = {}
        self._numbers = iter(range(8192))
        self._lock = threading.Lock()
        self._listeners: list[Listener] = []
        self._limits = limits.Limits()

    def __enter__(self) -> Fabric:
        try:
            served = [(WIRESERVER, HTTP_PORT), (WIRESERVER, PLUGIN_PORT), (IMDS, HTTP_PORT)]
            served += [(self._site.address, self._site.port)] if self._site else []
            self._namespace.lay({address for address, _ in served})
            for address, port in served:
                listener = Listener(self._namespace.listen(address, port), self._answer, self._limits)
                listener.start()
                self._listeners.append(listener)
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
            for listener in self._listeners:
                last.callback(listener.stop)
            for guest in list(self._guests.values()):
                last.callback(self.detach, guest)
        self._listeners.clear()

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
        provisioned: bool = True,
    ) -> Guest:
        """A new VM: its address, its wire, its server for DHCP and names. `logs` gets `fabric.jsonl` and `dhcp.log`.

        One that is not `provisioned` finds no metadata service.
        """
        with self._lock:
            number = next(self._numbers)
        instance = Instance(
            name=name,
            user=user,
            public_key=public_key,
            # Microsoft's prefix, as guests on Azure see it
            mac="00:0d:3a:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3)),
            address=address_of(number),
            custom_data=custom_data,
            user_data=user_data,
            data_disks=tuple(data_disks),
            site=self._site,
            provisioned=provisioned,
        )
        logs.mkdir(parents=True, exist_ok=True)
        wire = self._namespace.attach(number, gateway=instance.gateway, address=instance.address, mac=instance.mac)
        guest = Guest(instance, wire, logs)
        with self._lock:
            self._guests[instance.address] = guest
        try:
            guest._dhcp = self._serve_leases(guest, logs)
        except BaseException:
            self.detach(guest)
            raise
        return guest

    def _serve_leases(self, guest: Guest, logs: Path) -> process.Child:
        instance = guest.instance
        routes = ",".join(
            f"{target},{instance.gateway}" for target in ("0.0.0.0/0", f"{WIRESERVER}/32", f"{IMDS}/32")
        )
        # two names are known; every other is refused, there is no outside
        names = [
            *("--port=53", "--no-resolv", "--no-hosts", f"--address=/{INTERNAL_DOMAIN}/{WIRESERVER}"),
            f"--dhcp-option=option:dns-server,{instance.gateway}",
        ]
        if self._site is not None and self._site.named:
            names.append(f"--address=/{self._site.host}/{self._site.address}")
        log = logs / "dhcp.log"
        child = process.start(
            self._namespace.command(
                *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-ping", "--pid-file"),
                *names,
                *("--bind-interfaces", f"--interface={guest.wire.inner}", "--except-interface=lo"),
                *("--leasefile-ro", "--log-dhcp", "--log-facility=-", "--user=nobody"),
                f"--dhcp-range={instance.address},{instance.address},{instance.network.netmask},12h",
                f"--dhcp-host={instance.mac},{instance.address}",
                "--dhcp-ignore=tag:!known",
                f"--dhcp-option=option:router,{instance.gateway}",
                f"--dhcp-option=option:classless-static-route,{routes}",
                # the WireServer's address, as agents look for it
                f"--dhcp-option-force=245,{WIRESERVER}",
            ),
            log,
            log_limit=limits.DHCP_LOG,
        )
        until = time.monotonic() + DHCP_DEADLINE
        while _SERVING not in log.read_text(errors="replace"):
            if child.poll() is not None or time.monotonic() > until:
                process.end(child)
                said = (log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"])[-1]
                raise HostError(f"the fabric's DHCP server failed: {said}", name="dhcp-server-failed")
            time.sleep(0.01)
        return child

    def detach(self, guest: Guest) -> None:
        """Take a VM off the fabric. What was recorded of it stays."""
        with self._lock:
            self._guests.pop(guest.instance.address, None)
        for relay in guest._relays:
            relay.close()
        if guest._dhcp is not None:
            process.end(guest._dhcp)
        self._namespace.detach(guest.wire)

    def forward(self, guest: Guest, host_port: int, guest_port: int) -> None:
        """Make a port of the guest reachable at a port of the host's loopback."""
        address = guest.instance.address
        guest._relays.append(Relay(host_port, lambda timeout: self._namespace.connect(address, guest_port, timeout)))

    def _answer(self, address: str, request: Request) -> Response | None:
        with self._lock:
            guest = self._guests.get(address)
        if guest is None:
            return None
        said = self._say(guest.instance, request)
        guest.record(request, said)
        return said
