"""The server: TLS on the loopback address, and the tasks that an earlier process left."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import IO

import uvicorn

from pipeline.base import process
from pipeline.base.errors import HostError
from pipeline.base.store import FACADE_USER, Store
from pipeline.facade.backend import ManagerBackend
from pipeline.facade.channel import answer_questions
from pipeline.facade.front import make_server
from pipeline.facade.home import LOOPBACK, Home
from pipeline.facade.manager import Manager
from pipeline.instances.fleet import Fleet

#: The port, unless an option says otherwise.
PORT = 8443
#: The module of the HTTP side, where it is a process of its own.
FRONT = "pipeline.facade.front"
#: A user and a group, by their numbers.
User = tuple[int, int]


def facade_home(store: Store) -> Home:
    return Home(store.root / "facade")


def address(port: int) -> str:
    """The facade's address as clients have it; its certificate has this name."""
    return f"https://localhost:{port}"


def front_user() -> User | None:
    """The user of the HTTP side; None for a caller who is not root, and has no rights to give up.

    Raises HostError (facade-user-missing).
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(FACADE_USER)
    except KeyError:
        raise HostError(
            f"the user {FACADE_USER}, under which requests are read, does not exist",
            name="facade-user-missing",
            hint=f"make setup creates it; by hand: useradd --system --shell /usr/sbin/nologin {FACADE_USER}",
        ) from None
    return entry.pw_uid, entry.pw_gid


class Facade:
    """A server on a socket of its own. `port` 0: one that is free. `can_change`: whether it may change VMs.

    With a `user` the HTTP side is a process of its own, of that user, without any right (`front`).
    """

    def __init__(
        self,
        store: Store,
        port: int = PORT,
        make_fleet: Callable[[], Fleet] | None = None,
        *,
        can_change: bool,
        user: User | None = None,
    ) -> None:
        self.home = facade_home(store).ensure()
        self.home.secret()  # raises where others can read it
        self._socket = _bind(port)
        self.port = int(self._socket.getsockname()[1])
        self.manager = Manager(store, self.home, make_fleet or (lambda: Fleet(store)), can_change=can_change)
        self._user = user
        self._server: uvicorn.Server | None = None
        self._channel: socket.socket | None = None
        self._ended = False

    def serve(self, on_ready: Callable[[int], None] = lambda _resumed: None) -> None:
        """Answer until a signal comes. `on_ready` gets the number of operations that are gone on with.

        Raises HostError (facade-running, facade-ended), and what the process's own handler of the signal raises.
        """
        with self.home.hold():
            on_ready(self.manager.tasks.resume())
            backend, base = ManagerBackend(self.manager), address(self.port)
            if self._user is None:
                self._server = make_server(backend, base, self.home.certificate, self.home.certificate_key)
                self._server.run(sockets=[self._socket])
            else:
                with self._front(self._user) as channel:
                    answer_questions(channel, backend, base)
                if not self._ended:
                    raise HostError(
                        "the process that reads requests has ended",
                        name="facade-ended",
                        hint="its last messages are above; goldsmith serve azure starts it again",
                    )

    @contextlib.contextmanager
    def serving(self) -> Iterator[Facade]:
        """Answer in a thread while the block runs."""
        thread = threading.Thread(target=self.serve, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._end()
            thread.join(30)
            self._socket.close()

    def _end(self) -> None:
        self._ended = True
        if self._server is not None:
            self._server.should_exit = True
        if self._channel is not None:
            with contextlib.suppress(OSError):
                self._channel.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def _front(self, user: User) -> Iterator[socket.socket]:
        """The process of the HTTP side, and the channel on which it asks."""
        ours, theirs = socket.socketpair()
        files = {
            "--certificate": self.home.certificate,
            "--key": self.home.certificate_key,
            "--empty": self.home.empty,
        }
        numbers = {"--listener": self._socket.fileno(), "--channel": theirs.fileno()}
        words = {**files, **numbers, "--user": user[0], "--group": user[1], "--base": address(self.port)}
        argv = [sys.executable, "-P", "-m", FRONT, *(str(word) for pair in words.items() for word in pair)]
        path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with ours:
            with theirs:
                child = process.open_child(argv, env=path, pass_fds=tuple(numbers.values()))
            for stream in (child.stdout, child.stderr):
                threading.Thread(target=_pass_on, args=(stream,), daemon=True).start()
            self._channel = ours
            try:
                yield ours
            finally:
                self._channel = None
                process.kill(child)


def _pass_on(stream: IO[bytes]) -> None:
    """Write the messages of the HTTP side to this process's own."""
    with stream:
        for line in stream:
            sys.stderr.write(line.decode(errors="replace"))


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
