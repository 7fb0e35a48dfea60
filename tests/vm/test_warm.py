"""A warm start leaks nothing: two masters from one save, and one cold, differ by what they drew and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from pipeline.base.disk_format import DEFAULT_OUTPUT
from pipeline.disk import open_disk
from pipeline.nightly.rebuild_check import differences, tree
from pipeline.systems import registry
from tests.campaigns.trees import sectors_with, spellings
from tests.harness import Lab, tenth

DEFINITION = """\
goldsmith: 1
summary: a guest that says who it is, and mints what must be its own
os: linux
source: {master: debian-12@golden}
machine: {cpus: 1}
disk: 9 GiB
steps:
  - script: scripts/confess.sh
  - script: scripts/mint.sh
prove: [gen1]
"""
#: A guest with this says at every boot, on its console, what no other guest may ship.
CONFESS = """\
#!/bin/sh
set -e
cat >/usr/local/sbin/confess <<'END'
#!/bin/sh
cat /proc/sys/kernel/random/uuid >/run/canary
{
    echo "confess canary=$(cat /run/canary)"
    echo "confess machine=$(cat /etc/machine-id)"
    echo "confess boot=$(cat /proc/sys/kernel/random/boot_id)"
    for card in /sys/class/net/e*; do echo "confess mac=$(cat "$card/address")"; done
    echo "confess leases=$(ls /run/systemd/netif/leases 2>/dev/null | wc -l)"
} >/dev/ttyS0
END
chmod 755 /usr/local/sbin/confess
cat >/etc/systemd/system/confess.service <<'END'
[Unit]
DefaultDependencies=no
After=sysinit.target
Before=basic.target
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/confess
[Install]
WantedBy=basic.target
END
systemctl --quiet enable confess.service
"""
MINT = """\
#!/bin/sh
set -e
mkdir -p /etc/minted
cat /proc/sys/kernel/random/uuid >/etc/minted/uuid
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n' >/etc/minted/random
ssh-keygen -q -t ed25519 -N '' -C '' -f /etc/minted/key
rm /etc/minted/key
sha256sum /etc/machine-id >/etc/minted/machine
"""


@pytest.fixture(autouse=True)
def project(lab: Lab) -> None:
    lab.write("images/minted.yaml", DEFINITION)
    lab.write("scripts/confess.sh", CONFESS)
    lab.write("scripts/mint.sh", MINT)


def build(lab: Lab, *words: str) -> tuple[Path, dict[str, object]]:
    """Build as far as the VHD; a link to it that outlives its layer, and the run's record."""
    done = lab.run("build", "minted", *words, "--until", "convert")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(lab.run("plan", "minted", *[w for w in words if w == "--warm"], "--json").stdout)
    key = next(row["key"] for row in rows if row["stage"] == "convert")
    record = lab.last_run("minted")
    kept = lab.folder / f"{record['id']}.vhd"
    os.link(lab.home / "layers" / key / "disk.vhd", kept)
    return kept, record


def nobody_has_entered(lab: Lab, key: str) -> None:
    """The disk of a save has no user, no key and no network of any build, though the layer below it has."""
    folder = lab.home / "layers" / key
    with open_disk(folder / "disk.qcow2", "qcow2", allow_backing_within=lab.home) as disk:
        assert "goldsmith-build" not in disk.root.text("/etc/passwd")
        assert not disk.root.exists("/home/goldsmith-build")
        assert not [name for name in disk.root.listdir("/etc/ssh") if name.startswith("ssh_host_")]
        assert not [name for name in disk.root.listdir("/etc/systemd/network") if "goldsmith" in name]
    below = json.loads((folder / "record.json").read_text())["image"]["backing"]
    with open_disk(Path(below["path"]), below["format"], allow_backing_within=lab.home) as disk:
        assert "goldsmith-build" in disk.root.text("/etc/passwd")


def minted(path: Path, folder: Path) -> dict[str, str]:
    """What the step minted, read off the shipped disk by another tool."""
    start = subprocess.run(["sgdisk", "-i", "1", path], capture_output=True, text=True, check=True).stdout
    offset = int(start.split("First sector: ")[1].split()[0]) * 512
    found = {}
    for name in ("uuid", "random", "key.pub", "machine"):
        copy = folder / name
        command = f"dump /etc/minted/{name} {copy}"
        subprocess.run(["debugfs", "-R", command, f"{path}?offset={offset}"], capture_output=True, check=True)
        found[name] = copy.read_text()
    return found


def stays_a_candidate(lab: Lab) -> None:
    """The warm build to its end: proven, but not golden."""
    done = lab.run("build", "minted", "--warm")
    assert done.returncode == 0, done.stdout + done.stderr
    newest = json.loads(lab.run("gallery", "list", "minted", "--json").stdout)[-1]
    assert newest["channels"] == ["candidate"]
    assert json.loads((Path(newest["path"]).parent / "manifest.json").read_text())["start"] == "warm"


def test_a_warm_start_leaks_nothing(lab: Lab, tmp_path: Path) -> None:
    done = lab.run("build", "minted", "--until", "1")
    assert done.returncode == 0, done.stdout + done.stderr

    first, run = build(lab, "--warm")
    assert "warm" in run, "the guest was not restored from a save"
    saved = (Path(str(run["folder"])) / "saved-serial.log").read_text(errors="replace")
    confessed = re.findall(r"confess (\w+)=(\S+)", saved)
    assert {name for name, _ in confessed} == {"canary", "machine", "boot", "mac", "leases"}
    assert ("leases", "0") in confessed and "Secure Shell" not in saved
    nobody_has_entered(lab, str(run["warm"]["save"]))  # type: ignore[index]
    second, again = build(lab, "--warm", "--from", "2")
    assert again["warm"]["save"] == run["warm"]["save"], "the second build has another save"  # type: ignore[index]
    stays_a_candidate(lab)
    cold, _ = build(lab, "--from", "2")

    disks = {"first": first, "second": second, "cold": cold}
    own = {name: minted(path, tmp_path) for name, path in disks.items()}
    for what in ("uuid", "random", "key.pub", "machine"):
        assert len({own[name][what] for name in disks}) == len(disks), f"two guests have minted the same {what}"

    needles: dict[bytes, str] = {}
    for name, value in confessed:
        if name in ("canary", "machine", "boot", "mac"):
            digits = value.replace("-", "").replace(":", "")
            for secret in (value.encode(), digits.encode(), bytes.fromhex(digits)):
                needles |= dict.fromkeys(spellings(secret), f"{name} {value}")
    for name in ("first", "second"):
        found = sectors_with(disks[name], needles)
        assert not found, f"{name}: " + ", ".join(f"{needles[needle]} as {needle!r}" for needle in found)

    trees = {name: tree(path, DEFAULT_OUTPUT.key) for name, path in disks.items()}
    for name in ("second", "cold"):
        assert differences(trees["first"], trees[name], [*registry.get("linux").may_differ, "/etc/minted/*"]) == []
    for path in disks.values():
        path.unlink()


@pytest.mark.parametrize("damage", tenth(["torn", "gone"]))
def test_a_save_that_cannot_be_restored_costs_a_cold_boot_and_a_line(damage: str, lab: Lab) -> None:
    for path in lab.home.glob("layers/*/record.json"):
        memory, record = path.parent / "memory.save", json.loads(path.read_text())
        if memory.exists() and record["name"] == "minted":
            if damage == "gone":
                memory.unlink()
                continue
            memory.chmod(0o644)
            os.truncate(memory, 1 << 20)
            # for libvirt to find: what goldsmith itself would see is made to agree
            record["seals"][memory.name][:2] = [1 << 20, memory.stat().st_mtime_ns]
            path.write_text(json.dumps(record))
    done = lab.run("build", "minted", "--warm", "--from", "2", "--until", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("boots cold") == 1
    assert "warm" not in lab.last_run("minted")
    # the damaged save was dropped: the next build makes another
    done = lab.run("build", "minted", "--warm", "--from", "2", "--until", "2")
    assert done.returncode == 0 and "warm" in lab.last_run("minted")
