"""A build guest's way out: a network namespace that forwards what may leave, and refuses what is the host's own.

The guest's card is on a bridge without an address, as a clone's is on the fabric. Behind it the namespace routes to
slirp4netns, which opens ordinary sockets on the host: the host gets no route, no address and no firewall rule. The
routing rules of the namespace decide before a packet leaves it:

1. loopback, link-local addresses, the addresses of metadata services and Azure's are refused, whatever else is said;
2. what the host's own configuration or the definition allows is forwarded, an address and a port each;
3. private ranges and the host's own addresses are refused;
4. everything else is forwarded.

A proxy that the host uses is reached through a relay in the namespace (`proxy_relay`), wherever it is: also on the
host's loopback. It is the one way there, to that proxy alone, and keeps to the same rules.

There is no IPv6: the namespace has it turned off, so that ::1, fe80::/10, fc00::/7 (fd00:ec2::254 among them) and
IPv4-mapped addresses lead nowhere. Names are resolved by dnsmasq in the namespace, which asks the host's resolver.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.base import process
from pipeline.base.errors import HostError
from pipeline.definition import NEVER, Destination
from pipeline.network.namespaces import OUT, Namespace, Wire, run_batch, run_ip, write_sysctl
from pipeline.network.proxy_relay import ProxyRelay, Upstream

#: What a guest sees; QEMU's user network had the same addresses, and playbooks may know them.
GUESTS, GATEWAY, RESOLVER = "10.0.2.0/24", "10.0.2.2", "10.0.2.3"
LEASES = tuple(f"10.0.2.{number}" for number in range(15, 23))
#: slirp4netns' own network behind the namespace (RFC 2544, never routed), and its door to the host's resolver.
BEHIND, BEHIND_RESOLVER = "198.18.0.0/24", "198.18.0.3"
TAP = "tap0"
#: The first port of GATEWAY at which a guest finds a proxy of the host's; each has one of its own.
PROXY_PORT = 3128
#: Seconds for slirp4netns and dnsmasq to be ready.
READY = 10.0
#: Bytes that one log of theirs may have: a guest decides how much there is to say.
LOG_LIMIT = 1 << 20

#: Refused unless allowed (RFC 1918, RFC 6598, RFC 6890, RFC 2544).
PRIVATE = tuple(
    ipaddress.IPv4Network(text)
    for text in ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "192.0.0.0/24", "198.18.0.0/15")
)


def routing_rules(allowed: Collection[Destination], own: Collection[str], card: str) -> list[str]:
    """The lines for `ip -batch` that decide on packets from `card`. `own`: the host's addresses. Pure."""
    lines = [f"rule add pref 10 iif {card} to {network} prohibit" for network in NEVER]
    for destination in sorted(allowed, key=str):
        if destination.port is None:
            lines.append(f"rule add pref 20 iif {card} to {destination.network} lookup main")
        else:
            to = f"to {destination.network}"
            lines += [
                f"rule add pref 20 iif {card} {to} ipproto {protocol} dport {destination.port} lookup main"
                for protocol in ("tcp", "udp")
            ]
    refused = [*PRIVATE, *(ipaddress.IPv4Network(address) for address in sorted(own))]
    lines += [f"rule add pref 30 iif {card} to {network} prohibit" for network in refused]
    return lines


def is_refused(address: str, own: Collection[str]) -> bool:
    """Whether a guest reaches this address only if it is allowed. Pure."""
    parsed = ipaddress.IPv4Address(address)
    return address in own or any(parsed in network for network in (*NEVER, *PRIVATE))


def host_addresses() -> set[str]:
    """The IPv4 addresses of the host's interfaces."""
    links = json.loads(run_ip("-json", "-4", "address", "show") or "[]")
    return {str(info["local"]) for link in links for info in link.get("addr_info", ()) if "local" in info}


#: slirp4netns reads what a guest sends, and is root to enter the namespace. Its own sandbox drops all capabilities
#: but one, filters system calls, and shows it /etc and /run of its mount namespace: here a resolv.conf and nothing
#: else. It sees no other process. The mount namespace also keeps its unmounting away from the host's /run/netns.
_CONFINED = """
exec 9<"$1"
mount -t tmpfs -o size=1m,mode=0755 none /mnt
mkdir /mnt/etc /mnt/run
if [ -e /etc/resolv.conf ]; then cat /etc/resolv.conf >/mnt/etc/resolv.conf; fi
mount --bind /mnt/run /run
mount --bind /mnt/etc /etc
exec setpriv --no-new-privs slirp4netns --netns-type=path --configure --mtu=1500 --cidr="$3" \\
    --disable-host-loopback --enable-sandbox --enable-seccomp /proc/self/fd/9 "$2"
"""


@dataclass(frozen=True)
class Place:
    """Where guests find the way out: their router, their resolver, and the addresses that they may have.

    `bridge`: one that their cards are in already; else the way out makes one, and gives its guests their leases.
    `inner_resolver`: who knows the names below `inner_domain`, and those without a dot.
    """

    gateway: str = GATEWAY
    prefix: int = 24
    resolver: str = RESOLVER
    guests: tuple[str, ...] = LEASES
    bridge: str | None = None
    inner_domain: str = ""
    inner_resolver: str = ""

    def names_and_leases(self) -> list[str]:
        """dnsmasq's options. Pure."""
        if self.bridge is not None:
            inner = f"--server=//{self.inner_resolver}", f"--server=/{self.inner_domain}/{self.inner_resolver}"
            return [f"--listen-address={self.resolver}", *(inner if self.inner_resolver else ())]
        return [
            *(f"--dhcp-range={self.guests[0]},{self.guests[-1]},255.255.255.0,12h", "--dhcp-authoritative"),
            *(f"--dhcp-option=option:router,{self.gateway}", f"--dhcp-option=option:dns-server,{self.resolver}"),
        ]


class Egress:
    """A run's way out, or a VM's. `open` it, give `bridge` to its guest, `close` it; a dead run's is swept.

    An open one outlives the process that opened it, but for the relays to proxies.
    """

    def __init__(
        self,
        label: str,
        logs: Path,
        allowed: Iterable[Destination] = (),
        proxies: Sequence[Upstream] = (),
        place: Place | None = None,
        token: str | None = None,
    ) -> None:
        self._namespace = Namespace(f"{label}{OUT}", token)
        self._place = place or Place()
        self._logs = logs
        self._allowed = frozenset(allowed)
        self._proxies = tuple(proxies)
        self._relays: list[ProxyRelay] = []
        self._wire: Wire | None = None
        self._children: list[process.Child] = []

    @property
    def bridge(self) -> str:
        assert self._wire is not None, "the egress network is not ready"
        return self._wire.bridge

    @property
    def path(self) -> Path:
        """The namespace."""
        return self._namespace.path

    def open(self) -> None:
        """Make all of it. Raises HostError: namespace-refused, tool-missing, egress-failed."""
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        self._namespace.lay(())
        place = self._place
        self._wire = wire = self._namespace.plug(0, place.bridge) if place.bridge else self._namespace.wire(0)
        self._namespace.run_inside(_before_the_tap)
        own = [f"addr add {place.gateway}/{place.prefix} dev {wire.inner}"]
        own += [f"addr add {place.resolver}/32 dev {wire.inner}"] if place.resolver != place.gateway else []
        run_batch(own, self.name)
        # before there is a way out at all: no packet passes a namespace whose rules are not there
        run_batch(routing_rules(self._allowed, host_addresses(), wire.inner), self.name)
        for number, upstream in enumerate(self._proxies):
            listener = self._namespace.listen(place.gateway, PROXY_PORT + number)
            self._relays.append(ProxyRelay(listener, upstream, self._refused))
        self._start_slirp()
        self._namespace.run_inside(lambda: _announce(place.guests))
        self._start_names()
        self._namespace.run_inside(lambda: write_sysctl("ipv4/ip_forward", "1"))

    @property
    def name(self) -> str:
        return self._namespace.name

    def proxy_address(self, number: int) -> str:
        """Where a guest reaches the proxy of this place in `proxies`."""
        return f"http://{self._place.gateway}:{PROXY_PORT + number}"

    def _refused(self, address: str, port: int) -> bool:
        """Whether a guest may not ask a proxy for this address: the rules of the namespace, in words."""
        parsed = ipaddress.IPv4Address(address)
        if any(parsed in network for network in NEVER):
            return True
        if any(parsed in destination.network and destination.port in (None, port) for destination in self._allowed):
            return False
        return is_refused(address, host_addresses())

    def _start_slirp(self) -> None:
        log = self._logs / "egress.log"
        child = process.start(
            [
                *("unshare", "--mount", "--propagation", "private", "--ipc", "--pid", "--fork", "--kill-child", "--"),
                *("sh", "-euc", _CONFINED, "sh", self._namespace.path, TAP, BEHIND),
            ],
            log,
            log_limit=LOG_LIMIT,
        )
        self._children.append(child)

        def ready() -> bool:
            shown = run_ip("-json", "-netns", self.name, "route", "show", "default")
            return any(route.get("dev") == TAP for route in json.loads(shown or "[]"))

        self._wait(child, ready, "slirp4netns", log)

    def _start_names(self) -> None:
        assert self._wire is not None
        log = self._logs / "egress-names.log"
        log.unlink(missing_ok=True)  # what an earlier one said is not this one's word
        child = process.start(
            self._namespace.command(
                *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-ping", "--pid-file"),
                *("--bind-interfaces", f"--interface={self._wire.inner}", "--except-interface=lo"),
                *("--leasefile-ro", "--quiet-dhcp", "--log-facility=-", "--user=nobody"),
                *("--no-resolv", "--no-hosts", f"--server={BEHIND_RESOLVER}", "--dns-forward-max=64"),
                *self._place.names_and_leases(),
            ),
            log,
            log_limit=LOG_LIMIT,
        )
        self._children.append(child)
        # its words once all sockets are bound
        bound = "started, version" if self._place.bridge else "sockets bound"
        self._wait(child, lambda: bound in log.read_text(errors="replace"), "dnsmasq", log)

    def _wait(self, child: process.Child, ready: Callable[[], bool], program: str, log: Path) -> None:
        until = time.monotonic() + READY
        while not ready():
            if child.poll() is not None or time.monotonic() > until:
                last = (log.read_text(errors="replace").strip().splitlines() or ["no message"])[-1]
                raise HostError(
                    f"the guest's egress network could not be created: {program}: {last}",
                    name="egress-failed",
                    hint=f"read {log}; slirp4netns needs /dev/net/tun",
                )
            time.sleep(0.01)

    def is_open(self) -> bool:
        """Whether an open way out is whole: its wire, slirp4netns, whose device goes with it, and the resolver."""
        wire = self._namespace.name_wire(0)
        bridge = self._place.bridge or wire.bridge
        if not self._namespace.is_laid or not Path("/sys/class/net", bridge, "brif", wire.outer).exists():
            return False
        shown = run_ip("-json", "-netns", self.name, "link", "show")
        devices = {str(link.get("ifname")) for link in json.loads(shown or "[]")}
        return {TAP, wire.inner} <= devices and bool(run_ip("netns", "pids", self.name))

    def close(self) -> None:
        """End the processes and remove the namespace and the bridge."""
        for relay in self._relays:
            relay.close()
        self._relays.clear()
        for child in reversed(self._children):
            # the first process of a PID namespace hears no SIGTERM; once it is gone, its parent ends by itself
            process.kill_children(child)
            process.end(child)
        self._children.clear()
        self._namespace.remove()
        self._wire = None


def _before_the_tap() -> None:
    """Run inside: a packet cannot name its own route, and each refusal is answered at once."""
    write_sysctl("ipv4/conf/all/accept_source_route", "0")
    write_sysctl("ipv4/conf/default/accept_source_route", "0")
    write_sysctl("ipv4/icmp_ratelimit", "0")


def _announce(guests: Iterable[str]) -> None:
    """Run inside: tell slirp4netns by gratuitous ARP that the guests' addresses are behind this end of its wire.

    It keeps 16 addresses and never forgets one: the namespace's own and its guests'.
    """
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((TAP, 0))
        card = wire.getsockname()[4]
        for address in map(socket.inet_aton, guests):
            # Ethernet, then ARP (RFC 826): a request of an address for itself
            wire.send(
                b"\xff" * 6 + card + bytes.fromhex("0806 0001 0800 06 04 0001") + card + address + bytes(6) + address
            )
