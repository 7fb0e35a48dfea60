"""Each name of an error about a guest is raised by the code that starts it, waits for it and speaks to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import libvirt
import pytest

from pipeline.base.disk_format import QCOW2, RAW
from pipeline.base.errors import GoldsmithError, GuestError
from pipeline.cache.layers import Image, Layers
from pipeline.definition import HttpExpectation
from pipeline.fabric.extension import Extension
from pipeline.guest import access, journal, playbook_check
from pipeline.guest.ansible_run import explain_vault
from pipeline.guest.source_files import require_readable
from pipeline.hypervisor.agent import Executed
from pipeline.hypervisor.domain import Disk, Spec
from pipeline.hypervisor.domains import mark_kept
from pipeline.hypervisor.machine import Machine
from pipeline.prove import first_boot_report
from pipeline.prove.result import CloneResult
from pipeline.systems import registry
from pipeline.systems.linux import agent_assertions, assertions, snapshots
from pipeline.systems.linux.session import GuestSession
from pipeline.systems.windows import preflight as before
from pipeline.systems.windows.shell import Shell
from tests.fakes.libvirt_host import open_host
from tests.unit.systems.windows.test_windows_setup import edition

Patch = pytest.MonkeyPatch
Call = Callable[[Path, Patch], object]


def machine_of(folder: Path, console: bytes = b"") -> Machine:
    """A machine that is not started; nothing of libvirt is asked."""
    serial = folder / "serial.log"
    serial.write_bytes(console)
    disks = (Disk(Image(folder / "d.qcow2", QCOW2)),)
    spec = Spec("vm", "R1", "build", kvm=False, cpus=1, memory=1 << 30, disks=disks, serial_log=serial)
    return Machine(None, spec, folder)  # type: ignore[arg-type]


def removed_domain() -> libvirt.virDomain:
    """A domain of libvirt's test driver that has ended and is not known any more; other tests use its own."""
    xml = "<domain type='test'><name>ended</name><memory>1024</memory><os><type>hvm</type></os></domain>"
    domain = open_host().raw.createXML(xml)
    domain.destroy()
    return domain


# ---- the machine -------------------------------------------------------------------------------------------------


def crash(folder: Path, _patch: Patch) -> None:
    machine = machine_of(folder)
    machine.stopped = "crashed"
    machine.wait_off(60)


def mark_what_has_ended(folder: Path, _patch: Patch) -> None:
    machine = machine_of(folder)
    machine._domain = removed_domain()
    mark_kept(machine)


def freeze_what_has_ended(folder: Path, patch: Patch) -> None:
    machine = machine_of(folder)
    machine._domain = removed_domain()
    patch.setattr("pipeline.hypervisor.machine.own", lambda _path, _connection: None)
    machine.snapshot(Image(folder / "new.qcow2", QCOW2))


MACHINE: dict[str, Call] = {
    "guest-freeze-failed": freeze_what_has_ended,
    "guest-no-root": lambda folder, _: machine_of(folder, b"ALERT!  UUID=4301d2f2 does not exist.\r\n").check(),
    "guest-not-kept": mark_what_has_ended,
    "guest-shutdown-timeout": lambda folder, _: machine_of(folder).wait_off(0),
    "guest-unclean-shutdown": crash,
}


# ---- its session -------------------------------------------------------------------------------------------------


def session(output: Executed) -> Any:
    """A session whose guest gives this answer to each command."""
    return SimpleNamespace(
        agent=SimpleNamespace(execute=lambda *_words, **_options: output),
        machine=SimpleNamespace(start=lambda _memory: None, check=lambda: None),
        timeouts=SimpleNamespace(command=60.0, ssh=60.0),
        _own_disks=lambda: None,
        _agent=lambda _began: None,
        _waiting_jobs=lambda: "",
    )


def run_too_long(_folder: Path, _patch: Patch) -> None:
    guest = session(Executed(0, "", ""))

    def execute(*_words: object, **_options: object) -> Executed:
        raise GuestError("late", name="guest-command-timeout")

    guest.agent.execute = execute
    GuestSession.run_over_agent(guest, "true", "the session could not be set up")


def diagnose_slow_cloud_init(_folder: Path, _patch: Patch) -> None:
    raise GuestSession._diagnose_boot(session(Executed(0, "", "")), banner=True)


def snapshot(folder: Path, patch: Patch, layers: Any) -> None:
    patch.setattr(snapshots, "snapshot_key", lambda *_: ("k" * 64, {}))
    snapshots.make(
        layers,
        machine_of(folder).spec,
        SimpleNamespace(key="source"),  # type: ignore[arg-type]
        lambda: None,
        None,  # type: ignore[arg-type]  nothing is asked of libvirt
        size=None,
        tag="",
        logs=folder,
        note={},
        progress=lambda _text: None,
    )


def changed_snapshot(folder: Path, patch: Patch) -> None:
    there = SimpleNamespace(changed=lambda: "memory.save has other bytes")
    snapshot(folder, patch, SimpleNamespace(get=lambda _key: there, drop=lambda _key: None))


def without_tmpfs(folder: Path, patch: Patch) -> None:
    patch.setattr(access, "TMPFS", (folder,))
    access.tmpfs_root()


def encrypted_without_password(*_: object) -> None:
    error = explain_vault("ERROR! Attempting to decrypt but no vault secrets found")
    assert error is not None
    raise error


def broken_ansible(folder: Path, patch: Patch) -> None:
    patch.setattr(playbook_check, "_WORKER", folder / "no-such-worker.py")
    playbook_check._run([["--syntax-check", "site.yml"]], {})


def without_journal(folder: Path, patch: Patch) -> None:
    patch.setattr(journal, "journal_files", lambda *_place, within: [])
    journal.read_journal(Image(folder / "d.raw", RAW), folder, folder)


SESSION: dict[str, Call] = {
    "guest-cloud-init-slow": diagnose_slow_cloud_init,
    "guest-entry-failed": lambda *_: GuestSession.run_over_agent(session(Executed(1, "", "no sudo")), "true", "x"),
    "guest-not-reseeded": lambda *_: GuestSession.restore(session(Executed(0, "Linux 6.1", "")), Path("memory")),
    "guest-unfit": lambda folder, patch: snapshot(folder, patch, Layers(folder / "layers")),
    "journal-missing": without_journal,
    "playbook-check-failed": broken_ansible,
    "save-damaged": changed_snapshot,
    "tmpfs-missing": without_tmpfs,
    "vault-password-missing": encrypted_without_password,
}
SESSION_TOO: list[tuple[str, Call]] = [("guest-entry-failed", run_too_long)]


# ---- systems -----------------------------------------------------------------------------------------------------


def restart_without_end(*_: object) -> None:
    shell = SimpleNamespace(
        _session=SimpleNamespace(machine=SimpleNamespace(reboots=0), progress=lambda _text: None),
        run=lambda _argv: None,
        write=lambda _path, _data: None,
        back=lambda _before: None,
        _once=lambda *_: None,
    )
    Shell._step(shell, {}, "x", 60.0, lambda _line: None, True)  # type: ignore[arg-type]


def install_edition(patch: Patch, **change: Any) -> None:
    patch.setattr(before.media, "installation", lambda _path: None)
    patch.setattr(before.media, "choose", lambda _found, _wanted: replace(edition(), **change))
    before.preflight(Path("w.iso"), "2", 2, None)


SYSTEMS: dict[str, Call] = {
    "edition-architecture": lambda _, patch: install_edition(patch, architecture="arm64"),
    "edition-unsupported": lambda _, patch: install_edition(patch, build=9600),
    "source-unknown": lambda *_: registry.get("debian").source_unit(None, None),  # type: ignore[arg-type]
    "step-restarts": restart_without_end,
}


CASES = [*MACHINE.items(), *SESSION.items(), *SESSION_TOO, *SYSTEMS.items()]


@pytest.mark.parametrize(("name", "call"), CASES, ids=[name for name, _ in CASES])
def test_a_guest_that_fails_has_the_name_of_its_failure(
    name: str, call: Call, tmp_path: Path, monkeypatch: Patch
) -> None:
    with pytest.raises(GoldsmithError) as caught:
        call(tmp_path, monkeypatch)
    assert (caught.value.name, bool(caught.value.hint)) == (name, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes QEMU's user")
def test_a_medium_that_qemu_cannot_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "w.iso").write_bytes(b"x")
    (tmp_path / "w.iso").chmod(0o600)
    build = SimpleNamespace(
        connection=SimpleNamespace(qemu_owner=(65534, 65534)), store=SimpleNamespace(root=tmp_path)
    )
    with pytest.raises(GoldsmithError) as caught:
        require_readable(build, tmp_path / "w.iso")  # type: ignore[arg-type]
    assert caught.value.name == "medium-unreadable" and "chmod o+r" in str(caught.value.hint)


# ---- a clone that does not answer: the wait has a name, the result has the failure ---------------------------------


class WaitedMachine:
    """A machine that waits as `Machine` does, and keeps the names of the errors that its waits ended with."""

    def __init__(self, folder: Path) -> None:
        self._machine = machine_of(folder)
        self.spec = self._machine.spec
        self.names: list[str] = []

    def wait(self, what: str, probe: Callable[[], Any], *, deadline: float, name: str) -> Any:
        try:
            return self._machine.wait(what, probe, deadline=0, name=name)
        except GuestError as error:
            self.names.append(error.name)
            raise


Judge = Callable[[Any, CloneResult], object]
SILENT: dict[str, Judge] = {
    "agent-unsettled": lambda clone, result: agent_assertions.settled(
        clone,
        result,
        SimpleNamespace(asked=lambda: []),  # type: ignore[arg-type]
    ),
    "extension-silent": lambda clone, result: agent_assertions.extension(
        clone,
        result,
        SimpleNamespace(  # type: ignore[arg-type]
            instance=SimpleNamespace(extension=Extension.make("web1")), extension_status=lambda _name: None
        ),
    ),
    "first-boot-silent": lambda clone, result: first_boot_report.configured(
        clone.machine,
        result,
        SimpleNamespace(events=[]),
        0,  # type: ignore[arg-type]
    ),
    "http-silent": lambda clone, result: assertions.expect(
        HttpExpectation(port=80, path="/", status=200), clone, result, {80: 1}
    ),
}


@pytest.mark.parametrize("name", SILENT)
def test_a_silent_clone_has_a_failure(name: str, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(agent_assertions, "_certificate", lambda *_: None)
    machine = WaitedMachine(tmp_path)
    clone = SimpleNamespace(machine=machine, spec=machine.spec, timeouts=SimpleNamespace(command=0.0))
    result = CloneResult("gen1")
    SILENT[name](clone, result)
    assert machine.names == [name] and len(result.failures) == 1
