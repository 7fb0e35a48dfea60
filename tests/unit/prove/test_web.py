"""What `expect: http` takes from a hostile clone, by real sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pipeline.prove.web import LARGEST_BODY, fetch

Serve = Callable[[socket.socket], None]


@contextlib.contextmanager
def clone(serve: Serve) -> Iterator[tuple[int, list[bytes]]]:
    """A server that answers each connection by `serve`; its port, and what it was asked."""
    listener = socket.create_server(("127.0.0.1", 0))
    asked: list[bytes] = []

    def run() -> None:
        while True:
            try:
                link, _ = listener.accept()
            except OSError:
                return
            with link, contextlib.suppress(OSError):
                asked.append(link.recv(65536))
                serve(link)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def answers(data: bytes) -> Serve:
    return lambda link: link.sendall(data)


def test_a_redirect_is_reported_and_not_followed() -> None:
    with clone(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")) as (inner, hidden):
        for status in (301, 302, 303, 307, 308):
            target = f"http://127.0.0.1:{inner}/"
            head = f"HTTP/1.1 {status} Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()
            with clone(answers(head)) as (port, _):
                answer = fetch(port, "/", 5)
            assert (answer.status, answer.location, answer.body) == (status, target, "")
            assert answer.describe() == f"{status} to {target!r}, 0 bytes"
        refresh = (
            f"HTTP/1.1 200 OK\r\nRefresh: 0; url=http://127.0.0.1:{inner}/\r\nConnection: close\r\n\r\n".encode()
        )
        with clone(answers(refresh)) as (port, _):
            assert fetch(port, "/", 5).describe() == "200, 0 bytes"
    assert hidden == []


def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with clone(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nproxy")) as (proxy, asked):
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
        monkeypatch.delenv("no_proxy", raising=False)
        with clone(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nclone")) as (port, requests):
            assert fetch(port, "/größe page", 5).body == "clone"
    assert asked == []
    assert requests[0].splitlines()[0] == b"GET /gr%C3%B6%C3%9Fe%20page HTTP/1.1"


def test_a_page_without_end_is_cut() -> None:
    def endless(link: socket.socket) -> None:
        link.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            link.sendall(b"x" * 65536)

    with clone(endless) as (port, _):
        assert fetch(port, "/", 20).size == LARGEST_BODY


@pytest.mark.parametrize("opening", [b"", b"HTTP/1.1 200 OK\r\nX", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"])
def test_a_page_that_drips_is_given_up(opening: bytes) -> None:
    def drip(link: socket.socket) -> None:
        link.sendall(opening)
        while True:
            link.sendall(b"x")
            time.sleep(0.05)

    with clone(drip) as (port, _):
        began = time.monotonic()
        with pytest.raises(OSError):
            fetch(port, "/", 0.5)
        assert time.monotonic() - began < 60


def test_continues_without_end_are_given_up() -> None:
    def drip(link: socket.socket) -> None:
        while True:
            link.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    with clone(drip) as (port, _), pytest.raises(OSError):
        fetch(port, "/", 0.5)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 70_000,
        b"\x1b[2J\x00\xff" * 100 + b"\r\n\r\n",
    ],
)
def test_what_is_no_page_is_no_answer(data: bytes) -> None:
    with clone(answers(data)) as (port, _), pytest.raises(OSError) as caught:
        fetch(port, "/", 5)
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 300


def test_escape_codes_do_not_leave_a_location() -> None:
    head = b"HTTP/1.1 302 Found\r\nLocation: \x1b]0;owned\x07\r\nContent-Length: 0\r\n\r\n"
    with clone(answers(head)) as (port, _):
        assert "\x1b" not in fetch(port, "/", 5).describe()
