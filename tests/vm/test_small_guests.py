"""The two guests of tests/fakes on the real libvirt: power, agent, fabric, HTTP, and how long each takes."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import libvirt
import libvirt_qemu
import pytest

from pipeline.base.errors import GuestError
from pipeline.base.store import Store
from pipeline.cache.layers import Image
from pipeline.fabric import Fabric, control, service
from pipeline.fabric.privileged import Host
from pipeline.fabric.service import ProvisioningData
from pipeline.guest.access import free_port
from pipeline.hypervisor.connection import Connection, connect
from pipeline.hypervisor.domain import Forward, Kernel, Spec, attached
from pipeline.hypervisor.machine import Machine, own
from tests.fakes import small_linux
from tests.fakes.fake_windows import parts
from tests.fakes.power import BUTTON, OFF, READY, RESTART, Behaviour, power_disk
from tests.harness import new_home, remove
from tests.tools import skip_without

LABEL = "smallguests-R1"
MIB = 1 << 20
#: Seconds for what takes one on a quiet host.
SOON = 120.0


@pytest.fixture(scope="module")
def connection() -> Iterator[Connection]:
    opened = connect()
    yield opened
    opened.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that libvirt's qemu can reach."""
    made = new_home("small-guests")
    yield made
    remove(made)


@pytest.fixture(scope="module")
def kernel(packages: Path) -> Iterator[Kernel]:
    skip_without("cpio", "depmod", "dpkg-deb")
    made = new_home("small-linux")
    yield small_linux.make_small_linux(parts.gather(packages), made)
    remove(made)


def machine(connection: Connection, folder: Path, disk: Image, **more: object) -> Machine:
    own(disk.path, connection)
    spec = Spec(
        name="goldsmith-smallguests-R1-guest",
        run=LABEL,
        role="test",
        kvm=False,
        cpus=1,
        memory=256 * MIB,
        disks=attached(disk),
        serial_log=folder / "serial.log",
    )
    return Machine(connection, replace(spec, **more), folder)  # type: ignore[arg-type]


def says(guest: Machine, text: bytes, count: int = 1) -> None:
    guest.wait(repr(text), lambda: guest.serial().count(text) >= count or None, deadline=SOON, name="late")


@pytest.mark.parametrize("kind", ["pc", "q35"])
def test_a_button_ends_the_guest_that_looks_at_it(connection: Connection, folder: Path, kind: str) -> None:
    began = time.monotonic()
    with machine(connection, folder, power_disk(folder / "disk.raw", Behaviour.BUTTON), machine=kind) as guest:
        says(guest, READY)
        print(f"up after {time.monotonic() - began:.1f} s")
        assert guest.press_power(SOON)
        assert guest.serial() == READY + BUTTON + OFF
        assert not guest.running


def test_a_guest_boots_from_nvme_and_libvirt_counts_what_it_reads(connection: Connection, folder: Path) -> None:
    """Its disks are namespaces of one controller; libvirt, which knows no such bus, opens and counts them."""
    disk = power_disk(folder / "disk.raw", Behaviour.DEAF)
    data = folder / "data.raw"
    with data.open("wb") as file:
        file.truncate(MIB)
    own(data, connection)
    disks = attached(replace(disk, data=((3, Image(data, disk.format)),)), "nvme")
    with machine(connection, folder, disk, machine="q35", disks=disks) as guest:
        says(guest, READY)
        stats = connection.raw.domainListGetStats([guest.domain], libvirt.VIR_DOMAIN_STATS_BLOCK)[0][1]
        assert [stats[f"block.{number}.path"] for number in range(stats["block.count"])] == [
            str(disk.path),
            str(data),
        ]
        assert stats["block.0.rd.bytes"] > 0
        answer = libvirt_qemu.qemuMonitorCommand(
            guest.domain, "info qtree", libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
        )
    namespaces = re.findall(r'dev: nvme-ns, id "ua-nvme-lun3".*?nsid = (\d+)', answer, re.DOTALL)
    assert namespaces == ["5"], "LUN 3 is namespace 5"


def test_a_deaf_guest_does_not_go_off(connection: Connection, folder: Path) -> None:
    with machine(connection, folder, power_disk(folder / "disk.raw", Behaviour.DEAF)) as guest:
        says(guest, READY)
        assert not guest.press_power(2)
        assert guest.running
        guest.destroy()
        assert not guest.running


def test_a_guest_that_goes_off_by_itself_is_named(connection: Connection, folder: Path) -> None:
    with (
        machine(connection, folder, power_disk(folder / "disk.raw", Behaviour.POWERS_OFF, 1)) as guest,
        pytest.raises(GuestError) as caught,
    ):
        guest.wait("a word that does not come", lambda: None, deadline=SOON, name="late")
    assert caught.value.name == "guest-powered-off"


def test_restarts_are_counted(connection: Connection, folder: Path) -> None:
    with machine(connection, folder, power_disk(folder / "disk.raw", Behaviour.RESTARTS, 1)) as guest:
        says(guest, RESTART, 2)
        assert guest.reboots >= 2


def test_the_small_linux_is_ready_for_its_fabric_and_its_agent(
    connection: Connection, folder: Path, kernel: Kernel
) -> None:
    """What takes a Debian a minute: Ready, an agent that answers, a page, and off by the agent."""
    empty = power_disk(folder / "disk.raw", Behaviour.DEAF)
    port = free_port()
    with Fabric(LABEL) as fabric:
        guest = fabric.attach("small", "azureuser", "ssh-ed25519 AAAA", folder)
        fabric.forward(guest, port, 80)
        guest.begin()
        instance = guest.instance
        began = time.monotonic()
        words = {
            "kernel": kernel,
            "azure": True,
            "bridge": guest.bridge,
            "access_mac": instance.mac,
            "uuid": instance.vm_id,
        }
        with machine(connection, folder, empty, **words) as running:
            says(running, small_linux.UP)
            print(f"up after {time.monotonic() - began:.1f} s: {running.serial().decode(errors='replace')[-300:]}")
            assert guest.report is not None and guest.report.ready
            agent = running.wait_agent(SOON, SOON)
            assert instance.address in agent.addresses()
            assert agent.execute(["/bin/cat", "/etc/os-release"], deadline=SOON).stdout.startswith(
                'NAME="small linux"'
            )
            page = http.client.HTTPConnection("127.0.0.1", port, timeout=SOON)
            page.request("GET", "/index.html")
            assert page.getresponse().read().decode() == small_linux.PAGE
            running.shutdown(SOON)
            assert not running.running


def test_three_guests_run_on_while_their_fabric_is_killed(folder: Path, kernel: Kernel) -> None:
    """kill -9 of the service: addresses, cards and bridges are kept, and its reports; agents and pages answer."""
    store = Store(folder).ensure()
    vms = [ProvisioningData(str(uuid.uuid4()), f"small{n}", "azureuser", "ssh-ed25519 AAAA") for n in range(3)]
    running = service.ensure(store)
    label = running.label
    with contextlib.ExitStack() as stack:
        for data in vms:
            stack.callback(running.detach, data.instance_id)
        links = [running.attach(data) for data in vms]
        guests = []
        for number, link in enumerate(links):
            (folder / str(number)).mkdir()
            empty = power_disk(folder / f"{number}.raw", Behaviour.DEAF)
            # one for each machine: libvirt tracks its event callbacks by connection
            link_to_libvirt = connect()
            stack.callback(link_to_libvirt.close)
            own(empty.path, link_to_libvirt)
            words = {"kernel": kernel, "azure": True, "bridge": link.bridge, "access_mac": link.mac}
            spec = Spec(
                name=f"goldsmith-{LABEL}-guest{number}",
                run=LABEL,
                role="test",
                kvm=False,
                cpus=1,
                memory=256 * MIB,
                disks=attached(empty),
                serial_log=folder / str(number) / "serial.log",
                uuid=link.instance.vm_id,
            )
            made = Machine(link_to_libvirt, replace(spec, **words), folder / str(number))  # type: ignore[arg-type]
            guests.append(stack.enter_context(made))
        for guest in guests:
            guest.wait("up", lambda guest=guest: small_linux.UP in guest.serial() or None, deadline=300, name="late")
        for data in vms:
            assert service.read_status(store, data.instance_id).state == "ready"
        os.kill(control.ask(Host(label).control, {"do": "hello"})["pid"], signal.SIGKILL)
        # the next command
        running = service.ensure(store)
        for data, link, guest in zip(vms, links, guests, strict=True):
            assert service.read_link(store, data.instance_id) == link
            assert service.read_status(store, data.instance_id).state == "ready"
            assert link.address in guest.wait_agent(SOON, SOON).addresses()
            # its page, over the wire that has run on
            with running.connect(data.instance_id, 80, SOON) as web:
                web.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
                web.settimeout(SOON)
                assert b"200" in web.recv(100)


def test_the_small_linux_goes_off_by_its_button(connection: Connection, folder: Path, kernel: Kernel) -> None:
    forward = Forward(free_port(), 80)
    empty = power_disk(folder / "disk.raw", Behaviour.DEAF)
    with machine(connection, folder, empty, kernel=kernel, forwards=(forward,)) as running:
        says(running, b"small linux: address")
        assert running.press_power(SOON)
