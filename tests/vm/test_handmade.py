"""A disk that somebody prepared by hand becomes a master; what a master carries; a clone started by hand."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from pipeline.cache.digests import chunk_digests
from pipeline.cli.environment import signing_key
from pipeline.evidence import signing
from tests.campaigns.guest_faults import edited
from tests.harness import Lab, rotation, wait_for

VIRSH = ["virsh", "-q", "-c", "qemu:///system"]


def test_what_the_golden_master_carries(golden_build: Lab, master: Path, tmp_path: Path) -> None:
    """The bill names what dpkg on the shipped disk names; the host's key signed; another key did not."""
    bill = json.loads((master.parent / "sbom.cdx.json").read_text())
    rows = json.loads(golden_build.run("inspect", str(master), "--list", "packages", "--json").stdout)
    assert len(rows) > 200
    assert {(c["name"], c["version"]) for c in bill["components"]} == {(r["package"], r["version"]) for r in rows}
    template = json.loads((master.parent / "template.json").read_text())["metadata"]
    assert template["storageProfile"]["osDisk"]["osState"] == "Generalized"
    assert (
        subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=master.parent, check=False).returncode == 0
    )
    which = f"debian-12@{master.parent.name}"
    mine = signing.public_path(signing_key())
    assert golden_build.run("gallery", "verify", which, "--key", str(mine)).returncode == 0
    other = signing.make(tmp_path / "other.key")
    refused = golden_build.run("gallery", "verify", which, "--key", str(signing.public_path(other.path)))
    assert refused.returncode == 1
    assert "no trusted key has signed it" in refused.stdout


def test_a_clone_by_hand_from_the_domain(master: Path) -> None:
    """What `virsh desc` says, done: the clone comes to its login, the master is only read."""
    before = chunk_digests(master).tree
    domain = master.parent / "domain.xml"
    text = domain.read_text()
    words = re.search(r"qemu-img create -f qcow2 -F vpc -b (\S+) (\S+)", text)
    assert words is not None and words[1] == str(master)
    clone, log = Path(words[2]), Path(words[2]).with_suffix(".log")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "vpc", "-b", words[1], words[2]], check=True)
    log.unlink(missing_ok=True)
    name = "debian-12-clone"
    try:
        subprocess.run([*VIRSH, "create", str(domain)], check=True)
        wait_for("the login prompt", lambda: log.exists() and b"login:" in log.read_bytes(), 300)
    finally:
        subprocess.run([*VIRSH, "destroy", name], check=False)
        subprocess.run([*VIRSH, "undefine", "--nvram", name], check=False, capture_output=True)
        clone.unlink(missing_ok=True)
        log.unlink(missing_ok=True)
    assert chunk_digests(master).tree == before


@pytest.fixture(scope="module")
def handmade(master: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The disk as an operator may bring it: a qcow2, generalized outside goldsmith."""
    disk = tmp_path_factory.mktemp("handmade") / "prepared.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "vpc", "-O", "qcow2", master, disk], check=True)
    return disk


def test_a_disk_that_is_not_generalized_is_refused(lab: Lab, master: Path, tmp_path: Path) -> None:
    local = tmp_path / "id"
    local.write_text("0123456789abcdef0123456789abcdef\n")
    used = edited(master, tmp_path / "used.vhd", ("rm /etc/machine-id", f"write {local} /etc/machine-id"))
    done = lab.run("capture", str(used), "--as", "unready", "--generation", "1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "machine-id" in done.stdout + done.stderr
    assert lab.run("gallery", "show", "unready").returncode == 1
    refused = json.loads((lab.home / "gallery/unready/refused.json").read_text())
    assert refused["gate"] == "inspect"
    assert lab.leftovers() == []


@pytest.mark.skipif(rotation(4) != 0, reason="a turn in four; test_capture_walk.py captures a VM's disk in each")
def test_a_disk_prepared_by_hand_becomes_golden(lab: Lab, handmade: Path) -> None:
    before = handmade.read_bytes()[:4096], handmade.stat().st_size
    done = lab.run("capture", str(handmade), "--as", "byhand", "--generation", "1", "--summary", "by hand")
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = lab.manifest("byhand")
    assert (manifest["state"], manifest["agent"], manifest["summary"]) == ("proven", "outside", "by hand")
    assert [unit["stage"] for unit in manifest["inputs"]] == ["acquire", "convert", "inspect", "prove"]
    assert set(manifest["prove"]) == {"gen1"}
    assert lab.run("gallery", "verify", "byhand").returncode == 0
    assert (handmade.read_bytes()[:4096], handmade.stat().st_size) == before
    assert lab.leftovers() == []


def test_an_image_that_a_definition_makes_is_not_captured(lab: Lab, handmade: Path) -> None:
    lab.write("images/defined.yaml", "goldsmith: 1\nsource: {master: debian-12}\n")
    done = lab.run("capture", str(handmade), "--as", "defined")
    assert done.returncode == 2
    assert "image defined is defined in images/defined.yaml" in done.stderr
