"""Deployments: faults of the file by line, what would change, and a kill at every write, after which the next call
makes all as the file says.

libvirt is its own test driver. VMs are made up to their first boot; a reimage writes what a guest's Ready would.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import pipeline.systems.registry  # noqa: F401  a VM's system is found by its name
from pipeline.base.errors import GoldsmithError
from pipeline.base.store import Store
from pipeline.cli.app import app
from pipeline.definition import DefinitionError
from pipeline.fabric.certificates import make_key_pair, read_certificate
from pipeline.guest.access import free_ports
from pipeline.instances.fleet import CERTIFICATE, CUSTOM_DATA, USER_DATA, Fleet
from pipeline.instances.set_records import number_of
from pipeline.operations import deploy as module
from pipeline.operations.create import Wishes, _reserve, plan
from pipeline.operations.deploy import Means, Step, apply_deployment, delete_deployment, plan_deployment
from pipeline.operations.service_model import Service, load_service
from pipeline.operations.sets import ensure_set
from tests.fakes.disks import add_master
from tests.fakes.libvirt_host import open_host

KEY = "ssh-ed25519 AAAA me"
#: Two certificates with their keys, as `read_certificate` gives them.
PEM, OTHER_PEM = (read_certificate(make_key_pair("shop").bundle).decode() for _ in range(2))
READY = "2026-11-26T08:05:00Z"
SHOP = """\
goldsmith: 1
sets:
  shop:
    image: small
    count: 3
    name: web
    custom_data: shop.cfg
    certificate: shop.pem
    settings: {colour: red}
    update_domains: 2
  data:
    image: small@golden
endpoints:
  web: {set: shop, protocol: http, public: PUBLIC, private: 80, probe: "http:/health"}
  sql: {set: data, public: OTHER, private: 5432}
"""


class Site:
    """A store on which a deployment's file is applied."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fleet = Fleet(Store(root / "store").ensure(), open_host)
        self.fleet.keep_fabric = lambda: None  # type: ignore[method-assign]  the fabric needs root
        self.fleet.is_on = lambda record: record.provisioned is not None  # type: ignore[method-assign]
        self.file = root / "shop.yaml"
        self.ports = [str(port) for port in free_ports(2)]
        (root / "shop.cfg").write_text("#cloud-config")
        (root / "shop.pem").write_text(PEM)
        self.write(SHOP)

    def write(self, text: str) -> None:
        for word, port in zip(("PUBLIC", "OTHER"), self.ports, strict=True):
            text = text.replace(word, port)
        self.file.write_text(text)

    def add_master(self) -> str:
        raw = self.fleet.store.tmp / "small.raw"
        with raw.open("wb") as file:
            file.truncate(1 << 20)
        made = add_master(self.fleet.gallery, "small", raw, machine={"cpus": 1, "memory": 1 << 20})
        return f"small@{made.version}"

    def load(self) -> Service:
        return load_service(self.file, KEY)

    def steps(self) -> list[Step]:
        return plan_deployment(self.fleet, self.load(), Means(self.create, renew=self.renew))

    def texts(self) -> list[str]:
        return [step.text for step in self.steps()]

    def deploy(self) -> list[str]:
        done: list[str] = []
        with self.fleet.deployments.hold("shop"):
            apply_deployment(self.fleet, self.load(), self.steps(), done.append)
        return done

    def create(self, wanted: list[Wishes]) -> None:
        for wishes in wanted:
            made, _ = plan(self.fleet, wishes)
            _reserve(self.fleet, replace(made, operation=None), wishes)
            record = self.fleet.instances.get(wishes.name)
            self.fleet.instances.save(replace(record, provisioned=READY, disk={"path": "/x", "format": "qcow2"}))

    def renew(self, _fleet: Fleet, wanted: Mapping[str, str]) -> None:
        for name, to in wanted.items():
            record = self.fleet.instances.get(name)
            assert record.drained
            new = replace(record, version=to.partition("@")[2], provisioned=None, disk={"path": to, "format": "q"})
            self.fleet.instances.save(new)
            self.fleet.instances.save(replace(new, provisioned=READY))

    def state(self) -> dict[str, Any]:
        """What there is, without what differs by time."""
        fleet = self.fleet
        return {
            "vms": {
                record.name: (
                    record.set, record.reference, record.provisioned, record.drained,
                    fleet.instances.read_file(record.name, CUSTOM_DATA),
                    fleet.instances.read_file(record.name, USER_DATA),
                    fleet.instances.read_file(record.name, CERTIFICATE),
                )
                for record in sorted(fleet.instances.all(), key=number_of)
            },
            "sets": {each.name: replace(each, created="") for each in fleet.sets.all()},
            "endpoints": [replace(each, created="") for each in fleet.endpoints.all()],
            "deployments": [replace(each, created="", applied="x" if each.applied else None)
                            for each in fleet.deployments.all()],
        }  # fmt: skip


@pytest.fixture(autouse=True)
def no_wires(monkeypatch: pytest.MonkeyPatch) -> None:
    """These VMs have no address, so no endpoint ever serves them; tests/vm/test_deployments.py has real ones."""
    monkeypatch.setattr("pipeline.operations.upgrade.wait_serving", lambda *_arguments: None)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    made.add_master()
    return made


def files_of(folder: Path) -> dict[Path, tuple[int, int]]:
    """Each file with what tells it from another of the same name."""
    stats = {path: path.lstat() for path in folder.rglob("*") if path.is_file() and ".lock" not in str(path)}
    return {path: (found.st_ino, found.st_mtime_ns) for path, found in stats.items()}


def test_a_file_is_deployed_and_the_second_time_changes_nothing(site: Site) -> None:
    version = site.fleet.gallery.get("small").version
    assert site.deploy() == [
        "set shop: make it, 3 VMs from small",
        "set data: make it, 1 VM from small@golden",
        f"endpoint web: add it, 127.0.0.1:{site.ports[0]} leads to port 80 of shop",
        f"endpoint sql: add it, 127.0.0.1:{site.ports[1]} leads to port 5432 of data",
    ]
    state = site.state()
    assert list(state["vms"]) == ["data-0", "web-0", "web-1", "web-2"]
    settings = b'{\n "colour": "red"\n}'
    files = (b"#cloud-config", settings, PEM.encode())
    assert state["vms"]["web-0"] == ("shop", f"small@{version}", READY, False, *files)
    assert state["sets"]["shop"].update_domains == 2 and state["deployments"][0].sets == {"shop": 3, "data": 1}
    before = files_of(site.fleet.store.root)
    assert site.deploy() == [] and files_of(site.fleet.store.root) == before


def change_everything(site: Site) -> None:
    """A newer golden version, and a file that differs from SHOP in each way that can be changed."""
    site.add_master()
    (site.root / "shop.cfg").write_text("#cloud-config\n# newer")
    (site.root / "shop.pem").write_text(OTHER_PEM)
    text = SHOP.replace("count: 3", "count: 2").replace("red", "blue").replace("http:/health", "http:/")
    text = text.replace("  data:\n    image: small@golden\n", "  more:\n    image: small\n    count: 2\n")
    site.write(text.replace("  sql: {set: data", "  api: {set: more"))


def test_what_the_file_changes_is_changed_and_named_before(site: Site) -> None:
    site.deploy()
    change_everything(site)
    new = f"small@{site.fleet.gallery.get('small').version}"
    steps = site.steps()
    assert [step.text for step in steps] == [
        "endpoint sql: remove it",
        "set shop: delete web-2",
        "set shop: change its custom data and user data and certificate",
        f"set shop: reimage web-0, web-1 from {new}",
        "set more: make it, 2 VMs from small",
        "endpoint web: remove it, to change probe",
        f"endpoint web: add it, 127.0.0.1:{site.ports[0]} leads to port 80 of shop",
        f"endpoint api: add it, 127.0.0.1:{site.ports[1]} leads to port 5432 of more",
        "set data: delete it with data-0",
    ]
    assert [vm for step in steps for vm in step.deletes] == ["web-2", "data-0"]
    site.deploy()
    vms = site.state()["vms"]
    assert list(vms) == ["more-0", "web-0", "more-1", "web-1"]
    assert {vm[1] for vm in vms.values()} == {new} and vms["web-1"][5] == b'{\n "colour": "blue"\n}'
    assert vms["web-1"][6] == OTHER_PEM.encode() and vms["more-0"][6] == b""
    assert site.texts() == []


def test_vms_that_are_off_lost_or_half_made_are_brought_back(site: Site) -> None:
    site.deploy()
    fleet = site.fleet
    fleet.is_on = lambda record: record.name != "web-0"  # type: ignore[method-assign]
    fleet.instances.save(replace(fleet.instances.get("web-1"), provisioned=None, disk=None))
    fleet.instances.remove("web-2")
    assert site.texts() == [
        "set shop: make web-1 again, which was never provisioned",
        "set shop: start web-0",
        "set shop: add 2 VMs",
    ]
    # a VM that was being reimaged is the upgrade's: it keeps its data disks
    fleet.instances.save(replace(fleet.instances.get("data-0"), provisioned=None, drained=True))
    assert f"set data: reimage data-0 from {fleet.instances.get('data-0').reference}" in site.texts()


def test_a_set_of_a_file_follows_golden_or_not(site: Site) -> None:
    site.write(SHOP.replace("    count: 3", "    count: 3\n    auto: true"))
    site.deploy()
    assert site.fleet.sets.get("shop").auto and not site.fleet.sets.get("data").auto
    assert site.texts() == []
    site.write(SHOP)
    assert site.deploy() == ["set shop: follow golden no longer"] and not site.fleet.sets.get("shop").auto


def kill_at(site: Site, write: int) -> bool:
    """Deploy in a process that is killed at its n-th rename of a file or folder. Returns whether it was."""
    child = os.fork()
    if child == 0:
        count = 0

        def on_event(name: str, _arguments: object) -> None:
            nonlocal count
            if name == "os.rename":
                count += 1
                if count == write:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(on_event)
            Site.deploy(site)
        finally:
            os._exit(0 if count < write else 1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return os.WIFSIGNALED(status)


def test_after_a_kill_at_any_write_the_next_call_makes_all_as_the_file_says(tmp_path: Path) -> None:
    def fresh(name: str) -> Site:
        (tmp_path / name).mkdir()
        made = Site(tmp_path / name)
        made.ports = ports
        made.write(SHOP)
        made.add_master()
        made.deploy()
        change_everything(made)
        return made

    ports = [str(port) for port in free_ports(2)]
    whole = fresh("whole")
    whole.deploy()
    expected = whole.state()
    for each in expected["deployments"]:
        expected["deployments"] = [replace(each, file="")]
    write = 1
    # each step writes more than once: every fifth write is enough to meet most of them
    while kill_at(made := fresh(f"w{write}"), write):
        made.deploy()
        found = made.state()
        found["deployments"] = [replace(each, file="") for each in found["deployments"]]
        assert found == expected, write
        assert made.texts() == [] and made.fleet.deployments.leftovers() == [], write
        write += 5
    assert write > 30


def test_a_deployment_is_deleted_with_all_that_it_made(site: Site) -> None:
    site.deploy()
    ensure_set(site.fleet, "aside", Wishes("aside", "small", "azureuser", KEY))
    lines: list[str] = []
    delete_deployment(site.fleet, "shop", lines.append)
    assert lines[:2] == ["endpoint web: removed", "endpoint sql: removed"] and lines[-1] == "set data: deleted"
    state = site.state()
    assert (state["vms"], list(state["sets"]), state["endpoints"], state["deployments"]) == ({}, ["aside"], [], [])


# ---- faults ------------------------------------------------------------------------------------------------------


FAULTS = {
    "unknown key (count?)": ("    count: 3", "    cuont: 3", 5),
    "must be at most 100, not 101": ("count: 3", "count: 101", 5),
    "there is no set shpo in this file (shop?)": ("{set: shop,", "{set: shpo,", 14),
    "'http' is not a probe": ('"http:/health"', "http", 14),
    "is the port of the endpoint web, too": ("OTHER", "PUBLIC", 15),
    "shop.cgf not found (shop.cfg?)": ("shop.cfg", "shop.cgf", 7),
    "settings cannot be combined with user_data": ("    count: 3", "    count: 3\n    user_data: shop.cfg", 10),
    "cpus and memory must be used together": ("    count: 3", "    cpus: 3", 3),
    "Standard_X is not a size that goldsmith knows": ("    count: 3", "    size: Standard_X", 5),
    "Web! is not a name": ("  shop:", "  Web!:", 3),
    "the gallery has no image smal": ("image: small@golden", "image: smal", 12),
    "auto follows golden, and the image is small@candidate (image: small": (
        "image: small@golden",
        "image: small@candidate\n    auto: true",
        13,
    ),
    "must be text, not the number 5": ("colour: red", "colour: 5", 9),
    "shop.cfg is neither PEM nor PKCS#12": ("shop.pem", "shop.cfg", 8),
}


@pytest.mark.parametrize("message", FAULTS)
def test_a_fault_has_its_line_and_changes_nothing(site: Site, message: str) -> None:
    old, new, number = FAULTS[message]
    site.write(SHOP.replace(old, new, 1))
    with pytest.raises(DefinitionError) as error:
        site.steps()
    (line,) = [fault for fault in error.value.faults if message.partition(" (")[0] in fault.message]
    assert message.partition(" (")[2].rstrip(")") in line.hint and line.line == number
    assert site.state()["sets"] == {}


def test_a_set_has_the_os_disk_size_of_its_file(site: Site) -> None:
    site.write(SHOP.replace("    count: 3", "    count: 3\n    os_disk_size: 32 GiB"))
    assert [wanted.wishes.os_disk_size for wanted in site.load().sets] == [32 << 30, None]
    site.deploy()
    assert site.fleet.sets.get("shop").os_disk_size == 32 << 30
    assert site.steps() == []


def test_all_faults_come_at_once_and_an_empty_file_is_one(site: Site) -> None:
    site.write(SHOP.replace("count: 3", "cuont: 3").replace("private: 80", "private: 0"))
    with pytest.raises(DefinitionError) as error:
        site.load()
    assert [fault.line for fault in error.value.faults] == [5, 14]
    site.write("# nothing\n")
    with pytest.raises(DefinitionError, match=r"shop.yaml:1:1: is empty \(docs/services.md"):
        site.load()


def test_options_that_vms_cannot_change_and_names_of_others_are_refused(site: Site) -> None:
    site.deploy()
    site.write(SHOP.replace("    count: 3", "    count: 3\n    network: lan\n    user: root2"))
    with pytest.raises(DefinitionError) as error:
        site.steps()
    assert {(fault.name, fault.line) for fault in error.value.faults} == {("deploy-fixed", 6), ("deploy-fixed", 7)}
    assert "is not set for the VMs that exist, not lan" in error.value.message
    site.write(SHOP.replace("    count: 3", "    count: 3\n    os_disk_size: 32 GiB"))
    with pytest.raises(DefinitionError, match="os_disk_size") as error:
        site.steps()
    assert [fault.name for fault in error.value.faults] == ["deploy-fixed"]
    site.write(SHOP)
    other = site.root / "other.yaml"
    other.write_text(site.file.read_text())
    with pytest.raises(DefinitionError) as error:
        plan_deployment(site.fleet, load_service(other, KEY), Means(site.create))
    assert error.value.name == "deploy-conflict" and len(error.value.faults) == 4
    assert "the set shop exists, and belongs to the deployment shop" in error.value.message


def test_errors_by_their_names(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.deploy()
    monkeypatch.setattr("pipeline.instances.deployment_records.LOCK", 0.1)
    with site.fleet.deployments.hold("shop"), pytest.raises(GoldsmithError) as error:
        site.deploy()
    assert error.value.name == "deploy-locked"
    for name, call in {
        "deploy-unknown": lambda: site.fleet.deployments.get("shpo"),
        "deploy-name": lambda: site.fleet.deployments.check_name("Shop"),
    }.items():
        with pytest.raises(GoldsmithError) as found:
            call()
        assert found.value.name == name and found.value.hint


def test_the_command_line(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOLDSMITH_HOME", str(site.fleet.store.root))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("pipeline.cli.deploy.open_fleet", lambda *_words, **_more: site.fleet)
    monkeypatch.setattr("pipeline.cli.deploy._create", lambda _fleet, wanted: site.create(wanted))
    monkeypatch.setattr("pipeline.cli.deploy.read_public_key", lambda _path: KEY)

    def run(*words: str) -> str:
        done = CliRunner().invoke(app, ["deploy", *words])
        if done.exception is not None:
            raise done.exception
        return done.stdout

    file = str(site.file)
    assert run(file, "--dry-run").endswith("shop: 4 changes to make\n") and site.fleet.sets.names() == []
    assert run(file).endswith("shop: 4 changes made\n")
    assert run("apply", file) == f"shop: everything is as {file} says\n"
    assert json.loads(run(file, "--json")) == {"name": "shop", "dryRun": False, "steps": []}
    (row,) = json.loads(run("list", "--json"))
    assert row["status"] == "deployed" and row["sets"][0] == {"name": "shop", "wanted": 3}
    site.write(SHOP.replace("count: 3", "count: 0"))
    for words in ((file,), ("delete", "shop")):
        with pytest.raises(GoldsmithError) as error:
            run(*words)
        assert error.value.name == "deploy-unconfirmed"
    assert len(site.fleet.instances.names()) == 4
    assert run("delete", "shop", "--yes").endswith("shop: deleted\n") and site.fleet.instances.names() == []


def test_the_files_of_a_deployment_are_those_that_vms_have() -> None:
    assert set(module.FILES) == {CUSTOM_DATA, USER_DATA, CERTIFICATE}
