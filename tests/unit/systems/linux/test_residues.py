"""What a distribution adds to generalize: its own lines run in a root of its own, with its programs played."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.systems import registry
from pipeline.systems.linux.residues import Residues, joined
from pipeline.systems.linux.scripts import generalize_script
from pipeline.systems.linux.system import LinuxSystem
from tests.tools import needs_tool

CLOUD_INIT = "# Created by cloud-init automatically, do not edit.\n#\nBOOTPROTO=dhcp\n"
DATASOURCE = "# This file is generated from information provided by the datasource.  Changes\nauto eth0\n"
#: The programs of each distribution that are played, files that must go, and files that must stay.
FAMILIES: dict[str, tuple[dict[str, str], dict[str, str], dict[str, str]]] = {
    "rhel": (
        {"dnf": 'echo "dnf $*" >>/called'},
        {
            "var/cache/dnf/updates/a.solv": "x",
            "etc/NetworkManager/system-connections/cloud-init-eth0.nmconnection": "x",
            "etc/sysconfig/network-scripts/ifcfg-eth0": CLOUD_INIT,
            "root/anaconda-ks.cfg": "x",
        },
        {
            "etc/NetworkManager/system-connections/mine.nmconnection": "x",
            "etc/sysconfig/network-scripts/ifcfg-eth1": "DEVICE=eth1\n",
        },
    ),
    "suse": (
        {
            "zypper": 'echo "zypper $*" >>/called',
            "snapper": 'case "$*" in *list*) '
            'printf "%s\\n" number,default,active 0,no,no 1,yes,yes 2,no,no 3,no,no ;; '
            '*) echo "snapper $*" >>/called ;; esac',
        },
        {
            "var/cache/zypp/raw/a.xml": "x",
            "var/lib/zypp/AnonymousUniqueId": "x",
            "var/lib/wicked/lease-eth0-dhcp-ipv4.xml": "x",
            "etc/sysconfig/network/ifcfg-eth0": CLOUD_INIT,
        },
        {"etc/sysconfig/network/ifcfg-eth1": "BOOTPROTO=dhcp\n", "etc/snapper/configs/root": "x"},
    ),
    "alpine": (
        {"apk": 'echo "apk $*" >>/called'},
        {
            "var/cache/apk/APKINDEX.1.tar.gz": "x",
            "var/lib/seedrng/seed.credit": "x",
            "var/lib/dhcpcd/eth0.lease": "x",
        },
        {"var/lib/dhcpcd/other": "x"},
    ),
}  # fmt: skip


def families() -> dict[str, LinuxSystem]:
    return {each.name: each for each in registry.all_systems() if isinstance(each, LinuxSystem)}


def run_in_root(root: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script by /bin/sh in a root of its own, with the host's programs and those below /opt before them."""
    for name in ("usr", "dev", "opt"):
        (root / name).mkdir(exist_ok=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    binds = " && ".join(f"mount --rbind /{name} {root}/{name}" for name in ("usr", "dev"))
    enter = f"{binds} && exec chroot {root} /bin/sh -eu -c '. /script'"
    (root / "script").write_text(f"PATH=/opt:/usr/sbin:/usr/bin\nsay() {{ :; }}\n{script}\n")
    return subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", enter], capture_output=True, text=True, check=False
    )


def may_unshare() -> bool:
    done = subprocess.run(["unshare", "--mount", "--map-root-user", "true"], capture_output=True, check=False)
    return done.returncode == 0


def plant(root: Path, programs: dict[str, str], files: dict[str, str]) -> None:
    for name, text in {**files, **{f"opt/{name}": f"#!/bin/sh\n{body}\n" for name, body in programs.items()}}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)


@needs_tool("unshare")
@pytest.mark.parametrize("name", FAMILIES)
def test_what_it_leaves_is_removed(name: str, tmp_path: Path) -> None:
    if not may_unshare():
        pytest.skip("this user may not make namespaces")
    programs, gone, kept = FAMILIES[name]
    plant(tmp_path, programs, {**gone, **kept})
    done = run_in_root(tmp_path, families()[name].residues.after)
    assert done.returncode == 0, done.stderr
    assert [path for path in gone if (tmp_path / path).exists()] == []
    assert [path for path in kept if not (tmp_path / path).exists()] == []
    called = (tmp_path / "called").read_text() if (tmp_path / "called").exists() else ""
    # the snapshot that boots, and number 0, stay
    deleted = [line.split()[-1] for line in called.splitlines() if line.startswith("snapper")]
    assert deleted == (["2", "3"] if name == "suse" else [])


@needs_tool("unshare")
def test_alpines_network_file_of_the_build_becomes_the_loopbacks(tmp_path: Path) -> None:
    if not may_unshare():
        pytest.skip("this user may not make namespaces")
    plant(tmp_path, {"apk": ":"}, {"etc/network/interfaces": DATASOURCE})
    assert run_in_root(tmp_path, families()["alpine"].residues.after).returncode == 0
    assert (tmp_path / "etc/network/interfaces").read_text() == "auto lo\niface lo inet loopback\n"


@needs_tool("unshare")
def test_the_lines_of_all_distributions_do_nothing_elsewhere(tmp_path: Path) -> None:
    if not may_unshare():
        pytest.skip("this user may not make namespaces")
    files = {path: text for _, gone, _ in FAMILIES.values() for path, text in gone.items()}
    plant(tmp_path, {}, files)
    known = joined(tuple(system.residues for system in families().values()))
    done = run_in_root(tmp_path, f"{known.before}\n{known.after}")
    assert done.returncode == 0, done.stderr
    assert [path for path in files if not (tmp_path / path).exists()] == []


def test_a_brought_disk_has_the_lines_of_all_and_debian_has_its_own() -> None:
    known = families()
    whole = known["linux"]._residues()
    assert all(known[name].residues.after.strip() in whole.after for name in FAMILIES)
    assert known["debian"]._residues() == Residues() and known["rhel"]._residues() == known["rhel"].residues
    script = generalize_script("none", residues=whole)
    order = [script.index(words) for words in ("userdel() {", "timers and log writers", "dnf's caches", '"identity"')]
    assert order == sorted(order)
    # what no distribution adds to is the script of before, byte for byte
    assert generalize_script("none", residues=Residues()) == generalize_script("none")


@pytest.mark.parametrize("shell", ["dash", "bash --posix"])
def test_every_script_is_a_shells(shell: str, tmp_path: Path) -> None:
    for name, system in families().items():
        script = tmp_path / f"{name}.sh"
        script.write_text(generalize_script("waagent", user="azureuser", residues=system._residues()))
        done = subprocess.run([*shell.split(), "-n", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (name, done.stderr)
