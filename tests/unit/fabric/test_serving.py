"""Datagrams of guests: one that floods is not read for a moment, another one is answered all the same."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.fabric import limits
from pipeline.fabric.guest_record import GuestRecord
from pipeline.fabric.instance import Instance, Request, Response
from pipeline.fabric.serving import FabricServer
from tests.harness import wait_for
from tests.unit.fabric.test_dhcp_and_names import message, query


def loopback() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


class Wires:
    """A server with some guests, each on sockets of the loopback."""

    def __init__(self, folder: Path) -> None:
        self.server = FabricServer()
        self.folder = folder
        self.names: dict[str, tuple[str, int]] = {}
        self.leases: dict[str, tuple[str, int]] = {}

    def add(self, name: str, number: int) -> Instance:
        instance = Instance(name, "u", "k", f"00:0d:3a:00:00:{number:02x}", f"10.83.0.{number * 8 + 2}")
        (self.folder / name).mkdir()
        leases, names = loopback(), loopback()
        self.leases[name], self.names[name] = leases.getsockname(), names.getsockname()
        self.server.attach(GuestRecord(instance, self.folder / name), leases, names)
        return instance

    def ask(self, name: str, timeout: float = 60.0) -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
            link.settimeout(timeout)
            link.sendto(query("a.internal.cloudapp.net"), self.names[name])
            with contextlib.suppress(TimeoutError):
                return link.recv(500).endswith(bytes([168, 63, 129, 16]))
        return False


@pytest.fixture
def wires(tmp_path: Path) -> Iterator[Wires]:
    made = Wires(tmp_path)
    yield made
    made.server.close()


def test_a_flood_of_datagrams_leaves_room_for_others(wires: Wires) -> None:
    wires.add("hostile", 0)
    wires.add("honest", 1)
    ended, answered = threading.Event(), [0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth:
        mouth.setblocking(False)

        def flood() -> None:
            while not ended.is_set():
                with contextlib.suppress(BlockingIOError):
                    mouth.sendto(query("a.internal.cloudapp.net"), wires.names["hostile"])
                with contextlib.suppress(BlockingIOError):
                    while mouth.recv(500):
                        answered[0] += 1

        flooding = threading.Thread(target=flood)
        began = time.monotonic()
        flooding.start()
        try:
            for _ in range(20):
                assert wires.ask("honest")
            time.sleep(max(0.0, began + 2 - time.monotonic()))
            wait_for("its share", lambda: answered[0] > limits.DATAGRAMS / 2, 60)
        finally:
            ended.set()
            flooding.join()
        seconds = time.monotonic() - began
    assert answered[0] <= limits.DATAGRAMS * (seconds + 1.5)
    # what it had sent is read first, at its pace
    assert any(wires.ask("hostile", timeout=3.0) for _ in range(20))


def test_its_log_of_leases_ends(wires: Wires, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DATAGRAMS", 100_000)
    instance = wires.add("hostile", 0)
    record = wires.server.find(instance.vm_id)
    assert record is not None
    monkeypatch.setattr(record, "_dhcp_left", 5000)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        for _ in range(300):
            link.sendto(message(1, mac=instance.mac), wires.leases["hostile"])
            time.sleep(0.0005)
    log = wires.folder / "hostile/dhcp.log"
    wait_for("a full log", lambda: log.exists() and log.stat().st_size > 4000, 60)
    assert wires.ask("hostile")
    assert log.stat().st_size <= 5000


def test_a_detached_guest_is_answered_no_more(wires: Wires) -> None:
    instance = wires.add("one", 0)
    wires.add("two", 1)
    assert wires.ask("one")
    wires.server.detach(instance.vm_id)
    assert not wires.ask("one", timeout=0.3)
    assert wires.ask("two")
    # its sockets are closed by then: others may be bound there
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.bind(wires.names["one"])


def test_a_guest_is_answered_though_nothing_can_be_recorded(wires: Wires) -> None:
    """A full disk, here a folder that is gone: the lease and the answers come all the same."""
    instance = wires.add("one", 0)
    record = wires.server.find(instance.vm_id)
    assert record is not None
    shutil.rmtree(wires.folder / "one")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.sendto(message(1, mac=instance.mac), wires.leases["one"])
    assert wires.ask("one")
    record.record(Request("GET", 80, "/?comp=versions"), Response(200, b"x"))
    record.record_dhcp(("DHCPDISCOVER",))
    assert [each.request.target for each in record.asked()] == ["/?comp=versions"]


def test_a_full_log_makes_room_for_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a VM that lives for months needs it; both parts together stay within the limit."""
    monkeypatch.setattr(limits, "LOG", 40_000)
    instance = Instance("vm", "u", "k", "00:0d:3a:00:00:01", "10.83.0.2")
    record = GuestRecord(instance, tmp_path, kept=8, rotates=True)
    for number in range(400):
        record.record(Request("GET", 80, f"/{number}"), Response(200, b"x" * 100))
    log, old = (tmp_path / "fabric.jsonl").read_text(), (tmp_path / "fabric.jsonl.1").read_text()
    assert '"/399"' in log and len(log) + len(old) <= 40_000 and len(old) > 15_000
    assert len(record.asked()) == 8
    # another process goes on where this one ended
    again = GuestRecord(instance, tmp_path, kept=8, rotates=True)
    for number in range(400, 800):
        again.record(Request("GET", 80, f"/{number}"), Response(200, b"x" * 100))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 40_000
