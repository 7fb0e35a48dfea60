"""A proxy of the host's inside a build's way out: one port, at which a guest speaks HTTP to it and to nothing else.

A connection carries one request. The relay reads its head, refuses what is closed to guests on any other way too (the
host's loopback, metadata services, private ranges), and adds the proxy's password, which the guest never sees.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from pipeline.network.relay import REACH, Server, pump

#: Bytes of a request's head, and seconds within which it has to be there, and without a byte of an answer.
LARGEST_HEAD, HEAD_SECONDS, IDLE_SECONDS = 64 << 10, 60.0, 600.0
_CHUNK = 64 << 10
#: Headers that speak of the guest's own connection, or would let it act as somebody else.
_OWN_HEADERS = re.compile(rb"(?im)^(?:proxy-connection|connection|keep-alive|proxy-authorization):[^\r\n]*\r\n")
_LENGTH = re.compile(rb"(?im)^content-length:[ \t]*(\d{1,19})[ \t]*\r$")
_CHUNKED = re.compile(rb"(?im)^transfer-encoding:")


@dataclass(frozen=True)
class Upstream:
    """Where the proxy is, and the value of the header that it wants."""

    host: str
    port: int
    tls: bool = False
    authorization: str | None = None

    def connect(self) -> socket.socket:
        """Raises OSError, ssl.SSLError among them."""
        plain = socket.create_connection((self.host, self.port), timeout=REACH)
        if not self.tls:
            return plain
        try:
            return ssl.create_default_context().wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise


@dataclass(frozen=True)
class Request:
    """The head of a request to a proxy. `length`: bytes of its body, None where it is sent in chunks."""

    method: bytes
    host: str
    port: int
    head: bytes
    length: int | None


def read_head(head: bytes) -> Request | None:
    """A request's head (including its empty line); None if it is not a request to a proxy. Pure."""
    line, _, rest = head.partition(b"\r\n")
    words = line.split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        return None
    method, target, _ = words
    try:
        connect = method == b"CONNECT"
        parts = urlsplit(f"//{target.decode('ascii')}" if connect else target.decode("ascii"))
        port = parts.port or (443 if connect else 80)
    except ValueError:
        return None
    if not parts.hostname or (not connect and parts.scheme != "http"):
        return None
    found = _LENGTH.search(rest)
    length = None if _CHUNKED.search(rest) else int(found[1]) if found else 0
    return Request(method, parts.hostname, port, head, length)


def forwarded_head(request: Request, authorization: str | None) -> bytes:
    """The head as the proxy gets it. Pure."""
    line, _, rest = request.head.partition(b"\r\n")
    added = b"" if request.method == b"CONNECT" else b"Connection: close\r\n"
    if authorization is not None:
        added += f"Proxy-Authorization: {authorization}\r\n".encode()
    return line + b"\r\n" + added + _OWN_HEADERS.sub(b"", rest)


class ProxyRelay(Server):
    """Serves one listener until `close`. `refused` judges (address, port) of what a guest asks for."""

    def __init__(self, listener: socket.socket, upstream: Upstream, refused: Callable[[str, int], bool]) -> None:
        self._upstream, self._refused = upstream, refused
        super().__init__(listener, "proxy-relay")

    def _handle(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError):
            self._answer(near)

    def _answer(self, near: socket.socket) -> None:
        near.settimeout(HEAD_SECONDS)
        data = b""
        while b"\r\n\r\n" not in data:
            more = near.recv(_CHUNK)
            if not more or len(data) > LARGEST_HEAD:
                return
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        request = read_head(head + b"\r\n\r\n")
        if request is None:
            _refuse(near, "400 Bad Request", "this is not a proxy request")
            return
        if request.length is None:
            _refuse(near, "411 Length Required", "a body in chunks is not relayed")
            return
        if closed_name(request.host, request.port, self._refused):
            _refuse(near, "403 Forbidden", f"{request.host} is closed to build guests; see network.allow")
            return
        try:
            far = self._upstream.connect()
        except OSError as error:
            _refuse(near, "502 Bad Gateway", f"the host's proxy does not answer: {error.strerror or 'TLS'}")
            return
        with far:
            with self._lock:
                self._open |= {near, far}
            try:
                far.sendall(forwarded_head(request, self._upstream.authorization))
                self._pass_on(near, far, request, body)
            finally:
                with self._lock:
                    self._open -= {near, far}

    @staticmethod
    def _pass_on(near: socket.socket, far: socket.socket, request: Request, body: bytes) -> None:
        far.settimeout(IDLE_SECONDS)
        near.settimeout(IDLE_SECONDS)
        if request.method == b"CONNECT":
            far.sendall(body)
            far.settimeout(None)
            near.settimeout(None)
            pump(near, far)
            return
        assert request.length is not None
        far.sendall(body[: request.length])
        left = request.length - len(body)
        while left > 0 and (data := near.recv(min(left, _CHUNK))):
            far.sendall(data)
            left -= len(data)
        # what a guest sends behind its one request goes nowhere
        while data := far.recv(_CHUNK):
            near.sendall(data)


def closed_name(host: str, port: int, refused: Callable[[str, int], bool]) -> bool:
    """Whether a guest may not go there: by address, or where a name leads as far as this host knows it."""
    if host.lower().rstrip(".") == "localhost" or host.lower().rstrip(".").endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return any(refused(found, port) for found in _resolve(host))
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return not address.is_global
        address = address.ipv4_mapped
    return refused(str(address), port)


@lru_cache(maxsize=4096)
def _resolve(host: str) -> tuple[str, ...]:
    """The IPv4 addresses of a name, also of 0x7f.1 and the like; none where only the proxy resolves names."""
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(str(info[4][0]) for info in found)


def _refuse(near: socket.socket, status: str, why: str) -> None:
    body = f"goldsmith: {why}\n"
    near.sendall(
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body.encode())}\r\n"
        f"Connection: close\r\n\r\n{body}".encode()
    )
