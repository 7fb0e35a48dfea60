"""VMs from masters by the real command line, on the guests of tests/fakes: a whole life, wrong states, crashes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from pipeline.cli.events import event_schema
from pipeline.gallery import Gallery
from tests import own_host
from tests.campaigns import vm_sequences
from tests.fakes import small_linux
from tests.harness import remove, wait_for
from tests.tools import skip_without
from tests.vm import disk_steps
from tests.vms import SOON, Vms, make_lab, virsh

#: What the small Linux gets from the host whose name or address follows.
REACH = "/cgi-bin/reach?"


@pytest.fixture(scope="module")
def vms(packages: Path) -> Iterator[Vms]:
    skip_without("cpio", "depmod", "dpkg-deb", "grub-mkimage", "mke2fs", "tini", "unshare")
    lab = make_lab("instances")
    lab.add_small(packages)
    yield lab
    for path in (lab.home / "instances").glob("[!.]*"):
        lab.run("vm", "delete", path.name, "--yes")
    remove(lab.home)


@pytest.fixture(autouse=True)
def nothing_is_left(vms: Vms) -> Iterator[None]:
    yield
    for path in (vms.home / "instances").glob("[!.]*"):
        vms.run("vm", "delete", path.name, "--yes")
    wait_for("the end of all VMs", lambda: vms.left() == [], SOON)


def create(vms: Vms, name: str, image: str = "small", *more: str) -> str:
    return vms.vm("create", name, "--image", image, "--ssh-key", str(vms.key), *more)


def check_events(output: str, name: str) -> None:
    """What the verb did for a VM, line by line, and the VM as `vm show --json` has it."""
    validator = jsonschema.Draft202012Validator(event_schema())
    found = [json.loads(line) for line in output.splitlines()]
    for each in found:
        validator.validate(each)
    *seen, result = found
    assert {(each["event"], each["vm"]) for each in seen} == {("vm", name)}
    assert seen[0]["text"] == "Starting (provisioning)" and seen[-2]["text"].startswith("Running after")
    assert result["event"] == "result"
    assert [(vm["name"], vm["status"]) for vm in result["document"]["vms"]] == [(name, "Running")]


@contextlib.contextmanager
def open_port(vms: Vms, *words: str) -> Iterator[str]:
    """The first line of a verb that relays until it is interrupted."""
    child = vms.start("vm", *words)
    assert child.stdout is not None
    try:
        yield child.stdout.readline().strip()
    finally:
        child.send_signal(signal.SIGINT)
        output, _ = child.communicate(timeout=SOON)
    assert child.returncode == 0, output


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=SOON) as reply:
        return str(reply.read().decode())


def test_a_life(vms: Vms) -> None:
    assert vms.vm("list") == ""
    out = create(vms, "web")
    assert "web: Starting (provisioning)" in out and "web: Running after" in out
    first = vms.seen("web")
    codes = [status["code"] for status in first["instanceView"]["statuses"]]
    assert codes == ["ProvisioningState/succeeded", "PowerState/running"]
    assert first["instanceView"]["vmAgent"]["statuses"][0]["displayStatus"] == "Ready"
    wait_for("the page", lambda: small_linux.PAGE in vms.page("web"), SOON)
    assert not list(Path("/run/goldsmith").glob(f"{vms.store.instances_label}/web"))  # its medium is gone
    xml = virsh("dumpxml", f"goldsmith-{vms.store.instances_label}-web")
    assert "azure.iso" not in xml and "cache='writeback'" in xml
    assert xml.count("cache='unsafe'") == 1  # the resource disk alone
    with open_port(vms, "forward", "web", "80") as line:
        assert fetch(f"http://{line}/index.html") == small_linux.PAGE
    with open_port(vms, "rdp", "web", str(vms.home / "web.rdp")) as line:
        _, _, port = line.partition(",")[0].rpartition(":")
        lines = (vms.home / "web.rdp").read_text().splitlines()
        assert f"full address:s:127.0.0.1:{port}" in lines and "username:s:azureuser" in lines
    # the fabric dies under the running VM: the next command brings it back, and the address is kept
    pid = vms.fabric_pid()
    os.kill(pid, signal.SIGKILL)
    assert vms.status("web") == "Running"
    assert vms.fabric_pid() != pid
    wait_for("the page", lambda: small_linux.PAGE in vms.page("web"), SOON)
    assert vms.seen("web")["address"] == first["address"]
    disk_steps.plug_and_unplug(vms, "web")
    disk_steps.crash_between_lease_and_attach(vms, "web")
    disk_steps.write_on_resource_disk(vms, "web")
    vms.vm("stop", "web")
    assert vms.status("web") == "Stopped" and vms.page("web") == ""
    vms.vm("start", "web")
    assert vms.status("web") == "Running"
    disk_steps.data_kept(vms, "web")
    assert disk_steps.resource_mark(vms, "web") == "mark\n"
    vms.vm("redeploy", "web", "--force")
    disk_steps.data_kept(vms, "web")
    assert disk_steps.resource_mark(vms, "web") == ""
    vms.vm("deallocate", "web", "--force")
    assert vms.status("web") == "Stopped (deallocated)"
    assert vms.seen("web")["instanceView"]["statuses"][-1]["code"] == "PowerState/deallocated"
    vms.vm("start", "web")
    wait_for("the page", lambda: small_linux.PAGE in vms.page("web"), SOON)
    last = vms.seen("web")
    assert (last["vmId"], last["provisioned"]) == (first["vmId"], first["provisioned"])
    assert "small linux: Ready" in vms.vm("logs", "web")
    assert "/machine" in vms.vm("logs", "web", "--log", "fabric")
    disk_steps.cut_power(vms, "web")
    # a new OS disk and a new resource disk, provisioned again as the same VM; its data disk stays
    assert "web: Running after" in vms.vm("reimage", "web", "--force")
    wait_for("the page", lambda: small_linux.PAGE in vms.page("web"), SOON)
    disk_steps.data_kept(vms, "web")
    assert disk_steps.resource_mark(vms, "web") == ""
    anew = vms.seen("web")
    assert anew["vmId"] == first["vmId"] and anew["provisioned"] > first["provisioned"]
    assert len(list((vms.home / "instances" / "web").glob("disk*.qcow2"))) == 1
    vms.vm("delete", "web", "--yes")
    assert vms.left() == []
    assert disk_steps.listed(vms)["web-data-0"]["lease"]["state"] == "available"
    assert vms.run("disk", "delete", "web-data-0", "--yes").returncode == 0


def test_two_at_once_are_two_and_reach_each_other_in_their_network_alone(vms: Vms) -> None:
    create(vms, "web", "small", "--count", "2", "--network", "shop")
    check_events(create(vms, "alone", "small", "--events"), "alone")
    address = {name: vms.seen(name)["address"] for name in ("web-0", "web-1", "alone")}
    for asker, host in (("web-0", "web-1"), ("web-1", "web-0.internal.cloudapp.net")):
        wait_for(f"{host} from {asker}", lambda a=asker, h=host: small_linux.PAGE in vms.page(a, REACH + h), SOON)
        assert f"asked {address[host.partition('.')[0]]}\n" in vms.page(asker, REACH + host)
    # an outsider finds no member and reaches none, and the other way round
    for asker, host in (("alone", "web-0"), ("web-0", "alone")):
        assert "no address" in vms.page(asker, REACH + host)
        reply = vms.page(asker, REACH + address[host])
        assert f"asked {address[host]}" in reply and "no answer" in reply and small_linux.PAGE not in reply
    vms.vm("delete", "alone", "--yes")
    item, two = vms.seen("web-0"), vms.seen("web-1")
    assert item["vmId"] != two["vmId"] and item["address"] != two["address"]
    assert item["status"] == two["status"] == "Running"
    used = json.loads(vms.vm("top", "--json", "--seconds", "0.2"))
    assert [row["name"] for row in used] == ["web-0", "web-1"] and all(row["memory"] > 0 for row in used)
    vms.vm("delete", "web-0", "--yes")
    assert vms.status("web-1") == "Running"
    wait_for("the page", lambda: small_linux.PAGE in vms.page("web-1"), SOON)


def test_wrong_states_have_names_and_change_nothing(vms: Vms) -> None:
    create(vms, "web", "power", "--no-wait")
    before = vms.seen("web")
    assert "the VM web exists already" in vms.refused("create", "web", "--image", "power", "--ssh-key", str(vms.key))
    key = ("--ssh-key", str(vms.key))
    assert "the gallery has no image nix" in vms.refused("create", "db", "--image", "nix", *key)
    assert "there is no room for db" in vms.refused(
        "create", "db", "--image", "power", "--cpus", "1", "--memory", "4T", *key
    )
    assert "was made for generation 1" in vms.refused("create", "db", "--image", "power", "--generation", "2", *key)
    assert "cannot be the name" in vms.refused("create", "Db_1", "--image", "power", *key)
    assert "web is running already" in vms.refused("start", "web")
    assert "web is running; deleting it" in vms.refused("delete", "web")
    assert "there is no VM db" in vms.refused("stop", "db")
    after = vms.seen("web")
    assert (after["vmId"], after["status"]) == (before["vmId"], before["status"])
    vms.vm("stop", "web")
    assert "web is stopped" in vms.refused("stop", "web")
    vms.vm("deallocate", "web")
    assert "web is deallocated already" in vms.refused("deallocate", "web")
    assert "web is deallocated" in vms.refused("restart", "web")


def test_a_trial_that_is_interrupted_leaves_nothing(vms: Vms) -> None:
    child = vms.start("try", "power")
    assert child.stdout is not None
    name, _, words = child.stdout.readline().strip().partition(": ")
    assert name.startswith("try-") and words == "Starting (provisioning)"
    assert json.loads(vms.vm("list", "--json"))[0]["name"] == name
    child.send_signal(signal.SIGINT)
    output, _ = child.communicate(timeout=SOON)
    assert child.returncode == 130 and f"{name}: deleted" in output
    assert vms.left() == []


def test_what_runs_keeps_its_master_and_no_sweep_takes_it(vms: Vms) -> None:
    create(vms, "web", "power", "--no-wait")
    (old,) = Gallery(vms.store.gallery).versions("power")
    vms.add_power()
    assert vms.held("power") == ["VM web runs from it"]
    done = vms.run("gallery", "prune", "power", "--keep", "1")
    assert "kept: leased: VM web runs from it" in done.stdout
    for words in ((), ("--force",)):
        done = vms.run("gallery", "remove", f"power@{old.version}", "--why", "old", *words)
        assert done.returncode == 1 and "is in use: VM web runs from it" in done.stderr
    assert vms.run("clean").returncode == 0
    assert vms.status("web") == "Starting (provisioning)"
    vms.vm("delete", "web", "--yes")
    assert vms.run("gallery", "remove", f"power@{old.version}", "--why", "old").returncode == 0


def test_reality_is_looked_at_each_time(vms: Vms) -> None:
    """A domain ended and removed behind our back: what is said stays true, and it starts again."""
    create(vms, "web", "power", "--no-wait")
    domain = f"goldsmith-{vms.store.instances_label}-web"
    before = vms.seen("web")
    virsh("destroy", domain)
    assert vms.seen("web")["powerState"] == "stopped"
    virsh("undefine", domain)
    assert vms.seen("web")["powerState"] == "stopped"
    vms.vm("start", "web")
    virsh("suspend", domain)
    assert vms.status("web") == "Paused"
    vms.vm("restart", "web", "--force")
    after = vms.seen("web")
    assert after["status"] == "Starting (provisioning)"
    assert (after["vmId"], after["address"]) == (before["vmId"], before["address"])


def list_is_true(vms: Vms) -> bool:
    """Whether `vm list` has no VM but web, and says that it runs where its domain does."""
    listed = json.loads(vms.vm("list", "--json"))
    assert [vm["name"] for vm in listed] in ([], ["web"])
    on = f"goldsmith-{vms.store.instances_label}-web" in vms.domains_on()
    return on == any("Starting" in vm["status"] or "Running" in vm["status"] for vm in listed)


def test_a_creation_that_is_killed_leaves_a_vm_that_can_be_deleted(vms: Vms) -> None:
    """SIGKILL at several moments: what the list says is true, and nothing is left after the deletion."""
    key = str(vms.key)
    for delay in (0.4, 0.8, 1.2, 2.0):
        child = vms.start("vm", "create", "web", "--image", "power", "--ssh-key", key)
        time.sleep(delay)
        child.kill()
        child.wait()
        # libvirt may still be at what the killed command has asked for: it comes to an end
        wait_for("a list that is true", lambda: list_is_true(vms), SOON)
        if json.loads(vms.vm("list", "--json")):
            vms.vm("delete", "web", "--yes")
        wait_for("the end of all VMs", lambda: vms.left() == [], SOON)


def test_vms_outlive_libvirtd_and_a_restart_of_the_host(vms: Vms) -> None:
    """On a host of its own: there libvirtd is killed, then all processes end, and /run is empty."""
    code = f"from tests.vm.restarts import restart_all; restart_all({str(vms.home)!r})"
    done = own_host.run([sys.executable, "-c", code], deadline=600)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-3000:]


def test_any_order_of_verbs_and_kills(vms: Vms) -> None:
    """A few sequences of what `make campaign-vm-sequences` draws by the hundred."""
    seen = vm_sequences.run(vms, 3)
    assert seen.total() > 0
