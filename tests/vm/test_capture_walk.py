"""The classic walk on the golden master: a VM with a page and a data disk is stopped, started, generalized, captured.

It comes back as a VM of its image, by the real command line; Azure's agent provisions each of them. Sets of VMs
behind an endpoint are in test_deployments.py with small guests; `make campaign-rolling-upgrade` has real ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from pipeline.fabric.certificates import load_key_pair, make_key_pair, read_certificate
from tests.harness import Lab, wait_for
from tests.vms import SOON

#: GiB of the data disk. Its room is reserved, so a host with 75 GiB of free disk can run it with 60.
GIB = int(os.environ.get("GOLDSMITH_DATA_DISK_GIB", "2"))
#: The data disk's size, by which the guest finds it: only Azure's own bus has names by LUN.
SIZE, BYTES = f"{GIB}GiB", GIB << 30
DISK = f"$(lsblk -dnpbo NAME,SIZE | awk '$2 == {BYTES} {{print $1}}')"
MOUNT = f"sudo mount {DISK} /mnt"
#: The port of a web server that the custom data bring, and that the stop of its VM does not lose.
PORT = 8080
PAGE = "this page is from the custom data"
SERVICE = f"""\
#cloud-config
write_files:
- path: /srv/index.html
  content: {PAGE}
- path: /etc/systemd/system/page.service
  content: |
    [Service]
    ExecStart=/usr/bin/python3 -m http.server {PORT} -d /srv
    [Install]
    WantedBy=multi-user.target
runcmd:
- systemctl enable --now page
"""


def shows_its_page(lab: Lab, name: str) -> bool:
    """Whether the web server of a VM answers by `vm connect`."""
    argv = [sys.executable, "-m", "pipeline", "vm", "connect", name, str(PORT)]
    request = "GET / HTTP/1.0\r\n\r\n"
    done = subprocess.run(
        argv, input=request, capture_output=True, text=True, env=lab.environment, timeout=SOON, check=False
    )
    return PAGE in done.stdout


def test_from_a_vm_to_an_image_and_back(golden_build: Lab, tmp_path: Path) -> None:
    lab, key, certificate, data = golden_build, tmp_path / "key", tmp_path / "shop.pem", tmp_path / "data"
    data.write_text(SERVICE)
    certificate.write_bytes(read_certificate(make_key_pair("shop").bundle))
    own = f"/var/lib/waagent/{load_key_pair(certificate.read_bytes()).thumbprint}"
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
        words = ["--ssh-key", f"{key}.pub", "--certificate", str(certificate), "--custom-data", str(data)]
        assert "origin: Running after" in vm("create", "origin", "--image", "debian-12", *words)
        vm("disk", "attach-new", "origin", "--size", SIZE, "--lun", "1", "--caching", "ReadWrite")
        first, *named = ssh(
            "origin",
            f"set -e; sudo mkfs.ext4 -q {DISK}; " + MOUNT + "; echo kept | sudo tee /mnt/file"
            " >/dev/null; sudo umount /mnt; echo mark | sudo tee /etc/captured >/dev/null;"
            f" test $(sudo openssl pkey -pubout -in {own}.prv | sha256sum | cut -c-64) ="
            f" $(sudo openssl x509 -noout -pubkey -in {own}.crt | sha256sum | cut -c-64);"
            " cat /etc/machine-id; hostname; id -un",
        ).splitlines()[-3:]
        assert named == ["origin", "azureuser"]
        wait_for("its page", lambda: shows_its_page(lab, "origin"), SOON)
        vm("stop", "origin")
        assert json.loads(vm("show", "origin", "--json"))["status"] == "Stopped"
        vm("start", "origin")
        wait_for("its page after a start", lambda: shows_its_page(lab, "origin"), SOON)
        assert ssh("origin", "cat /etc/machine-id") == first
        assert "at rest" in vm("generalize", "origin", code=2), "one that runs is not read"
        vm("generalize", "origin", "--run")
        assert codes("origin") == ["ProvisioningState/succeeded", "OSState/generalized", "PowerState/stopped"]
        assert "generalized" in vm("start", "origin", code=2)
        vm("capture", "origin", "--as", "captured", "--generation", "2")
        assert codes("origin")[1:] == ["OSState/generalized", "PowerState/stopped"], "it stays as it was"
        vm("deallocate", "origin", "--force")
        assert codes("origin")[-1] == "PowerState/deallocated"
        assert json.loads(vm("show", "origin", "--json"))["status"] == "Stopped (deallocated)"
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
            "copy",
            f"sudo test ! -e {own}.prv || exit 9; " + MOUNT + "; cat /etc/machine-id /mnt/file; hostname",
        ).split()
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
