"""The HTTP side: sockets in the namespace, one thread a connection, each guest known by its address alone."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pipeline.fabric.instance import Request, Response

#: Bytes of a request's body that are read; a guest has no business with more.
LARGEST_BODY = 8 << 20
#: Seconds for which a guest may keep a connection without a word.
IDLE = 60.0

#: Answers what came from an address; None where nobody is known there.
Answer = Callable[[str, Request], Response | None]


class Listener(ThreadingHTTPServer):
    """A server on a socket that is bound and listens already."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, answer: Answer) -> None:
        super().__init__(listener.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.answer = answer
        self.thread = threading.Thread(target=self.serve_forever, args=(0.2,), name="fabric", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A guest that hangs up in mid-sentence is no error of ours."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE
    server: Listener

    def do_any(self) -> None:
        address, port = self.connection.getsockname()[:2]
        body = self._body()
        if body is None:
            return
        request = Request(
            method=self.command,
            port=port,
            target=self.path,
            headers={name.lower(): value for name, value in self.headers.items()},
            body=body,
            host=address,
        )
        said = self.server.answer(self.client_address[0], request)
        if said is None:
            self.close_connection = True
            return
        if said.delay:
            time.sleep(said.delay)
        if said.drop:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._say(said)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do_any

    def _body(self) -> bytes | None:
        """The request's body, None where it is none of HTTP's or too large."""
        try:
            length = int(self.headers.get("content-length") or 0)
        except ValueError:
            length = -1
        if not 0 <= length <= LARGEST_BODY or "transfer-encoding" in self.headers:
            self.close_connection = True
            self._say(Response(413 if length > LARGEST_BODY else 400, b"", "text/plain"))
            return None
        return self.rfile.read(length)

    def _say(self, said: Response) -> None:
        self.send_response(said.status)
        if said.status != 304:
            self.send_header("Content-Type", said.kind)
        self.send_header("Content-Length", str(len(said.body)))
        for name, value in said.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(said.body)

    def version_string(self) -> str:
        return "goldsmith-fabric"

    def log_message(self, format: str, *args: object) -> None:
        """The fabric keeps its own record."""
