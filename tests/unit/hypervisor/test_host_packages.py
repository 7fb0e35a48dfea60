"""What doctor tells a user to install: by the host's own package manager."""

from __future__ import annotations

import re

import pytest

from pipeline.hypervisor import host, host_packages
from tests.harness import ROOT


@pytest.mark.parametrize(
    ("there", "again", "command"),
    [
        ({"apt-get"}, False, "make setup (as root: sudo make setup), or apt-get install ovmf iproute2 gdisk"),
        ({"apt-get", "dnf"}, False, "make setup (as root: sudo make setup), or apt-get install ovmf iproute2 gdisk"),
        ({"dnf"}, False, "dnf install edk2-ovmf iproute gdisk"),
        ({"dnf"}, True, "dnf reinstall edk2-ovmf iproute gdisk"),
        (set(), True, "make setup (as root: sudo make setup), or apt-get install --reinstall ovmf iproute2 gdisk"),
    ],
)
def test_a_remedy_has_the_names_of_the_hosts_packages(
    monkeypatch: pytest.MonkeyPatch, there: set[str], again: bool, command: str
) -> None:
    monkeypatch.setattr(host_packages.process, "find", lambda name: f"/usr/bin/{name}" if name in there else None)
    assert host_packages.install_command(["ovmf", "iproute2", "gdisk"], again=again) == command


def test_doctor_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_packages.process, "find", lambda name: "/usr/bin/dnf" if name == "dnf" else None)
    finding = host.judge_tools(dict.fromkeys(host.BOOTSTRAP_TOOLS))
    assert finding.fix == "dnf install apt dosfstools e2fsprogs gdisk mmdebstrap mtools util-linux"


def test_each_name_that_differs_is_a_package_of_setup() -> None:
    """A name that nothing installs on Debian would be a remedy for nothing."""
    setup = (ROOT / "tools" / "setup.sh").read_text().partition("PACKAGES=(")[2].partition("\n)")[0]
    packages = set(re.sub(r"#.*", "", setup).split())
    assert set(host_packages._FEDORA) <= packages
