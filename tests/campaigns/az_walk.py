"""The older walk by two clients of Azure on real guests: `make campaign-az-walk`, some five minutes a client.

A VM of the golden master gets a data disk, is deprovisioned inside over SSH, stopped, generalized, captured,
deallocated and deleted; a clone of the new image then has what was on both disks, and an identity of its own.
The facade is `goldsmith serve azure`, as a user starts it.
"""

from __future__ import annotations

import base64
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.facade.home import Home
from pipeline.facade.ids import GROUP, MACHINES, resource_id
from pipeline.guest.access import free_port
from pipeline.systems.linux.scripts import generalize_script
from tests.azure_clients import CommandLine, Library, Walker, find_az
from tests.harness import Lab, Say, wanted

#: The data disk's size, by which the guest finds it: only Azure's own bus has names by LUN.
GIBIBYTES = 2
DISK = f"$(lsblk -dnpbo NAME,SIZE | awk '$2 == {GIBIBYTES << 30} {{print $1}}')"
MOUNT = f"sudo mount {DISK} /mnt"
#: Fields that Azure documents for a VM: https://learn.microsoft.com/rest/api/compute/virtual-machines/get
FIELDS = {
    *("id", "name", "type", "location", "tags", "vmId", "provisioningState", "timeCreated"),
    *("hardwareProfile", "storageProfile", "osProfile", "networkProfile", "diagnosticsProfile"),
}
#: And for a data disk of one.
DISK_FIELDS = {"lun", "name", "createOption", "caching", "diskSizeGB", "managedDisk", "deleteOption", "toBeDetached"}


class Guest:
    """The inside of VMs, over SSH."""

    def __init__(self, lab: Lab, key: Path) -> None:
        self._lab = lab
        self._key = key

    def run(self, vm: str, command: str) -> list[str]:
        done = self._lab.run("vm", "ssh", vm, "-i", str(self._key), command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.split()

    def template(self, image: str) -> Path:
        """The template of an image's golden version."""
        return Path(self._lab.master(image)["path"]).with_name("template.json")

    def deprovision(self, vm: str) -> None:
        """As the user of an Azure VM does, with what goldsmith's checks want beside `waagent -deprovision+user`."""
        script = base64.b64encode(generalize_script("waagent").encode()).decode()
        # cloud-init gave root the user's key, behind a command that refuses it; waagent leaves it there
        self.run(vm, f"sudo rm -f /root/.ssh/authorized_keys; echo {script} | base64 -d | sudo sh -s")


def walk(client: Walker, guest: Guest, group: str, names: tuple[str, str, str], public_key: str) -> Iterator[str]:
    """The steps, each by its name once it is done. `names`: the VM, its clone, the image."""
    origin, copy, image = names
    client.make_group(group)
    client.create(group, origin, "debian-12", public_key)
    shown = client.show(group, origin)
    assert set(shown) >= FIELDS, FIELDS - set(shown)
    assert shown["provisioningState"] == "Succeeded" and shown["id"] == resource_id(group, MACHINES, origin)
    assert client.codes(group, origin) == ["ProvisioningState/succeeded", "PowerState/running"]
    yield "create"
    client.attach_new(group, origin, f"{origin}-data", GIBIBYTES, 1)
    (row,) = client.show(group, origin)["storageProfile"]["dataDisks"]
    assert set(row) >= DISK_FIELDS, DISK_FIELDS - set(row)
    assert (row["lun"], row["diskSizeGB"], row["caching"]) == (1, GIBIBYTES, "ReadWrite")
    yield "attach"
    first = guest.run(
        origin,
        f"set -e; sudo mkfs.ext4 -q {DISK}; {MOUNT}; echo kept | sudo tee /mnt/file >/dev/null; sudo umount /mnt; "
        "echo mark | sudo tee /etc/captured >/dev/null; cat /etc/machine-id",
    )[-1]
    guest.deprovision(origin)
    yield "deprovision"
    client.do("stop", group, origin)
    assert client.codes(group, origin)[-1] == "PowerState/stopped"
    yield "stop"
    client.do("generalize", group, origin)
    states = client.codes(group, origin)
    assert states == ["ProvisioningState/succeeded", "OSState/generalized", "PowerState/stopped"], states
    yield "generalize"
    client.capture(group, origin, image)
    yield "capture"
    assert client.codes(group, origin) == states, "it stays as it was"
    client.do("deallocate", group, origin)
    assert client.codes(group, origin)[-1] == "PowerState/deallocated"
    yield "deallocate"
    client.delete(group, origin)
    client.clone(group, copy, image, public_key, guest.template(image))
    second, content, host, mark = guest.run(
        copy, f"{MOUNT}; cat /etc/machine-id /mnt/file; hostname; cat /etc/captured"
    )
    assert (content, host, mark) == ("kept", copy, "mark") and second != first
    yield "clone"
    client.empty(group)
    yield "delete"


@contextmanager
def facade(lab: Lab) -> Iterator[tuple[Home, str]]:
    """`goldsmith serve azure`, as a user starts it: its folder and its address."""
    port = free_port()
    base = f"https://localhost:{port}"
    server = lab.start("serve", "azure", "--port", str(port))
    assert server.stdout is not None
    try:
        line = server.stdout.readline()
        assert base in line, line
        yield Home(lab.home / "facade"), base
    finally:
        server.terminate()
        server.wait(60)


def campaign(lab: Lab, master: Path, say: Say) -> list[dict[str, object]]:
    """A row for each client. `master` is the golden master of debian-12 in the lab's store."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name, facade(lab) as (home, base):
        folder = Path(name)
        key = folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        makers: dict[str, tuple[str, Callable[[], Any]]] = {
            "azure-mgmt-compute": (GROUP, lambda: Library(home, base)),
            "az": ("walk", lambda: CommandLine(str(find_az()), home, base, folder / "az")),
        }
        for client in wanted(makers):
            if client == "az" and find_az() is None:
                say(
                    {
                        "client": client,
                        "ok": True,
                        "steps": "skipped: az not installed (tools/setup.sh az installs it)",
                    }
                )
                continue
            group, make = makers[client]
            label = "azure-library" if client != "az" else "az"
            guest = Guest(lab, key)
            row = _walk_of(client, make, guest, group, label, key.with_suffix(".pub").read_text().strip())
            rows.append(row)
            say(row)
    assert json.loads(lab.run("vm", "list", "--json").stdout) == []
    return rows


def _walk_of(
    client: str, make: Callable[[], Walker], guest: Guest, group: str, label: str, public_key: str
) -> dict[str, object]:
    began = last = time.monotonic()
    steps, error = [], ""
    try:
        for step in walk(make(), guest, group, (f"{label}-origin", f"{label}-copy", f"{label}-image"), public_key):
            steps.append(f"{step} {time.monotonic() - last:.0f} s")
            last = time.monotonic()
    except Exception as found:  # the next client walks all the same
        error = f"{type(found).__name__}: {found}"[:600]
    return {
        "client": client,
        "ok": not error,
        "steps": ", ".join(steps),
        "error": error,
        "seconds": round(time.monotonic() - began),
    }
