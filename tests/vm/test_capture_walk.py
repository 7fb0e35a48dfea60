"""The classic walk: a VM with a data disk is generalized and captured, and comes back as VMs of its image."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.harness import Lab

#: GiB of the data disk. Its room is reserved, so a host with 75 GiB of free disk can run it with 60.
GIB = int(os.environ.get("GOLDSMITH_DATA_DISK_GIB", "2"))
#: The data disk's size, by which the guest finds it: only Azure's own bus has names by LUN.
SIZE, BYTES = f"{GIB}GiB", GIB << 30
DISK = f"$(lsblk -dnpbo NAME,SIZE | awk '$2 == {BYTES} {{print $1}}')"
MOUNT = f"sudo mount {DISK} /mnt"


def test_from_a_vm_to_an_image_and_back(golden_build: Lab, tmp_path: Path) -> None:
    lab, key = golden_build, tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)

    def vm(*words: str, code: int = 0) -> str:
        done = lab.run("vm", *words)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    def ssh(name: str, command: str) -> str:
        return vm("ssh", name, "-i", str(key), command).strip()

    def codes(name: str) -> list[str]:
        view = json.loads(vm("show", name, "--json"))["instanceView"]
        return [status["code"] for status in view["statuses"]]

    def delete(name: str) -> None:
        """Delete a VM and all disks that nobody holds then, which are its own data disks."""
        lab.run("vm", "delete", name, "--yes")
        for disk in json.loads(lab.run("disk", "list", "--json").stdout):
            lab.run("disk", "delete", disk["name"], "--yes")

    try:
        vm("create", "origin", "--image", "debian-12", "--ssh-key", f"{key}.pub")
        vm("disk", "attach-new", "origin", "--size", SIZE, "--lun", "1", "--caching", "ReadWrite")
        first = ssh(
            "origin",
            f"set -e; sudo mkfs.ext4 -q {DISK}; " + MOUNT + "; echo kept | sudo tee /mnt/file"
            " >/dev/null; sudo umount /mnt; echo mark | sudo tee /etc/captured >/dev/null; cat /etc/machine-id",
        ).splitlines()[-1]
        assert "at rest" in vm("generalize", "origin", code=2), "one that runs is not read"
        vm("generalize", "origin", "--run")
        assert codes("origin") == ["ProvisioningState/succeeded", "OSState/generalized", "PowerState/stopped"]
        assert "generalized" in vm("start", "origin", code=2)
        vm("capture", "origin", "--as", "captured", "--generation", "2")
        assert codes("origin")[1:] == ["OSState/generalized", "PowerState/stopped"], "it stays as it was"
        vm("deallocate", "origin", "--force")
        assert codes("origin")[-1] == "PowerState/deallocated"
        # The image does not need the VM that it came from, and the host has room for one of them.
        delete("origin")

        template = Path(lab.master("captured")["path"]).parent / "template.json"
        values = {
            "vmName": "copy",
            "vmSize": "Standard_B1ms",
            "adminPublicKey": Path(f"{key}.pub").read_text(),
            "galleryName": "any",
            "subnetId": "any",
        }
        parameters = tmp_path / "parameters.json"
        parameters.write_text(json.dumps({"parameters": {name: {"value": value} for name, value in values.items()}}))
        vm("create", "--template", str(template), "--parameters", str(parameters))
        second, content, name = ssh(
            "copy", MOUNT + "; cat /etc/machine-id /mnt/file; hostname; cat /etc/captured"
        ).split()[:3]
        assert second != first and content == "kept" and name == "copy"
        ssh("copy", "echo changed | sudo tee -a /mnt/file >/dev/null; sudo umount /mnt; sync")
        vm("reimage", "copy", "--force")
        third, *kept = ssh("copy", MOUNT + "; cat /etc/machine-id /mnt/file /etc/captured; hostname").split()
        assert kept == ["kept", "changed", "mark", "copy"], "the data disk stays, the OS disk is the image's"
        assert third not in (first, second)
    finally:
        for name in ("origin", "copy"):
            delete(name)
    assert json.loads(vm("list", "--json")) == []
