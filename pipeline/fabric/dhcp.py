"""DHCP for one guest on its own wire (RFC 2131): one address, pinned to one card, and Azure's options. Pure.

Only the guest's own card gets an answer. There are no DHCP relays here: relayed requests are ignored.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass

SERVER_PORT, CLIENT_PORT = 67, 68
#: Seconds for which an address is leased; a guest asks again after half of them.
LEASE_SECONDS = 12 * 3600
BROADCAST = "255.255.255.255"
_DISCOVER, _OFFER, _REQUEST, _DECLINE, _ACK, _NAK, _RELEASE, _INFORM = range(1, 9)
_KINDS = {
    _DISCOVER: "DHCPDISCOVER", _OFFER: "DHCPOFFER", _REQUEST: "DHCPREQUEST", _DECLINE: "DHCPDECLINE",
    _ACK: "DHCPACK", _NAK: "DHCPNAK", _RELEASE: "DHCPRELEASE", _INFORM: "DHCPINFORM",
}  # fmt: skip
#: The head of a message: op, htype, hlen, hops, xid, secs, flags, four addresses, chaddr, sname, file, magic cookie.
_HEAD = struct.Struct(">BBBBIHH4s4s4s4s16s64s128s4s")
_COOKIE = b"\x63\x82\x53\x63"
_BOOTREQUEST, _BOOTREPLY, _ETHERNET = 1, 2, 1
_WANTS_BROADCAST = 0x8000
#: Bytes that a reply has at least: BOOTP clients drop shorter ones (RFC 1542, 2.1).
_LEAST = 300
#: Options by their number (RFC 2132, RFC 3442); 245 is the WireServer's address, as Azure's agents look for it.
_MASK, _ROUTER, _DNS, _NAME, _BROADCAST_ADDRESS, _REQUESTED, _SECONDS = 1, 3, 6, 12, 28, 50, 51
_KIND, _SERVER, _RENEW, _REBIND, _CLIENT_ID, _ROUTES, _WIRESERVER = 53, 54, 58, 59, 61, 121, 245


@dataclass(frozen=True)
class Lease:
    """The lease of a guest. `routes`: pairs of a network and its router, the default route among them."""

    mac: str
    interface: ipaddress.IPv4Interface
    server: str
    name_server: str
    routes: Sequence[tuple[str, str]]
    wireserver: str

    @property
    def address(self) -> str:
        return str(self.interface.ip)


@dataclass(frozen=True)
class Reply:
    """A packet and its destination; `log` has a line for the request and one for the answer."""

    packet: bytes
    to: str
    log: tuple[str, ...]


def answer(packet: bytes, lease: Lease) -> Reply | None:
    """The reply to a guest's packet. None if it is not a request of this guest's card, or needs no reply."""
    try:
        return _answer(packet, lease)
    except (struct.error, ValueError):
        return None


def describe(packet: bytes) -> str:
    """A packet's description for a log: `DHCPDISCOVER 00:0d:3a:01:02:03`. Empty if it is not DHCP."""
    try:
        _, options = _parse(packet)
        return f"{_KINDS[options[_KIND][0]]} {_mac(packet)}"
    except (struct.error, ValueError, LookupError):
        return ""


def _mac(packet: bytes) -> str:
    return packet[28:34].hex(":")


def _parse(packet: bytes) -> tuple[tuple[object, ...], dict[int, bytes]]:
    """Head and options. Raises ValueError or struct.error if it is not a DHCP request over Ethernet."""
    head = _HEAD.unpack_from(packet)
    if head[:3] != (_BOOTREQUEST, _ETHERNET, 6) or head[14] != _COOKIE:
        raise ValueError("no DHCP request")
    options: dict[int, bytes] = {}
    at = _HEAD.size
    while at < len(packet) and packet[at] != 255:
        if packet[at] == 0:  # padding
            at += 1
            continue
        if at + 1 >= len(packet) or at + 2 + packet[at + 1] > len(packet):
            raise ValueError("an option is cut short")
        # the parts of a long option belong together (RFC 3396)
        options[packet[at]] = options.get(packet[at], b"") + packet[at + 2 : at + 2 + packet[at + 1]]
        at += 2 + packet[at + 1]
    return head, options


def _answer(packet: bytes, lease: Lease) -> Reply | None:
    head, options = _parse(packet)
    flags, client, relay = head[6], head[7], head[10]
    assert isinstance(flags, int) and isinstance(client, bytes)
    if _mac(packet) != lease.mac.lower() or relay != bytes(4) or len(options.get(_KIND, b"")) != 1:
        return None
    asked = options[_KIND][0]
    own = lease.interface.ip.packed
    if asked == _DISCOVER:
        kind = _OFFER
    elif asked == _INFORM:
        kind = _ACK
    elif asked == _REQUEST:
        if options.get(_SERVER, lease_server := ipaddress.IPv4Address(lease.server).packed) != lease_server:
            return None  # it has chosen another server
        kind = _ACK if options.get(_REQUESTED, client) == own else _NAK
    else:
        return None
    fields = _options(kind, lease, asked, options)
    yours = own if kind != _NAK and asked != _INFORM else bytes(4)
    reply = _HEAD.pack(
        _BOOTREPLY, _ETHERNET, 6, 0, head[4], 0, flags, client if kind == _ACK else bytes(4), yours,
        bytes(4), bytes(4), head[11], b"", b"", _COOKIE,
    )  # fmt: skip
    reply += b"".join(bytes([number, len(data)]) + data for number, data in fields.items()) + b"\xff"
    # the address is pinned to the card (`Namespace.attach`): a guest that has none yet is reached all the same
    broadcast = kind == _NAK or (client != own and flags & _WANTS_BROADCAST)
    log = (f"{_KINDS[asked]} {lease.mac}", f"{_KINDS[kind]} {lease.address} {lease.mac}")
    return Reply(reply.ljust(_LEAST, b"\0"), BROADCAST if broadcast else lease.address, log)


def _options(kind: int, lease: Lease, asked: int, sent: dict[int, bytes]) -> dict[int, bytes]:
    server = ipaddress.IPv4Address(lease.server).packed
    fields = {_KIND: bytes([kind]), _SERVER: server}
    if _CLIENT_ID in sent:
        fields[_CLIENT_ID] = sent[_CLIENT_ID][:255]  # RFC 6842
    if kind == _NAK:
        return fields
    if asked != _INFORM:
        for number, seconds in (
            (_SECONDS, LEASE_SECONDS),
            (_RENEW, LEASE_SECONDS // 2),
            (_REBIND, LEASE_SECONDS * 7 // 8),
        ):
            fields[number] = struct.pack(">I", seconds)
    network = lease.interface.network
    default = next(router for target, router in lease.routes if target == "0.0.0.0/0")
    fields |= {
        _MASK: network.netmask.packed,
        _BROADCAST_ADDRESS: network.broadcast_address.packed,
        _ROUTER: ipaddress.IPv4Address(default).packed,
        _DNS: ipaddress.IPv4Address(lease.name_server).packed,
        _ROUTES: b"".join(_route(target, router) for target, router in lease.routes),
        _WIRESERVER: ipaddress.IPv4Address(lease.wireserver).packed,
    }
    return fields


def _route(target: str, router: str) -> bytes:
    network = ipaddress.IPv4Network(target)
    significant = network.network_address.packed[: (network.prefixlen + 7) // 8]
    return bytes([network.prefixlen]) + significant + ipaddress.IPv4Address(router).packed
