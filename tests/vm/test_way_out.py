"""A build guest's way out on a real kernel: a namespace stands in for the guest and tries what no guest may reach."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.fabric import sweep_networks
from pipeline.network.egress import Egress
from pipeline.network.namespaces import NAMESPACES, inside

pytestmark = [pytest.mark.vm, pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")]
LABEL, GUEST, NEAR = "egresstest-R1", "gsegress", "10.77.9.1"


def sh(script: str, *, check: bool = True) -> str:
    return subprocess.run(["sh", "-ec", script], capture_output=True, text=True, check=check, timeout=180).stdout


@contextlib.contextmanager
def puppet(bridge: str) -> Iterator[None]:
    """A namespace on the way out's wire: what a guest would be."""
    try:
        sh(
            f"""ip netns add {GUEST}
            ip link add {GUEST} type veth peer name eth0 netns {GUEST}
            ip link set {GUEST} master {bridge} up
            ip -n {GUEST} link set lo up
            ip -n {GUEST} link set eth0 up
            ip -n {GUEST} addr add 10.0.2.15/24 dev eth0
            ip -n {GUEST} route add default via 10.0.2.2"""
        )
        yield
    finally:
        sh(f"ip netns delete {GUEST}; ip link delete {GUEST} 2>/dev/null || true", check=False)


def on_a_host_of_its_own(program: str) -> list[str]:
    """The words that a program prints in a network namespace that stands for the build host."""
    head = f"""
import socket, struct, sys
sys.path[:0] = {sys.path!r}
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import pipeline.network.egress as egress
from pipeline.definition import destination
from tests.vm.test_way_out import LABEL, NEAR, puppet, reach, sh
sh("ip link set lo up")
"""
    done = subprocess.run(
        ["unshare", "--net", "--mount", "--propagation", "slave", sys.executable, "-c", head + program],
        capture_output=True,
        text=True,
        timeout=180,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()


def reach(address: str, port: int, options: bytes = b"") -> str:
    """What a connection from the guest's place finds."""

    def go() -> str:
        with socket.socket() as link:
            link.settimeout(8)
            try:
                if options:
                    link.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, options)
                link.connect((address, port))
            except OSError as error:
                return type(error).__name__
            return "reached"

    return inside(NAMESPACES / GUEST, go)


def test_a_guest_reaches_what_is_allowed_and_nothing_of_the_host(tmp_path: Path) -> None:
    found = on_a_host_of_its_own(f"""
sh(f"ip addr add {{NEAR}}/32 dev lo")
service, mirror = socket.create_server(("0.0.0.0", 0)), socket.create_server((NEAR, 0))
port, allowed = service.getsockname()[1], mirror.getsockname()[1]
out = egress.Egress(LABEL, Path({str(tmp_path)!r}), [destination(f"{{NEAR}}:{{allowed}}")])
out.open()
try:
    with puppet(out.bridge):
        # loopback in its forms, the host's addresses, slirp4netns' own
        tried = [NEAR, "10.0.2.2", "10.0.2.3", "198.18.0.2", "198.18.0.3", "127.0.0.1"]
        with ThreadPoolExecutor(len(tried)) as pool:
            print(*pool.map(lambda address: reach(address, port), tried))
        # a packet that names its own route goes none
        via = struct.pack("!BBBB4s", 131, 7, 4, 0, socket.inet_aton("10.0.2.2")) + bytes(1)
        print(reach(NEAR, allowed, via), reach(NEAR, allowed))
finally:
    out.close()
service.setblocking(False)
try:
    print("accepted", service.accept())
except BlockingIOError:
    print("nobody", out.path.exists())
""")
    assert "reached" not in found[:7]
    assert found[7:] == ["reached", "nobody", "False"]
    assert LABEL not in sh("pgrep -af unshare || true")


def test_metadata_and_azures_addresses_are_refused_though_the_host_has_them(tmp_path: Path) -> None:
    found = on_a_host_of_its_own(f"""
for address in ("169.254.169.254", "168.63.129.16", "93.184.216.34"):
    sh(f"ip addr add {{address}}/32 dev lo")
service = socket.create_server(("0.0.0.0", 80))
own = egress.host_addresses()
# a public address that is not the host's own stands for the network outside
egress.host_addresses = lambda: own - {{"93.184.216.34"}}
out = egress.Egress(LABEL, Path({str(tmp_path)!r}))
out.open()
try:
    with puppet(out.bridge):
        print(*(reach(a, 80) for a in ("93.184.216.34", "169.254.169.254", "168.63.129.16")))
finally:
    out.close()
""")
    assert found[0] == "reached", "the way out itself does not work here: the refusals prove nothing"
    assert len(found) == 3 and "reached" not in found[1:]


def test_a_resolver_on_the_hosts_loopback_answers_the_guest_and_nothing_else_there_does(tmp_path: Path) -> None:
    """As systemd-resolved has it: the guest's names are resolved through it, and no port beside it is open."""
    found = on_a_host_of_its_own(f"""
import threading
from pipeline.network.namespaces import NAMESPACES, inside
from tests.vm.test_way_out import GUEST
Path({str(tmp_path)!r}, "resolv.conf").write_text("nameserver 127.0.0.53\\n")
sh("mount --bind {tmp_path}/resolv.conf /etc/resolv.conf")
resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
resolver.bind(("127.0.0.53", 53))
service = socket.create_server(("127.0.0.53", 8080))
def serve():
    while True:
        question, asker = resolver.recvfrom(512)
        # one answer to it: an address of 60 s (RFC 1035)
        head, answer = bytes.fromhex("81800001000100000000"), bytes.fromhex("c00c000100010000003c00045db8d822")
        resolver.sendto(question[:2] + head + question[12:] + answer, asker)
threading.Thread(target=serve, daemon=True).start()
out = egress.Egress(LABEL, Path({str(tmp_path)!r}))
out.open()
def ask():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.settimeout(60)
        link.sendto(bytes.fromhex("123401000001000000000000") + b"\\3foo\\7example\\0\\0\\1\\0\\1", ("10.0.2.3", 53))
        return socket.inet_ntoa(link.recv(500)[-4:])
try:
    with puppet(out.bridge):
        print(inside(NAMESPACES / GUEST, ask), reach("10.0.2.3", 8080), reach("198.18.0.3", 8080))
finally:
    out.close()
""")
    assert found[0] == "93.184.216.34"
    assert len(found) == 3 and "reached" not in found[1:]


def test_what_reads_the_guests_packets_is_confined(tmp_path: Path) -> None:
    out = Egress(LABEL, tmp_path)
    out.open()
    try:
        parent = next(
            child.pid for child in out._children if b"unshare" in Path(f"/proc/{child.pid}/cmdline").read_bytes()
        )
        pid = Path(f"/proc/{parent}/task/{parent}/children").read_text().strip()
        instance = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        assert int(instance["CapEff"], 16) == 1 << 10, "more than CAP_NET_BIND_SERVICE"
        assert instance["Seccomp"] == "2" and instance["NoNewPrivs"] == "1"
        seen = sorted(str(path.relative_to(f"/proc/{pid}/root")) for path in Path(f"/proc/{pid}/root").rglob("*"))
        assert [name for name in seen if name not in ("etc", "etc/resolv.conf", "run", "run/mount")] == []
    finally:
        out.close()


def test_a_way_out_of_a_dead_run_is_swept(tmp_path: Path) -> None:
    program = f"""
import os, signal, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from pipeline.network.egress import Egress
Egress("{LABEL}", Path({str(tmp_path)!r})).open()
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=180)
    assert done.returncode == -signal.SIGKILL
    assert (NAMESPACES / f"goldsmith-{LABEL}.out").exists()
    assert sweep_networks(lambda label: label == LABEL or not label.startswith(LABEL)) == []
    assert sweep_networks(lambda label: label != LABEL) == [f"{LABEL}.out"]
    assert not (NAMESPACES / f"goldsmith-{LABEL}.out").exists()
    assert LABEL not in sh("ip -json link show") + sh("pgrep -af unshare || true")
