"""The listener of the relay and of the way out of guests."""

from __future__ import annotations

import errno
import socket
import threading

import pytest

from pipeline.network import relay
from pipeline.network.relay import Relay


class Listener:
    """A listener whose first `accept` fails, as where this process has no descriptor left."""

    def __init__(self, real: socket.socket) -> None:
        self._real, self._failed = real, False

    def accept(self) -> tuple[socket.socket, object]:
        if not self._failed:
            self._failed = True
            raise OSError(errno.EMFILE, "Too many open files")
        return self._real.accept()

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


def echo(listener: socket.socket) -> None:
    near, _ = listener.accept()
    with near:
        near.sendall(near.recv(100))


def test_a_connection_that_cannot_be_taken_does_not_end_the_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(relay.socket, "create_server", lambda _address: Listener(real))
    far = socket.socket()
    far.bind(("127.0.0.1", 0))
    far.listen()
    threading.Thread(target=echo, args=(far,), daemon=True).start()
    server = Relay(0, lambda seconds: socket.create_connection(far.getsockname(), seconds))
    try:
        with socket.create_connection(real.getsockname(), 20) as link:
            link.sendall(b"hello")
            assert link.recv(100) == b"hello"
    finally:
        server.close()
        far.close()
    assert not server._thread.is_alive()
