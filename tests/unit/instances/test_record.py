"""The record of an instance: written whole, read strictly, its names, its lock, its operation's process."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.base.errors import NotFound, UsageError
from pipeline.base.files import RecordDamaged
from pipeline.instances.named_records import RECORD
from pipeline.instances.record import Failure, Instances, Operation, Record, check_name, new_id, process_start


def record(name: str = "web", **changes: object) -> Record:
    made = Record(
        id=new_id(),
        name=name,
        created="2026-11-26T08:00:00Z",
        host="here",
        image="debian-12-web",
        version="2026.1125.0",
        digest="0" * 64,
        system="linux",
        generation=2,
        secure=False,
        size=None,
        cpus=1,
        memory=1 << 30,
        user="azureuser",
        public_key="ssh-ed25519 AAAA me",
        disk_size=8 << 30,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def instances(tmp_path: Path) -> Instances:
    return Instances(tmp_path / "instances")


def test_what_is_saved_is_read_back(instances: Instances) -> None:
    failure = Failure("agent-silent", "no agent asked", None, "2026-11-26T08:01:00Z")
    made = record(failure=failure, operation=Operation.begin("create"), disk={"path": "/x", "format": "qcow2"})
    instances.add(made, {"custom-data": b"secret"})
    assert (instances.folder("web") / "custom-data").stat().st_mode & 0o777 == 0o600
    assert instances.get("web") == made
    assert instances.names() == ["web"] and instances.all() == [made]


def test_an_unknown_name_is_told_with_a_near_one(instances: Instances) -> None:
    instances.add(record("web-0"))
    with pytest.raises(NotFound) as error:
        instances.get("web-1")
    assert error.value.name == "vm-unknown" and "did you mean web-0?" in (error.value.hint or "")


@pytest.mark.parametrize("name", ["", "Web", "-web", "web-", "we.b", "../web", "a" * 64, ".locks"])
def test_what_cannot_be_a_name(instances: Instances, name: str) -> None:
    with pytest.raises(UsageError) as error:
        check_name(name)
    assert error.value.name == "vm-name"
    assert instances.find(name) is None


def test_windows_has_shorter_names() -> None:
    check_name("a" * 15, 15)
    with pytest.raises(UsageError):
        check_name("a" * 16, 15)


@pytest.mark.parametrize(
    ("change", "word"), [('"cpus": 1', "cpus"), ('"name": "web"', "name"), ('"allocated": true', "allocated")]
)
def test_a_damaged_record_is_named_and_skipped(instances: Instances, change: str, word: str) -> None:
    instances.add(record())
    path = instances.folder("web") / RECORD
    text = path.read_text()
    assert change in text
    path.write_text(text.replace(change, f'"{word}": []'))
    with pytest.raises(RecordDamaged):
        instances.get("web")
    assert instances.all() == []
    assert instances.names() == ["web"]  # it still owns what it owns


def test_a_record_under_another_name_is_not_taken(instances: Instances) -> None:
    for name in ("web", "db"):
        instances.add(record(name))
    (instances.folder("db") / RECORD).write_text((instances.folder("web") / RECORD).read_text())
    with pytest.raises(RecordDamaged):
        instances.get("db")


def test_an_operation_lives_with_its_process() -> None:
    operation = Operation.begin("stop")
    assert operation.is_alive and operation.pid == os.getpid()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    theirs = replace(operation, pid=child.pid, began=process_start(child.pid))
    assert theirs.is_alive
    # another process with the same number is not it
    assert not replace(theirs, began=theirs.began + 1).is_alive
    child.communicate()
    assert not theirs.is_alive
    assert replace(theirs, host="elsewhere").is_alive


def test_who_holds_an_instance_is_alone(instances: Instances) -> None:
    with instances.hold("web"):
        with instances.hold_now("web") as ours:
            assert not ours
        with instances.hold_now("db") as ours:
            assert ours
    with instances.hold_now("web") as ours:
        assert ours


def test_a_vm_called_budget_does_not_wait_for_the_budget(instances: Instances) -> None:
    with instances.hold("budget"), instances.hold_budget():
        pass


def test_a_deletion_frees_the_name_at_once_and_its_rest_is_swept(instances: Instances) -> None:
    instances.add(record())
    instances.remove("web")
    assert instances.names() == []
    instances.remove("web")  # done already
    (instances.root / ".gone-web-1234").mkdir()
    assert instances.sweep(dry=True) == [".gone-web-1234"] and instances.sweep() == [".gone-web-1234"]
    assert instances.sweep() == []
