"""The host's file system is full while a guest writes: the guest is paused, says so, and loses nothing."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.base.disk_format import RAW
from pipeline.base.errors import HostError
from pipeline.cache.layers import Image
from pipeline.hypervisor.agent import Agent
from pipeline.hypervisor.connection import connect
from pipeline.hypervisor.domain import Spec, attached
from pipeline.hypervisor.machine import Machine, own
from pipeline.hypervisor.persistent import find_domain
from tests.campaigns.fault_injection import fill
from tests.fakes import small_linux
from tests.fakes.fake_windows import parts
from tests.harness import new_home, remove, wait_for
from tests.tools import skip_without
from tests.vm.disk_steps import DATA_CONTROLLER, device_at, inside
from tests.vms import SOON, Vms

#: Bytes of the file system: a VM wants room for whole disks, which stay sparse.
SIZE = 8 << 30
MIB = 1 << 20
#: What the guest writes, past its own cache; its digest is what it reads back afterwards.
WRITE = (
    "dd if=/dev/urandom of=/tmp/data bs=1M count=8 2>/dev/null; "
    "dd if=/tmp/data of={disk} bs=1M oflag=direct conv=fsync 2>/dev/null"
)
READ = "dd if={disk} bs=1M count=8 iflag=direct 2>/dev/null | cmp - /tmp/data && echo same || true"


@pytest.fixture(autouse=True)
def emptied(vms: Vms) -> Iterator[None]:
    yield
    (vms.home / "filler").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def vms(packages: Path) -> Iterator[Vms]:
    skip_without("cpio", "depmod", "dpkg-deb", "grub-mkimage", "mkfs.ext4")
    if subprocess.run(["losetup", "--find"], capture_output=True, check=False).returncode:
        pytest.skip("this host has no loop devices")
    beside = new_home("full-host")
    home, image = beside / "home", beside / "disk.img"
    home.mkdir()
    with image.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, home], check=True)
    home.chmod(0o755)
    lab = Vms(home / "project", home)
    try:
        lab.store.ensure()
        lab.add_small(packages)
        lab.vm("create", "web", "--image", "small", "--ssh-key", str(lab.key))
        lab.vm("disk", "attach-new", "web", "--size", "1GiB", "--name", "data")
        yield lab
        lab.run("vm", "delete", "web", "--yes")
        lab.run("disk", "delete", "data", "--yes")
        left = lab.left()
    finally:
        subprocess.run(["umount", "-l", home], check=False)
        remove(beside)
    assert left == []


def test_a_paused_vm_says_why_and_runs_on_when_there_is_space(vms: Vms, tmp_path: Path) -> None:
    disk = device_at(vms, "web", DATA_CONTROLLER, "0")
    fill(vms.home, 0)
    pool = ThreadPoolExecutor(1)
    writing = pool.submit(_write, vms, disk, tmp_path)
    pool.shutdown(wait=False)
    wait_for("the pause", lambda: vms.status("web").startswith("Paused"), SOON)
    assert vms.status("web") == "Paused (its disk cannot be written)"
    (status,) = [each for each in vms.seen("web")["instanceView"]["statuses"] if "PowerState" in each["code"]]
    assert status["level"] == "Error" and "No space left on device" in status["message"], status
    assert "data" in status["message"]
    # here the records of VMs are on the full file system too
    assert "No space left on device" in vms.refused("start", "web")
    assert "No space left on device" in vms.refused("stop", "web"), "a stop would be a power cut"
    assert vms.status("web").startswith("Paused")
    (vms.home / "filler").unlink()
    refused = vms.run("vm", "stop", "web")
    assert refused.returncode == 3 and "lets it run on; --force cuts its power" in refused.stderr, refused.stderr
    assert vms.vm("start", "web") == "web: Running\n"
    # an agent that is asked while its guest is paused cannot answer; one that is asked before or after it can
    assert writing.result(SOON) in ("", "the guest is paused")
    wait_for("what was written", lambda: inside(vms, "web", READ.format(disk=disk)) == "same\n", SOON)
    assert vms.status("web") == "Running"
    assert "is running already" in vms.refused("start", "web")


def test_a_write_error_on_the_host_reaches_the_guest_and_the_vm_runs_on(vms: Vms) -> None:
    """As on hardware, also where the host's file system has turned read-only: the guest decides what it means."""
    skip_without("strace")
    disk = device_at(vms, "web", DATA_CONTROLLER, "0")
    again = f"dd if=/tmp/data of={disk} bs=1M oflag=direct conv=fsync 2>&1 || true"
    connection = connect()
    with contextlib.closing(connection):
        name = find_domain(connection, vms.seen("web")["vmId"]).name()
    process_id = int(Path(f"/run/libvirt/qemu/{name}.pid").read_text())
    inside(vms, "web", "dd if=/dev/urandom of=/tmp/data bs=1M count=8 2>/dev/null")
    file = Path(json.loads(vms.run("disk", "show", "data", "--json").stdout)["path"])
    for error in ("EIO", "EROFS"):
        with failing_writes(process_id, file, error):
            assert "Input/output error" in inside(vms, "web", again)
            assert vms.status("web") == "Running"
        assert "error" not in inside(vms, "web", again)
        assert inside(vms, "web", READ.format(disk=disk)) == "same\n"


@contextlib.contextmanager
def failing_writes(process_id: int, file: Path, error: str) -> Iterator[None]:
    """What a process writes to a file ends with an error: libvirt passes no blkdebug on to QEMU."""
    calls = "pwrite64,pwritev,pwritev2,fdatasync"
    argv = ["strace", "-f", "-qq", "-P", file, "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}", "-p"]
    with subprocess.Popen([*argv, str(process_id)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as tracer:
        try:
            status = Path(f"/proc/{process_id}/status")
            wait_for("strace", lambda: f"TracerPid:\t{tracer.pid}\n" in status.read_text(), SOON)
            yield
        finally:
            tracer.terminate()
            tracer.wait(SOON)


def _write(vms: Vms, disk: str, logs: Path) -> str:
    """Write to the disk, by the guest's agent; '' or why that could not be watched to its end."""
    connection = connect()
    with contextlib.closing(connection):
        domain = find_domain(connection, vms.seen("web")["vmId"])
        agent = Agent(lambda: domain, logs / "writer.log")
        try:
            agent.execute(["/bin/sh", "-c", WRITE.format(disk=disk)], deadline=SOON)
        except HostError as error:
            return "the guest is paused" if "the guest is paused" in error.message else error.message
    return ""


def test_a_build_ends_with_the_hosts_error_and_not_with_its_deadline(
    vms: Vms, packages: Path, tmp_path: Path
) -> None:
    """The guest of a build, by its machine alone: what a step waits for looks at it four times a second."""
    disk = vms.home / "tmp/disk.raw"
    with disk.open("wb") as file:
        file.truncate(64 * MIB)
    connection = connect()
    with contextlib.closing(connection):
        own(disk, connection)
        spec = Spec(
            name="goldsmith-fullhost-R1-guest", run="fullhost-R1", role="test", kvm=False, cpus=1, memory=256 * MIB,
            disks=attached(Image(disk, RAW), "scsi"), serial_log=vms.home / "tmp/serial.log",
            kernel=small_linux.make_small_linux(parts.gather(packages), vms.home / "tmp/kernel"),
        )  # fmt: skip
        with Machine(connection, spec, tmp_path) as machine:
            agent = machine.wait_agent(SOON, SOON)
            fill(vms.home, 0)
            with pytest.raises(HostError) as caught:
                agent.execute(["/bin/sh", "-c", WRITE.format(disk="/dev/sda")], deadline=SOON, check=machine.check)
    assert caught.value.name == "disk-full" and str(disk) in caught.value.message
    assert "free space" in (caught.value.hint or "")
