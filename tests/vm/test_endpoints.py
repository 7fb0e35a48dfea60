"""Endpoints by the real command line, fabric and HAProxy; namespaces with a web server stand in for VMs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.errors import BuildError
from pipeline.fabric import service
from pipeline.fabric.service import ProvisioningData
from pipeline.guest.access import free_port
from pipeline.instances.endpoints import align_endpoints, balancer_of, drain, wait_drained
from pipeline.instances.fleet import Fleet
from pipeline.instances.record import Record, new_id
from pipeline.network.namespaces import NAMESPACES
from pipeline.operations.create import Wishes
from pipeline.operations.reimage import version_reference
from pipeline.operations.sets import ensure_set, members
from pipeline.operations.upgrade import Renew, upgrade_set
from tests.fakes.puppets import puppet, sh
from tests.harness import ROOT, remove, wait_for
from tests.open_loop import OpenLoop
from tests.tools import skip_without
from tests.vms import PUBLIC_KEY, SOON, Vms, make_lab

#: Names for the namespaces of this file; those of other tests that run at the same time are others.
NAMES = tuple(f"gs{os.getpid():x}e{number}" for number in range(4))


@dataclass
class Site:
    """A set of puppets: their records, and the file that lets each one's probe pass."""

    lab: Vms
    fleet: Fleet
    folder: Path
    servers: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def switch(self, name: str) -> Path:
        return self.folder / f"{name}.healthy"

    def endpoint(self, *words: str) -> dict[str, Any]:
        done = self.lab.run("endpoint", "show", *words, "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def states(self, name: str = "web") -> dict[str, str]:
        return {each["vm"]: each["state"] for each in self.endpoint(name)["backends"]}

    def change(self, name: str, **values: Any) -> None:
        self.fleet.instances.save(replace(self.fleet.instances.get(name), **values))


def add_puppet(site: Site, stack: contextlib.ExitStack, number: int) -> None:
    """A VM of the set: its record and its place on the fabric are real, its guest is a namespace."""
    name = f"web-{number}"
    record = Record(
        id=new_id(), name=name, created="2026-11-26T08:00:00Z", host=socket.gethostname(), image="power",
        version="1.0.0", digest="", system="linux", generation=1, secure=False, size=None, cpus=1, memory=1 << 20,
        user="azureuser", public_key=PUBLIC_KEY, disk_size=0, disk={"path": "/none", "format": "qcow2"},
        provisioned="2026-11-26T08:05:00Z", set="shop", fault_domain=number, update_domain=number,
    )  # fmt: skip
    site.fleet.instances.add(record)
    link = service.ensure(site.fleet.store).attach(ProvisioningData(record.id, name, record.user, PUBLIC_KEY))
    stack.callback(service.ensure(site.fleet.store).detach, record.id)
    stack.enter_context(puppet(link, NAMES[number]))
    site.switch(name).touch()
    argv = ["ip", "netns", "exec", NAMES[number], sys.executable, "-m", "tests.fakes.puppet_site", "80", name]
    server = subprocess.Popen(
        [*argv, str(site.switch(name))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert server.stdin is not None and server.stdout is not None
    stack.callback(server.wait, 60)
    stack.callback(server.stdin.close)
    assert server.stdout.readline() == "listening\n"
    site.servers[name] = server


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    skip_without("haproxy", "ip")
    lab = make_lab("endpoints")
    made = Site(lab, Fleet(lab.store), lab.home / "tmp")
    with contextlib.ExitStack() as stack:
        stack.callback(remove, lab.home)
        ensure_set(made.fleet, "shop", Wishes("web", "power", "azureuser", PUBLIC_KEY))
        for number in range(2):
            add_puppet(made, stack, number)
        yield made


@pytest.fixture
def port(site: Site) -> Iterator[int]:
    """The public port of an endpoint `web` whose both VMs get requests."""
    number = free_port()
    words = ["--protocol", "http", "--public", str(number), "--private", "80", "--set", "shop"]
    done = site.lab.run("endpoint", "add", "web", *words, "--probe", "http:/health")
    assert done.returncode == 0, done.stderr
    wait_for("both VMs", lambda: set(site.states().values()) == {"up"}, SOON)
    yield number
    site.lab.run("endpoint", "remove", "web")
    for name in site.servers:
        site.switch(name).touch()
        site.change(name, drained=False, provisioned="2026-11-26T08:05:00Z")


def ask(port: int, method: str = "GET") -> str:
    """The page by which a VM answered, or the status."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", method=method)
    try:
        with urllib.request.urlopen(request, timeout=SOON) as reply:
            return str(reply.read().decode().strip())
    except urllib.error.HTTPError as error:
        return str(error.code)


def test_requests_go_round_and_leave_out_who_is_drained_unwell_or_not_ready(site: Site, port: int) -> None:
    assert Counter(ask(port) for _ in range(10)) == {"web-0": 5, "web-1": 5}
    # drained: none at once, also before its probe would notice anything
    drain(site.fleet, ["web-0"])
    assert {ask(port) for _ in range(10)} == {"web-1"}
    assert wait_drained(site.fleet, "shop", ["web-0"], SOON)
    assert site.states() == {"web-0": "drained", "web-1": "up"}
    drain(site.fleet, ["web-0"], drained=False)
    assert Counter(ask(port) for _ in range(10)) == {"web-0": 5, "web-1": 5}
    # its probe fails
    site.switch("web-1").unlink()
    wait_for("the probe", lambda: site.states()["web-1"] == "down", SOON)
    assert {ask(port) for _ in range(10)} == {"web-0"}
    # not Ready: it is out, and comes in only once its probe has passed
    site.change("web-1", provisioned=None)
    assert site.states()["web-1"] == "out"
    site.change("web-1", provisioned="2026-11-26T08:06:00Z")
    assert site.states()["web-1"] == "down"
    assert {ask(port) for _ in range(10)} == {"web-0"}
    site.switch("web-1").touch()
    wait_for("the probe", lambda: site.states()["web-1"] == "up", SOON)


def test_a_request_whose_vm_is_gone_is_sent_to_another(site: Site, port: int) -> None:
    """Its power is cut: no reset comes, as from no dead guest. GET is repeated elsewhere before the probe notices."""
    sh(f"ip -n {NAMES[0]} link set eth0 down")
    try:
        assert [ask(port) for _ in range(4)] == ["web-1"] * 4
        wait_for("the probe", lambda: site.states()["web-0"] == "down", SOON)
    finally:
        instance = service.read_link(site.fleet.store, site.fleet.instances.get("web-0").id)
        assert instance is not None
        sh(f"ip -n {NAMES[0]} link set eth0 up; ip -n {NAMES[0]} route add default via {instance.instance.gateway}")
    wait_for("the probe", lambda: site.states()["web-0"] == "up", SOON)


@pytest.fixture
def versions(site: Site) -> tuple[str, str]:
    """The version that the VMs have, and a newer one."""
    gallery = site.fleet.gallery
    while len(gallery.versions("power")) < 2:
        site.lab.add_power()
    old, new = (version_reference(version) for version in gallery.versions("power")[-2:])
    for name in site.servers:
        site.change(name, version=old.partition("@")[2])
    return old, new


def renewing(site: Site, bad: str) -> Renew:
    """A reimage without a guest: the web server is silent meanwhile. From the version `bad` its probe fails."""

    def renew(fleet: Fleet, wanted: Mapping[str, str]) -> None:
        for name, reference in wanted.items():
            assert fleet.instances.get(name).drained
            site.servers[name].send_signal(signal.SIGSTOP)
            try:
                disk = {"path": f"/{reference}", "format": "qcow2"}
                site.change(name, provisioned=None, version=reference.partition("@")[2], disk=disk)
                align_endpoints(fleet)
                site.switch(name).unlink(missing_ok=True)
                if reference != bad:
                    site.switch(name).touch()
                site.change(name, provisioned="2026-11-26T08:07:00Z")
            finally:
                site.servers[name].send_signal(signal.SIGCONT)

    return renew


def test_an_upgrade_goes_from_domain_to_domain_and_no_request_is_lost(
    site: Site, port: int, versions: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = versions
    monkeypatch.setattr(site.fleet, "is_on", lambda _record: True)  # there is no machine, but its wire
    steps: list[str] = []
    with OpenLoop(f"http://127.0.0.1:{port}/", 50) as client:
        done = upgrade_set(site.fleet, "shop", "golden", steps.append, renew=renewing(site, "none"))
        assert done.reference == new and done.upgraded == ("web-0", "web-1") and not done.left
        again = upgrade_set(site.fleet, "shop", None, steps.append, renew=renewing(site, "none"))
        assert again.upgraded == () and again.current == ("web-0", "web-1")
        # a bad version: the first domain goes back, the second is not touched
        with pytest.raises(BuildError) as error:
            upgrade_set(site.fleet, "shop", old, steps.append, renew=renewing(site, old), probe_for=5)
        assert error.value.name == "set-upgrade-stopped" and f"web-0 went back to {new}" in error.value.message
        wait_for("both VMs", lambda: set(site.states().values()) == {"up"}, SOON)
    assert steps[:2] == [f"update domain 0: web-0 to {new}", f"update domain 1: web-1 to {new}"]
    assert {record.reference for record in members(site.fleet, "shop")} == {new}
    assert not any(record.drained for record in members(site.fleet, "shop"))
    assert client.failed == [] and set(client.pages) == {"web-0", "web-1"}
    print(f"{sum(client.pages.values())} requests, {len(client.failed)} failed")


def test_what_was_broken_is_named_and_mended_by_the_next_command(site: Site, port: int) -> None:
    balancer = balancer_of(site.fleet, site.fleet.endpoints.get("web"))
    pid = balancer.find_process()
    assert pid is not None
    # without rights, and nothing of the host's network but its socket
    status = Path(f"/proc/{pid}/status").read_text()
    assert "\nCapEff:\t0000000000000000\n" in status and "\nUid:\t0\t" not in status
    assert Path(f"/proc/{pid}/ns/net").stat().st_ino == balancer.namespace.stat().st_ino
    os.kill(pid, signal.SIGKILL)
    wait_for("its end", lambda: balancer.find_process() is None, SOON)
    done = site.lab.run("vm", "list")
    assert "endpoint web: HAProxy had ended, and was started again" in done.stderr, done.stderr
    wait_for("both VMs", lambda: set(site.states().values()) == {"up"}, SOON)
    balancer.config.write_text("nonsense\n")
    found = site.lab.run("endpoint", "list")
    assert "endpoint web: its configuration had been changed, and was written again" in found.stderr
    assert balancer.has_config() and ask(port) in ("web-0", "web-1")
    # the fabric's server dies: HAProxy serves on
    pid = balancer.find_process()
    os.kill(site.lab.fabric_pid(), signal.SIGKILL)
    assert site.lab.run("vm", "list").returncode == 0
    assert balancer.find_process() == pid and ask(port) in ("web-0", "web-1")
    # another program takes the port while HAProxy is down
    os.kill(pid or 0, signal.SIGKILL)
    wait_for("its end", lambda: balancer.find_process() is None, SOON)
    with socket.create_server(("127.0.0.1", port)):
        shown = site.lab.run("endpoint", "show", "web", "--json")
        assert json.loads(shown.stdout)["error"]["name"] == "port-taken"
        assert f"port {port} of 127.0.0.1 cannot be used: Address already in use" in shown.stderr
    wait_for("both VMs", lambda: set(site.states().values()) == {"up"}, SOON)


def test_wrong_uses_have_names_and_add_nothing(site: Site, port: int) -> None:
    free = str(free_port())
    words = ("--private", "80", "--set", "shop", "--public")
    for message, named in {
        "the endpoint web exists already": ("endpoint", "add", "web", *words, free),
        f"port {port} of 127.0.0.1 cannot be used": ("endpoint", "add", "other", *words, str(port)),
        "198.51.100.1 cannot be listened on": ("endpoint", "add", "other", *words, free, "--address", "198.51.100.1"),
        "the endpoint web leads to the set shop": ("set", "delete", "shop", "--yes"),
    }.items():
        done = site.lab.run(*named)
        assert done.returncode != 0 and message in done.stderr, done.stderr
    assert site.fleet.endpoints.names() == ["web"] and len(site.fleet.instances.names()) == 2
    assert ask(port) in ("web-0", "web-1")


def test_a_set_without_an_address_has_no_process_until_it_gets_one(site: Site, port: int) -> None:
    balancer = balancer_of(site.fleet, site.fleet.endpoints.get("web"))
    for name in site.servers:
        site.change(name, allocated=False)
    assert site.endpoint("web")["status"] == "no VM has an address"
    assert balancer.find_process() is None
    for name in site.servers:
        site.change(name, allocated=True)
    shown = site.lab.run("endpoint", "list")
    assert shown.returncode == 0 and "had ended" not in shown.stderr
    wait_for("both VMs", lambda: set(site.states().values()) == {"up"}, SOON)
    assert site.lab.run("endpoint", "remove", "web").returncode == 0
    assert balancer.find_process() is None and site.fleet.endpoints.names() == []
    assert (NAMESPACES / balancer.namespace.name).exists()
