"""What a VM's disks do while it lives: steps on a VM that runs, for tests that have started one anyway."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

from lxml import etree

from pipeline.base.disk_format import QCOW2
from pipeline.base.errors import GuestError
from pipeline.cache.layers import Image
from pipeline.fabric import service
from pipeline.hypervisor.agent import Agent
from pipeline.hypervisor.connection import connect
from pipeline.hypervisor.machine import own
from pipeline.hypervisor.persistent import find_domain
from pipeline.instances.disks import READ_WRITE_WARNING
from tests.fakes.power_cut import read, replay
from tests.harness import wait_for
from tests.vms import SOON, Vms, virsh

#: Where the small guest sees a disk, by its place on the machine's SCSI controllers.
FIND = 'for d in /sys/block/sd*; do a=$(readlink -f $d/device); echo "${a##*/} /dev/${d##*/}"; done'
DATA_CONTROLLER, OS_CONTROLLER = "1", "0"


def inside(vms: Vms, name: str, script: str) -> str:
    """What a shell script in the VM printed, once its agent answers."""
    connection = connect()
    try:
        domain = find_domain(connection, vms.seen(name)["vmId"])
        agent = Agent(lambda: domain, vms.home / "tmp" / "agent.log")
        wait_for("the agent", lambda: _answers(agent), SOON)
        done = agent.execute(["/bin/sh", "-c", script], deadline=SOON)
    finally:
        connection.close()
    assert done.code == 0, done.stderr
    return done.stdout


def _answers(agent: Agent) -> bool:
    try:
        agent.call("guest-ping")
    except GuestError:
        return False
    return True


def wait_unplugged(vms: Vms, name: str, unit: str) -> None:
    """The guest has noticed that a data disk is gone."""
    wait_for("the end of a disk", lambda: (DATA_CONTROLLER, unit) not in places(vms, name), SOON)


def places(vms: Vms, name: str) -> dict[tuple[str, str], str]:
    """The VM's disks by controller and unit; hosts are numbered in the order of the controllers."""
    found = dict(line.split() for line in inside(vms, name, FIND).splitlines())
    hosts = sorted({place.split(":")[0] for place in found}, key=int)
    parts = ((place.split(":"), device) for place, device in found.items())
    return {(str(hosts.index(host)), unit): device for (host, _, _, unit), device in parts}


def device_at(vms: Vms, name: str, controller: str, unit: str) -> str:
    """The name of the disk at that place, once the guest has found it."""
    wait_for(f"a disk at {controller}:{unit}", lambda: (controller, unit) in places(vms, name), SOON)
    return places(vms, name)[controller, unit]


def xml_disks(vms: Vms, name: str) -> list[Any]:
    text = virsh("dumpxml", f"goldsmith-{vms.store.instances_label}-{name}")
    return etree.fromstring(text.encode()).findall("devices/disk[@device='disk']")


def listed(vms: Vms) -> dict[str, Any]:
    done = vms.run("disk", "list", "--json")
    assert done.returncode == 0, done.stderr
    return {disk["name"]: disk for disk in json.loads(done.stdout)}


def refused(vms: Vms, *words: str) -> str:
    """Why a command was refused, with its error's name in front."""
    done = vms.run(*words)
    assert done.returncode in (1, 2, 3, 4), done.stdout
    return done.stderr


def plug_and_unplug(vms: Vms, name: str) -> None:
    """A new disk is plugged into the running VM, written to, unplugged, exported, and attached again."""
    done = vms.run("vm", "disk", "attach-new", name, "--size", "64MiB", "--lun", "1", "--caching", "ReadWrite")
    assert done.returncode == 0, done.stderr
    assert (
        f"{name}-data-0: attached to {name} at LUN 1" in done.stdout
        and "are lost when this host fails" in done.stderr
    )
    (disk,) = vms.seen(name)["storageProfile"]["dataDisks"]
    assert (disk["lun"], disk["createOption"], disk["caching"]) == (1, "Empty", "ReadWrite")
    device = device_at(vms, name, DATA_CONTROLLER, "1")
    inside(vms, name, f"echo kept > /run/x; dd if=/run/x of={device} conv=fsync 2>/dev/null; sync")
    lease = listed(vms)[f"{name}-data-0"]["lease"]
    assert (lease["status"], lease["state"], lease["duration"]) == ("locked", "leased", "infinite")
    assert lease["owner"]["vm"] == name
    link = service.read_link(vms.store, vms.seen(name)["vmId"])
    assert link is not None and [disk.lun for disk in link.instance.data_disks] == [1]  # what its metadata say
    vms.vm("disk", "detach", name, f"{name}-data-0")
    wait_unplugged(vms, name, "1")
    assert listed(vms)[f"{name}-data-0"]["lease"]["state"] == "available"
    target = vms.home / "tmp" / "data.raw"
    assert vms.run("disk", "export", f"{name}-data-0", str(target)).returncode == 0
    assert target.read_bytes()[:5] == b"kept\n" and target.stat().st_size == 64 << 20
    target.unlink()
    vms.vm("disk", "attach", name, f"{name}-data-0", "--caching", "None")
    device = device_at(vms, name, DATA_CONTROLLER, "0")
    assert inside(vms, name, f"head -c 5 {device}") == "kept\n"
    modes = {disk.find("driver").get("cache") for disk in xml_disks(vms, name)}
    assert {"writeback", "unsafe"} < modes and modes & {"directsync", "writethrough"}


def write_on_resource_disk(vms: Vms, name: str) -> None:
    """Write a mark behind the partition table of the resource disk, which has its warning."""
    device = device_at(vms, name, OS_CONTROLLER, "1")
    inside(vms, name, f"echo mark > /run/m; dd if=/run/m of={device} bs=512 seek=8 conv=fsync 2>/dev/null; sync")


def resource_mark(vms: Vms, name: str) -> str:
    device = device_at(vms, name, OS_CONTROLLER, "1")
    return inside(vms, name, f"dd if={device} bs=512 skip=8 count=1 2>/dev/null | tr -d '\\0'")


def data_kept(vms: Vms, name: str) -> None:
    """The attached disk has its data, after whatever happened to its VM."""
    device = device_at(vms, name, DATA_CONTROLLER, "0")
    assert inside(vms, name, f"head -c 5 {device}") == "kept\n"


def crash_between_lease_and_attach(vms: Vms, name: str) -> None:
    """A killed command's half attachments are mended by the next command, on the VM that runs."""
    assert vms.run("disk", "create", "half", "--size", "64MiB").returncode == 0
    vm_id = vms.seen(name)["vmId"]
    path = vms.home / "disks" / "half" / "record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "owner": vm_id, "owner_name": name}))
    assert listed(vms)["half"]["lease"]["state"] == "available"
    # leased and in the VM's record, and not plugged yet
    path.write_text(json.dumps({**record, "owner": vm_id, "owner_name": name}))
    own = vms.home / "instances" / name / "record.json"
    vm = json.loads(own.read_text())
    attachment = {"disk": "half", "id": record["id"], "lun": 5, "caching": "ReadOnly", "create_option": "Attach"}
    own.write_text(json.dumps({**vm, "data_disks": [*vm["data_disks"], attachment]}))
    vms.vm("show", name)
    assert device_at(vms, name, DATA_CONTROLLER, "5")
    # out of the VM's record, and not unplugged yet
    own.write_text(json.dumps(vm))
    vms.vm("show", name)
    wait_unplugged(vms, name, "5")
    assert vms.run("disk", "delete", "half", "--yes").returncode == 0
    assert not Path(path).exists()


# ---- a power cut -------------------------------------------------------------------------------------------------

#: Where the guest writes: what it then flushes, and what it is only told to be written.
FLUSHED_AT, ACKNOWLEDGED_AT = 2 << 20, 6 << 20
OS_DISK = "os"


def cut_power(vms: Vms, name: str) -> None:
    """The host of a running VM loses its power: what is on each disk then, by its cache mode.

    The VM has a data disk at LUN 0 with the caching None, and gets one for each other mode. It is off afterwards.
    """
    modes = {"0": "None", "2": "ReadOnly", "3": "ReadWrite"}
    for lun, caching in modes.items():
        if lun != "0":
            words = ("--size", "64MiB", "--lun", lun, "--caching", caching, "--name", f"{name}-cut-{lun}")
            vms.vm("disk", "attach-new", name, *words)
    devices = {lun: device_at(vms, name, DATA_CONTROLLER, lun) for lun in modes}
    devices[OS_DISK] = device_at(vms, name, OS_CONTROLLER, "0")
    folder = vms.home / "tmp" / "power-cut"
    folder.mkdir()
    cut = {lun: log_writes(vms, name, lun, folder) for lun in devices}
    for device in devices.values():
        put = f"dd iflag=fullblock of={device} bs=65536 count=1"
        inside(vms, name, f"tr '\\0' '\\001' </dev/zero | {put} seek={FLUSHED_AT >> 16} conv=fsync")
        # written when dd closes the device, and not flushed
        inside(vms, name, f"tr '\\0' '\\002' </dev/zero | {put} seek={ACKNOWLEDGED_AT >> 16}")
    kill_machine(vms, name)
    for lun, (log, after) in cut.items():
        replay(log, after.path)
        caching = modes.get(lun, vms.seen(name)["storageProfile"]["osDisk"]["caching"])
        assert read(after, FLUSHED_AT) == 1, f"{lun} with {caching} has lost what was flushed"
        warned = caching in READ_WRITE_WARNING.partition(",")[0]
        # what is lost is what was there before: nothing, or the master's
        assert (read(after, ACKNOWLEDGED_AT) != 2) == warned, f"{lun} with {caching}"
    shutil.rmtree(folder)
    for lun in ("2", "3"):
        vms.vm("disk", "detach", name, f"{name}-cut-{lun}")
        assert vms.run("disk", "delete", f"{name}-cut-{lun}", "--yes").returncode == 0


def kill_machine(vms: Vms, name: str) -> None:
    """End QEMU at once: asked to end, it would flush its disks."""
    domain = f"goldsmith-{vms.store.instances_label}-{name}"
    os.kill(int(Path(f"/run/libvirt/qemu/{domain}.pid").read_text()), signal.SIGKILL)
    wait_for("the end of the machine", lambda: domain not in vms.domains_on(), SOON)


def log_writes(vms: Vms, name: str, lun: str, folder: Path) -> tuple[Path, Image]:
    """Log from now on what reaches a disk's file. Returns the log, and a copy of the disk as it is now."""
    place = ("0", "0") if lun == OS_DISK else (DATA_CONTROLLER, lun)
    element = next(each for each in xml_disks(vms, name) if _place(each) == place)
    source, driver, below = element.find("source"), element.find("driver"), element.find("backingStore")
    path, node = Path(source.get("file")), source.get("index")
    log = folder / f"{lun}.log"
    log.touch()
    own(log, connection := connect())
    connection.close()
    domain = f"goldsmith-{vms.store.instances_label}-{name}"
    virsh("suspend", domain)
    monitor(domain, "blockdev-add", driver="file", **{"node-name": f"log-{lun}", "filename": str(log)})
    logged = {"node-name": f"logged-{lun}", "file": f"libvirt-{node}-storage", "log": f"log-{lun}"}
    monitor(domain, "blockdev-add", driver="blklogwrites", **logged)
    backing = below.find("source").get("index") if below is not None and below.find("source") is not None else None
    node_options = {
        "driver": driver.get("type"),
        "node-name": f"libvirt-{node}-format",
        "file": f"logged-{lun}",
        "backing": f"libvirt-{backing}-format" if backing else None,
        "cache": {"direct": driver.get("cache") == "directsync", "no-flush": False},
        "discard": driver.get("discard", "ignore"),
        "detect-zeroes": driver.get("detect_zeroes", "off"),
    }
    monitor(domain, "blockdev-reopen", options=[node_options])
    after = folder / f"{lun}.qcow2"
    shutil.copyfile(path, after)
    virsh("resume", domain)
    return log, Image(after, QCOW2)


def monitor(domain: str, command: str, **arguments: object) -> None:
    """A command of QEMU's monitor, which must succeed."""
    text = virsh("qemu-monitor-command", domain, json.dumps({"execute": command, "arguments": arguments}))
    assert "return" in json.loads(text), text


def _place(disk: Any) -> tuple[str, str]:
    address = disk.find("address")
    return address.get("controller", ""), address.get("unit", "")
