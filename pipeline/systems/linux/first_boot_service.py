"""Puts a definition's first-boot adapter into its master: a unit, the program that it runs, and the image's own."""

from __future__ import annotations

import base64
import json
from importlib import resources

from pipeline.definition import FirstBoot

#: Where it lives in the guest.
FOLDER = "/usr/local/lib/first-boot"
UNIT = "first-boot.service"
#: Seconds beyond the adapter's own deadline, for its report.
_REPORT = 90

_SERVICE = """\
[Unit]
Description=The configuration of this machine's first boot
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/python3 {folder}/first_boot.py
TimeoutStartSec={seconds}
StandardOutput=journal+console
StandardError=journal+console

[Install]
WantedBy=multi-user.target
"""


def install_script(first_boot: FirstBoot) -> str:
    """Shell that installs the adapter in a guest at rest; it first runs when a clone boots.

    Raises OSError when the definition's own program cannot be read.
    """
    inside = resources.files("pipeline.systems.linux.inside")
    settings = {"source": first_boot.source, "deadline": first_boot.deadline}
    files = {
        f"{FOLDER}/first_boot.py": inside.joinpath("first_boot.py").read_bytes(),
        f"{FOLDER}/first-boot.json": json.dumps(settings).encode() + b"\n",
        f"{FOLDER}/apply": first_boot.apply.read_bytes(),
        f"/etc/systemd/system/{UNIT}": _SERVICE.format(folder=FOLDER, seconds=first_boot.deadline + _REPORT).encode(),
    }
    lines = ['say "the first-boot adapter"', f"mkdir -p {FOLDER}"]
    for path, content in files.items():
        mode = "0755" if path.endswith("/apply") else "0644"
        lines += [f"base64 -d >{path} <<'EOF'", base64.encodebytes(content).decode() + "EOF", f"chmod {mode} {path}"]
    lines += [
        "rm -rf /var/lib/first-boot",
        f"ln -sf /etc/systemd/system/{UNIT} /etc/systemd/system/multi-user.target.wants/{UNIT}",
    ]
    return "\n".join(lines)
