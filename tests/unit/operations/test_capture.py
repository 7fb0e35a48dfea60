"""From a VM back to a master: its disk at rest is read, its disks go through the stages of every build.

The VMs are toys: no guest is started, libvirt is its own test driver.
"""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pycdlib
import pytest

from pipeline.base import qemu_img
from pipeline.base.disk_format import RAW
from pipeline.base.errors import CheckFailed, GoldsmithError, UsageError
from pipeline.base.store import Store
from pipeline.cache.layers import Image
from pipeline.context import BuildContext
from pipeline.definition import DefinitionError, load
from pipeline.disk.mapping import chain_extents
from pipeline.disk.transfer import compare
from pipeline.engine import runner
from pipeline.fabric import service
from pipeline.fabric.instance import Instance
from pipeline.fabric.registration import Link
from pipeline.gallery import Version
from pipeline.gallery.retention import lease_to_instance, leases_of_instance
from pipeline.guest.disks import create_overlay
from pipeline.instances.disks import disk_size
from pipeline.instances.fleet import Fleet
from pipeline.instances.record import Operation, Record
from pipeline.operations import capture as capture_module
from pipeline.operations import create as create_module
from pipeline.operations import reimage as reimage_module
from pipeline.operations.capture import CaptureWishes, capture
from pipeline.operations.generalize import generalize
from pipeline.operations.redeploy import redeploy
from pipeline.operations.reimage import begin, renew
from pipeline.operations.start import Started, start
from pipeline.systems import registry
from pipeline.systems.windows import answers
from pipeline.systems.windows.system import SYSTEM as WINDOWS
from tests.fakes.disks import add_master
from tests.fakes.libvirt_host import open_host
from tests.fakes.toy_system.system import SYSTEM
from tests.unit.instances.test_record import record
from tests.unit.operations.test_wrong_states import RUNNING
from tests.unit.systems.test_toy_inspection import FILES, disk_of

MIB = 1 << 20
WOUND = {**FILES, "TOY/WOUND": "up"}


@pytest.fixture(autouse=True)
def toy() -> Iterator[None]:
    registry.register(SYSTEM)
    yield
    registry.unregister(SYSTEM.name)


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """VMs on a host whose libvirt has no guest of ours."""
    monkeypatch.setattr(runner, "collect_orphans", lambda *_: None)
    monkeypatch.setattr(BuildContext, "accelerator", SimpleNamespace(kind="tcg"))
    monkeypatch.setattr(BuildContext, "connection", SimpleNamespace(version="9.0.0", qemu_version="7.2.0"))
    return Fleet(Store(tmp_path / "store").ensure(), open_host)


def add_vm(fleet: Fleet, name: str, files: dict[str, str], *luns: int, **changes: object) -> Record:
    """A VM of a toy's master that is off, with data disks on which something was written."""
    folder = fleet.store.tmp / f"made-{name}"
    folder.mkdir()
    master = add_master(fleet.gallery, name, disk_of(folder, files), os="toy", summary="a drum")
    fleet.instances.add(record(name, system="toy", image=name, version=master.version, generation=1, provisioned="x"))
    data = []
    for lun in luns:
        base = folder / f"data-{lun}.raw"
        base.write_bytes(bytes(4 * MIB))
        data.append((lun, Image(base, RAW, size=4 * MIB)))
    home = fleet.instances.folder(name)
    image = create_overlay(home / "disk.qcow2", replace(master.image, data=tuple(data)))
    for lun, each in image.data:
        write = f"write -q -P {lun + 1} 1M 64k"
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", write, each.path], check=True, capture_output=True)
    found = fleet.instances.get(name)
    return fleet.instances.save(replace(found, **{"disk": image.to_json(), **changes}))  # type: ignore[arg-type]


def quiet(_text: str) -> None:
    pass


def test_a_disk_that_is_generalized_makes_its_vm_generalized(fleet: Fleet) -> None:
    add_vm(fleet, "drum", FILES)
    assert generalize(fleet, "drum", run=False, on_progress=quiet).generalized
    kept = fleet.instances.get("drum")
    assert kept.generalized and kept.operation is None
    with pytest.raises(UsageError) as error:
        start(fleet, "drum")
    assert error.value.name == "vm-generalized" and "--anyway" in (error.value.hint or "")


def test_a_disk_that_is_not_is_refused_check_by_check(fleet: Fleet) -> None:
    add_vm(fleet, "drum", WOUND)
    with pytest.raises(CheckFailed) as error:
        generalize(fleet, "drum", run=False, on_progress=quiet)
    assert error.value.name == "not-generalized"
    assert "  fail: toy-wound-down: /TOY/WOUND is there" in error.value.message.splitlines()
    kept = fleet.instances.get("drum")
    assert not kept.generalized and kept.operation is None


def test_a_started_vm_is_read_again_before_it_is_captured(fleet: Fleet) -> None:
    """`vm start --anyway` gives a generalized VM an identity again; its record still says that it is generalized."""
    add_vm(fleet, "drum", WOUND, generalized=True)
    with pytest.raises(CheckFailed) as error:
        capture(fleet, "drum", CaptureWishes("drum-base"), "test", quiet)
    assert error.value.name == "not-generalized"
    assert fleet.gallery.names() == ["drum"]


def test_a_vm_with_data_disks_becomes_a_master_and_stays(fleet: Fleet) -> None:
    vm = add_vm(fleet, "drum", FILES, 0, 5, generalized=True)
    outcome = capture(fleet, "drum", CaptureWishes("drum-base", accounts=["tin"]), "goldsmith vm capture", quiet)
    version = outcome.version
    assert version is not None and version.channels == ("golden",)
    manifest = version.manifest
    assert (manifest["agent"], manifest["generations"], manifest["verdict"]["failed"]) == ("outside", [1], 0)
    assert manifest["summary"] == f"captured from the VM drum, which was made from {vm.reference}"
    assert [(disk["lun"], disk["virtual_size"]) for disk in manifest["data_disks"]] == [(0, 4 * MIB), (5, 4 * MIB)]
    checks = {check["id"]: check["evidence"] for check in manifest["checks"]}
    assert checks["data-disk-5"] == f"{4 * MIB} bytes, as it was brought"
    assert manifest["prove"]["gen1"]["checks"] == {"release": "Tin Drum 3"}
    # bit for bit what the VM has
    for (lun, shipped), (_, own) in zip(version.image.data, vm.image_of_disk.data, strict=True):
        with (
            chain_extents(shipped.path, shipped.format.key) as left,
            chain_extents(own.path, own.format.key, within=fleet.store.root) as right,
        ):
            assert compare(left, right).same, lun
        with shipped.path.open("rb") as file:
            file.seek(MIB)
            assert file.read(4) == bytes([lun + 1]) * 4
    template = json.loads((version.path / "template.json").read_text())
    storage = template["resources"][1]["properties"]["storageProfile"]
    assert [(disk["lun"], disk["createOption"]) for disk in storage["dataDisks"]] == [
        (0, "FromImage"),
        (5, "FromImage"),
    ]
    kept = fleet.instances.get("drum")
    assert kept == replace(vm, operation=None)
    assert list(fleet.store.tmp.glob(".goldsmith*capture*")) == []
    # nothing has changed: the same version again
    again = capture(fleet, "drum", CaptureWishes("drum-base", accounts=["tin"]), "goldsmith vm capture", quiet)
    assert again.unchanged and again.version is not None and again.version.version == version.version


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "vm-not-generalized"),
        ({"id": RUNNING}, "vm-running"),
        ({"id": RUNNING, "generalized": True}, "vm-running"),
        ({"generalized": True, "system": "windows"}, "capture-data-disks"),
        ({"generalized": True, "disk": None}, "vm-incomplete"),
    ],
)
def test_what_cannot_be_captured_has_a_name(
    changes: dict[str, object], name: str, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_vm(fleet, "drum", FILES, 0, **changes)
    if changes.get("system") == WINDOWS.name:  # a toy's disk is not one of Windows, which would be noticed first
        monkeypatch.setattr(capture_module, "refuse_specialized", lambda *_: None)
    before = fleet.instances.get("drum")
    with pytest.raises(GoldsmithError) as error:
        capture(fleet, "drum", CaptureWishes("drum-base"), "test", quiet)
    assert error.value.name == name and error.value.hint
    assert fleet.instances.get("drum") == before and fleet.gallery.names() == ["drum"]


def test_what_cannot_be_generalized_has_a_name(fleet: Fleet) -> None:
    add_vm(fleet, "drum", FILES)
    with pytest.raises(UsageError) as error:
        generalize(fleet, "drum", run=True, on_progress=quiet)
    assert error.value.name == "vm-stopped"
    add_vm(fleet, "tin", FILES, id=RUNNING)
    with pytest.raises(UsageError) as error:
        generalize(fleet, "tin", run=False, on_progress=quiet)
    assert error.value.name == "vm-running"
    with pytest.raises(UsageError) as error:
        SYSTEM.generalize_instance(None)  # type: ignore[arg-type]  it is refused for every guest
    assert error.value.name == "generalize-unsupported"


# ---- the definition of a disk with data disks --------------------------------------------------------------------

DEFINITION = """\
goldsmith: 1
os: toy
source: {disk: {path: toy.raw, format: raw, data_disks: [{lun: 3, path: data.raw}]}}
generalize: {agent: outside}
data_disks: [{lun: 3, size: 4 MiB}]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    (made / "images").mkdir(parents=True)
    disk_of(made, FILES)
    (made / "data.raw").write_bytes(b"\1" * MIB + bytes(3 * MIB))
    return made


def test_a_definition_names_the_data_disks_of_its_disk(fleet: Fleet, project: Path) -> None:
    path = project / "images/drum.yaml"
    path.write_text(DEFINITION)
    outcome = runner.build(load(path, project), fleet.store, command="test")
    assert outcome.version is not None
    ((lun, disk),) = outcome.version.image.data
    assert lun == 3 and disk.path.read_bytes()[: 4 * MIB] == (project / "data.raw").read_bytes()
    # other bytes are another version
    (project / "data.raw").write_bytes(b"\2" * MIB + bytes(3 * MIB))
    assert not runner.build(load(path, project), fleet.store, command="test").unchanged


def test_a_data_disk_of_another_size_is_refused(fleet: Fleet, project: Path) -> None:
    path = project / "images/drum.yaml"
    path.write_text(DEFINITION.replace("size: 4 MiB", "size: 8 MiB"))
    with pytest.raises(UsageError) as error:
        runner.build(load(path, project), fleet.store, command="test")
    assert error.value.name == "data-disk-size" and "data.raw has 4194304 bytes" in error.value.message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("data_disks: [{lun: 3, size: 4 MiB}]\n", "", "data_disks has no LUN 3"),
        ("path: data.raw}", "path: data.raw}, {lun: 3, path: data.raw}", "LUN 3 is duplicated"),
        ("path: data.raw", "path: none.raw", "none.raw"),
    ],
)
def test_a_wrong_data_disk_of_a_disk_is_an_error_of_the_definition(
    old: str, new: str, message: str, project: Path
) -> None:
    path = project / "images/drum.yaml"
    assert old in DEFINITION
    path.write_text(DEFINITION.replace(old, new))
    with pytest.raises(DefinitionError, match=message):
        load(path, project)


# ---- reimage, at rest --------------------------------------------------------------------------------------------


def bytes_of(fleet: Fleet, image: Image) -> bytes:
    """All bytes of a small disk with what it stands on."""
    target = fleet.store.tmp / f"flat-{image.path.name}"
    words = ["qemu-img", "convert", "-U", "-f", image.format.driver, "-O", "raw", image.path, target]
    subprocess.run(words, check=True)
    data = target.read_bytes()
    target.unlink()
    return data


def newer(fleet: Fleet, name: str) -> Version:
    folder = fleet.store.tmp / f"newer-{name}"
    folder.mkdir()
    disk = disk_of(folder, {**FILES, "TOY/NEWER": "yes"})
    return add_master(fleet.gallery, name, disk, os="toy", summary="a newer drum")


def leased(fleet: Fleet, vm: Record) -> Record:
    lease_to_instance(fleet.gallery, fleet.gallery.get(vm.reference), vm.id, "VM drum runs from it")
    return vm


def test_a_reimaged_vm_has_a_new_os_disk_and_its_old_data_disks(fleet: Fleet) -> None:
    vm = leased(fleet, add_vm(fleet, "drum", FILES, 0, 5, generalized=True))
    home = fleet.folder(vm)
    for name in ("vars.fd", "known_hosts"):
        (home / name).write_text("old")
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q 1M 64k", vm.image_of_disk.path], check=True)
    before = [bytes_of(fleet, disk) for _, disk in vm.image_of_disk.data]
    to = newer(fleet, "drum")
    with fleet.instances.hold("drum"):
        new = renew(fleet, vm, to)
    assert (new.reference, new.digest) == (f"drum@{to.version}", to.digest)
    assert (new.generalized, new.provisioned, new.failure) == (False, None, None)
    assert new.id == vm.id and new == fleet.instances.get("drum")
    assert [lun for lun, _ in new.image_of_disk.data] == [0, 5]
    assert [bytes_of(fleet, disk) for _, disk in new.image_of_disk.data] == before
    assert bytes_of(fleet, new.image_of_disk) == to.disk.read_bytes()[:-512]
    assert not vm.image_of_disk.path.exists() and not (home / "vars.fd").exists()
    assert not (home / "known_hosts").exists()
    # its data disks stand on the old master, which stays leased
    assert new.data_master == vm.reference
    assert leases_of_instance(fleet.gallery, vm.id) == [("drum", vm.version), ("drum", to.version)]
    # and back: one master again
    with fleet.instances.hold("drum"):
        back = renew(fleet, new, fleet.gallery.get(vm.reference))
    assert back.data_master is None and leases_of_instance(fleet.gallery, vm.id) == [("drum", vm.version)]
    assert [bytes_of(fleet, disk) for _, disk in back.image_of_disk.data] == before
    assert back.disk_size == vm.disk_size


def test_a_reimaged_vm_keeps_the_size_of_its_os_disk(fleet: Fleet) -> None:
    vm = leased(fleet, add_vm(fleet, "drum", FILES, 0))
    larger = disk_size(fleet.gallery.get(vm.reference)) + (3 << 20)
    grown = fleet.instances.save(replace(vm, os_disk_size=larger, disk_size=vm.disk_size + larger))
    with fleet.instances.hold("drum"):
        new = renew(fleet, grown, newer(fleet, "drum"))
    assert qemu_img.info(new.image_of_disk.path, "qcow2")["virtual-size"] == new.os_disk_size == larger
    assert new.disk_size == grown.disk_size


@pytest.mark.parametrize("step", ["lease_to_instance", "renew_os_disk", "save", "remove_old_disks"])
def test_a_reimage_that_is_killed_is_mended_by_the_next_verb(
    step: str, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before each step: the VM has its whole old OS disk or its whole new one, and the leases of that."""
    vm = leased(fleet, add_vm(fleet, "drum", FILES, 0))
    dead = replace(Operation.begin("reimage"), began=1)
    vm = fleet.instances.save(replace(vm, operation=dead))
    before = [bytes_of(fleet, disk) for _, disk in vm.image_of_disk.data]
    to = newer(fleet, "drum")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    place = {"save": fleet.instances, "remove_old_disks": fleet}.get(step, reimage_module)
    with monkeypatch.context() as patch, fleet.instances.hold("drum"), pytest.raises(KeyboardInterrupt):
        patch.setattr(place, step, killed)
        renew(fleet, vm, to)
    with fleet.hold("drum") as found:
        assert found.operation is None
    new = step == "remove_old_disks"
    assert found.version == (to.version if new else vm.version)
    assert bytes_of(fleet, found.image_of_disk) == fleet.gallery.get(found.reference).disk.read_bytes()[:-512]
    assert [bytes_of(fleet, disk) for _, disk in found.image_of_disk.data] == before
    kept = {found.image_of_disk.path, *(disk.path for _, disk in found.image_of_disk.data)}
    assert set(fleet.folder(vm).glob("disk*.qcow2")) == kept
    held = [("drum", vm.version), ("drum", to.version)] if new else [("drum", vm.version)]
    assert leases_of_instance(fleet.gallery, vm.id) == held


@pytest.mark.parametrize(
    ("changes", "to", "name"),
    [
        ({"operation": Operation.begin("stop")}, None, "vm-busy"),
        ({"disk": None}, None, "vm-incomplete"),
        ({"system": "windows"}, None, "reimage-system"),
        ({"generation": 2}, None, "generation-unsupported"),
        ({}, "nix", "gallery-unknown"),
    ],
)
def test_what_cannot_be_reimaged_has_a_name(
    changes: dict[str, object], to: str | None, name: str, fleet: Fleet
) -> None:
    vm = add_vm(fleet, "drum", FILES, **changes)
    with pytest.raises(GoldsmithError) as error:
        begin(fleet, "drum", to=to)
    assert error.value.name == name and error.value.hint
    assert replace(fleet.instances.get("drum"), failure=None) == replace(vm, failure=None)


@pytest.mark.parametrize("verb", [start, redeploy])
@pytest.mark.parametrize("system", ["windows", "linux"])
def test_a_first_boot_that_was_interrupted_is_begun_again(
    system: str, verb: Callable[[Fleet, str], Started], fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a reimage leaves it that was killed after the record named the new OS disk. A Windows gets an answer file
    with another password; the fabric and the machine are not there."""
    dead = replace(Operation.begin("reimage"), began=1)
    vm = add_vm(fleet, "drum", FILES, system=system, provisioned=None, operation=dead)
    place = Link("br0", "00:0d:3a:00:00:01", "10.83.0.2", Instance("drum", vm.user, "", "", "10.83.0.2", vm.id))
    begun: list[str] = []
    served = SimpleNamespace(attach=lambda _data: place, begin=begun.append)
    monkeypatch.setattr(service, "ensure", lambda _store: served)
    monkeypatch.setattr(fleet, "medium", lambda _record: fleet.store.tmp / "a" / "b" / "c" / "azure.iso")
    media: list[bytes] = []

    def switch_on(_fleet: Fleet, record: Record, *_: object) -> SimpleNamespace:
        iso = pycdlib.PyCdlib()
        iso.open(str(fleet.medium(record)))
        for name in ["/Unattend.xml"] if system == "windows" else ["/ovf-env.xml"]:
            file = io.BytesIO()
            iso.get_file_from_iso_fp(file, joliet_path=name)
            media.append(file.getvalue())
        iso.close()
        return SimpleNamespace(leave=lambda: None)

    monkeypatch.setattr(create_module, "switch_on", switch_on)
    started = verb(fleet, "drum")
    assert begun == [vm.id] and started.record.operation is None
    (text,) = media
    if system == "windows":
        assert started.password and answers.hidden(started.password, "Password").encode() in text
    else:
        assert started.password is None and b"<HostName>drum</HostName>" in text.replace(b"ns1:", b"")
