"""Disks of their own: made, enlarged, exported, attached, deleted; and what is refused while a VM leases one.

libvirt is its own test driver, whose one domain runs: a VM with that domain's id runs too.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import pipeline.systems.registry  # noqa: F401  a VM's system is found by its name
from pipeline.base import qemu_img
from pipeline.base.disk_format import QCOW2, VHD
from pipeline.base.errors import GoldsmithError
from pipeline.base.store import Store
from pipeline.cli.app import app
from pipeline.cli.vm.listing import storage_profile
from pipeline.gallery.retention import leases, release_lease
from pipeline.instances.disks import create_disks, remove_old_os_disk, renew_os_disk, whole_image
from pipeline.instances.fleet import Fleet
from pipeline.instances.named_records import RECORD
from pipeline.instances.record import Attachment, Record
from pipeline.instances.resource_disk import drop_resource_disk, make_resource_disk, resource_disk_file
from pipeline.maintenance.retention import remove_master
from pipeline.operations.attach_disk import attach, attach_new, detach, free_name
from pipeline.operations.change_disk import delete_disk, export_disk, resize_disk
from pipeline.operations.create_disk import DiskWishes, create_disk
from pipeline.operations.find_disks import find_disk, list_disks
from pipeline.operations.stop import deallocate
from tests.fakes.disks import add_master
from tests.fakes.libvirt_host import RUNNING, open_host
from tests.tools import needs_tool
from tests.unit.instances.test_record import record
from tests.unit.operations.test_wrong_states import DONE, everything

MIB = 1 << 20
MASTER_SIZE = 4 * MIB
WORDS = b"what the master has"


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """A store with a master, a VM `idle` that is deallocated, and a VM `on` that runs."""
    fleet = Fleet(Store(tmp_path / "store").ensure(), open_host)
    raw = fleet.store.tmp / "small.raw"
    raw.write_bytes(WORDS.ljust(MASTER_SIZE, b"\0"))
    version = add_master(fleet.gallery, "small", raw)
    made = record("idle", image="small", version=version.version, provisioned=DONE, allocated=False)
    for vm in (made, replace(made, id=RUNNING, name="on", allocated=True)):
        folder = fleet.instances.add(vm)
        fleet.instances.save(replace(vm, disk=create_disks(folder, version).to_json()))
    return fleet


def content(fleet: Fleet, name: str) -> bytes:
    target = fleet.store.tmp / f"{name}.raw"
    export_disk(fleet, name, target, "raw", force=True)
    return target.read_bytes()


# ---- making ------------------------------------------------------------------------------------------------------


def test_an_empty_disk(fleet: Fleet) -> None:
    for fmt in (QCOW2, VHD):
        made = create_disk(fleet, DiskWishes(f"data-{fmt.name}", 8 * MIB, None, fmt))
        assert (made.create_option, made.size, made.format) == ("Empty", 8 * MIB, fmt.name)
        assert content(fleet, made.name) == bytes(8 * MIB)
    assert (fleet.store.disks / "data-vhd" / "disk.vhd").stat().st_size == 8 * MIB + 512


def test_a_disk_from_a_master_leases_it_until_it_is_deleted(fleet: Fleet) -> None:
    made = create_disk(fleet, DiskWishes("copy", 8 * MIB, "small"))
    assert made.create_option == "FromImage" and made.image_of_disk.backing is not None
    assert [lease.why for lease in leases(fleet.gallery, "small")] == ["the disk copy stands on it"]
    assert content(fleet, "copy") == WORDS.ljust(8 * MIB, b"\0")
    delete_disk(fleet, "copy")
    assert leases(fleet.gallery, "small") == [] and list_names(fleet) == ["idle_OsDisk", "on_OsDisk"]


def test_a_whole_disk_from_a_master_stands_alone(fleet: Fleet) -> None:
    made = create_disk(fleet, DiskWishes("copy", None, "small@golden", VHD))
    assert made.image_of_disk.backing is None and leases(fleet.gallery, "small") == []
    assert made.image_of_disk.path.read_bytes()[: len(WORDS)] == WORDS


def test_the_data_disks_of_a_master(fleet: Fleet) -> None:
    """A disk is made from one, and a VM has overlays on all of them, with the caching of the master's definition."""
    raw, data = fleet.store.tmp / "web.raw", fleet.store.tmp / "web-data.raw"
    raw.write_bytes(bytes(MASTER_SIZE))
    data.write_bytes(b"data of the master".ljust(2 * MIB, b"\0"))
    version = add_master(fleet.gallery, "web", raw, data={3: data})
    create_disk(fleet, DiskWishes("copy", None, "web:3"))
    assert content(fleet, "copy") == data.read_bytes()
    vm = record("db", image="web", version=version.version, provisioned=DONE, allocated=False)
    fleet.instances.add(vm)
    vm = fleet.instances.save(replace(vm, disk=create_disks(fleet.folder(vm), version).to_json()))
    attach_new(fleet, "db", DiskWishes("new", MIB), lun=0)
    found = fleet.attached_disks(fleet.instances.get("db"))
    assert [(disk.lun, disk.name, disk.size, disk.caching, disk.create_option) for disk in found] == [
        (0, "new", MIB, "None", "Empty"),
        (3, "db_DataDisk_3", 2 * MIB, "ReadOnly", "FromImage"),
    ]
    assert content(fleet, "db_DataDisk_3") == data.read_bytes()
    folder, before = fleet.folder(vm), vm.image_of_disk
    after = renew_os_disk(folder, version, before)
    remove_old_os_disk(folder, after)
    assert after.data == before.data and all(image.path.exists() for image in after.files)
    assert not before.path.exists()


def test_a_disk_from_a_file(fleet: Fleet, tmp_path: Path) -> None:
    source = tmp_path / "source.raw"
    source.write_bytes(b"from a file".ljust(3 * MIB, b"\1"))
    for fmt in (QCOW2, VHD):
        made = create_disk(fleet, DiskWishes(f"from-{fmt.name}", 5 * MIB, str(source), fmt))
        assert made.create_option == "Import"
        assert content(fleet, made.name) == source.read_bytes().ljust(5 * MIB, b"\0")


def list_names(fleet: Fleet) -> list[str]:
    return [disk.name for disk in list_disks(fleet)]


@pytest.mark.parametrize(
    ("name", "wishes"),
    [
        ("disk-name-invalid", DiskWishes("Data", MIB)),
        ("bad-size", DiskWishes("data", None)),
        ("bad-size", DiskWishes("data", MIB + 512)),
        ("bad-size", DiskWishes("data", 4 << 40)),
        ("vm-no-room", DiskWishes("data", 2039 << 30)),
        ("gallery-unknown", DiskWishes("data", None, "nix")),
        ("lun-unknown", DiskWishes("data", None, "small:3")),
        ("disk-shrink", DiskWishes("data", MIB, "small")),
        ("disk-exists", DiskWishes("there", MIB)),
    ],
)
def test_wrong_wishes_have_names_and_leave_nothing(fleet: Fleet, name: str, wishes: DiskWishes) -> None:
    create_disk(fleet, DiskWishes("there", MIB))
    before = everything(fleet.store)
    with pytest.raises(GoldsmithError) as error:
        create_disk(fleet, wishes)
    assert error.value.name == name and error.value.hint
    assert everything(fleet.store) == before


def test_a_disk_that_cannot_be_read_leaves_nothing(fleet: Fleet, tmp_path: Path) -> None:
    bad = tmp_path / "bad.vhdx"
    bad.write_bytes(b"vhdxfile".ljust(MIB, b"\0"))
    with pytest.raises(GoldsmithError):
        create_disk(fleet, DiskWishes("data", None, str(bad)))
    assert fleet.disks.names() == [] and list(fleet.store.disks.glob(".new-*")) == []


def test_a_disk_grows_and_keeps_its_data(fleet: Fleet) -> None:
    for fmt in (QCOW2, VHD):
        name = f"data-{fmt.name}"
        create_disk(fleet, DiskWishes(name, None, "small", fmt))
        assert resize_disk(fleet, name, 8 * MIB).size == 8 * MIB
        assert content(fleet, name) == WORDS.ljust(8 * MIB, b"\0")
        with pytest.raises(GoldsmithError) as error:
            resize_disk(fleet, name, 4 * MIB)
        assert error.value.name == "disk-shrink"


def test_a_disk_is_deleted_only_where_somebody_says_so(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOLDSMITH_HOME", str(fleet.store.root))
    create_disk(fleet, DiskWishes("data1", MIB))
    with pytest.raises(GoldsmithError) as error:
        run("disk", "delete", "data1")(fleet)
    assert error.value.name == "disk-delete-unconfirmed" and fleet.disks.names() == ["data1"]
    run("disk", "delete", "data1", "--yes")(fleet)
    assert fleet.disks.names() == []


# ---- attaching ---------------------------------------------------------------------------------------------------


def test_attach_and_detach_a_vm_that_is_off(fleet: Fleet) -> None:
    create_disk(fleet, DiskWishes("data1", 4 * MIB))
    assert attach(fleet, "idle", "data1", caching="ReadOnly").lun == 0
    assert free_name(fleet, "idle") == "idle-data-0"
    assert attach_new(fleet, "idle", DiskWishes("idle-data-0", 4 * MIB), lun=7).create_option == "Empty"
    assert free_name(fleet, "idle") == "idle-data-1"
    vm = fleet.instances.get("idle")
    assert [(disk.lun, disk.name, disk.caching) for disk in fleet.attached_disks(vm)] == [
        (0, "data1", "ReadOnly"),
        (7, "idle-data-0", "None"),
    ]
    assert [lun for lun, _ in whole_image(fleet.disks, vm).data] == [0, 7] and vm.operation is None
    listed = find_disk(fleet, "data1")
    assert (listed.vm, listed.lun, listed.lease["owner"]) == ("idle", 0, {"vm": "idle", "vmId": vm.id})
    # a VM that is off lets its disk be read and enlarged
    assert len(content(fleet, "data1")) == 4 * MIB
    assert resize_disk(fleet, "data1", 5 * MIB).owner == vm.id
    detach(fleet, "idle", "data1")
    assert find_disk(fleet, "data1").lease["state"] == "available"
    assert [each.disk for each in fleet.instances.get("idle").data_disks] == ["idle-data-0"]


@pytest.mark.parametrize(
    ("name", "verb"),
    [
        ("disk-unknown", lambda fleet: attach(fleet, "idle", "nix")),
        ("vm-unknown", lambda fleet: attach(fleet, "nix", "data1")),
        ("vm-unknown", lambda fleet: attach_new(fleet, "nix", DiskWishes("new", MIB))),
        ("lun-taken", lambda fleet: attach_new(fleet, "idle", DiskWishes("new", MIB), lun=3)),
        ("lun-invalid", lambda fleet: attach_new(fleet, "idle", DiskWishes("new", MIB), lun=64)),
        ("caching-unknown", lambda fleet: attach(fleet, "idle", "data1", caching="All")),
        ("disk-exists", lambda fleet: attach_new(fleet, "idle", DiskWishes("data1", MIB))),
        ("disk-not-attached", lambda fleet: detach(fleet, "idle", "data1")),
        ("disk-of-vm", lambda fleet: detach(fleet, "idle", "idle_OsDisk")),
        ("disk-of-vm", lambda fleet: delete_disk(fleet, "idle_OsDisk")),
        ("disk-of-vm", lambda fleet: resize_disk(fleet, "idle_OsDisk", 8 * MIB)),
    ],
)
def test_what_cannot_be_attached_has_a_name_and_changes_nothing(
    fleet: Fleet, name: str, verb: Callable[[Fleet], object]
) -> None:
    create_disk(fleet, DiskWishes("data1", MIB))
    attach_new(fleet, "idle", DiskWishes("data3", MIB), lun=3)
    before = everything(fleet.store)
    with pytest.raises(GoldsmithError) as error:
        verb(fleet)
    assert error.value.name == name and error.value.hint
    assert everything(fleet.store) == before


# ---- leases ------------------------------------------------------------------------------------------------------


@pytest.fixture
def leased(fleet: Fleet) -> Fleet:
    """The disks `data1` and `stand` are attached to the VM that runs; `stand` stands on the master."""
    create_disk(fleet, DiskWishes("data1", 4 * MIB, None, VHD))
    create_disk(fleet, DiskWishes("stand", None, "small"))
    return give(fleet, "on", "data1", "stand")


def give(fleet: Fleet, name: str, *disks: str) -> Fleet:
    """Attach disks in the records alone, as they are while a VM runs."""
    vm = fleet.instances.get(name)
    found = [fleet.disks.lease(disk, vm.id, vm.name) for disk in disks]
    attached = tuple(Attachment(each.name, each.id, lun, "None", "Attach") for lun, each in enumerate(found))
    fleet.instances.save(replace(vm, data_disks=attached))
    return fleet


def run(*words: str) -> Callable[[Fleet], object]:
    """A command line. DISK is the leased VHD, OTHER another one, LINK and HARD other names of the leased one."""

    def call(fleet: Fleet) -> object:
        result = CliRunner().invoke(app, [name_file(fleet, word) if word.isupper() else word for word in words])
        if result.exception is not None:
            raise result.exception
        return result

    return call


def name_file(fleet: Fleet, word: str) -> str:
    """The path of a file by its word in the table. FREE is a VHD that no VM has, MASTER the disk of a version."""
    there = {
        "DISK": fleet.store.disks / "data1" / "disk.vhd",
        "OS": fleet.store.instances / "on" / "disk.qcow2",
        "MASTER": fleet.gallery.get("small").disk,
        "SITE": fleet.store.root.parent / "site",
    }
    return str(there.get(word, fleet.store.tmp / f"{word.lower()}.vhd"))


def locked(hurt: Callable[[Fleet], object], word: str = "FREE") -> Callable[[Fleet], object]:
    """The same while a program has locked a file as QEMU does: for reading, a byte behind the first hundred."""

    def call(fleet: Fleet) -> object:
        with Path(name_file(fleet, word)).open("rb") as file:
            lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 101, 1, 0)
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, lock)
            return hurt(fleet)

    return call


def master(fleet: Fleet) -> str:
    return fleet.gallery.get("small").version


HURTS: list[tuple[str, Callable[[Fleet], object]]] = [
    ("disk-leased", lambda fleet: delete_disk(fleet, "data1")),
    ("disk-leased", lambda fleet: resize_disk(fleet, "data1", 8 * MIB)),
    ("disk-leased", lambda fleet: export_disk(fleet, "data1", fleet.store.tmp / "new.vhd", "fixed")),
    ("disk-leased", lambda fleet: export_disk(fleet, "on_OsDisk", fleet.store.tmp / "new.vhd", "fixed")),
    ("disk-leased", lambda fleet: attach(fleet, "idle", "data1")),
    ("disk-leased", lambda fleet: attach(fleet, "on", "data1")),
    ("disk-leased", run("vhd", "resize", "DISK", "8 MiB")),
    ("disk-leased", run("vhd", "convert", "OTHER", "DISK", "--force")),
    ("disk-leased", run("vhd", "convert", "OTHER", "OS", "--force")),
    ("disk-leased", run("vhd", "convert", "OTHER", "LINK", "--force")),
    ("disk-leased", run("vhd", "resize", "HARD", "8 MiB")),
    ("disk-leased", run("vhd", "create", "DISK", "--size", "4 MiB", "--force")),
    ("disk-leased", run("vhd", "diff", "OTHER", "OTHER", "DISK", "--force")),
    ("disk-leased", run("vhd", "apply", "OTHER", "DISK", "--force", "--to", "fixed")),
    ("disk-leased", run("gallery", "delta", "small", "small", "DISK", "--force")),
    ("disk-leased", run("gallery", "site", "SITE", "--metrics", "DISK")),
    ("disk-leased", run("vm", "screenshot", "on", "DISK")),
    ("disk-leased", run("vm", "screenshot", "on", "LINK")),
    ("disk-leased", run("vm", "rdp", "on", "OS")),
    ("target-in-gallery", run("vhd", "convert", "OTHER", "MASTER", "--force")),
    ("target-in-gallery", run("vhd", "resize", "MASTER", "8 MiB")),
    ("file-in-use", locked(run("vhd", "convert", "OTHER", "FREE", "--force"))),
    ("file-in-use", locked(run("vhd", "resize", "FREE", "8 MiB"))),
    ("disk-leased", locked(run("vhd", "convert", "DISK", "NEW"), "DISK")),
    (
        "disk-leased",
        locked(lambda fleet: create_disk(fleet, DiskWishes("copy", None, name_file(fleet, "DISK"))), "DISK"),
    ),
    (
        "version-in-use",
        lambda fleet: remove_master(fleet.store, "small", master(fleet), "old", force=True),
    ),
    ("lease-of-vm", lambda fleet: release_lease(fleet.gallery, "small", leases(fleet.gallery, "small")[0].id)),
]


@pytest.mark.parametrize(("name", "hurt"), HURTS)
def test_a_leased_disk_or_version_cannot_be_hurt(
    leased: Fleet, name: str, hurt: Callable[[Fleet], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOLDSMITH_HOME", str(leased.store.root))
    disk = leased.store.disks / "data1" / "disk.vhd"
    run("vhd", "create", "OTHER", "--size", "4 MiB")(leased)
    run("vhd", "create", "FREE", "--size", "4 MiB")(leased)
    (leased.store.tmp / "link.vhd").symlink_to(disk)
    os.link(disk, leased.store.tmp / "hard.vhd")
    before = everything(leased.store)
    with pytest.raises(GoldsmithError) as error:
        hurt(leased)
    assert error.value.name == name and error.value.hint
    if name == "disk-leased":
        assert "leased by the VM on" in error.value.message
    assert everything(leased.store) == before


def test_a_free_disk_may_be_changed_as_a_file(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table above refuses because of the lease, and not because of the place."""
    monkeypatch.setenv("GOLDSMITH_HOME", str(fleet.store.root))
    create_disk(fleet, DiskWishes("data1", 4 * MIB, None, VHD))
    run("vhd", "resize", "DISK", "8 MiB")(fleet)
    run("vhd", "create", "FREE", "--size", "4 MiB")(fleet)
    run("vhd", "convert", "FREE", "DISK", "--force")(fleet)
    run("gallery", "delta", "small", "small", "FREE", "--force")(fleet)
    # at rest the file of a leased disk may be read
    give(fleet, "on", "data1")
    run("vhd", "convert", "DISK", "NEW")(fleet)


def test_a_leased_vhd_is_enlarged_while_its_vm_is_off(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the verb for disks, which knows that; the guard of files is not asked for it."""
    monkeypatch.setenv("GOLDSMITH_HOME", str(fleet.store.root))
    create_disk(fleet, DiskWishes("data1", 4 * MIB, None, VHD))
    attach(fleet, "idle", "data1")
    with pytest.raises(GoldsmithError) as error:
        run("vhd", "resize", "DISK", "8 MiB")(fleet)
    assert error.value.name == "disk-leased"
    assert resize_disk(fleet, "data1", 8 * MIB).size == 8 * MIB


def test_leases_outlive_deallocation(fleet: Fleet) -> None:
    create_disk(fleet, DiskWishes("data1", MIB))
    attach(fleet, "idle", "data1")
    assert not fleet.instances.get("idle").allocated
    with pytest.raises(GoldsmithError) as error:
        delete_disk(fleet, "data1")
    assert error.value.name == "disk-leased"


@pytest.mark.parametrize("vm", ["idle", "on"])
def test_a_lease_without_attachment_ends_with_the_next_command(fleet: Fleet, vm: str) -> None:
    """The command that attached it was killed after the lease, or the one that detached it before its end."""
    create_disk(fleet, DiskWishes("data1", MIB))
    fleet.disks.lease("data1", fleet.instances.get(vm).id, vm)
    assert find_disk(fleet, "data1").lease["state"] == "available"


def test_a_lease_of_a_vm_that_is_gone_ends_with_the_next_command(fleet: Fleet) -> None:
    create_disk(fleet, DiskWishes("data1", MIB))
    fleet.disks.lease("data1", record().id, "gone")
    attach(fleet, "idle", "data1")
    assert find_disk(fleet, "data1").vm == "idle"


def test_a_lease_holds_while_another_command_holds_its_vm(fleet: Fleet) -> None:
    """It may be the command that attaches it."""
    create_disk(fleet, DiskWishes("data1", MIB))
    fleet.disks.lease("data1", fleet.instances.get("idle").id, "idle")
    with fleet.instances.hold("idle"):
        assert find_disk(fleet, "data1").lease["state"] == "leased"
    assert find_disk(fleet, "data1").lease["state"] == "available"


def test_disks_are_listed_where_a_record_or_a_master_cannot_be_read(fleet: Fleet) -> None:
    create_disk(fleet, DiskWishes("data1", MIB))
    create_disk(fleet, DiskWishes("data2", MIB))
    attach(fleet, "idle", "data1")
    attach(fleet, "idle", "data2")
    (fleet.disks.folder("data2") / RECORD).write_text("{}")
    (fleet.folder(fleet.instances.get("on")) / RECORD).write_text("{}")
    assert list_names(fleet) == ["data1", "idle_OsDisk"]
    profile = storage_profile(fleet, fleet.instances.get("idle"))
    assert [(disk["name"], disk["diskSizeGB"]) for disk in profile["dataDisks"]] == [("data1", None), ("data2", None)]
    shutil.rmtree(fleet.gallery.root / "small")
    assert list_names(fleet) == ["data1", "idle_OsDisk"]
    # a lease holds where its VM's record cannot be read
    (fleet.folder(fleet.instances.get("idle")) / RECORD).write_text("{}")
    assert find_disk(fleet, "data1").lease["state"] == "leased"


def test_disks_of_a_deleted_vm_stay_and_are_free(fleet: Fleet) -> None:
    create_disk(fleet, DiskWishes("data1", MIB))
    attach(fleet, "idle", "data1")
    fleet.destroy(fleet.instances.get("idle"))
    assert find_disk(fleet, "data1").lease["state"] == "available"


# ---- an instance's own -------------------------------------------------------------------------------------------


def test_a_new_os_disk_takes_the_place_of_the_old_one(fleet: Fleet) -> None:
    vm = fleet.instances.get("idle")
    folder, version = fleet.folder(vm), fleet.gallery.get("small")
    before = vm.image_of_disk
    after = renew_os_disk(folder, version, before)
    assert after.path != before.path and before.path.exists() and after.path.exists()
    for _ in range(2):
        remove_old_os_disk(folder, after)
        assert sorted(folder.glob("disk*.qcow2")) == [after.path]
    assert qemu_img.info(after.path, QCOW2.driver)["virtual-size"] == MASTER_SIZE


def test_a_larger_os_disk_reads_as_its_master_with_zeros_behind(fleet: Fleet) -> None:
    vm = fleet.instances.get("idle")
    folder, version = fleet.folder(vm), fleet.gallery.get("small")
    made = create_disks(folder, version, 2 * MASTER_SIZE)
    fleet.instances.save(replace(vm, disk=made.to_json(), os_disk_size=2 * MASTER_SIZE))
    # not what stands behind the data of the VHD: its footer
    assert content(fleet, "idle_OsDisk") == WORDS.ljust(2 * MASTER_SIZE, b"\0")
    sizes = {disk.name: disk.size for disk in list_disks(fleet)}
    assert sizes == {"idle_OsDisk": 2 * MASTER_SIZE, "on_OsDisk": MASTER_SIZE}
    for wanted, size in ((2 * MASTER_SIZE, 2 * MASTER_SIZE), (1, MASTER_SIZE)):
        renewed = renew_os_disk(folder, version, made, wanted)
        assert qemu_img.info(renewed.path, QCOW2.driver)["virtual-size"] == size


@needs_tool("ntfscat")
def test_the_resource_disk_has_its_label_and_its_warning(tmp_path: Path) -> None:
    import subprocess

    disk = make_resource_disk(tmp_path, 16 * MIB)
    path = resource_disk_file(tmp_path)
    assert (disk.image.path, disk.beside_os, path.stat().st_size) == (path, True, 16 * MIB)
    assert list(tmp_path.iterdir()) == [path]
    part = tmp_path / "part.ntfs"
    part.write_bytes(path.read_bytes()[MIB:])
    text = subprocess.run(["ntfscat", part, "DATALOSS_WARNING_README.txt"], capture_output=True, check=True).stdout
    assert b"SUBJECT TO LOSS" in text
    label = subprocess.run(["ntfslabel", part], capture_output=True, text=True, check=True).stdout
    assert label.strip() == "Temporary Storage"
    # it is kept as long as it is there
    with path.open("r+b") as file:
        file.write(b"mine")
    make_resource_disk(tmp_path, 16 * MIB)
    assert path.read_bytes()[:4] == b"mine"
    drop_resource_disk(tmp_path)
    drop_resource_disk(tmp_path)
    make_resource_disk(tmp_path, 16 * MIB)
    assert path.read_bytes()[:4] != b"mine"


def test_deallocate_drops_the_resource_disk(fleet: Fleet) -> None:
    vm: Record = fleet.instances.save(replace(fleet.instances.get("idle"), allocated=True, disk=None))
    file = resource_disk_file(fleet.folder(vm))
    file.write_bytes(b"mine")
    deallocate(fleet, "idle")
    assert not file.exists()
