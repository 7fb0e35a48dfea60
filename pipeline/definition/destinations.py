"""Where a build's guest may go: an address or a network, at one port or at all of them."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network

from pipeline.definition.diagnostics import Wrong, shown

#: Refused to every guest; no allow list opens them. The metadata services of Azure, AWS, Google and others are at
#: 169.254.169.254, Azure's WireServer at 168.63.129.16, Alibaba's and Oracle's metadata at the last two.
NEVER = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "168.63.129.16/32",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "100.100.100.200/32",
        "192.0.0.192/32",
    )
)
_EXAMPLE = "write 10.1.2.0/24 or 10.1.2.3:8080"


@dataclass(frozen=True)
class Destination:
    """A network that guests may reach, at one port (TCP and UDP) or, with None, at all."""

    network: IPv4Network
    port: int | None = None

    def __str__(self) -> str:
        target = (
            self.network.network_address if self.network.prefixlen == self.network.max_prefixlen else self.network
        )
        return str(target) if self.port is None else f"{target}:{self.port}"


def destination(text: str) -> Destination:
    """From `10.1.2.0/24`, `10.1.2.3` or `10.1.2.3:8080`. Raises Wrong."""
    address, colon, port = text.partition(":")
    try:
        network = IPv4Network(address)
    except ValueError as error:
        reason = "has bits beyond its prefix" if "host bits" in str(error) else "is not an IPv4 address or network"
        raise Wrong(f"{shown(text)} {reason}", _EXAMPLE) from None
    if colon and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise Wrong(f"{shown(text)} does not end with a port from 1 to 65535", _EXAMPLE)
    if closed := next((never for never in NEVER if never.overlaps(network)), None):
        raise Wrong(
            f"{shown(text)} cannot be allowed: {closed} is always closed to guests",
            "remove it; loopback, link-local and metadata addresses cannot be allowed",
        )
    return Destination(network, int(port) if colon else None)
