"""Disks that libvirt's lock daemon has locked for a machine of somebody else: it runs on a host of its own.

QEMU locks the file that it has open, virtlockd the path that libvirt was told. A file that is renamed, with a copy in
its place, is therefore locked by virtlockd alone.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.base.errors import GoldsmithError
from pipeline.base.store import Store
from pipeline.hypervisor.lock_manager import is_running, read_lock_manager
from pipeline.instances.fleet import Fleet
from pipeline.operations.attach_disk import attach
from pipeline.operations.start import start
from tests import own_host
from tests.harness import wait_for
from tests.vms import SOON, Vms, virsh

#: libvirt's settings of this host alone: tests.own_host binds a copy over the folder.
SETTINGS = Path("/etc/libvirt/qemu.conf")
OTHER = """\
<domain type="qemu"><name>other</name><memory unit="MiB">64</memory><os><type machine="q35">hvm</type></os>
<devices><disk type="file" device="disk"><driver name="qemu" type="qcow2"/><source file="{path}">
<seclabel model="dac" relabel="no"/></source><backingStore/><target dev="vda" bus="virtio"/></disk></devices></domain>
"""


def try_locks(home: str) -> None:
    lab = Vms(Path(home, "project"), Path(home))
    lab.vm("create", "web", "--image", "power", "--ssh-key", str(lab.key), "--no-wait")
    done = lab.run("disk", "create", "data", "--size", "16MiB")
    assert done.returncode == 0, done.stderr
    os_disk, data = find_paths(lab)
    lab.vm("stop", "web", "--force")

    # without a lock manager QEMU locks the file alone: the copy in its place starts
    with held_elsewhere(lab, os_disk):
        lab.vm("start", "web")
        lab.vm("stop", "web", "--force")

    configure()
    settings = SETTINGS.read_bytes()
    with held_elsewhere(lab, os_disk):
        see_refusal(lab, lambda fleet: start(fleet, "web"), os_disk)
        assert lab.seen("web")["powerState"] == "stopped"
    lab.vm("start", "web")
    with held_elsewhere(lab, data):
        see_refusal(lab, lambda fleet: attach(fleet, "web", "data"), data)
        assert lab.seen("web")["storageProfile"]["dataDisks"] == []
    lab.vm("disk", "attach", "web", "data")
    for disk in (os_disk, data):
        with replaced(disk):
            assert f"Lockspace resource '{disk}' is locked" in try_other(lab, disk), "others are refused a VM's disk"
    lab.vm("delete", "web", "--yes")
    done = lab.run("disk", "delete", "data", "--yes")
    assert done.returncode == 0, done.stderr
    assert SETTINGS.read_bytes() == settings, "goldsmith changes no setting of libvirt"
    assert lab.left() == []


def find_paths(lab: Vms) -> tuple[Path, Path]:
    """The OS disk of `web`, and the disk `data`."""
    fleet = Fleet(Store(lab.home))
    found = fleet.instances.get("web").image_of_disk.path, fleet.disks.get("data").image_of_disk.path
    fleet.connection.close()
    return found


def configure() -> None:
    """Switch libvirt's lock daemon on, as an administrator does."""
    assert read_lock_manager() is None
    with SETTINGS.open("a") as file:
        file.write('lock_manager = "lockd"\n')
    assert read_lock_manager() == "lockd" and not is_running("lockd")
    done = subprocess.run(["virtlockd", "-d"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wait_for("virtlockd", lambda: is_running("lockd"), SOON)
    own_host.kill_libvirtd()
    own_host.start_libvirtd()


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[None]:
    """Another file with the same content has the path meanwhile: who has the first one open has no lock of it."""
    held = path.with_suffix(".held")
    path.rename(held)
    shutil.copyfile(held, path)
    path.chmod(0o666)
    try:
        yield
    finally:
        held.replace(path)


@contextlib.contextmanager
def held_elsewhere(lab: Vms, path: Path) -> Iterator[None]:
    """A machine that goldsmith does not know runs with the disk, and another file has got the disk's path since."""
    domain = lab.home / "tmp" / "other.xml"
    domain.write_text(OTHER.format(path=path))
    path.chmod(0o666)
    virsh("create", str(domain))
    try:
        with replaced(path):
            yield
    finally:
        virsh("destroy", "other")


def see_refusal(lab: Vms, change: Callable[[Fleet], object], disk: Path) -> None:
    fleet = Fleet(Store(lab.home))
    try:
        with pytest.raises(GoldsmithError) as error:
            change(fleet)
    finally:
        fleet.connection.close()
    print(f"{error.value.name}: {error.value.message}", flush=True)
    assert error.value.name == "disk-in-use", error.value.message
    assert f"Lockspace resource '{disk}' is locked" in error.value.message, "virtlockd's words, and not QEMU's"


def try_other(lab: Vms, disk: Path) -> str:
    """Why another machine does not start with a disk; empty if it does."""
    domain = lab.home / "tmp" / "other.xml"
    domain.write_text(OTHER.format(path=disk))
    argv = ["virsh", "-q", "-c", "qemu:///system", "create", str(domain)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    print(f"another machine with {disk}: {done.returncode} {done.stderr.strip()}", flush=True)
    return done.stderr if done.returncode != 0 else ""
