"""The wires: a network namespace that holds Azure's addresses, and for each clone a bridge of its own into it.

The host's own namespace gets no address, no route and no firewall rule; a build host may itself be a VM on Azure, and
must not lose its real WireServer. Each clone is alone on its wire, and the namespace takes from that wire only what
comes from the clone's own address (strict reverse path filter): no clone can answer or report for another.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from pipeline.base import process
from pipeline.base.errors import HostError

T = TypeVar("T")

#: Where the kernel shows named namespaces (iproute2).
NAMESPACES = Path("/run/netns")
NAME = "goldsmith-"
#: What the alias of each of our bridges begins with; the rest names the run.
ALIAS = "goldsmith "
#: What the label of a build's way out ends with: a run may have one and a fabric at the same time.
OUT = ".out"
#: Clones' wires are /29s in here. Nothing routes it, and no host sees it.
SPACE = (10, 83)
#: The gateway's card as every guest on Azure sees it, and the way out's beside it. They are the same each time: a
#: guest that runs on while its wire is made again need not learn another one.
GATEWAY_CARD, WAY_OUT_CARD = "12:34:56:78:9a:bc", "12:34:56:78:9a:bd"
#: Seconds for one call of iproute2.
DEADLINE = 20.0
_CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Wire:
    """A clone's way into the namespace: its bridge for libvirt, and the interface at the inner end."""

    number: int
    bridge: str
    outer: str
    inner: str


def address_of(number: int) -> str:
    """The address of the clone on the wire with this number, 0 to 8191."""
    first, second = SPACE
    return f"{first}.{second}.{number >> 5}.{((number & 31) << 3) + 2}"


class Namespace:
    """One fabric's namespace. `lay` it, `attach` wires, `remove` it whole; `sweep` removes what dead runs left.

    `token`: hexadecimal digits in the names of its interfaces, at most eight, where these must be the same each time.
    """

    def __init__(self, label: str, token: str | None = None) -> None:
        self.label = label
        self.name = f"{NAME}{label}"
        # interface names have 15 characters; two fabrics of one host must not meet
        self._token = token or secrets.token_hex(4)

    @property
    def path(self) -> Path:
        return NAMESPACES / self.name

    @property
    def is_laid(self) -> bool:
        """Whether the name leads to a namespace."""
        try:
            return self.path.stat().st_dev == Path("/proc/self/ns/net").stat().st_dev
        except FileNotFoundError:
            return False

    def lay(self, addresses: Collection[str]) -> None:
        """Make the namespace and the addresses that are served in it, or what of them is missing.

        Raises HostError where the host cannot.
        """
        try:
            if not self.is_laid:
                # a crash of the host leaves a file that is not a namespace
                self.path.unlink(missing_ok=True)
                run_ip("netns", "add", self.name)
            run_batch(
                ["link set lo up", *(f"addr replace {address}/32 dev lo" for address in sorted(addresses))],
                self.name,
            )
        except process.CommandFailed as error:
            raise HostError(
                f"a network namespace cannot be created: {error.stderr.strip() or error.message}",
                name="namespace-refused",
                hint="the fabric needs root and namespaces; `prove: [gen1-nocloud, gen2-nocloud]` needs neither",
            ) from None
        self.run_inside(_harden)

    def attach(self, number: int, *, gateway: str, address: str, mac: str) -> Wire:
        """A wire for one clone: `address` is pinned to `mac`, `gateway` is the namespace's own in the same /29."""
        wire = self.wire(number)
        run_batch(
            [
                f"addr replace {gateway}/29 dev {wire.inner}",
                f"neigh replace {address} lladdr {mac} nud permanent dev {wire.inner}",
            ],
            self.name,
        )
        return wire

    def name_wire(self, number: int) -> Wire:
        """The names of a wire, whether it is there or not."""
        return Wire(number, f"gs{self._token}b{number}", f"gs{self._token}v{number}", f"c{number}")

    def has_wire(self, wire: Wire) -> bool:
        """Whether both of its interfaces in the host's namespace are there; the inner end goes with the outer one."""
        return _exists(wire.bridge) and _exists(wire.outer)

    def plug(self, number: int, bridge: str) -> Wire:
        """A way into the namespace from a bridge that is there, and belongs to somebody else."""
        wire = replace(self.name_wire(number), bridge=bridge)
        self._unplug(wire.outer)
        run_batch([f"link add {wire.outer} type veth peer name {wire.inner} netns {self.name}"])
        _deafen(wire.outer)
        run_batch([f"link set {wire.outer} master {wire.bridge} up"])
        run_batch([f"link set {wire.inner} address {WAY_OUT_CARD} up"], self.name)
        return wire

    def wire(self, number: int) -> Wire:
        """A bridge for a guest's card and its way into the namespace; nothing has an address yet.

        What is there already stays: a guest's card may be in the bridge.
        """
        wire = self.name_wire(number)
        missing = []
        if not _exists(wire.bridge):
            missing.append(f"link add {wire.bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
        if not _exists(wire.outer):
            missing.append(f"link add {wire.outer} type veth peer name {wire.inner} netns {self.name}")
        run_batch(missing)
        # before the bridge is up: the host itself must neither speak nor listen on it
        _deafen(wire.bridge)
        _deafen(wire.outer)
        run_ip("link", "set", "dev", wire.bridge, "alias", f"{ALIAS}{self.label}")
        run_batch([f"link set {wire.outer} master {wire.bridge} up", f"link set {wire.bridge} up"])
        run_batch([f"link set {wire.inner} address {GATEWAY_CARD} up"], self.name)
        return wire

    def sweep_wires(self, kept: Collection[int]) -> None:
        """Take away all wires of this namespace but those with the numbers in `kept`."""
        names = {self.name_wire(number).bridge for number in kept}
        for path in Path("/sys/class/net").glob(f"gs{self._token}b*"):
            with contextlib.suppress(OSError):  # gone meanwhile
                if path.name not in names and (path / "ifalias").read_text().strip() == f"{ALIAS}{self.label}":
                    _remove_bridge(path.name)

    def detach(self, wire: Wire) -> None:
        for name in (wire.outer, wire.bridge):
            with contextlib.suppress(process.CommandFailed):
                run_ip("link", "delete", name)

    def remove(self) -> None:
        # the kernel takes a deleted namespace's wires away later: their names could meet those of the next one
        for path in Path("/sys/class/net").glob(f"gs{self._token}v*"):
            self._unplug(path.name)
        _remove(self.label)

    def _unplug(self, outer: str) -> None:
        """Delete the outer end of a wire, and the inner one with it, if it is still there."""
        if _exists(outer):
            with contextlib.suppress(process.CommandFailed):  # gone meanwhile
                run_ip("link", "delete", outer)

    def run_inside(self, make: Callable[[], T]) -> T:
        """Call `make` in a thread that lives in the namespace; sockets made there stay there."""
        return inside(self.path, make)

    def listen(self, address: str, port: int) -> socket.socket:
        def make() -> socket.socket:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen(1024)
            return listener

        return self.run_inside(make)

    def listen_datagrams(self, address: str, port: int, interface: str) -> socket.socket:
        """A datagram socket for one wire: it hears what comes in by that interface, and speaks over it alone."""

        def make() -> socket.socket:
            listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            listener.bind((address, port))
            return listener

        return self.run_inside(make)

    def connect(self, address: str, port: int, timeout: float) -> socket.socket:
        return self.run_inside(lambda: socket.create_connection((address, port), timeout=timeout))

    def command(self, *argv: str | Path) -> list[str]:
        """The argv that runs a program in the namespace."""
        return ["nsenter", f"--net={self.path}", *(str(word) for word in argv)]


def enter(namespace: Path) -> None:
    """Move the calling thread into a network namespace. Raises OSError."""
    with namespace.open("rb") as handle:
        if _libc.setns(handle.fileno(), _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(namespace))


def inside(namespace: Path, make: Callable[[], T]) -> T:
    """What `make` gives, called in a thread that has entered a network namespace. Raises what it raises."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            enter(namespace)
            results.append(make())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="namespace")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def sweep_networks(wanted: Callable[[str], bool]) -> list[str]:
    """Remove the namespaces, bridges and DHCP servers of runs that nobody wants any more; their labels."""
    names = {path.name.removeprefix(NAME) for path in NAMESPACES.glob(f"{NAME}*")}
    labels = {label for label in names | set(_bridges().values()) if not wanted(label.removesuffix(OUT))}
    for label in sorted(labels):
        _remove(label)
    return sorted(labels)


def _remove(label: str) -> None:
    name = f"{NAME}{label}"
    for bridge, owner in _bridges().items():
        if owner == label:
            _remove_bridge(bridge)
    if (NAMESPACES / name).exists():
        end_processes(name)
        # gone meanwhile, by another command's sweep
        with contextlib.suppress(process.CommandFailed):
            run_ip("netns", "delete", name)


def _remove_bridge(bridge: str) -> None:
    for port in (*_ports(bridge), bridge):
        with contextlib.suppress(process.CommandFailed):
            run_ip("link", "delete", port)


def end_processes(name: str, program: str = "") -> None:
    """End what runs in our namespace or for it: servers, DHCP servers, slirp4netns and HAProxy were started there.

    `program`: only processes with this word in their argument list.
    """
    path = os.fsencode(NAMESPACES / name)
    for folder in Path("/proc").glob("[0-9]*"):
        # slirp4netns stays in the host's namespace; what confines it has the path among its arguments
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"unshare") and path in words:
                os.kill(int(folder.name), signal.SIGKILL)
    with contextlib.suppress(process.CommandFailed):
        for pid in run_ip("netns", "pids", name).split():
            # a thread of this very process may just be there to open a socket
            if int(pid) != os.getpid() and (not program or program in _words(int(pid))):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)


def _words(pid: int) -> list[str]:
    """The argument list of a process; empty if it is gone."""
    try:
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")
    except OSError:
        return []


def _bridges() -> dict[str, str]:
    """Our bridges on this host, and the label of the run that each belongs to."""
    links = json.loads(run_ip("-json", "link", "show", "type", "bridge") or "[]")
    return {
        str(link["ifname"]): str(link["ifalias"]).removeprefix(ALIAS)
        for link in links
        if str(link.get("ifalias", "")).startswith(ALIAS)
    }


def _exists(interface: str) -> bool:
    return Path("/sys/class/net", interface).exists()


def _ports(bridge: str) -> list[str]:
    """The veth ends in a bridge of ours, none where it is gone meanwhile; a guest's tap goes with its guest."""
    try:
        links = json.loads(run_ip("-json", "link", "show", "type", "veth", "master", bridge) or "[]")
    except process.CommandFailed:
        return []
    return [str(link["ifname"]) for link in links]


def _harden() -> None:
    """Nothing is forwarded, each wire is believed only what belongs to it, and there is no IPv6. Run inside."""
    for name, value in {
        "ipv4/ip_forward": "0",
        "ipv4/conf/all/rp_filter": "1",
        "ipv4/conf/default/rp_filter": "1",
        "ipv4/conf/all/accept_redirects": "0",
        "ipv4/conf/all/send_redirects": "0",
        "ipv6/conf/all/disable_ipv6": "1",
        "ipv6/conf/default/disable_ipv6": "1",
    }.items():
        write_sysctl(name, value)


def _deafen(interface: str) -> None:
    """No IPv6 on an interface of ours, no answer to ARP, and no packet taken from it for the host."""
    write_sysctl(f"ipv6/conf/{interface}/disable_ipv6", "1")
    write_sysctl(f"ipv4/conf/{interface}/arp_ignore", "8")
    # the host has no route over it: with strict reverse paths, whatever comes in is dropped
    write_sysctl(f"ipv4/conf/{interface}/rp_filter", "1")


def write_sysctl(name: str, value: str) -> None:
    # a kernel without IPv6 has no such file, and no such worry
    with contextlib.suppress(FileNotFoundError):
        (Path("/proc/sys/net") / name).write_text(value)


def run_ip(*words: str) -> str:
    return process.run(["ip", *words], deadline=DEADLINE).stdout


def run_batch(lines: list[str], namespace: str | None = None) -> None:
    if not lines:
        return
    where = ["-netns", namespace] if namespace else []
    process.run(["ip", *where, "-batch", "-"], stdin="".join(f"{line}\n" for line in lines), deadline=DEADLINE)
