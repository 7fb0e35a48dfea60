"""A port of the host's loopback that leads to a port of a clone, through the clone's namespace."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
from collections.abc import Callable

#: Connections that one relay has open at a time, each of them a thread; one too many is hung up on.
CONNECTIONS = 64
#: Seconds to reach the guest's port; a guest that does not listen refuses at once.
REACH = 10.0
#: Seconds until the next try where a connection cannot be taken: no descriptor or no thread is free, or it has gone.
PAUSE = 0.1


class Server:
    """Answers each connection of a listener in a thread of its own, until `close`. `_handle` answers one."""

    def __init__(self, listener: socket.socket, name: str) -> None:
        self._listener, self._name = listener, name
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._free = threading.Semaphore(CONNECTIONS)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._accept, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, and end what is open."""
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                self._stopped.wait(PAUSE)
                continue
            if not self._free.acquire(blocking=False):
                near.close()
                continue
            thread = threading.Thread(target=self._serve, args=(near,), name=f"{self._name}-link", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no thread is left for this one
                self._free.release()
                near.close()

    def _serve(self, near: socket.socket) -> None:
        try:
            self._handle(near)
        finally:
            self._free.release()

    def _handle(self, near: socket.socket) -> None:
        raise NotImplementedError


class Relay(Server):
    """Listens on 127.0.0.1 and passes each connection on to what `connect` opens."""

    def __init__(self, port: int, connect: Callable[[float], socket.socket]) -> None:
        self._connect = connect
        super().__init__(socket.create_server(("127.0.0.1", port)), "relay")

    def _handle(self, near: socket.socket) -> None:
        with near:
            try:
                far = self._connect(REACH)
            except OSError:
                return
            with far:
                far.settimeout(None)
                with self._lock:
                    self._open |= {near, far}
                try:
                    pump(near, far)
                finally:
                    with self._lock:
                        self._open -= {near, far}


def pump(near: socket.socket, far: socket.socket) -> None:
    """Copy both ways until both have ended; one side's end is passed on, the other may still speak."""
    other = {near: far, far: near}
    with selectors.DefaultSelector() as ready:
        for end in other:
            ready.register(end, selectors.EVENT_READ)
        while ready.get_map():
            for key, _ in ready.select():
                source = key.fileobj
                assert isinstance(source, socket.socket)
                try:
                    data = source.recv(65536)
                    if data:
                        other[source].sendall(data)
                        continue
                    other[source].shutdown(socket.SHUT_WR)
                    ready.unregister(source)
                except OSError:
                    return


def join_stdio(far: socket.socket) -> None:
    """Copy between this process's standard streams and a connection until the far side has ended."""

    def send() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(0, 65536):
                far.sendall(data)
            far.shutdown(socket.SHUT_WR)

    far.settimeout(None)
    threading.Thread(target=send, name="stdin", daemon=True).start()
    with contextlib.suppress(OSError):
        while data := far.recv(65536):
            while data:
                data = data[os.write(1, data) :]
