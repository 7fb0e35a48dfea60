"""A verb that cannot be done has an error of its own, and changes nothing in the store and nothing in libvirt.

libvirt is its own test driver, whose one domain runs: a VM with that domain's id runs too.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import pipeline.systems.registry  # noqa: F401  a VM's system is found by its name
from pipeline.base.errors import BuildError, GoldsmithError
from pipeline.base.store import Store
from pipeline.gallery.retention import roll_back
from pipeline.hypervisor.connection import Connection, connect
from pipeline.hypervisor.persistent import Power, read_power
from pipeline.instances.fleet import Fleet
from pipeline.instances.record import Failure, Operation, Record
from pipeline.instances.sizes import Size
from pipeline.operations.attach_disk import attach_new, detach
from pipeline.operations.create import Wishes, begin
from pipeline.operations.create_disk import DiskWishes
from pipeline.operations.delete import delete
from pipeline.operations.redeploy import redeploy
from pipeline.operations.start import start
from pipeline.operations.stop import deallocate, restart, stop
from tests.fakes.disks import add_master
from tests.fakes.libvirt_host import RUNNING, open_host
from tests.unit.instances.test_record import record

DONE = "2026-11-26T08:05:00Z"
WISHES = Wishes("db", "small", "azureuser", "ssh-ed25519 AAAA me")
#: VMs as they may be found. None of them has a place on the fabric.
FAILED = Failure("vm-incomplete", "its creation was interrupted", None, DONE)
OFF = record("off", provisioned=DONE)
IDLE = record("idle", provisioned=DONE, allocated=False)
DISK = {"path": "/x", "format": "qcow2"}
ON = record("on", id=RUNNING, provisioned=DONE, disk=DISK)
BUSY = record("busy", provisioned=DONE, disk=DISK, operation=Operation.begin("stop"))
GENERALIZED = record("generalized", provisioned=DONE, generalized=True, allocated=False)
HUGE = record("huge", provisioned=DONE, allocated=False, memory=1 << 50, disk=DISK)
HALF = record("half", failure=FAILED)
DELETED = record("deleted", provisioned=DONE, operation=replace(Operation.begin("delete"), began=1))
VMS = (OFF, IDLE, ON, BUSY, GENERALIZED, HUGE, HALF)


def fill(store: Store, *more: Record) -> None:
    fleet = Fleet(store, open_host)
    raw = store.tmp / "small.raw"
    with raw.open("wb") as file:
        file.truncate(1 << 20)
    add_master(fleet.gallery, "small", raw)
    bad = add_master(fleet.gallery, "small", raw)
    roll_back(fleet.gallery, "small", "golden", "a token was in it")
    for version, channel in ((bad, "bad"),):
        (fleet.gallery.root / "small" / channel).symlink_to(version.version)
    for each in (*VMS, *more):
        fleet.instances.add(each)


def everything(store: Store) -> dict[str, object]:
    """What is in the store, file by file, but empty files of locks and the listing's cache."""
    found: dict[str, object] = {}
    for path in sorted(store.root.rglob("*")):
        name = str(path.relative_to(store.root))
        if path.is_symlink():
            found[name] = path.readlink()
        elif path.is_file() and path.stat().st_size and path.name != ".list-index.json":
            found[name] = path.read_bytes()
    return found


def domains(connection: Connection) -> list[tuple[str, object]]:
    return sorted((domain.name(), domain.state()) for domain in connection.raw.listAllDomains(0))


Verb = Callable[[Fleet], object]


@pytest.mark.parametrize(
    ("name", "verb"),
    [
        ("vm-exists", lambda fleet: begin(fleet, replace(WISHES, name="off"))),
        ("gallery-unknown", lambda fleet: begin(fleet, replace(WISHES, image="nix"))),
        ("image-withdrawn", lambda fleet: begin(fleet, replace(WISHES, image="small@bad"))),
        ("vm-no-room", lambda fleet: begin(fleet, replace(WISHES, size=Size(None, 1, 1 << 50)))),
        ("vm-no-room", lambda fleet: begin(fleet, replace(WISHES, size=Size(None, 1 << 20, 1 << 20)))),
        ("vm-no-room", lambda fleet: start(fleet, "huge")),
        ("vm-generalized", lambda fleet: start(fleet, "generalized")),
        ("vm-running", lambda fleet: start(fleet, "on")),
        ("vm-incomplete", lambda fleet: start(fleet, "half")),
        ("vm-running", lambda fleet: delete(fleet, "on", running=False)),
        ("vm-stopped", lambda fleet: stop(fleet, "off")),
        ("vm-deallocated", lambda fleet: stop(fleet, "idle")),
        ("vm-deallocated", lambda fleet: deallocate(fleet, "idle")),
        ("vm-stopped", lambda fleet: restart(fleet, "off")),
        ("vm-busy", lambda fleet: start(fleet, "busy")),
        ("vm-unknown", lambda fleet: delete(fleet, "nobody", running=True)),
        ("vm-generalized", lambda fleet: redeploy(fleet, "generalized")),
        ("vm-busy", lambda fleet: redeploy(fleet, "busy")),
        ("vm-incomplete", lambda fleet: redeploy(fleet, "half")),
        ("vm-incomplete", lambda fleet: attach_new(fleet, "half", DiskWishes("data1", 1 << 20))),
        ("vm-busy", lambda fleet: detach(fleet, "busy", "data1")),
    ],
)
def test_a_wrong_state_has_a_name_and_changes_nothing(name: str, verb: Verb, tmp_path: Path) -> None:
    store = Store(tmp_path).ensure()
    fill(store)
    fleet = Fleet(store, open_host)
    before = everything(store), domains(fleet.connection)
    with pytest.raises(GoldsmithError) as error:
        verb(fleet)
    assert error.value.name == name and error.value.hint
    assert (everything(store), domains(fleet.connection)) == before


@pytest.mark.parametrize(
    "verb",
    [
        lambda fleet: begin(fleet, WISHES),
        lambda fleet: start(fleet, "idle"),
        lambda fleet: stop(fleet, "on"),
        lambda fleet: deallocate(fleet, "on"),
        lambda fleet: restart(fleet, "on"),
        lambda fleet: delete(fleet, "off", running=True),
        lambda fleet: redeploy(fleet, "on"),
        lambda fleet: detach(fleet, "on", "data1"),
    ],
)
def test_without_libvirt_nothing_is_concluded_and_nothing_changed(verb: Verb, tmp_path: Path) -> None:
    """A VM whose power is not known is not taken for one that is off."""
    store = Store(tmp_path).ensure()
    fill(store, DELETED)
    fleet = Fleet(store, lambda: connect(f"qemu+unix:///system?socket={tmp_path}/none"))
    before = everything(store)
    with pytest.raises(GoldsmithError) as error:
        verb(fleet)
    assert error.value.name == "libvirt-unreachable" and error.value.hint
    assert {fleet.look(each).power for each in VMS} == {Power.UNKNOWN}
    for each in (*VMS, DELETED):
        fleet.refresh(each)
    assert everything(store) == before


def test_a_deletion_that_libvirt_interrupted_is_carried_to_its_end(tmp_path: Path) -> None:
    store = Store(tmp_path).ensure()
    fill(store, DELETED)
    assert Fleet(store, open_host).refresh(DELETED) is None
    assert "deleted" not in Fleet(store, open_host).instances.names()


def test_a_connection_that_has_ended_is_named() -> None:
    """Not libvirt's own error, which would be a traceback; and no VM is taken for one that is not there."""
    link = open_host()
    link.raw.close()
    for ask in (lambda: link.qemu_owner, lambda: read_power(link, RUNNING)):
        with pytest.raises(BuildError) as error:
            ask()
        assert error.value.name == "libvirt-failed"


def test_a_vm_is_deleted_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record takes no word that it is being deleted; what it takes of the disk goes all the same."""
    store = Store(tmp_path / "store").ensure()
    fleet = Fleet(store, open_host)
    fill(store)
    (fleet.instances.folder("off") / "disk.qcow2").write_bytes(b"data")

    def full(_record: Record) -> Record:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fleet.instances, "save", full)
    delete(fleet, "off", running=True)
    assert fleet.instances.find("off") is None and not fleet.instances.folder("off").exists()
