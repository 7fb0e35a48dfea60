"""Each name of an error about VMs, their fabric and their networks is raised by the code that a verb calls."""

from __future__ import annotations

import errno
import io
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

import pipeline.systems.registry  # noqa: F401  a VM's system is found by its name
from pipeline.base import process
from pipeline.base.errors import GoldsmithError, Interrupted
from pipeline.base.store import Store
from pipeline.cli.vm import access, looks, option_values, ports, power
from pipeline.fabric import service
from pipeline.fabric.instance import Instance
from pipeline.fabric.privileged import Host
from pipeline.fabric.wireserver import _Seals
from pipeline.instances import power as instance_power
from pipeline.instances import record as records
from pipeline.instances.fleet import Fleet
from pipeline.network import egress
from pipeline.network.namespaces import Namespace
from pipeline.operations.create import LARGEST_DATA, _same, adopt
from tests.fakes.libvirt_host import RUNNING, open_host
from tests.unit.instances.test_record import record

Patch = pytest.MonkeyPatch
Call = Callable[[Path, Patch], object]
WEB = SimpleNamespace(instance_id="web", name="web")


def fleet_of(folder: Path) -> Fleet:
    return Fleet(Store(folder / "store").ensure(), open_host)


# ---- the fabric --------------------------------------------------------------------------------------------------


def fabric(folder: Path, **host: Any) -> service.Service:
    """A store's fabric whose parts on the host are these."""
    made = service.Service(Store(folder / "store").ensure())
    given = {"folder": folder, "log": folder / "log", "control": folder / "control", "make_folder": lambda: None}
    made._host = SimpleNamespace(**{**given, **host})  # type: ignore[assignment]
    return made


def attach_while_it_is_locked(folder: Path, patch: Patch) -> None:
    patch.setattr(service, "LOCK", 0.0)
    with FileLock(folder / "lock"):
        fabric(folder).attach(WEB)  # type: ignore[arg-type]


def attach_to_a_full_fabric(folder: Path, _patch: Patch) -> None:
    made = fabric(folder)
    made._registrations = SimpleNamespace(find=lambda _id: None, lowest_free=lambda: None)  # type: ignore[assignment]
    made.attach(WEB)  # type: ignore[arg-type]


def open_taken_sockets(folder: Path, patch: Patch) -> None:
    def open_sockets(_registration: object) -> None:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

    patch.setattr(service, "SOCKETS", -1.0)
    patch.setattr(service.control, "ask", lambda *_: {})
    fabric(folder, open_sockets=open_sockets)._open_sockets(SimpleNamespace(data=WEB))  # type: ignore[arg-type]


def ask_a_server_that_refuses(folder: Path, patch: Patch) -> None:
    patch.setattr(service.control, "ask", lambda *_: {"error": "it knows no such VM"})
    fabric(folder)._ask({"do": "detach", "id": "web"})


def start_a_server_that_ends(folder: Path, _patch: Patch) -> None:
    (folder / "log").write_text("Traceback\nOSError: no such user\n")
    ended = process.start(["false"], folder / "child.log")
    ended.wait(60)
    made = fabric(folder, start_server=lambda _records: ended)
    made._start()


def ask_for_two_certificates(*_: object) -> None:
    vm = Instance("web1", "u", "k", "00:0d:3a:01:02:03", "10.83.0.10")
    seals = _Seals()
    seals._busy.add(vm.vm_id)
    seals.get(vm, "transport")


def serve_without_root(_folder: Path, patch: Patch) -> None:
    patch.setattr(os, "geteuid", lambda: 1000)
    Host("test-of-errors").make_folder()


FABRIC: dict[str, Call] = {
    "fabric-address-taken": open_taken_sockets,
    "fabric-busy": ask_for_two_certificates,
    "fabric-full": attach_to_a_full_fabric,
    "fabric-locked": attach_while_it_is_locked,
    "fabric-not-started": start_a_server_that_ends,
    "fabric-refused": ask_a_server_that_refuses,
    "needs-root": serve_without_root,
}
FABRIC_TOO: list[tuple[str, Call]] = [
    ("fabric-not-started", lambda folder, _: fabric(folder)._ask({"do": "list"})),
]


# ---- networks ----------------------------------------------------------------------------------------------------


def open_a_way_out_that_ends(folder: Path, _patch: Patch) -> None:
    log = folder / "egress.log"
    child = process.start(["sh", "-c", "echo no device; exit 1"], log)
    child.wait(60)
    egress.Egress._wait(SimpleNamespace(), child, lambda: False, "slirp4netns", log)  # type: ignore[arg-type]


NETWORKS: dict[str, Call] = {
    "egress-failed": open_a_way_out_that_ends,
    # no namespace has a name with a slash, whoever asks
    "namespace-refused": lambda *_: Namespace("a/b").lay([]),
}


# ---- the verbs ---------------------------------------------------------------------------------------------------


def large_file(folder: Path) -> Path:
    path = folder / "custom-data"
    path.write_bytes(bytes(LARGEST_DATA + 1))
    return path


def no_public_key(folder: Path) -> Path:
    path = folder / "id_ed25519"
    path.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    return path


def forward_a_taken_port(folder: Path, patch: Patch) -> None:
    patch.setattr(service, "ensure", lambda _store: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports._relay(fleet_of(folder), record(), 80, taken.getsockname()[1], lambda _port: None)


def test_a_port_ends_well_however_early_it_is_interrupted(tmp_path: Path, monkeypatch: Patch) -> None:
    """Whoever reads the line with the port may interrupt the command before it has been written to its end."""
    monkeypatch.setattr(service, "ensure", lambda _store: None)

    def interrupt(_port: int) -> None:
        raise Interrupted(signal.SIGINT)

    ports._relay(fleet_of(tmp_path), record(), 80, None, interrupt)


def delete_without_a_terminal(_folder: Path, patch: Patch) -> None:
    patch.setattr(sys, "stdin", io.StringIO("y\n"))
    power._ask("web")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def delete_and_say_no(_folder: Path, patch: Patch) -> None:
    patch.setattr(sys, "stdin", Terminal("n\n"))
    power._ask("web")


def with_web(folder: Path, patch: Patch) -> Fleet:
    """A store with the VM `web`, which libvirt does not know, for a verb's `open_fleet`."""
    fleet = fleet_of(folder)
    fleet.instances.add(record())
    patch.setattr(fleet, "keep_fabric", lambda: None)
    patch.setattr(looks, "open_fleet", lambda _verb: fleet)
    return fleet


def show_no_log(folder: Path, patch: Patch) -> None:
    with_web(folder, patch)
    looks.logs("web", looks.Log.SERIAL)


def show_no_screen(folder: Path, patch: Patch) -> None:
    fleet = with_web(folder, patch)
    patch.setattr(looks, "running", lambda _fleet, _name: fleet.instances.get("web"))
    looks.screenshot("web", None)


def change_a_locked_vm(folder: Path, patch: Patch) -> None:
    patch.setattr(records, "TIMEOUT", 0.0)
    instances = fleet_of(folder).instances
    with instances.hold("web"), instances.hold("web"):
        pass


def switch_off_what_runs_on(folder: Path, patch: Patch) -> None:
    """The test driver's guest ends at once when its power button is pressed: no second is left for that."""
    patch.setattr(instance_power, "watch_power", lambda *_: 0)
    patch.setattr(instance_power, "unwatch", lambda *_: None)
    instance_power.switch_off(fleet_of(folder), record(id=RUNNING), deadline=0, force=False)


VERBS: dict[str, Call] = {
    "data-too-large": lambda folder, _: option_values.read_data(large_file(folder)),
    "guest-shutdown-timeout": switch_off_what_runs_on,
    "port-taken": forward_a_taken_port,
    "ssh-key-invalid": lambda folder, _: option_values.read_public_key(no_public_key(folder)),
    "vm-delete-unconfirmed": delete_without_a_terminal,
    "vm-deleted": lambda folder, _: _same(fleet_of(folder), record()),
    "vm-locked": change_a_locked_vm,
    "vm-no-log": show_no_log,
    "vm-no-screen": show_no_screen,
    "vm-not-running": lambda folder, patch: access.running(with_web(folder, patch), "web"),
}
VERBS_TOO: list[tuple[str, Call]] = [
    ("vm-delete-unconfirmed", delete_and_say_no),
    ("vm-not-running", lambda folder, _: adopt(fleet_of(folder), record(), None)),  # type: ignore[arg-type]
]


CASES = [*FABRIC.items(), *FABRIC_TOO, *NETWORKS.items(), *VERBS.items(), *VERBS_TOO]


@pytest.mark.parametrize(("name", "call"), CASES, ids=[name for name, _ in CASES])
def test_a_verb_that_fails_has_the_name_of_its_failure(
    name: str, call: Call, tmp_path: Path, monkeypatch: Patch
) -> None:
    with pytest.raises(GoldsmithError) as caught:
        call(tmp_path, monkeypatch)
    assert (caught.value.name, bool(caught.value.hint)) == (name, True)
