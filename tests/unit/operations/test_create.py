"""What a new VM is, from its user's wishes and its master; what is refused before anything is made."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import pipeline.systems.registry  # noqa: F401  a VM's system is found by its name
from pipeline.base.errors import CheckFailed, GoldsmithError, UsageError
from pipeline.base.store import Store
from pipeline.cli.app import app
from pipeline.cli.vm.option_values import read_os_disk_size
from pipeline.gallery import Version
from pipeline.gallery.retention import roll_back
from pipeline.instances.fleet import Fleet, refuse_generalized
from pipeline.instances.record import Record
from pipeline.instances.sizes import find_size
from pipeline.operations.create import Wishes, plan
from tests.fakes.disks import add_master
from tests.unit.cli.test_help import verbs
from tests.unit.instances.test_record import record

MIB = 1 << 20
WISHES = Wishes("web", "small", "azureuser", "ssh-ed25519 AAAA me")


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(Store(tmp_path).ensure())


def master(fleet: Fleet, **more: object) -> Version:
    raw = fleet.store.tmp / "small.raw"
    with raw.open("wb") as file:
        file.truncate(4 * MIB)
    return add_master(fleet.gallery, "small", raw, **more)


def test_a_vm_is_what_its_master_and_its_user_say(fleet: Fleet) -> None:
    made = master(fleet, generations=[1, 2], machine={"cpus": 2, "memory": 512 * MIB})
    planned, version = plan(fleet, WISHES)
    assert version.version == made.version
    assert (planned.generation, planned.cpus, planned.memory, planned.size) == (2, 2, 512 * MIB, None)
    assert (planned.disk_size, planned.system, planned.digest) == (4 * MIB, "linux", made.digest)
    assert planned.operation is not None and planned.operation.kind == "create" and planned.operation.is_alive
    sized, _ = plan(fleet, replace(WISHES, size=find_size("B2s"), generation=1))
    assert (sized.size, sized.cpus, sized.generation) == ("Standard_B2s", 2, 1)
    assert sized.id != planned.id


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"image": "nix"}, "gallery-unknown"),
        ({"name": "Web"}, "vm-name"),
        ({"public_key": ""}, "ssh-key-missing"),
        ({"generation": 2}, "generation-unsupported"),
        ({"secure": True}, "generation-unsupported"),
        ({"network": "no/net"}, "network-name"),
        ({"os_disk_size": 4 * MIB - 1}, "os-disk-too-small"),
    ],
)
def test_wrong_wishes_have_names_and_make_nothing(fleet: Fleet, change: dict[str, object], name: str) -> None:
    master(fleet)
    with pytest.raises(GoldsmithError) as error:
        plan(fleet, replace(WISHES, **change))  # type: ignore[arg-type]
    assert error.value.name == name and error.value.hint
    assert fleet.instances.names() == []


def test_a_larger_os_disk_is_reserved_and_an_older_record_has_the_masters(fleet: Fleet) -> None:
    master(fleet)
    larger, _ = plan(fleet, replace(WISHES, os_disk_size=9 * MIB))
    assert (larger.os_disk_size, larger.disk_size) == (9 * MIB, 9 * MIB)
    plain, _ = plan(fleet, WISHES)
    assert (plain.os_disk_size, plain.disk_size) == (0, 4 * MIB)
    older = {key: value for key, value in plain.to_json().items() if key != "os_disk_size"}
    assert Record.from_json(older) == plain


@pytest.mark.parametrize(("text", "size"), [(None, None), ("32G", 32 << 30), ("1.5 GiB", 1536 * MIB)])
def test_the_option_of_the_os_disks_size(text: str | None, size: int | None) -> None:
    assert read_os_disk_size(text) == size


@pytest.mark.parametrize("text", ["32", "0G", "1025K", "2041G", "large"])
def test_a_size_that_no_os_disk_can_have_is_named(text: str) -> None:
    with pytest.raises(UsageError) as error:
        read_os_disk_size(text)
    assert error.value.name == "bad-size" and error.value.hint


def test_no_vm_is_made_from_what_was_withdrawn(fleet: Fleet) -> None:
    master(fleet)
    bad = master(fleet)
    roll_back(fleet.gallery, "small", "golden", "a token was in it")
    with pytest.raises(CheckFailed) as error:
        plan(fleet, replace(WISHES, image=f"small@{bad.version}"))
    assert error.value.name == "image-withdrawn" and "a token was in it" in error.value.message
    assert plan(fleet, WISHES)[1].version != bad.version


def test_no_vm_is_made_from_what_is_in_the_archive(fleet: Fleet) -> None:
    made = master(fleet)
    made.disk.unlink()
    with pytest.raises(UsageError) as error:
        plan(fleet, WISHES)
    assert error.value.name == "disk-missing"


def test_a_generalized_vm_is_not_started() -> None:
    refuse_generalized(record())
    with pytest.raises(UsageError) as error:
        refuse_generalized(record(generalized=True))
    assert error.value.name == "vm-generalized"


#: What the verbs need besides a name of a VM.
MORE = {
    ("vm", "create"): ("--image", "small"),
    ("vm", "forward"): ("80",),
    ("vm", "capture"): ("--as", "web-base"),
    ("vm", "disk", "attach-new"): ("--size", "1GiB"),
    ("vm", "disk", "attach"): ("data1",),
    ("vm", "disk", "detach"): ("data1",),
    ("disk", "resize"): ("1GiB",),
    ("endpoint", "add"): ("--public", "8080", "--private", "80", "--set", "shop"),
    ("set", "scale"): ("2",),
    ("set", "auto"): ("on",),
    ("set", "fail-domain"): ("0",),
    ("disk", "export"): ("data1.vhd",),
}
VERBS = [words for words, _ in verbs() if words[0] in ("vm", "try", "disk", "set", "endpoint")]


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_without_root_each_verb_names_itself_and_changes_nothing(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOLDSMITH_HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    named = () if words[1:] in (("list",), ("budget",)) else ("web",)
    result = CliRunner().invoke(app, [*words, *named, *MORE.get(words, ())])
    assert isinstance(result.exception, GoldsmithError) and result.exception.name == "root-needed", result.output
    assert result.exception.message.startswith(f"goldsmith {' '.join(words)} needs root")
    assert list(tmp_path.iterdir()) == []
