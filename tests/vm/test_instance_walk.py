"""From the golden master to a running web server, by the real command line: Azure's agent provisions it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.harness import Lab, wait_for

#: Seconds for an emulated guest on a busy host to start its services.
SOON = 300.0
PORT = 8080
_SERVICE = f"""\
#cloud-config
write_files:
- path: /srv/index.html
  content: this page is from the custom data
- path: /etc/systemd/system/page.service
  content: |
    [Service]
    ExecStart=/usr/bin/python3 -m http.server {PORT} -d /srv
    [Install]
    WantedBy=multi-user.target
runcmd:
- systemctl enable --now page
"""


def walk(lab: Lab, image: str, folder: Path) -> None:
    """Create, look at its page, stop, start, delete: it stays the same machine."""
    key, data = folder / "key", folder / "data"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    data.write_text(_SERVICE)

    def vm(*words: str) -> str:
        done = lab.run("vm", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def page() -> bool:
        argv = [sys.executable, "-m", "pipeline", "vm", "connect", "walk", str(PORT)]
        request = "GET / HTTP/1.0\r\n\r\n"
        done = subprocess.run(
            argv, input=request, capture_output=True, text=True, env=lab.environment, timeout=SOON, check=False
        )
        return "this page is from the custom data" in done.stdout

    try:
        out = vm("create", "walk", "--image", image, "--ssh-key", f"{key}.pub", "--custom-data", str(data))
        assert "walk: Running after" in out
        first = vm("ssh", "walk", "-i", str(key), "cat /etc/machine-id; hostname; id -un").split()
        assert first[1:] == ["walk", "azureuser"]
        wait_for("its page", page, SOON)
        vm("stop", "walk")
        assert json.loads(vm("show", "walk", "--json"))["status"] == "Stopped"
        vm("start", "walk")
        wait_for("its page after a start", page, SOON)
        assert vm("ssh", "walk", "-i", str(key), "cat /etc/machine-id").split() == first[:1]
        vm("deallocate", "walk", "--force")
        assert json.loads(vm("show", "walk", "--json"))["status"] == "Stopped (deallocated)"
    finally:
        lab.run("vm", "delete", "walk", "--yes")
    assert json.loads(vm("list", "--json")) == []


def test_from_the_golden_master_to_a_page(golden_build: Lab, tmp_path: Path) -> None:
    walk(golden_build, "debian-12", tmp_path)
