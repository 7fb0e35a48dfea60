"""The HTTP servers: sockets in the namespace, one thread for each connection, each guest identified by its address.

No guest can use more of the host than `limits` allows, whatever it sends or does not send.
"""

from __future__ import annotations

import contextlib
import io
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pipeline.fabric.instance import Request, Response
from pipeline.fabric.limits import IDLE, LARGEST_BODY, LARGEST_HEAD, REQUEST, Limits

#: Answers a request from an address; None if no guest has that address.
Answer = Callable[[str, Request], Response | None]


#: Seconds after which a listener tries again where the process has no descriptor left.
_PAUSE = 0.1


class Listener(ThreadingHTTPServer):
    """A server on a socket that is bound and listens already.

    It creates no socket, because the process may not be allowed to. It costs nothing while it is idle.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, answer: Answer, limits: Limits | None = None) -> None:
        socketserver.BaseServer.__init__(self, listener.getsockname()[:2], _Handler)
        self.socket = listener
        self.answer = answer
        self.limits = limits or Limits()
        self._stopped = threading.Event()
        self.thread = threading.Thread(target=self._accept, name="fabric", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self._stopped.set()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # ends a waiting accept
        self.thread.join()
        self.server_close()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, address = self.socket.accept()
            except OSError:
                self._stopped.wait(_PAUSE)
                continue
            with contextlib.suppress(RuntimeError):  # no thread is left for this one
                self.process_request(connection, address)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own; a connection beyond the limit is closed before it costs a
        thread.
        """
        address = client_address[0]
        if not self.limits.take_connection(address):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self.limits.release_connection(address)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.limits.release_connection(client_address[0])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A guest that closes its connection in the middle of a request is not an error of the server."""


class _Inlet(io.RawIOBase):
    """A guest's request as a stream, with one deadline for the whole request and a limit for its head.

    A socket's own timeout begins again with each byte: a guest that sends one a minute would be read for ever.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._until = 0.0
        self._left: int | None = None

    def begin_head(self) -> None:
        self._until, self._left = time.monotonic() + IDLE, LARGEST_HEAD

    def begin_body(self) -> None:
        self._until, self._left = time.monotonic() + REQUEST, None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        remaining = self._until - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("the request took too long")
        if self._left is not None and self._left <= 0:
            raise ConnectionAbortedError("the request's head is too large")
        self._connection.settimeout(remaining)
        count = self._connection.recv_into(buffer)
        if self._left is not None:
            self._left -= count
        return count


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Listener

    def setup(self) -> None:
        super().setup()
        self._inlet = _Inlet(self.connection)
        self.rfile = io.BufferedReader(self._inlet, 8192)

    def handle_one_request(self) -> None:
        self._inlet.begin_head()
        super().handle_one_request()

    def do_any(self) -> None:
        self.connection.settimeout(REQUEST)
        size = self._body_size()
        if size is None:
            return
        guest = self.client_address[0]
        if not self.server.limits.take_body(guest, size):
            self._refuse(503)
            return
        try:
            self._answer(guest, size)
        finally:
            self.server.limits.release_body(guest, size)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do_any

    def _answer(self, guest: str, size: int) -> None:
        self._inlet.begin_body()
        body = self.rfile.read(size)
        self.connection.settimeout(REQUEST)
        if len(body) < size:
            self.close_connection = True
            return
        address, port = self.connection.getsockname()[:2]
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            answered = self.server.answer(guest, Request(self.command, port, self.path, headers, body, address))
        except Exception:  # whatever a guest makes our answer trip over is a bad request of that guest, and no more
            self._refuse(400)
            return
        if answered is None:
            self.close_connection = True
            return
        if answered.delay:
            time.sleep(answered.delay)
        if answered.drop:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._send(answered)

    def _body_size(self) -> int | None:
        """The size of the request's body; None if it is invalid or too large: then the error has been answered."""
        written = self.headers.get_all("content-length") or ["0"]
        if "transfer-encoding" in self.headers or len(set(written)) > 1:
            self._refuse(400)
            return None
        if not (written[0].isascii() and written[0].isdigit()):
            self._refuse(400)
            return None
        if len(written[0]) > len(str(LARGEST_BODY)) or int(written[0]) > LARGEST_BODY:
            self._refuse(413)
            return None
        return int(written[0])

    def _refuse(self, status: int) -> None:
        self.close_connection = True
        self._send(Response(status, b"", "text/plain"))

    def _send(self, answered: Response) -> None:
        self.send_response(answered.status)
        if answered.status != 304:
            self.send_header("Content-Type", answered.kind)
        self.send_header("Content-Length", str(len(answered.body)))
        for name, value in answered.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answered.body)

    def version_string(self) -> str:
        return "goldsmith-fabric"

    def log_message(self, format: str, *args: object) -> None:
        """The fabric keeps its own record."""
