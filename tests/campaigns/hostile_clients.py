"""A hostile guest at the fabric's server, at full length: `make campaign-hostile-clients`, no guests.

The server is a process of its own, on the loopback. Each kind of attack comes from one address, floods from CLIENTS
processes, while an honest client asks from another one and is always answered within SOON. After it the server has as
many files and threads as before, and its memory has never been above MOST. GOLDSMITH_CONNECTIONS says how many
connections a flood makes. The tests run the same attacks for a moment (tests/unit/campaigns/test_hostile_clients.py,
tests/unit/fabric/test_fabric_limits.py).
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.fabric import Guest, answer, server
from pipeline.fabric.instance import Instance, Request, Response
from pipeline.fabric.limits import CONNECTIONS, IDLE, LARGEST_BODY, REQUEST
from pipeline.network.namespaces import Wire
from tests.campaigns.__main__ import Page, Row
from tests.harness import ROOT, commit_id, wait_for, wanted

FLOOD = int(os.environ.get("GOLDSMITH_CONNECTIONS", "1000000"))
HOSTILE, HONEST = "127.0.0.5", "127.0.0.6"
#: Processes from which a flood comes, and bytes of noise in one connection.
CLIENTS, NOISE = 4, 4000
#: Connections that the server's listener keeps until they are accepted, and how many a process makes before it waits
#: until the server has accepted them. A connection that finds the listener full is tried again after a second.
BACKLOG, BURST = 1024, 200
#: The end of a connection by a reset (SO_LINGER with no time, socket(7)): its port is free at once. After an orderly
#: end it is taken for a minute, and a flood would soon spend its time in looking for free ports.
RESET = struct.pack("ii", 1, 0)
#: Bytes of memory that the server may ever take.
MOST = 300 << 20
#: Seconds within which an honest client is answered, on a busy host.
SOON = 30.0
GET = b"GET /?comp=versions HTTP/1.1\r\nHost: x\r\n\r\n"
#: The last request of a connection: the server ends it then.
LAST_GET = GET[:-2] + b"Connection: close\r\n\r\n"
VM = Instance(
    name="vm", user="u", public_key="ssh-ed25519 AAAA", mac="00:0d:3a:00:00:01", address=HOSTILE, vm_id="0" * 32
)


def serve(folder: Path) -> None:
    """Be the server: print its port, and run until stdin ends."""
    guest = Guest(VM, Wire(0, "b", "o", "i"), folder)

    def say(address: str, request: Request) -> Response:
        request = replace(request, host="168.63.129.16", port=80)
        result = answer(VM, request)
        if address == HOSTILE:
            guest.record(request, result)
        return result

    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    running = server.Listener(listener, say)
    running.start()
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read()
    running.stop()


@dataclass
class Target:
    port: int
    pid: int
    #: The longest that the honest client has waited for an answer, in seconds.
    longest: float = 0.0

    def link(self, source: str = HOSTILE) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=REQUEST + SOON, source_address=(source, 0))

    def send(self, data: bytes, *, half_close: bool = False) -> int:
        """Send data and read until the server ends the connection; bytes that it answered. `half_close`: say that
        nothing more comes, so that a server that waits for more ends it now.
        """
        got = 0
        with contextlib.suppress(OSError), self.link() as link:
            link.sendall(data)
            if half_close:
                link.shutdown(socket.SHUT_WR)
            while piece := link.recv(65536):
                got += len(piece)
        return got

    def seconds_to_answer(self) -> float:
        began = time.monotonic()
        with self.link(HONEST) as link:
            link.sendall(GET)
            assert b" 200 " in link.recv(200), "an honest client got no answer"
        seconds = time.monotonic() - began
        self.longest = max(self.longest, seconds)
        return seconds

    def counts(self) -> tuple[int, int]:
        """(open files, threads) of the server."""
        here = Path("/proc", str(self.pid))
        return len(list((here / "fd").iterdir())), len(list((here / "task").iterdir()))

    @property
    def peak(self) -> int:
        status = Path("/proc", str(self.pid), "status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024


# ---- the attacks -------------------------------------------------------------------------------------------------


def from_clients(target: Target, count: int, client: Callable[[Target, int, int], int]) -> int:
    """Let CLIENTS processes do `count` times what `client` does, while the honest client asks; the sum of what they
    return. `client` gets the target, its own number and its share.
    """
    shares = [len(range(number, count, CLIENTS)) for number in range(CLIENTS)]
    with ProcessPoolExecutor(CLIENTS) as pool:
        ended = [pool.submit(client, target, number, share) for number, share in enumerate(shares)]
        while wait(ended, 0.2).not_done:
            target.seconds_to_answer()
        return sum(each.result() for each in ended)


def flood(target: Target) -> str:
    """Connections that ask nothing and end."""
    refused = from_clients(target, FLOOD, _connect)
    return f"{FLOOD} connections, {refused} refused"


def _connect(target: Target, _number: int, count: int) -> int:
    """Make connections and reset them; how many were refused."""
    refused = 0
    for number in range(count):
        try:
            with target.link() as link:
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        except OSError:
            refused += 1
        if number % BURST == BURST - 1:
            target.send(LAST_GET)
    return refused


def requests(target: Target) -> str:
    """Requests as fast as some clients send them, each on a connection of its own."""
    count = max(1, FLOOD // 100)
    answered = from_clients(target, count, _ask)
    return f"{count} requests, {answered} answered"


def _ask(target: Target, _number: int, count: int) -> int:
    """Ask so many times; how many were answered."""
    return sum(target.send(LAST_GET) > 0 for _ in range(count))


def slow_headers(target: Target) -> str:
    """More connections than a guest may have, each of which sends a letter a second, longer than a request may."""
    links = [target.link() for _ in range(2 * CONNECTIONS)]
    until, sent = time.monotonic() + REQUEST + 10, 0
    try:
        for link in links:
            with contextlib.suppress(OSError):
                link.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        while time.monotonic() < until:
            for link in links:
                with contextlib.suppress(OSError):
                    sent += link.send(b"a")
            target.seconds_to_answer()
            time.sleep(1)
    finally:
        for link in links:
            link.close()
    return f"{len(links)} connections, {sent} letters in {REQUEST + 10:.0f} s"


def endless(target: Target) -> str:
    """Bodies that are announced as huge, chunked bodies and headers without an end."""
    count = 0
    for head in (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n",
        b"GET / HTTP/1.1\r\nX: ",
        b"GET /" + b"a" * 1000,
    ):
        for _ in range(8):
            target.send(head + b"a" * (2 * LARGEST_BODY))
            count += 1
    return f"{count} requests of more than {2 * LARGEST_BODY >> 20} MiB"


def binary(target: Target) -> str:
    """Noise, and parts of requests with noise in them."""
    count = max(1, FLOOD * 3 // 1000)
    answered = from_clients(target, count, _send_noise)
    return f"{count} connections with noise, {answered} answered"


def _send_noise(target: Target, number: int, count: int) -> int:
    """Send noise on so many connections; how many were answered."""
    dice = random.Random(26 + number)
    answered = 0
    for _ in range(count):
        noise = dice.randbytes(dice.randrange(1, NOISE))
        place = dice.randrange(len(GET))
        data = dice.choice([noise, GET[:place] + noise, noise + GET]) + b"\r\n\r\n"
        answered += target.send(data, half_close=True) > 0
    return answered


def lies(target: Target) -> str:
    """Reports, certificates, telemetry and lengths that are not what they say."""
    bodies = [
        b"<Health>" + b"<x>" * 100_000,
        b"{" * 100_000,
        b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
        b"\xff" * 5000,
    ]
    paths = [
        b"/machine?comp=health",
        b"/machine?comp=telemetrydata",
        b"/machine?comp=goalstate",
        b"/metadata/instance",
    ]
    count = 0
    for path in paths:
        for body in bodies:
            for length in (len(body), 3, len(body) * 2):
                head = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
                with contextlib.suppress(OSError), target.link() as link:
                    link.sendall(head % length + body)
                    link.shutdown(socket.SHUT_WR)
                    while link.recv(65536):
                        pass
                count += 1
    return f"{count} false documents"


ATTACKS: dict[str, Callable[[Target], str]] = {
    each.__name__.replace("_", " "): each for each in (flood, requests, slow_headers, endless, binary, lies)
}


@contextlib.contextmanager
def serving() -> Iterator[Target]:
    with tempfile.TemporaryDirectory(prefix="goldsmith-hostile-") as folder:
        argv = [sys.executable, "-m", "tests.campaigns.hostile_clients", "--serve", folder]
        with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdin is not None and child.stdout is not None
            try:
                yield Target(int(child.stdout.readline()), child.pid)
            finally:
                child.stdin.close()
                child.wait(60)


def run_attack(name: str) -> Row:
    began = time.monotonic()
    wrong: list[str] = []
    with serving() as target:
        target.seconds_to_answer()
        before = target.counts()
        what = ATTACKS[name](target)
        seconds = target.seconds_to_answer()
        if target.longest > SOON:
            wrong.append(f"an honest client was answered after {target.longest:.0f} s")
        try:
            wait_for("connections to end", lambda: target.counts() <= before, IDLE + SOON)
        except AssertionError:
            wrong.append(f"files and threads: {before}, then {target.counts()}")
        peak = target.peak
        if peak > MOST:
            wrong.append(f"{peak >> 20} MiB of memory")
    row: Row = {
        "attack": name,
        "what": what,
        "peak MiB": peak >> 20,
        "others answered in s": round(target.longest, 2),
    }
    row["then answered in s"] = round(seconds, 2)
    row |= {"s": round(time.monotonic() - began), "commit": commit_id(), "why": "; ".join(wrong)}
    return {**row, "ok": not wrong}


def main() -> int:
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]))
        return 0
    page, rows, began = Page("hostile_clients"), [], time.monotonic()
    for name in wanted(ATTACKS):
        rows.append(run_attack(name))
        page.say(rows[-1])
    page.write(rows, f"{time.monotonic() - began:.0f} s")
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
