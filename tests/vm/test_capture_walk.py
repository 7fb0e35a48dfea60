"""The classic walk: a VM with a data disk is generalized and captured, and comes back as VMs of its image.

At its end two of them are a set behind one endpoint, as on the last page of the old portal, and one of them fails.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import urllib.request
from pathlib import Path

from pipeline.fabric.certificates import load_key_pair, make_key_pair, read_certificate
from pipeline.guest.access import free_port
from tests.harness import Lab, wait_for
from tests.open_loop import OpenLoop
from tests.vms import SOON

#: GiB of the data disk. Its room is reserved, so a host with 75 GiB of free disk can run it with 60.
GIB = int(os.environ.get("GOLDSMITH_DATA_DISK_GIB", "2"))
#: The data disk's size, by which the guest finds it: only Azure's own bus has names by LUN.
SIZE, BYTES = f"{GIB}GiB", GIB << 30
DISK = f"$(lsblk -dnpbo NAME,SIZE | awk '$2 == {BYTES} {{print $1}}')"
MOUNT = f"sudo mount {DISK} /mnt"
#: The web server that the image gets: its page is the name of its machine.
PAGE = """\
import http.server, socket
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        page = socket.gethostname().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)
http.server.ThreadingHTTPServer(("", 80), Page).serve_forever()
"""
UNIT = """\
[Service]
ExecStart=/usr/bin/python3 /usr/local/lib/page.py
[Install]
WantedBy=multi-user.target
"""
#: Where the image has them.
SITE = {"/usr/local/lib/page.py": PAGE, "/etc/systemd/system/page.service": UNIT}
#: Seconds of a failed domain in which each request must be answered, and requests a second.
FAILED, RATE = 10, 5


def install_site() -> str:
    """Commands that put the web server into a guest."""
    parts = [
        f"echo {base64.b64encode(text.encode()).decode()} | base64 -d | sudo tee {path} >/dev/null"
        for path, text in SITE.items()
    ]
    return "; ".join([*parts, "sudo systemctl -q enable page.service"])


def test_from_a_vm_to_an_image_and_back(golden_build: Lab, tmp_path: Path) -> None:
    lab, key, certificate = golden_build, tmp_path / "key", tmp_path / "shop.pem"
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
        words = ["--ssh-key", f"{key}.pub", "--certificate", str(certificate)]
        vm("create", "origin", "--image", "debian-12", *words)
        vm("disk", "attach-new", "origin", "--size", SIZE, "--lun", "1", "--caching", "ReadWrite")
        first = ssh(
            "origin",
            f"set -e; sudo mkfs.ext4 -q {DISK}; " + MOUNT + "; echo kept | sudo tee /mnt/file"
            " >/dev/null; sudo umount /mnt; echo mark | sudo tee /etc/captured >/dev/null; " + install_site() + ";"
            f" test $(sudo openssl pkey -pubout -in {own}.prv | sha256sum | cut -c-64) ="
            f" $(sudo openssl x509 -noout -pubkey -in {own}.crt | sha256sum | cut -c-64); cat /etc/machine-id",
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
            "copy",
            f"sudo test ! -e {own}.prv || exit 9; " + MOUNT + "; cat /etc/machine-id /mnt/file; hostname",
        ).split()
        assert second != first and content == "kept" and name == "copy"
        ssh("copy", "echo changed | sudo tee -a /mnt/file >/dev/null; sudo umount /mnt; sync")
        vm("reimage", "copy", "--force")
        third, *kept = ssh("copy", MOUNT + "; cat /etc/machine-id /mnt/file /etc/captured; hostname").split()
        assert kept == ["kept", "changed", "mark", "copy"], "the data disk stays, the OS disk is the image's"
        assert third not in (first, second)
        delete("copy")
        check_endpoint(lab, f"{key}.pub")
    finally:
        lab.run("endpoint", "remove", "web")
        lab.run("set", "delete", "shop", "--yes")
        for name in ("origin", "copy"):
            delete(name)
    assert json.loads(vm("list", "--json")) == []


def check_endpoint(lab: Lab, public_key: str) -> None:
    """Two VMs of the image in one set behind one endpoint; both show the page, and one alone after a failure."""
    if GIB > 10:
        return  # the disks of two VMs have no room beside a large one

    def run(*words: str) -> str:
        done = lab.run(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def states() -> dict[str, str]:
        found = json.loads(run("endpoint", "show", "web", "--json"))
        return {each["vm"]: each["state"] for each in found["backends"]}

    words = ["--image", "captured", "--ssh-key", public_key, "--set", "shop", "--size", "Standard_B1s"]
    run("vm", "create", "web", *words, "--count", "2", "--resource-disk", "none")
    port = free_port()
    words = ["--protocol", "http", "--public", str(port), "--private", "80", "--set", "shop", "--probe", "http:/"]
    run("endpoint", "add", "web", *words)
    wait_for("both VMs", lambda: set(states().values()) == {"up"}, SOON)
    url = f"http://127.0.0.1:{port}/"
    pages = {urllib.request.urlopen(url, timeout=SOON).read().decode() for _ in range(4)}
    assert pages == {"web-0", "web-1"}
    assert run("set", "fail-domain", "shop", "0").startswith("web-0: Stopped")
    wait_for("the probe's interval", lambda: states()["web-0"] in ("down", "out"), SOON)
    with OpenLoop(url, RATE) as client:
        wait_for("some requests", lambda: client.pages.total() + len(client.failed) >= RATE * FAILED, SOON)
    assert client.failed == [] and set(client.pages) == {"web-1"}
