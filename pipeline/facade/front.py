"""The HTTP side as a process of its own: `python -m pipeline.facade.front`, started by root.

It reads the certificate's key and loads all its modules, then becomes a user without rights in an empty folder.
From then on it can open no socket, start no program and see no file. It speaks TLS and HTTP, and reads JSON; the
process that started it does what a request asks for, over the channel. It ends with that process.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import resource
import socket
import threading
from pathlib import Path
from typing import Any

import uvicorn

from pipeline.disk import confinement
from pipeline.disk.confinement import TOOL_REFUSALS, Applied
from pipeline.facade.app import make_app
from pipeline.facade.backend import Backend
from pipeline.facade.channel import RemoteBackend

#: Seconds that clients get to close their connections: an idle one holds the end of TLS up for half a minute.
_SHUTDOWN = 1
#: Open descriptors: two for each request in progress, and one for each connection.
DESCRIPTORS = 4096
#: System calls that it may not use: those that tools may not use, except what open sockets need; and programs.
_NEEDED = ("socketpair", "listen", "accept", "accept4", "sendto")
REFUSED = (*(name for name in TOOL_REFUSALS if name not in _NEEDED), "execve", "execveat")


def make_server(backend: Backend, base: str, certificate: Path, key: Path) -> uvicorn.Server:
    config = uvicorn.Config(
        make_app(backend, base),
        loop="asyncio",
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_SHUTDOWN,
        ssl_certfile=str(certificate),
        ssl_keyfile=str(key),
    )
    return uvicorn.Server(config)


def load_everything(server: uvicorn.Server) -> None:
    """Read the key, and answer requests within the process, so that modules that are loaded late are loaded now."""
    server.config.load()
    importlib.import_module("uvicorn.loops.asyncio")
    confinement.load_seccomp()
    for name in ("latin-1", "ascii", "utf-8", "idna"):
        "x".encode(name)
    for method, path in (("GET", "/metadata/endpoints"), ("GET", "/tenants"), ("POST", "/t/oauth2/v2.0/token")):
        asyncio.run(_ask(server.config.loaded_app, method, path))


async def _ask(app: Any, method: str, path: str) -> None:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "https",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "client": None,
        "server": ("localhost", 443),
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_message: dict[str, Any]) -> None:
        return

    await app(scope, receive, send)


def give_up_rights(uid: int, gid: int, empty: Path) -> None:
    """Become the user, in a root that has no file. Raises OSError if any part fails: then nothing is served."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = min(DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.chroot(empty)
    os.chdir("/")
    confinement.become_user(uid, gid)
    confinement.filter_calls(Applied(), refused=REFUSED)


def _end_with(channel: socket.socket) -> None:
    """Whoever reads this end of the channel gets nothing but its end: the process that started us has died."""
    channel.recv(1)
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--listener", "--channel", "--user", "--group"):
        parser.add_argument(name, type=int, required=True)
    for name in ("--certificate", "--key", "--empty"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--base", required=True)
    asked = parser.parse_args()
    channel, listener = socket.socket(fileno=asked.channel), socket.socket(fileno=asked.listener)
    server = make_server(RemoteBackend(channel), asked.base, asked.certificate, asked.key)
    load_everything(server)
    give_up_rights(asked.user, asked.group, asked.empty)
    threading.Thread(target=_end_with, args=(channel,), daemon=True).start()
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
