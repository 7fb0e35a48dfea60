"""The fabric's wires on a real kernel: namespaces stand in for guests, and try what no guest may be able to do."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.fabric import Fabric, Site, sweep_networks
from pipeline.network import namespaces
from pipeline.network.namespaces import NAMESPACES
from pipeline.systems.linux import assertions
from tests.fakes.puppets import PUPPETS, READY, ask, ask_lease, puppet, resolve, sh, shout

pytestmark = [pytest.mark.vm, pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")]
LABEL = "fabrictest-R1"


def host_state() -> str:
    """What of the host's own network must stay as it is.

    Interfaces of the fabric's own are none of it, nor are the cards (vnet) of guests that other tests run meanwhile.
    """
    links = json.loads(sh("ip -json address show"))
    kept = [
        {key: link[key] for key in ("ifname", "addr_info")}
        for link in links
        if not link["ifname"].startswith(("gs", "vnet"))
    ]
    routes = sh("ip route show table all | grep -vE ' dev (gs|vnet)' || true")
    return json.dumps([kept, routes, sh("nft list ruleset || true")])


@pytest.fixture
def fabric() -> Iterator[Fabric]:
    before = host_state()
    with Fabric(LABEL) as first:
        yield first
    assert host_state() == before
    assert not (NAMESPACES / f"goldsmith-{LABEL}").exists()
    assert f"goldsmith {LABEL}" not in sh("ip -json link show")


def test_a_guest_is_answered_and_recorded(fabric: Fabric, tmp_path: Path) -> None:
    guest = fabric.attach("one", "azureuser", "ssh-ed25519 AAAA", tmp_path)
    with puppet(guest, PUPPETS[1]):
        assert "200" in ask(PUPPETS[1], "GET", "168.63.129.16:80", "/?comp=versions")
        assert "200" in ask(PUPPETS[1], "GET", "169.254.169.254:80", "/metadata/instance?api-version=2021-02-01")
        assert "200" in ask(PUPPETS[1], "GET", "168.63.129.16:32526", "/versions")
        assert resolve(PUPPETS[1], guest.instance.gateway, "any-token.internal.cloudapp.net") == "168.63.129.16"
        assert "resolved=168.63.129.16\n" in looks_up(PUPPETS[1], f"nameserver {guest.instance.gateway}\n")
        assert "resolved=\n" in looks_up(PUPPETS[1], "# no server\n")
        assert guest.report is None
        assert "200" in ask(PUPPETS[1], "POST", "168.63.129.16:80", "/machine?comp=health", READY)
    assert guest.report is not None
    assert guest.report.ready
    lines = [json.loads(line) for line in (tmp_path / "fabric.jsonl").read_text().splitlines()]
    assert [line["target"] for line in lines] == [
        "/?comp=versions",
        "/metadata/instance?api-version=2021-02-01",
        "/versions",
        "/machine?comp=health",
    ]
    assert lines[-1]["report"]["state"] == "Ready"


#: What `ask` finds where no answer comes: its own time is over first, or the kernel's for an address that nobody has.
NOTHING_CAME = ("TimeoutError", "OSError")


def test_no_clone_can_speak_for_another(fabric: Fabric, tmp_path: Path) -> None:
    """The spoofer takes the other's address, its MAC, and both; nothing it says is taken for the other's."""
    honest = fabric.attach("honest", "azureuser", "ssh-ed25519 AAAA", tmp_path / "honest")
    spoofer = fabric.attach("spoofer", "azureuser", "ssh-ed25519 AAAA", tmp_path / "spoofer")
    with puppet(honest, PUPPETS[1]), puppet(spoofer, PUPPETS[2]):
        # a wire to the other clone there is not
        nobody = ask(PUPPETS[2], "GET", f"{honest.instance.address}:22", "/")
        assert nobody in (*NOTHING_CAME, "ConnectionRefusedError")
        sh(f"ip -n {PUPPETS[2]} addr add {honest.instance.address}/32 dev eth0")
        output = ask(PUPPETS[2], "POST", "168.63.129.16:80", "/machine?comp=health", READY, honest.instance.address)
        assert output in NOTHING_CAME
        sh(f"ip -n {PUPPETS[2]} link set eth0 address {honest.instance.mac}")
        output = ask(PUPPETS[2], "POST", "168.63.129.16:80", "/machine?comp=health", READY, honest.instance.address)
        assert output in NOTHING_CAME
        assert honest.report is None
        assert not honest.asked()
        # the honest one is heard all the same
        assert "200" in ask(PUPPETS[1], "POST", "168.63.129.16:80", "/machine?comp=health", READY)
        assert honest.report is not None


def test_no_clone_reaches_the_host_or_beyond(fabric: Fabric, tmp_path: Path) -> None:
    guest = fabric.attach("one", "azureuser", "ssh-ed25519 AAAA", tmp_path)
    own = json.loads(sh("ip -json -4 address show scope global"))
    addresses = [info["local"] for link in own for info in link["addr_info"]]
    ears = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with ears, socket.create_server(("0.0.0.0", 0)) as trap, puppet(guest, PUPPETS[1]):
        ears.bind(("0.0.0.0", 0))
        ears.setblocking(False)
        port = trap.getsockname()[1]
        trap.setblocking(False)
        bridge = sh(f"cat /sys/class/net/{guest.bridge}/address").strip()
        for address in addresses:
            assert "HTTP" not in ask(PUPPETS[1], "GET", f"{address}:{port}", "/")
            # straight at the bridge, as if it were a router
            sh(f"ip -n {PUPPETS[1]} route replace {address}/32 dev eth0")
            sh(f"ip -n {PUPPETS[1]} neigh replace {address} lladdr {bridge} dev eth0")
            assert "HTTP" not in ask(PUPPETS[1], "GET", f"{address}:{port}", "/")
            shout(PUPPETS[1], address, ears.getsockname()[1])
        with pytest.raises(BlockingIOError):
            trap.accept()
        with pytest.raises(BlockingIOError):
            ears.recv(100)
        assert "HTTP" not in ask(PUPPETS[1], "GET", "192.0.2.1:80", "/")
    assert sh(f"ip -json -6 address show dev {guest.bridge}").strip() in ("[]", "[{}]")


def test_a_clone_is_made_at_once(fabric: Fabric, tmp_path: Path) -> None:
    """Ten VMs; what each costs is the wire and a small process. The bound is for a busy host."""
    guests = [fabric.attach(f"vm{n}", "azureuser", "ssh-ed25519 AAAA", tmp_path / str(n)) for n in range(10)]
    assert len({guest.instance.address for guest in guests}) == 10
    assert len({guest.instance.mac for guest in guests}) == 10
    for guest in guests:
        fabric.detach(guest)


def test_what_a_dead_run_left_is_swept(tmp_path: Path) -> None:
    """A builder killed by SIGKILL leaves all of it: the next command's sweep takes it away, or three at once do."""
    before = host_state()
    program = f"""
import os, signal, sys
from pathlib import Path
from pipeline.fabric import Fabric
fabric = Fabric("{LABEL}").__enter__()
fabric.attach("one", "azureuser", "ssh-ed25519 AAAA", Path({str(tmp_path)!r}))
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], check=False, timeout=180)
    assert (NAMESPACES / f"goldsmith-{LABEL}").exists()
    with ThreadPoolExecutor(3) as pool:
        sweeps = [pool.submit(sweep_networks, lambda label: label != LABEL) for _ in range(3)]
    assert [LABEL] in [each.result() for each in sweeps]
    namespaces._remove_bridge("gsgone0b1")  # another sweep took it between the list and the look at its ports
    assert host_state() == before
    assert not (NAMESPACES / f"goldsmith-{LABEL}").exists()
    assert f"goldsmith {LABEL}" not in sh("ip -json link show")
    assert "--dhcp-range=10.83" not in sh(f"pgrep -af {tmp_path} || true")
    assert sweep_networks(lambda label: label != LABEL) == []


def test_a_guest_gets_its_lease_and_nobody_elses(fabric: Fabric, tmp_path: Path) -> None:
    """On two wires at a time; a card that is not the guest's gets no answer."""
    guests = [fabric.attach(f"vm{n}", "azureuser", "ssh-ed25519 AAAA", tmp_path / str(n)) for n in (1, 2)]
    with puppet(guests[0], PUPPETS[1]), puppet(guests[1], PUPPETS[2]):
        for name, guest in zip((PUPPETS[1], PUPPETS[2]), guests, strict=True):
            offer = ask_lease(name, guest.instance.mac)
            assert offer is not None
            assert socket.inet_ntoa(offer[16:20]) == guest.instance.address
            assert b"\xf5\x04" + socket.inet_aton("168.63.129.16") in offer
        assert ask_lease(PUPPETS[1], guests[1].instance.mac, seconds=2) is None
    log = (tmp_path / "1" / "dhcp.log").read_text()
    assert f"DHCPOFFER {guests[0].instance.address}" in log
    assert f"DHCPDISCOVER {guests[1].instance.mac} ignored" in log
    assert "ignored" not in (tmp_path / "2" / "dhcp.log").read_text()


def test_a_site_outside_is_played_for_each_clone(tmp_path: Path) -> None:
    """By name it is found through the fabric's own name service; each clone gets what is meant for it."""
    with Fabric(LABEL, site=Site.of("http://config.example:8000/shop?of=web")) as fabric:
        for number in (1, 2):
            output = f"data of {number}".encode()
            guest = fabric.attach(f"vm{number}", "azureuser", "ssh-ed25519 AAAA", tmp_path, user_data=output)
            with puppet(guest, PUPPETS[number]):
                address = resolve(PUPPETS[number], guest.instance.gateway, "config.example")
                assert address == "198.51.100.10"
                assert "200" in ask(PUPPETS[number], "GET", f"{address}:8000", "/shop?of=web")
                assert "404" in ask(PUPPETS[number], "GET", f"{address}:8000", "/shop")
            assert [exchange.response.body for exchange in guest.asked()] == [output, b""]


def looks_up(name: str, servers: str) -> str:
    """What the proof's own lines print in a namespace whose resolv.conf has these lines."""
    folder = Path("/etc/netns") / name  # ip netns exec shows what lies here as the files of /etc
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (folder / "resolv.conf").write_text(servers)
        return sh(f"ip netns exec {name} sh <<'END'\n{assertions.resolver_lines('token')}\nEND\n")
    finally:
        (folder / "resolv.conf").unlink()
        folder.rmdir()
        with contextlib.suppress(OSError):
            folder.parent.rmdir()
