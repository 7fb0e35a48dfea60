"""A proxy before a storage server that throttles, cuts, fails and lies, and counts what goes through it.

A fault is `KIND@OPERATION#N`: KIND happens to the Nth request of an operation (from 1), or with
`KIND@OPERATION#N+` to that one and all after it.
Operations are those of `operation_of`, and `any`.
"""

from __future__ import annotations

import http.client
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

_FAULT = re.compile(r"(?P<kind>[a-z-]+)@(?P<operation>[a-z]+)#(?P<number>\d+)(?P<on>\+?)")
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass
class Fault:
    kind: str
    operation: str
    number: int
    on: bool

    @classmethod
    def parse(cls, text: str) -> Fault:
        found = _FAULT.fullmatch(text)
        assert found, text
        return cls(found["kind"], found["operation"], int(found["number"]), found["on"] == "+")

    def hits(self, counts: dict[str, int], operation: str) -> bool:
        if self.operation not in (operation, "any"):
            return False
        count = counts[self.operation]
        return count >= self.number if self.on else count == self.number


@dataclass
class BlobProxy:
    """`hook` is called with the kind of a fault that only a test can do (`kill`, `lease`)."""

    upstream: tuple[str, int]
    faults: list[Fault] = field(default_factory=list)
    hook: Callable[[str, str], None] = lambda _kind, _path: None
    #: Bytes of bodies with pages, by (path, range), as often as they came.
    pages: list[tuple[str, str, int]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    sent: int = 0
    received: int = 0
    heads: int = 0
    happened: int = 0

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def reset(self, *faults: str) -> None:
        with self.lock:
            self.faults = [Fault.parse(each) for each in faults]
            self.counts, self.pages = {}, []
            self.sent = self.received = self.heads = self.happened = 0

    def fault_of(self, operation: str) -> str | None:
        with self.lock:
            for each in (operation, "any"):
                self.counts[each] = self.counts.get(each, 0) + 1
            hit = next((fault.kind for fault in self.faults if fault.hits(self.counts, operation)), None)
            self.happened += hit is not None
            return hit


def operation_of(method: str, path: str, headers) -> str:
    query = parse_qs(urlsplit(path).query, keep_blank_values=True)
    what = query.get("comp", [""])[0]
    if method == "PUT" and what == "page":
        return "clear" if headers.get("x-ms-page-write") == "clear" else "write"
    if what in ("lease", "list", "snapshot"):
        return what
    if method == "PUT" and "x-ms-copy-source" in headers:
        return "copy"
    if method == "PUT" and headers.get("x-ms-blob-type") == "PageBlob":
        return "create"
    if method == "HEAD":
        return "facts"
    if method == "DELETE":
        return "delete"
    if urlsplit(path).path.endswith("index.json"):
        return "index" if method == "PUT" else "look"
    if method == "GET":
        return "read" if urlsplit(path).path.endswith(".vhd") else "fetch"
    return "file" if not what else "label"


def _handler(proxy: BlobProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def log_message(self, *_: object) -> None:
            """Quiet."""

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            operation = operation_of(self.command, self.path, self.headers)
            with proxy.lock:
                proxy.sent += len(body)
                proxy.heads += len(self.requestline) + sum(len(k) + len(v) + 4 for k, v in self.headers.items()) + 4
                if operation == "write":
                    proxy.pages.append((urlsplit(self.path).path, self.headers.get("x-ms-range", ""), len(body)))
            kind = proxy.fault_of(operation)
            if kind in ("kill", "lease"):
                proxy.hook(kind, urlsplit(self.path).path)
            if kind == "throttle":
                return self.answer(503, b"", {"Retry-After": "0", "x-ms-error-code": "ServerBusy"})
            if kind == "many":
                return self.answer(429, b"", {"x-ms-error-code": "TooManyRequests"})
            if kind == "error":
                return self.answer(500, b"", {"x-ms-error-code": "InternalError"})
            if kind == "cut-before":
                return self.cut()
            if kind == "false-success":
                headers = {"ETag": '"0x0"', "Last-Modified": "Thu, 26 Nov 2026 09:00:00 GMT"}
                return self.answer(202 if operation in ("copy", "delete") else 201, b"", headers)
            if kind == "garbage" and body:
                body = bytes([body[0] ^ 1]) + body[1:]
            status, data, headers = self.ask(body)
            if kind == "cut-after":
                return self.cut()
            if kind == "cut-body" and data:
                self.head(status, headers, len(data))
                self.wfile.write(data[: len(data) // 2])
                return self.cut()
            if kind == "wrong-length" and data:
                return self.answer(status, data[: len(data) // 2], headers)
            if kind == "wrong-data" and data:
                data = data[:-1] + bytes([data[-1] ^ 1])
            with proxy.lock:
                proxy.received += len(data)
            return self.answer(status, data, headers)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = forward

        def ask(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
            connection = http.client.HTTPConnection(*proxy.upstream, timeout=60)
            try:
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in ("connection",):
                        connection.putheader(name, value)
                connection.endheaders(body or None)
                answer = connection.getresponse()
                self.length = answer.getheader("Content-Length")
                return answer.status, answer.read(), dict(answer.getheaders())
            finally:
                connection.close()

        def head(self, status: int, headers: dict[str, str], length: int) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in _HOP:
                    self.send_header(name, value)
            shown = self.length if self.command == "HEAD" and getattr(self, "length", None) else length
            self.send_header("Content-Length", str(shown))
            self.end_headers()

        def answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
            self.head(status, headers, len(data))
            if self.command != "HEAD":
                self.wfile.write(data)

        def cut(self) -> None:
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:
                self.close_connection = True  # the client was killed

    return Handler
