"""Sets of VMs: domains dealt round, growth and shrinking, a failed domain; each error by its name.

libvirt is its own test driver, whose one domain runs: a VM with that domain's id runs too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import pipeline.systems.registry  # noqa: F401  a VM's system is found by its name
from pipeline.base.errors import BuildError, GoldsmithError
from pipeline.base.files import RecordDamaged
from pipeline.base.store import Store
from pipeline.cli.app import app
from pipeline.fabric.imds import compute
from pipeline.fabric.registration import ProvisioningData
from pipeline.fabric.registrations import Registration, RegistrationShape, from_json, to_json
from pipeline.hypervisor.persistent import Power, read_power
from pipeline.instances.fleet import CERTIFICATE, CUSTOM_DATA, Fleet
from pipeline.instances.named_records import RECORD
from pipeline.instances.set_records import least_used, members_of
from pipeline.operations import sets
from pipeline.operations.create import Wishes, _reserve, plan
from pipeline.operations.sets import (
    Domains,
    change_files,
    delete_set,
    drop_empty_set,
    ensure_set,
    fail_domain,
    members,
    plan_growth,
    shrink,
)
from pipeline.operations.upgrade import choose_target, renewed_files, upgrade_set
from tests.fakes.disks import add_master
from tests.fakes.libvirt_host import RUNNING, open_host
from tests.unit.instances.test_record import record

WISHES = Wishes("web", "small", "azureuser", "ssh-ed25519 AAAA me", custom_data=b"#cloud-config", set="shop")


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    made = Fleet(Store(tmp_path).ensure(), open_host)
    raw = made.store.tmp / "small.raw"
    with raw.open("wb") as file:
        file.truncate(1 << 20)
    add_master(made.gallery, "small", raw, machine={"cpus": 1, "memory": 1 << 20})
    return made


def join(fleet: Fleet, name: str, **more: object) -> None:
    """A VM that joins the set as `vm create` has it do, up to its first boot."""
    wishes = replace(WISHES, name=name)
    made, _ = plan(fleet, wishes)
    _reserve(fleet, replace(made, operation=None, **more), wishes)  # type: ignore[arg-type]


def domains(fleet: Fleet) -> dict[str, tuple[int, int]]:
    return {each.name: (each.fault_domain, each.update_domain) for each in members(fleet, "shop")}


def test_domains_are_dealt_round_and_gaps_are_filled(fleet: Fleet) -> None:
    assert ensure_set(fleet, "shop", WISHES, Domains(2, 3))
    for number in range(4):
        join(fleet, f"web-{number}")
    assert domains(fleet) == {"web-0": (0, 0), "web-1": (1, 1), "web-2": (0, 2), "web-3": (1, 0)}
    fleet.instances.remove("web-1")
    join(fleet, "web-9")
    assert domains(fleet)["web-9"] == (1, 1)
    assert least_used([0, 0, 2], 3) == 1 and least_used([], 2) == 0


def test_a_set_is_made_once_and_says_what_its_vms_are(fleet: Fleet) -> None:
    assert ensure_set(fleet, "shop", WISHES)
    assert not ensure_set(fleet, "shop", replace(WISHES, name="other"), Domains(2, 5))
    made = fleet.sets.get("shop")
    assert (made.fault_domains, made.update_domains, made.prefix, made.cpus) == (2, 5, "web", 1)
    file = fleet.sets.folder("shop") / CUSTOM_DATA
    assert file.read_bytes() == b"#cloud-config" and file.stat().st_mode & 0o777 == 0o600
    join(fleet, "web-1")
    wanted = plan_growth(fleet, "shop", 3)
    assert [each.name for each in wanted] == ["web-0", "web-2"]
    assert wanted[0].custom_data == b"#cloud-config" and wanted[0].set == "shop"
    # another VM of the set is what its first one is
    first, _ = plan(fleet, replace(WISHES, name="web-0"))
    second, _ = plan(fleet, wanted[0])
    assert replace(first, id="", created="", operation=None) == replace(second, id="", created="", operation=None)


def test_another_vm_of_a_set_has_an_os_disk_of_the_sets_size(fleet: Fleet) -> None:
    ensure_set(fleet, "shop", replace(WISHES, os_disk_size=3 << 20))
    assert [each.os_disk_size for each in plan_growth(fleet, "shop", 1)] == [3 << 20]
    # a master that has become larger gives its own size, and the set can still grow
    raw = fleet.store.tmp / "larger.raw"
    with raw.open("wb") as file:
        file.truncate(5 << 20)
    add_master(fleet.gallery, "small", raw)
    (wanted,) = plan_growth(fleet, "shop", 1)
    assert wanted.os_disk_size == 5 << 20
    assert plan(fleet, wanted)[0].disk_size == 5 << 20


def test_members_have_the_order_of_their_numbers() -> None:
    found = members_of("s", [record(name, set="s") for name in ("web-10", "web-2", "db")] + [record("aside")])
    assert [each.name for each in found] == ["db", "web-2", "web-10"]


def test_a_set_is_made_smaller_from_its_end_and_is_deleted_with_its_vms(fleet: Fleet) -> None:
    ensure_set(fleet, "shop", WISHES)
    for number in (10, 2, 0):
        join(fleet, f"web-{number}")
    gone: list[str] = []
    shrink(fleet, "shop", 2, gone.append)
    assert gone == ["web-10"]
    delete_set(fleet, "shop", gone.append)
    assert gone == ["web-10", "web-0", "web-2"]
    assert fleet.sets.names() == [] and fleet.instances.names() == []
    assert list(fleet.sets.root.iterdir()) == []


def test_a_set_whose_first_vm_failed_is_not_left(fleet: Fleet) -> None:
    ensure_set(fleet, "shop", WISHES)
    drop_empty_set(fleet, "shop")
    assert fleet.sets.names() == []
    ensure_set(fleet, "shop", WISHES)
    join(fleet, "web-0")
    drop_empty_set(fleet, "shop")
    assert fleet.sets.names() == ["shop"]


def test_a_failed_domain_has_no_power_and_the_other_keeps_it(fleet: Fleet) -> None:
    ensure_set(fleet, "shop", WISHES, Domains(2, 2))
    disk = {"path": "/x", "format": "qcow2"}
    join(fleet, "web-0", provisioned="2026-11-26T08:05:00Z", disk=disk)
    join(fleet, "web-1", id=RUNNING, provisioned="2026-11-26T08:05:00Z", disk=disk)
    fleet.keep_fabric = lambda: None  # type: ignore[method-assign]  the fabric needs root
    assert fail_domain(fleet, "shop", 0) == []  # it is off already
    assert read_power(fleet.connection, RUNNING) is Power.RUNNING
    assert fail_domain(fleet, "shop", 1) == ["web-1"]
    assert read_power(fleet.connection, RUNNING) is Power.OFF


def test_the_guest_finds_its_domains_in_the_metadata_service() -> None:
    data = ProvisioningData("6695eb01-f6a4-4304-89aa-97f2502e193f", "web", "u", "k", fault_domain=1, update_domain=3)
    written = to_json(Registration(data, "00:0d:3a:00:00:01", 0))
    RegistrationShape.model_validate(written)
    answer = compute(from_json(written).instance, "2021-02-01")
    assert (answer["platformFaultDomain"], answer["platformUpdateDomain"]) == ("1", "3")
    older = {key: value for key, value in written.items() if not key.endswith("_domain")}
    RegistrationShape.model_validate(older)
    assert compute(from_json(older).instance, "2021-02-01")["platformFaultDomain"] == "0"


# ---- errors by their names ---------------------------------------------------------------------------------------


def delete_while_another_joins(fleet: Fleet) -> None:
    join(fleet, "web-0")
    delete_set(fleet, "shop", lambda _name: join(fleet, "web-1"))


ERRORS: dict[str, Callable[[Fleet], object]] = {
    "set-unknown": lambda fleet: members(fleet, "shpo"),
    "set-name": lambda fleet: ensure_set(fleet, "Shop", WISHES),
    "set-differs": lambda fleet: ensure_set(fleet, "shop", WISHES, Domains(None, 2)),
    "set-size": lambda fleet: plan_growth(fleet, "shop", sets.MOST_VMS + 1),
    "domain-unknown": lambda fleet: fail_domain(fleet, "shop", 2),
    "set-in-use": delete_while_another_joins,
}


@pytest.mark.parametrize("name", ERRORS)
def test_wrong_uses_have_names(fleet: Fleet, name: str) -> None:
    ensure_set(fleet, "shop", WISHES)
    with pytest.raises(GoldsmithError) as error:
        ERRORS[name](fleet)
    assert error.value.name == name and error.value.hint
    assert fleet.sets.names() == ["shop"]


def test_no_vm_joins_a_set_that_is_not_there(fleet: Fleet) -> None:
    with pytest.raises(GoldsmithError) as error:
        plan(fleet, WISHES)
    assert error.value.name == "set-unknown"


def test_wishes_that_cannot_be_met_make_no_set(fleet: Fleet) -> None:
    with pytest.raises(GoldsmithError) as error:
        ensure_set(fleet, "shop", replace(WISHES, image="nix"))
    assert error.value.name == "gallery-unknown"
    assert fleet.sets.names() == []


def test_a_damaged_record_is_named_and_skipped(fleet: Fleet) -> None:
    ensure_set(fleet, "shop", WISHES)
    path = fleet.sets.folder("shop") / RECORD
    path.write_text(json.dumps(json.loads(path.read_text()) | {"update_domains": 0}))
    with pytest.raises(RecordDamaged):
        fleet.sets.get("shop")
    assert fleet.sets.all() == []
    path.write_text(
        path.read_text().replace('"shop"', '"other"').replace('"update_domains": 0', '"update_domains": 1')
    )
    with pytest.raises(RecordDamaged):
        fleet.sets.get("shop")


def test_the_command_line_asks_before_it_deletes(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_set(fleet, "shop", WISHES)
    join(fleet, "web-0")
    monkeypatch.setenv("GOLDSMITH_HOME", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    for words in (["set", "delete", "shop"], ["set", "scale", "shop", "0"]):
        result = CliRunner().invoke(app, words)
        assert isinstance(result.exception, GoldsmithError), result.output
        assert result.exception.name == "set-delete-unconfirmed"
    assert fleet.instances.names() == ["web-0"]
    result = CliRunner().invoke(app, ["vm", "create", "web", "--image", "small", "--update-domains", "2"])
    assert isinstance(result.exception, GoldsmithError) and result.exception.name == "usage"


def test_a_version_names_what_stands_on_it_and_a_withdrawal_does(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, machine = fleet.store.tmp / "small.raw", {"cpus": 1, "memory": 1 << 20}
    new = add_master(fleet.gallery, "small", raw, machine=machine)
    ensure_set(fleet, "shop", WISHES)
    join(fleet, "web-0")
    inputs = [{"stage": "acquire", "inputs": {"source": "master", "image": "small", "version": new.version}}]
    child = add_master(fleet.gallery, "child", raw, inputs=inputs)
    monkeypatch.setenv("GOLDSMITH_HOME", str(tmp_path))
    shown = json.loads(CliRunner().invoke(app, ["gallery", "show", "small", "--json"]).stdout)
    assert shown["vms"] == [{"name": "web-0", "set": "shop"}] and shown["children"] == [f"child@{child.version}"]
    lines = CliRunner().invoke(app, ["gallery", "rollback", "small"]).stdout.splitlines()
    assert lines[1:] == [
        f"{new.version}: VMs run from it: web-0 (set shop)",
        f"{new.version}: versions were built on it: child@{child.version}",
        f"goldsmith set upgrade shop --to golden brings the set shop to {fleet.gallery.get('small').version}",
    ]


# ---- upgrades ----------------------------------------------------------------------------------------------------


def upgraded(fleet: Fleet, name: str, **more: object) -> None:
    join(fleet, name, provisioned="2026-11-26T08:05:00Z", disk={"path": "/x", "format": "qcow2"}, **more)


def test_an_upgrade_that_stops_says_where_and_goes_back(fleet: Fleet) -> None:
    """No endpoint leads to the set: what an upgrade does to requests is in tests/vm/test_endpoints.py."""
    ensure_set(fleet, "shop", WISHES, Domains(2, 2))
    for number in range(3):
        upgraded(fleet, f"web-{number}")
    old = members(fleet, "shop")[0].reference
    raw = fleet.store.tmp / "small.raw"
    new = add_master(fleet.gallery, "small", raw, machine={"cpus": 1, "memory": 1 << 20})
    reference = f"small@{new.version}"
    calls: list[dict[str, str]] = []

    def renew(_fleet: Fleet, wanted: Mapping[str, str]) -> None:
        calls.append(dict(wanted))
        for name, to in wanted.items():
            record = fleet.instances.get(name)
            assert record.drained
            fleet.instances.save(
                replace(record, version=to.partition("@")[2], disk={"path": f"/{to}", "format": "q"})
            )
        if "web-1" in wanted and wanted["web-1"] == reference:
            raise BuildError("web-1: no agent asked", name="agent-silent")

    fleet.keep_fabric = lambda: None  # type: ignore[method-assign]  the fabric needs root
    fleet.is_on = lambda record: record.name != "web-2"  # type: ignore[method-assign]
    with pytest.raises(GoldsmithError) as error:
        upgrade_set(fleet, "shop", "golden", lambda _text: None, renew=renew)
    assert error.value.name == "set-upgrade-stopped" and f"web-1 went back to {old}" in error.value.message
    assert calls == [{"web-0": reference}, {"web-1": reference}, {"web-1": old}]
    versions = {record.name: record.reference for record in members(fleet, "shop")}
    assert versions == {"web-0": reference, "web-1": old, "web-2": old}
    assert not any(record.drained for record in members(fleet, "shop"))


def test_a_vm_that_is_off_is_left_and_named_and_an_interrupted_upgrade_is_finished(fleet: Fleet) -> None:
    ensure_set(fleet, "shop", WISHES, Domains(2, 2))
    for name, drained in (("web-0", False), ("web-1", True)):
        upgraded(fleet, name, drained=drained)
    fleet.keep_fabric = lambda: None  # type: ignore[method-assign]  the fabric needs root
    add_master(fleet.gallery, "small", fleet.store.tmp / "small.raw")
    calls: list[list[str]] = []
    done = upgrade_set(
        fleet, "shop", None, lambda _text: None, renew=lambda _fleet, wanted: calls.append(list(wanted))
    )
    assert calls == [["web-1"]] and done.upgraded == ("web-1",) and done.left == {"web-0": "it does not run"}
    assert not fleet.instances.get("web-1").drained
    assert choose_target(fleet, "shop", "golden").version == choose_target(fleet, "shop", "small").version


def test_a_new_certificate_reaches_each_vm_by_an_upgrade_and_goes_back_with_its_domain(fleet: Fleet) -> None:
    ensure_set(fleet, "shop", replace(WISHES, certificate=b"old"), Domains(2, 2))
    assert plan_growth(fleet, "shop", 1)[0].certificate == b"old"
    for number in range(2):
        upgraded(fleet, f"web-{number}")
        fleet.instances.write_file(f"web-{number}", CERTIFICATE, b"old")
    file = fleet.instances.folder("web-0") / CERTIFICATE
    assert file.stat().st_mode & 0o777 == 0o600
    fleet.keep_fabric = lambda: None  # type: ignore[method-assign]  the fabric needs root
    fleet.is_on = lambda _record: True  # type: ignore[method-assign]
    assert renewed_files(fleet, "shop") == (CERTIFICATE,)
    change_files(fleet, "shop", {CERTIFICATE: b"new"})
    given: list[tuple[str, bytes]] = []
    bad = {"web-1"}

    def renew(_fleet: Fleet, wanted: Mapping[str, str]) -> None:
        for name in wanted:
            fleet.instances.save(replace(fleet.instances.get(name), disk={"path": f"/{len(given)}", "format": "q"}))
            given.append((name, fleet.instances.read_file(name, CERTIFICATE)))
            if name in bad:
                bad.remove(name)
                raise BuildError("the agent has not taken it", name="certificate-not-taken")

    with pytest.raises(GoldsmithError) as error:
        upgrade_set(fleet, "shop", None, print, renew=renew, files=renewed_files(fleet, "shop"))
    assert error.value.name == "set-upgrade-stopped" and "web-1 went back" in error.value.message
    assert given == [("web-0", b"new"), ("web-1", b"new"), ("web-1", b"old")]
    done = upgrade_set(fleet, "shop", None, print, renew=renew, files=renewed_files(fleet, "shop"))
    assert done.upgraded == ("web-1",) and done.current == ("web-0",) and given[-1] == ("web-1", b"new")
    # a set without a certificate takes none away
    change_files(fleet, "shop", {CERTIFICATE: b""})
    assert renewed_files(fleet, "shop") == ()


def test_after_an_upgrade_to_a_channel_the_next_follows_the_channel(fleet: Fleet) -> None:
    ensure_set(fleet, "shop", WISHES)
    old = fleet.gallery.get("small").version
    for to, image in ((None, "small"), ("golden", "small@golden"), (old, f"small@{old}"), ("small", "small")):
        upgrade_set(fleet, "shop", to, lambda _text: None)
        assert fleet.sets.get("shop").image == image
