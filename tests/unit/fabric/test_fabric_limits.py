"""A hostile guest on the fabric, by real sockets: what it takes of the host is bounded; others are still answered."""

from __future__ import annotations

import contextlib
import ctypes
import json
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pipeline.base import process
from pipeline.fabric import Guest, answer, limits, server, wireserver
from pipeline.fabric.certificates import KeyPair
from pipeline.fabric.instance import Instance, Request, Response
from pipeline.network.namespaces import Wire
from pipeline.network.relay import CONNECTIONS, Relay
from tests.harness import wait_for

HOSTILE, HONEST = "127.0.0.5", "127.0.0.6"
VM = Instance(
    name="vm", user="u", public_key="ssh-ed25519 AAAA", mac="00:0d:3a:00:00:01", address=HOSTILE, vm_id="0" * 32
)
MIB = 1 << 20
#: M_MMAP_THRESHOLD of malloc.h
_MMAP_THRESHOLD = -3


@dataclass
class Served:
    port: int
    guest: Guest

    def link(self, source: str = HOSTILE) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60, source_address=(source, 0))

    def ask(self, data: bytes, source: str = HOSTILE) -> bytes:
        """The start of the answer; empty where the connection was ended without one."""
        with self.link(source) as link:
            with contextlib.suppress(ConnectionError):
                link.sendall(data)
            with contextlib.suppress(ConnectionError):
                return link.recv(200)
        return b""

    def honest_is_answered(self, within: float = 60.0) -> None:
        began = time.monotonic()
        assert b" 200 " in self.ask(b"GET /?comp=versions HTTP/1.1\r\nHost: x\r\n\r\n", HONEST)
        assert time.monotonic() - began < within


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    guest = Guest(VM, Wire(0, "b", "o", "i"), tmp_path)

    def say(address: str, request: Request) -> Response:
        request = replace(request, host="168.63.129.16", port=80)
        result = answer(VM, request)
        if address == HOSTILE:
            guest.record(request, result)
        return result

    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    first = server.Listener(listener, say)
    first.start()
    try:
        yield Served(listener.getsockname()[1], guest)
    finally:
        first.stop()


def memory(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


@contextlib.contextmanager
def bounded_memory(most: int) -> Iterator[None]:
    """The process's peak grows by at most so many bytes."""
    # blocks of more than 1 MiB go back to the kernel when they are freed: what is measured is what is in use
    ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, MIB)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory("VmRSS")
    yield
    grown = memory("VmHWM") - before
    assert grown < most, f"grew by {grown / MIB:.0f} MiB"


def test_large_bodies_are_not_kept(served: Served) -> None:
    head = f"POST /machine?comp=telemetrydata HTTP/1.1\r\nContent-Length: {limits.LARGEST_BODY}\r\n\r\n".encode()
    data = head + b"\xff" * limits.LARGEST_BODY
    until = time.monotonic() + 120
    tries: list[bytes] = []

    def ask(_: int) -> bool:
        """Ask until it is answered: what is one too many at its moment is refused, or hung up on."""
        while time.monotonic() < until:
            tries.append(served.ask(data))
            if b" 200 " in tries[-1]:
                return True
        return False

    with bounded_memory(60 * MIB), ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(24)))
    served.honest_is_answered()
    assert len(tries) >= 24
    kept = sum(len(first.request.body) + len(first.response.body) for first in served.guest.asked())
    assert kept < MIB


def test_idle_connections_cost_no_threads(served: Served) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 8192), hard), hard))
    count = min(3000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1000)
    before = threading.active_count()
    links: list[socket.socket] = []
    try:
        for _ in range(count):
            links.append(served.link())
        assert threading.active_count() - before <= limits.CONNECTIONS
        served.honest_is_answered()
    finally:
        for link in links:
            link.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_many_guests_together_are_bounded() -> None:
    shared = limits.Limits()
    taken = sum(shared.take_connection(f"10.83.0.{guest}") for guest in range(40) for _ in range(40))
    assert taken == limits.ALL_CONNECTIONS
    for size in (limits.LARGEST_BODY, limits.SMALL_BODY):
        assert shared.take_body("10.83.0.1", size)
    assert shared.take_body("10.83.0.1", limits.LARGEST_BODY)
    assert not shared.take_body("10.83.0.1", limits.LARGEST_BODY)
    shared.release_body("10.83.0.1", limits.LARGEST_BODY)
    assert shared.take_body("10.83.0.1", limits.LARGEST_BODY)


@pytest.mark.parametrize(
    "opening", [b"GET /?comp=versions HTTP/1.1\r\nX: ", b"PUT /status HTTP/1.1\r\nContent-Length: 500\r\n\r\n", b""]
)
def test_a_request_that_never_ends_is_ended(opening: bytes, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE", 0.4)
    monkeypatch.setattr(server, "REQUEST", 0.4)
    links = [served.link() for _ in range(limits.CONNECTIONS)]
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        for link in links:
            stack.enter_context(link)
            with contextlib.suppress(OSError):  # ended already, on a slow host
                link.sendall(opening)
        alive = set(links)
        while alive and time.monotonic() - began < 60:
            for link in list(alive):
                try:
                    link.sendall(b"x")
                except OSError:
                    alive.discard(link)
            time.sleep(0.05)
        assert not alive, "a byte now and then keeps a connection for ever"
        monkeypatch.setattr(server, "IDLE", 60.0)
        monkeypatch.setattr(server, "REQUEST", 60.0)
        # its places are free again
        ask = b"GET /?comp=versions HTTP/1.1\r\n\r\n"
        wait_for("an answer", lambda: b" 200 " in served.ask(ask), 60)
    served.honest_is_answered()


def test_the_log_and_the_record_end(served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(served.guest, "_log_left", 50_000)
    request = Request("GET", 80, "/?comp=versions&" + "x" * 5000, {"user-agent": "u" * 9000, "x": "y" * 9000})
    for _ in range(3000):
        served.guest.record(request, Response(200, b"z" * 100_000))
    log = (tmp_path / "fabric.jsonl").read_text()
    assert len(log) <= 50_200
    assert "the log has reached its limit" in log.splitlines()[-1]
    assert all(isinstance(json.loads(line), dict) for line in log.splitlines())
    assert len(served.guest.asked()) == limits.KEPT_EXCHANGES
    first = served.guest.asked()[-1]
    assert len(first.request.target) + len(str(first.request.headers)) + len(first.response.body) < 6000


def test_pipelined_requests_are_answered_in_turn_and_bounded(served: Served) -> None:
    count = 2000
    with bounded_memory(60 * MIB), served.link() as link:
        sender = threading.Thread(target=link.sendall, args=(b"GET /nothing HTTP/1.1\r\n\r\n" * count,))
        sender.start()
        seen = b""
        while seen.count(b" 404 ") < count and (data := link.recv(1 << 16)):
            seen += data
        sender.join()
    assert seen.count(b" 404 ") == count
    served.honest_is_answered()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * (20 * MIB),
        b"GET / HTTP/1.1\r\n" + b"".join(b"X%d: %s\r\n" % (n, b"a" * 60_000) for n in range(90)) + b"\r\n",
        b"GET /" + b"a" * (20 * MIB),
        b"POST /machine?comp=health HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"fffffff\r\n" + b"a" * MIB,
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 999\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: \xb2\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1_0\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
        b"GET /machine?comp=goalstate HTTP/9999999999999999999999.1\r\n\r\n",
        b"\0" * 70_000,
    ],
)
def test_what_is_no_request_costs_little(data: bytes, served: Served) -> None:
    with bounded_memory(30 * MIB):
        result = served.ask(data)
    assert b" 200 " not in result
    served.honest_is_answered()


@pytest.mark.parametrize("name", ["²", "9" * 5000, "-1", "1e3", "0x0"])
def test_no_index_trips_the_metadata_service(name: str) -> None:
    request = Request(
        "GET", 80, f"/metadata/instance/network/interface/{name}?api-version=2021-02-01", {"metadata": "true"}
    )
    assert answer(VM, replace(request, host="169.254.169.254")).status == 404


@pytest.mark.parametrize("duration", ["²", "9" * 400, "-5", "1e9", "NaN"])
def test_no_duration_trips_telemetry(duration: str) -> None:
    inner = f'<Param Name="Operation" Value="FirstBoot"/><Param Name="Duration" Value="{duration}"/>'
    body = f"<T><Event><![CDATA[{inner}]]></Event></T>".encode()
    (event,) = wireserver.events(Request("POST", 80, "/machine?comp=telemetrydata", body=body))
    assert (event.operation, event.seconds) == ("FirstBoot", 0.0)


def test_a_huge_document_is_not_parsed() -> None:
    bomb = b"<Health><State>Ready</State>" + b"<a/>" * MIB + b"</Health>"
    with bounded_memory(20 * MIB):
        assert wireserver.health_report(Request("POST", 80, "/machine?comp=health", body=bomb)) is None
        assert wireserver.events(Request("POST", 80, "/machine?comp=telemetrydata", body=bomb)) == []


def test_events_of_one_request_are_bounded() -> None:
    body = b"<T>" + b"<Event/>" * 20_000 + b"</T>"
    assert len(wireserver.events(Request("POST", 80, "/machine?comp=telemetrydata", body=body))) == limits.KEPT_EVENTS


def test_one_certificate_of_a_guest_is_made_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused, seal = threading.Event(), wireserver.sealed

    def slow(pair: KeyPair, transport: str) -> bytes:
        """As long as it takes until another one is refused."""
        assert refused.wait(60)
        return seal(pair, transport)

    monkeypatch.setattr(wireserver, "sealed", slow)

    def certificate(number: int) -> str:
        path = tmp_path / f"{number}.pem"
        key = tmp_path / f"{number}.key"
        argv = ["openssl", "req", "-x509", "-newkey", "rsa:1024", "-nodes"]
        process.run([*argv, "-subj", f"/CN={number}", "-keyout", key, "-out", path], deadline=60)
        return "".join(path.read_text().splitlines()[1:-1])

    texts = [certificate(number) for number in range(6)]

    def ask(text: str) -> Response:
        target = "/machine/a/b?comp=certificates"
        found = answer(VM, Request("GET", 80, target, {"x-ms-guest-agent-public-x509-cert": text}))
        assert found is not None
        if found.status != 200:
            refused.set()
        return found

    with ThreadPoolExecutor(6) as pool:
        result = list(pool.map(ask, texts))
    made = [text for text, first in zip(texts, result, strict=True) if first.status == 200]
    assert 1 <= len(made) < 6
    assert all(each.status == 200 or b"is being created" in each.body for each in result)
    # what was sealed is not sealed again
    monkeypatch.setattr(wireserver, "sealed", None)
    assert ask(made[0]).status == 200


def test_a_relay_has_so_many_threads_and_no_more() -> None:
    far = socket.create_server(("127.0.0.1", 0), backlog=400)
    relay = Relay(0, lambda timeout: socket.create_connection(far.getsockname(), timeout))
    port = relay._listener.getsockname()[1]
    before = threading.active_count()
    links = [socket.create_connection(("127.0.0.1", port), 60) for _ in range(150)]
    try:
        assert threading.active_count() - before <= CONNECTIONS
    finally:
        for link in links:
            link.close()
        relay.close()
        far.close()


def test_a_full_log_does_not_end_the_program_that_writes_it(tmp_path: Path) -> None:
    log, done = tmp_path / "log", tmp_path / "done"
    script = f"i=0; while [ $i -lt 3000 ]; do echo {'x' * 100} 2>/dev/null || true; i=$((i+1)); done; mkdir {done}"
    child = process.start(["sh", "-c", script], log, log_limit=50_000)
    child.wait(timeout=120)
    assert done.exists()
    assert log.stat().st_size <= 50_000


#: Another process, as a guest is: it sends small requests over all its connections, as fast as it can, until killed.
_FLOOD = """
import socket, sys, threading
def flood():
    while True:
        try:
            with socket.create_connection(("127.0.0.1", int(sys.argv[1])), source_address=(sys.argv[2], 0)) as link:
                threading.Thread(target=drain, args=(link,), daemon=True).start()
                while True:
                    link.sendall(b"GET /?comp=versions HTTP/1.1\\r\\n\\r\\n" * 200)
        except OSError:
            pass
def drain(link):
    try:
        while link.recv(1 << 16):
            pass
    except OSError:
        pass
for _ in range(40):
    threading.Thread(target=flood).start()
print("begun", flush=True)
"""


def test_a_flood_of_small_requests_leaves_room_for_others(served: Served, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", _FLOOD, str(served.port), HOSTILE]
    with bounded_memory(80 * MIB), subprocess.Popen(argv, stdout=subprocess.PIPE) as flood:
        try:
            assert flood.stdout is not None
            flood.stdout.readline()
            for _ in range(5):
                served.honest_is_answered()
            wait_for("a flood", lambda: len(served.guest.asked()) > 100, 60)
        finally:
            flood.kill()
    assert (tmp_path / "fabric.jsonl").stat().st_size <= limits.LOG + 200
