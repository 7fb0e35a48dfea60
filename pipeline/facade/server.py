"""The server: TLS on the loopback address, and the tasks that an earlier process left."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn

from pipeline.base.errors import HostError
from pipeline.base.store import Store
from pipeline.facade.app import make_app
from pipeline.facade.home import LOOPBACK, Home
from pipeline.facade.manager import Manager
from pipeline.instances.fleet import Fleet

#: The port, unless an option says otherwise.
PORT = 8443
#: Seconds that clients get to close their connections: an idle one holds the end of TLS up for half a minute.
_SHUTDOWN = 1


def facade_home(store: Store) -> Home:
    return Home(store.root / "facade")


def address(port: int) -> str:
    """The facade's address as clients have it; its certificate has this name."""
    return f"https://localhost:{port}"


class Facade:
    """A server on a socket of its own. `port` 0: one that is free. `can_change`: whether it may change VMs."""

    def __init__(
        self, store: Store, port: int = PORT, make_fleet: Callable[[], Fleet] | None = None, *, can_change: bool
    ) -> None:
        self.home = facade_home(store).ensure()
        self.home.secret()  # raises where others can read it
        self._socket = _bind(port)
        self.port = int(self._socket.getsockname()[1])
        self.manager = Manager(store, self.home, make_fleet or (lambda: Fleet(store)), can_change=can_change)
        config = uvicorn.Config(
            make_app(self.manager, address(self.port)),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_SHUTDOWN,
            ssl_certfile=str(self.home.certificate),
            ssl_keyfile=str(self.home.certificate_key),
        )
        self._server = uvicorn.Server(config)

    def serve(self, on_ready: Callable[[int], None] = lambda _resumed: None) -> None:
        """Answer until a signal comes. `on_ready` gets the number of operations that are gone on with.

        Raises HostError (facade-running), and what the process's own handler of the signal raises.
        """
        with self.home.hold():
            on_ready(self.manager.tasks.resume())
            self._server.run(sockets=[self._socket])

    @contextlib.contextmanager
    def serving(self) -> Iterator[Facade]:
        """Answer in a thread while the block runs."""
        thread = threading.Thread(target=self.serve, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.should_exit = True
            thread.join(30)
            self._socket.close()


def _bind(port: int) -> socket.socket:
    """A socket on the loopback address. Raises HostError (port-taken)."""
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((LOOPBACK, port))
        found.listen(128)
    except OSError as error:
        found.close()
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise HostError(
            f"port {port} of {LOOPBACK} cannot be used: {error.strerror}",
            name="port-taken",
            hint="goldsmith serve azure --port N uses another one",
        ) from None
    return found
