"""Namespaces that stand in for guests on a fabric's wires: what a guest's own programs would ask, in milliseconds."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from typing import Protocol

from pipeline.fabric.instance import Instance
from pipeline.network.namespaces import NAMESPACES, inside

#: Names for puppets: two processes of tests on one host must not meet.
PUPPETS = tuple(f"gs{os.getpid():x}p{number}" for number in range(8))
READY = """<Health><GoalStateIncarnation>1</GoalStateIncarnation><Container><RoleInstanceList><Role><Health>
<State>Ready</State></Health></Role></RoleInstanceList></Container></Health>"""


def sh(script: str, *, check: bool = True) -> str:
    return subprocess.run(["sh", "-ec", script], capture_output=True, text=True, check=check, timeout=180).stdout


class Attached(Protocol):
    """A place on a fabric: a proof's guest, or a VM's link."""

    @property
    def bridge(self) -> str: ...

    @property
    def instance(self) -> Instance: ...


@contextlib.contextmanager
def puppet(guest: Attached, name: str) -> Iterator[str]:
    """A namespace on a clone's wire, with the clone's MAC and address: what a guest would be."""
    instance = guest.instance
    try:
        sh(
            f"""ip netns add {name}
            ip link add {name} type veth peer name eth0 netns {name}
            ip link set {name} master {guest.bridge} up
            ip -n {name} link set lo up
            ip -n {name} link set eth0 address {instance.mac} up
            ip -n {name} addr add {instance.address}/29 dev eth0
            ip -n {name} route add default via {instance.gateway}"""
        )
        yield name
    finally:
        sh(f"ip netns delete {name}; ip link delete {name} 2>/dev/null || true", check=False)


def ask(name: str, method: str, where: str, target: str, body: str = "", source: str = "") -> str:
    """The first line of the answer, or what went wrong."""

    def go() -> str:
        address, _, port = where.partition(":")
        with socket.socket() as link:
            link.settimeout(3)  # the kernel answers at once where the way is open
            try:
                if source:
                    link.bind((source, 0))
                link.connect((address, int(port)))
                link.settimeout(60)
                head = f"{method} {target} HTTP/1.1\r\nMetadata: true\r\nContent-Length: {len(body)}\r\n\r\n"
                link.sendall((head + body).encode())
                return link.recv(4096).decode().splitlines()[0]
            except OSError as error:
                return type(error).__name__

    return inside(NAMESPACES / name, go)


def shout(name: str, address: str, port: int) -> None:
    """A datagram needs no way back."""

    def go() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth:
            for _ in range(3):
                mouth.sendto(b"hello", (address, port))

    inside(NAMESPACES / name, go)
    time.sleep(0.2)  # nobody says that a datagram was dropped: time for it to arrive, if it does


def ask_lease(name: str, mac: str, seconds: float = 60) -> bytes | None:
    """The offer that a client in a namespace gets which asks for one by broadcast; None after so many seconds."""
    head = struct.pack(
        ">BBBBIHH16s16s192s4s", 1, 1, 6, 0, 7, 0, 0x8000, b"", bytes.fromhex(mac.replace(":", "")), b"", b"c\x82Sc"
    )

    def go() -> bytes | None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
            link.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            link.bind(("0.0.0.0", 68))
            link.settimeout(seconds)
            link.sendto(head + b"\x35\x01\x01\xff", ("255.255.255.255", 67))
            try:
                return link.recv(2000)
            except TimeoutError:
                return None

    return inside(NAMESPACES / name, go)


def resolve(name: str, server: str, host: str) -> str:
    """Ask for an IPv4 address (RFC 1035: one question, the answer's last four bytes)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in host.split("."))
    question = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1)

    def go() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
            link.settimeout(60)
            link.sendto(question, (server, 53))
            return link.recv(512)

    return socket.inet_ntoa(inside(NAMESPACES / name, go)[-4:])
