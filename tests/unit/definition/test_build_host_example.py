"""The example of a build host: it is valid, and gives a host what `make setup` gives one."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.base import process
from pipeline.base.store import ANSIBLE_USER, FABRIC_USER, FACADE_USER, Store
from pipeline.definition import CopyStep, MasterSource, load_all
from pipeline.guest.playbook_check import check_playbooks
from pipeline.hypervisor.domain import BUILD_CHASSIS_TAG

ROOT = Path(__file__).parents[3]
PROJECT = ROOT / "examples/build-host"
FILES = PROJECT / "playbooks/files"
SETUP = (ROOT / "tools/setup.sh").read_text()


@pytest.fixture(scope="module")
def play() -> dict[str, Any]:
    (play,) = yaml.safe_load((PROJECT / "playbooks/build-host.yml").read_text())
    assert isinstance(play, dict)
    return play


def task(play: dict[str, Any], module: str, name: str) -> dict[str, Any]:
    """The arguments and the loop of a task, by a part of its name."""
    (found,) = (each for each in play["tasks"] if name in each["name"] and f"ansible.builtin.{module}" in each)
    return {"loop": found.get("loop"), **found[f"ansible.builtin.{module}"]}


def test_it_is_valid_and_ansible_reads_its_playbook(tmp_path: Path) -> None:
    (image,) = load_all(PROJECT)
    assert image.name == "build-host" and isinstance(image.source, MasterSource) and image.accounts == ("builder",)
    assert isinstance(image.steps[1], CopyStep), "a newer wheel installs no package again"
    # goldsmith on a disk is otherwise what a build has left there
    assert set(image.waive) == {"build-tools-left"}
    assert check_playbooks([image], Store(tmp_path / "store").ensure()) == {}


def test_its_packages_are_those_of_setup() -> None:
    (play,) = yaml.safe_load((PROJECT / "playbooks/packages.yml").read_text())
    text = SETUP.partition("\nPACKAGES=(")[2].partition("\n)")[0]
    assert play["vars"]["host_packages"] == re.sub(r"#.*", "", text).split()


def test_its_users_and_folders_are_those_of_setup(play: dict[str, Any]) -> None:
    assert task(play, "user", "without rights")["loop"] == [FABRIC_USER, FACADE_USER, ANSIBLE_USER]
    builder = task(play, "user", "build as")
    assert builder["groups"] == ["libvirt"] and builder["password"] == "!"
    folders = re.search(r'"\$STORE"/\{(.*?)\}', SETUP)
    assert folders is not None
    store = task(play, "file", "The store")
    assert store["loop"] == ["{{ store }}", *(f"{{{{ store }}}}/{name}" for name in folders[1].split(","))]
    assert (store["group"], store["mode"]) == ("libvirt", "2775")


def test_its_units_are_those_of_the_repository(play: dict[str, Any]) -> None:
    assert task(play, "copy", "Units")["loop"] == sorted(path.name for path in FILES.glob("goldsmith-*"))
    for name in ("goldsmith-refresh.service", "goldsmith-refresh.timer"):
        assert (FILES / name).read_text() == (ROOT / "tools" / name).read_text()
    folder = play["vars"]["environment_folder"]
    text = (ROOT / "tools/goldsmith-fabric.service").read_text()
    for word, value in {
        "@PYTHON@": f"{folder}/bin/python",
        "@STORE@": play["vars"]["store"],
        "@PROJECT@": folder,
    }.items():
        text = text.replace(word, value)
    assert (FILES / "goldsmith-fabric.service").read_text().splitlines()[1:] == text.splitlines()[1:]


def test_no_key_is_made_in_the_guest_of_a_build(play: dict[str, Any]) -> None:
    """Clones of a master with a key would sign as one host."""
    unit = (FILES / "goldsmith-key.service").read_text()
    assert f"grep -qx {BUILD_CHASSIS_TAG} /sys/class/dmi/id/chassis_asset_tag" in unit
    assert "ConditionPathExists=!/etc/goldsmith/signing.key" in unit
    assert not any("key make" in str(each) for each in play["tasks"])


def test_the_firewall_lets_in_ssh_alone() -> None:
    rules = FILES / "nftables.conf"
    text = rules.read_text()
    assert "policy drop;" in text and re.findall(r"dport (\S+) accept", text) == ["22"]
    program = process.find("nft")
    if program is None:
        pytest.skip("nft is not installed: nftables' own parser does not read the rules")
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", program, "-c", "-f", rules],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
