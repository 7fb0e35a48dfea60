"""The records of disks: written whole, leased to one VM, made and removed without a trace after a crash."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.base.disk_format import QCOW2
from pipeline.base.errors import BuildError, NotFound, UsageError
from pipeline.base.files import RecordDamaged, write_json
from pipeline.cache.layers import Image
from pipeline.instances.disk_records import DiskRecord, Disks, check_disk_name
from pipeline.instances.disks import choose_lun, find_attachment
from pipeline.instances.named_records import RECORD
from pipeline.instances.record import Attachment, Instances, new_id
from tests.unit.instances.test_record import record

MIB = 1 << 20


def disk_record(disks: Disks, name: str = "data1", **changes: object) -> DiskRecord:
    image = Image(disks.folder(name) / "disk.qcow2", QCOW2)
    made = DiskRecord(
        id=new_id(),
        name=name,
        created="2026-11-26T08:00:00Z",
        host="here",
        size=64 * MIB,
        format="qcow2",
        create_option="Empty",
        image=image.to_json(),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    return Disks(tmp_path / "disks")


def add(disks: Disks, made: DiskRecord) -> DiskRecord:
    return disks.finish(disks.begin(made), made)


def test_what_is_saved_is_read_back(disks: Disks) -> None:
    made = add(disks, disk_record(disks))
    assert disks.get("data1") == made and disks.all() == [made] and disks.names() == ["data1"]
    assert made.lease == {"status": "unlocked", "state": "available", "duration": None, "owner": None}


@pytest.mark.parametrize("name", ["", "Data", "-d", "d-", "d.1", "web_OsDisk", "../d", "d" * 64])
def test_what_cannot_be_a_name(disks: Disks, name: str) -> None:
    with pytest.raises(UsageError) as error:
        check_disk_name(name)
    assert error.value.name == "disk-name-invalid" and disks.find(name) is None


def test_an_unknown_disk_is_named_with_a_near_one(disks: Disks) -> None:
    add(disks, disk_record(disks))
    with pytest.raises(NotFound) as error:
        disks.get("data2")
    assert error.value.name == "disk-unknown" and "did you mean data1?" in (error.value.hint or "")


def test_a_disk_has_one_vm_at_most(disks: Disks) -> None:
    add(disks, disk_record(disks))
    web = new_id()
    leased = disks.lease("data1", web, "web")
    assert leased.lease == {
        "status": "locked",
        "state": "leased",
        "duration": "infinite",
        "owner": {"vm": "web", "vmId": web},
    }
    for vm_id, vm in ((new_id(), "db"), (web, "web")):
        with pytest.raises(UsageError) as error:
            disks.lease("data1", vm_id, vm)
        assert error.value.name == "disk-leased" and "leased by the VM web" in error.value.message
    disks.release("data1", new_id())
    assert disks.owned_by(web) == [leased]
    disks.release("data1", web)
    assert disks.owned_by(web) == [] and disks.get("data1").owner is None


@pytest.mark.parametrize(
    "change", [{"image": {}}, {"image": {"path": "/x", "format": "nix"}}, {"size": 0}, {"id": "x"}]
)
def test_a_damaged_record_is_named(disks: Disks, change: dict[str, object]) -> None:
    made = add(disks, disk_record(disks))
    write_json(disks.folder("data1") / RECORD, {**made.to_json(), **change})
    with pytest.raises(RecordDamaged):
        disks.get("data1")
    assert disks.all() == []


def test_two_commands_for_one_disk_wait_for_each_other(disks: Disks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.instances.disk_records.TIMEOUT", 0.1)
    with disks.hold("data1"):
        with pytest.raises(BuildError) as error, disks.hold("data1"):
            pass
        with disks.hold("data2"):
            pass
    assert error.value.name == "disk-locked"


def test_room_is_promised_from_the_beginning(disks: Disks) -> None:
    made = disk_record(disks)
    folder = disks.begin(made)
    assert 63 * MIB < disks.promised() <= 64 * MIB
    disks.finish(folder, made)
    assert 63 * MIB < disks.promised() <= 64 * MIB


def test_what_a_killed_command_left_is_swept_and_no_more(disks: Disks) -> None:
    add(disks, disk_record(disks))
    left = disks.begin(disk_record(disks, "data2", master="debian@1.0.0"))
    gone: list[str | None] = []
    with disks.hold("data2"):
        assert disks.sweep_unheld(lambda disk: gone.append(disk.master)) == []
    assert disks.sweep_unheld(lambda disk: gone.append(disk.master), dry=True) == [left.name] and gone == []
    assert disks.sweep_unheld(lambda disk: gone.append(disk.master)) == [left.name]
    assert gone == ["debian@1.0.0"] and not left.exists() and disks.names() == ["data1"]


def test_an_instance_keeps_its_attachments(tmp_path: Path) -> None:
    instances = Instances(tmp_path / "instances")
    made = record(data_disks=(Attachment("data1", new_id(), 1, "ReadWrite", "Empty"),), resource_size=64 * MIB)
    instances.add(made)
    assert instances.get("web") == made


def test_the_record_of_an_older_goldsmith_is_read(tmp_path: Path) -> None:
    instances = Instances(tmp_path / "instances")
    made = record()
    instances.add(made)
    new = ("data_disks", "os_caching", "resource_size")
    old = {key: value for key, value in made.to_json().items() if key not in new}
    write_json(instances.folder("web") / RECORD, old)
    read = instances.get("web")
    assert (read.data_disks, read.os_caching, read.resource_size) == ((), "ReadWrite", 0) and read == made


def test_the_lowest_free_lun_is_taken(tmp_path: Path) -> None:
    data = ((0, Image(tmp_path / "lun0.qcow2", QCOW2)),)
    vm = record(
        disk=Image(tmp_path / "disk.qcow2", QCOW2, data=data).to_json(),
        data_disks=(Attachment("data1", new_id(), 2, "None", "Attach"),),
    )
    assert choose_lun(vm, None) == 1 and choose_lun(vm, 63) == 63
    for wanted, name in ((0, "lun-taken"), (2, "lun-taken"), (64, "lun-invalid"), (-1, "lun-invalid")):
        with pytest.raises(UsageError) as error:
            choose_lun(vm, wanted)
        assert error.value.name == name and error.value.hint
    full = replace(vm, data_disks=tuple(Attachment(f"d{n}", new_id(), n, "None", "Attach") for n in range(1, 64)))
    with pytest.raises(UsageError) as error:
        choose_lun(full, None)
    assert error.value.name == "lun-none-free"


def test_only_an_attached_disk_of_its_own_is_detached() -> None:
    attachment = Attachment("data1", new_id(), 2, "None", "Attach")
    vm = record(data_disks=(attachment,))
    assert find_attachment(vm, "data1") == attachment
    for name, fault in (("data2", "disk-not-attached"), ("web_OsDisk", "disk-of-vm")):
        with pytest.raises(UsageError) as error:
            find_attachment(vm, name)
        assert error.value.name == fault
