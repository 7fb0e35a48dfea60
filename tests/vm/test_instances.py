"""VMs from masters by the real command line, on the guests of tests/fakes: a whole life, wrong states, crashes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.store import Store
from pipeline.gallery import Gallery
from pipeline.gallery.retention import leases
from tests.fakes import small_linux
from tests.fakes.disks import add_master, small_linux_disk
from tests.fakes.fake_windows import parts
from tests.fakes.power import Behaviour, power_disk
from tests.harness import Lab, domains, networks, new_home, remove, wait_for
from tests.tools import skip_without

#: Seconds for what takes one on a quiet host.
SOON = 120.0


class Vms(Lab):
    """A store with two masters that boot at once, `small` and `power`, and its `goldsmith vm`."""

    @property
    def store(self) -> Store:
        return Store(self.home)

    def vm(self, *words: str) -> str:
        """What a verb printed. It must not fail."""
        done = self.run("vm", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, *words: str) -> str:
        """The first line of why a verb refused."""
        done = self.run("vm", *words)
        assert done.returncode in (1, 2, 3, 4), done.stdout
        return done.stderr.splitlines()[0]

    def seen(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.vm("show", name, "--json"))
        return found

    def status(self, name: str) -> str:
        return str(self.seen(name)["status"])

    def page(self, name: str) -> str:
        """What the guest's web server answers, asked through the VM's own network."""
        request = "GET /index.html HTTP/1.0\r\n\r\n"
        argv = [sys.executable, "-m", "pipeline", "vm", "connect", name, "80"]
        done = subprocess.run(
            argv, input=request, capture_output=True, text=True, env=self.environment, timeout=SOON, check=False
        )
        return done.stdout

    def held(self, image: str) -> list[str]:
        return [lease.why for lease in leases(Gallery(self.home / "gallery"), image)]

    def left(self) -> list[str]:
        """What is there of instances."""
        label = self.store.instances_label
        found = [name for name in domains() if name.startswith(f"goldsmith-{label}-")]
        found += [str(path) for path in (self.home / "instances").glob("[!.]*")]
        found += [str(path) for path in (self.home / "instances").glob(".gone-*")]
        found += [str(path) for path in Path("/run/goldsmith").glob(label)]
        found += [name for name in networks() if name == label]
        found += [f"lease: {why}" for image in ("small", "power") for why in self.held(image)]
        return found


@pytest.fixture(scope="module")
def vms(packages: Path) -> Iterator[Vms]:
    skip_without("cpio", "depmod", "dpkg-deb", "grub-mkimage", "mke2fs")
    home = new_home("instances")
    lab = Vms(home / "project", home)
    lab.store.ensure()
    work = home / "tmp" / "disks"
    work.mkdir()
    found = parts.gather(packages)
    kernel = small_linux.make_small_linux(found, work / "small")
    small_linux_disk(found, kernel, work, work / "small.raw")
    power_disk(work / "power.raw", Behaviour.BUTTON)
    for name in ("small", "power"):
        add_master(Gallery(lab.store.gallery), name, work / f"{name}.raw")
    shutil.rmtree(work)
    (home / "key.pub").write_text(
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHVXj1oPbH2pH0XkYlKUhIoWHv6lz0CT2mqkqKZ5t3cF me\n"
    )
    yield lab
    for path in (home / "instances").glob("[!.]*"):
        lab.run("vm", "delete", path.name, "--yes")
    remove(home)


@pytest.fixture(autouse=True)
def nothing_is_left(vms: Vms) -> Iterator[None]:
    yield
    for path in (vms.home / "instances").glob("[!.]*"):
        vms.run("vm", "delete", path.name, "--yes")
    assert vms.left() == []


def create(vms: Vms, name: str, image: str = "small", *more: str) -> str:
    return vms.vm("create", name, "--image", image, "--ssh-key", str(vms.home / "key.pub"), *more)


def test_a_life(vms: Vms) -> None:
    assert vms.vm("list") == ""
    out = create(vms, "web")
    assert "web: Starting (provisioning)" in out and "web: Running after" in out
    first = vms.seen("web")
    codes = [status["code"] for status in first["instanceView"]["statuses"]]
    assert codes == ["ProvisioningState/succeeded", "PowerState/running"]
    assert first["instanceView"]["vmAgent"]["statuses"][0]["displayStatus"] == "Ready"
    assert small_linux.PAGE in vms.page("web")
    assert not list(Path("/run/goldsmith").glob(f"{vms.store.instances_label}/web"))  # its medium is gone
    xml = subprocess.run(
        ["virsh", "-c", "qemu:///system", "dumpxml", f"goldsmith-{vms.store.instances_label}-web"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "azure.iso" not in xml and "cache='writeback'" in xml and "cache='unsafe'" not in xml
    # the fabric dies under the running VM: the next command brings it back, and the address is kept
    pid = _fabric_pid(vms)
    os.kill(pid, signal.SIGKILL)
    assert vms.status("web") == "Running"
    assert _fabric_pid(vms) != pid
    assert small_linux.PAGE in vms.page("web") and vms.seen("web")["address"] == first["address"]
    vms.vm("stop", "web")
    assert vms.status("web") == "Stopped" and vms.page("web") == ""
    vms.vm("start", "web")
    assert vms.status("web") == "Running"
    vms.vm("deallocate", "web", "--force")
    assert vms.status("web") == "Stopped (deallocated)"
    assert vms.seen("web")["instanceView"]["statuses"][-1]["code"] == "PowerState/deallocated"
    vms.vm("start", "web")
    wait_for("the page", lambda: small_linux.PAGE in vms.page("web"), SOON)
    last = vms.seen("web")
    assert (last["vmId"], last["provisioned"]) == (first["vmId"], first["provisioned"])
    assert "small linux: Ready" in vms.vm("logs", "web")
    assert "/machine" in vms.vm("logs", "web", "--log", "fabric")
    vms.vm("delete", "web", "--yes")
    assert vms.left() == []


def test_two_at_once_are_two(vms: Vms) -> None:
    create(vms, "web", "small", "--count", "2")
    one, two = vms.seen("web-0"), vms.seen("web-1")
    assert one["vmId"] != two["vmId"] and one["address"] != two["address"]
    assert one["status"] == two["status"] == "Running"
    used = json.loads(vms.vm("top", "--json", "--seconds", "0.2"))
    assert [row["name"] for row in used] == ["web-0", "web-1"] and all(row["memory"] > 0 for row in used)
    vms.vm("delete", "web-0", "--yes")
    assert vms.status("web-1") == "Running" and small_linux.PAGE in vms.page("web-1")


def test_wrong_states_have_names_and_change_nothing(vms: Vms) -> None:
    create(vms, "web", "power", "--no-wait")
    before = vms.seen("web")
    assert "there is a VM web already" in vms.refused(
        "create", "web", "--image", "power", "--ssh-key", str(vms.home / "key.pub")
    )
    key = ("--ssh-key", str(vms.home / "key.pub"))
    assert "the gallery has no image nix" in vms.refused("create", "db", "--image", "nix", *key)
    assert "there is no room for db" in vms.refused(
        "create", "db", "--image", "power", "--cpus", "1", "--memory", "4T", *key
    )
    assert "was made for generation 1" in vms.refused("create", "db", "--image", "power", "--generation", "2", *key)
    assert "cannot be the name" in vms.refused("create", "Db_1", "--image", "power", *key)
    assert "web runs already" in vms.refused("start", "web")
    assert "web runs: deleting it" in vms.refused("delete", "web")
    assert "no VM is called db" in vms.refused("stop", "db")
    after = vms.seen("web")
    assert (after["vmId"], after["status"]) == (before["vmId"], before["status"])
    vms.vm("stop", "web")
    assert "web is stopped" in vms.refused("stop", "web")
    vms.vm("deallocate", "web")
    assert "web is deallocated already" in vms.refused("deallocate", "web")
    assert "web is deallocated" in vms.refused("restart", "web")


def test_what_runs_keeps_its_master_and_no_sweep_takes_it(vms: Vms) -> None:
    create(vms, "web", "power", "--no-wait")
    (old,) = Gallery(vms.store.gallery).versions("power")
    work = vms.home / "tmp" / "again.raw"
    power_disk(work, Behaviour.BUTTON)
    add_master(Gallery(vms.store.gallery), "power", work)
    work.unlink()
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
    virsh = ["virsh", "-q", "-c", "qemu:///system"]
    before = vms.seen("web")
    subprocess.run([*virsh, "destroy", domain], check=True)
    assert vms.seen("web")["powerState"] == "stopped"
    subprocess.run([*virsh, "undefine", domain], check=True)
    assert vms.seen("web")["powerState"] == "stopped"
    vms.vm("start", "web")
    subprocess.run([*virsh, "suspend", domain], check=True)
    assert vms.status("web") == "Paused"
    vms.vm("restart", "web", "--force")
    after = vms.seen("web")
    assert after["status"] == "Starting (provisioning)"
    assert (after["vmId"], after["address"]) == (before["vmId"], before["address"])


def test_a_creation_that_is_killed_leaves_a_vm_that_can_be_deleted(vms: Vms) -> None:
    """SIGKILL at several moments: what the list says is true, and nothing is left after the deletion."""
    key = str(vms.home / "key.pub")
    for delay in (0.4, 0.8, 1.2, 2.0):
        child = vms.start("vm", "create", "web", "--image", "power", "--ssh-key", key)
        time.sleep(delay)
        child.kill()
        child.wait()
        listed = json.loads(vms.vm("list", "--json"))
        assert [vm["name"] for vm in listed] in ([], ["web"])
        if listed:
            words = listed[0]["status"]
            on = f"goldsmith-{vms.store.instances_label}-web" in _running()
            assert on == ("Starting" in words or "Running" in words), words
            vms.vm("delete", "web", "--yes")
        assert vms.left() == []


def _running() -> list[str]:
    listed = subprocess.run(
        ["virsh", "-q", "-c", "qemu:///system", "list", "--name"], capture_output=True, text=True, check=True
    )
    return listed.stdout.split()


def _fabric_pid(vms: Vms) -> int:
    from pipeline.fabric import control
    from pipeline.fabric.privileged import Host

    return int(control.ask(Host(vms.store.instances_label).control, {"do": "hello"})["pid"])
