"""HAProxy's configuration, and the lines that fill its slots; each error by its name. Nothing is started."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from pipeline.base import process
from pipeline.base.errors import GoldsmithError
from pipeline.base.files import RecordDamaged
from pipeline.base.store import Store
from pipeline.instances import endpoints
from pipeline.instances.endpoint_records import EndpointRecord
from pipeline.instances.endpoints import _align, admission_of, align_endpoints, wait_serving
from pipeline.instances.fleet import Fleet
from pipeline.instances.record import Operation
from pipeline.instances.set_records import SetRecord
from pipeline.network import balancer
from pipeline.network.balancer import (
    Admission,
    Backend,
    Balancer,
    Rules,
    ServerState,
    open_public,
    parse_states,
    plan_changes,
    render,
)
from pipeline.operations.endpoints import EndpointWishes, add_endpoint, plan_endpoint, remove_endpoint
from tests.unit.instances.test_record import record

Patch = pytest.MonkeyPatch
READY, DRAIN, OUT = Admission.READY, Admission.DRAIN, Admission.OUT
WISHES = EndpointWishes("web", "http", 8080, 80, "shop", "http:/health")
RECORD = EndpointRecord("web", "2026-11-26T08:00:00Z", "http", "127.0.0.1", 8080, 80, "shop", "/health")


def slot(number: int, address: str = "0.0.0.0", admission: Admission = OUT) -> ServerState:
    return ServerState(f"vm{number}", address, admission, "", 0, 0, "")


def test_the_configuration_is_the_rules_and_no_vm(golden: Callable[[str, str], None]) -> None:
    golden("endpoint-http.cfg", render(Rules("http", 80, "/health")))
    golden("endpoint-tcp.cfg", render(Rules("tcp", 5432)))
    texts = [
        render(Rules(protocol, port, probe))
        for protocol in ("http", "tcp")
        for port, probe in ((80, None), (80, "/"), (81, None))
    ]
    assert len({balancer._digest(text) for text in texts}) == len(texts)


def test_a_new_vm_gets_a_free_slot_and_is_down_until_its_probe_passes() -> None:
    lines = plan_changes([slot(1), slot(2)], [Backend("10.83.0.2", READY)], 80)
    assert lines == [
        "set server vms/vm1 addr 10.83.0.2 port 80",
        "set server vms/vm1 state ready; set server vms/vm1 health down",
    ]
    assert plan_changes([slot(1), slot(2)], [Backend("10.83.0.2", OUT)], 80) == lines[:1]


def test_a_vm_keeps_its_slot_and_the_others_go_out() -> None:
    states = [slot(1, "10.83.0.2", READY), slot(2, "10.83.0.10", READY), slot(3)]
    assert plan_changes(states, [Backend("10.83.0.2", READY), Backend("10.83.0.10", READY)], 80) == []
    assert plan_changes(states, [Backend("10.83.0.10", DRAIN)], 80) == [
        "set server vms/vm1 state maint",
        "set server vms/vm2 state drain",
    ]
    # back from draining its health is known: it is not held down
    assert plan_changes([slot(1, "10.83.0.2", DRAIN)], [Backend("10.83.0.2", READY)], 80) == [
        "set server vms/vm1 state ready"
    ]
    # the slot of a VM that is gone is free for the next one
    assert plan_changes([slot(1, "10.83.0.2", READY)], [Backend("10.83.0.18", OUT)], 80) == [
        "set server vms/vm1 state maint",
        "set server vms/vm1 addr 10.83.0.18 port 80",
    ]


def test_the_answers_of_haproxy_are_read() -> None:
    servers = (
        "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state ...\n"
        "3 vms 1 vm1 10.83.0.2 2 4 1 1 0 15 3 2 6 0 0 0 - 80 - 0 0 - - 0\n"
        "3 vms 2 vm2 10.83.0.10 0 12 1 1 2 1 0 0 14 0 0 0 - 80 - 0 0 - - 0\n"
        "3 vms 3 vm3 0.0.0.0 0 5 1 1 2 1 0 0 14 0 0 0 - 80 - 0 0 - - 0\n\n"
    )
    statistics = (
        "# pxname,svname,scur,stot,status,check_status,last_chk\nvms,vm1,2,7,UP,L7OK,OK\nvms,vm2,1,3,DRAIN,L7OK,\n"
    )
    first, second, third = parse_states(servers, statistics)
    assert (first.address, first.admission, first.sessions, first.requests) == ("10.83.0.2", READY, 2, 7)
    assert first.is_up and first.check == "OK"
    assert (second.admission, second.check, second.is_up) == (DRAIN, "L7OK", False)
    assert (third.admission, third.status) == (OUT, "")


def test_who_gets_requests() -> None:
    done = "2026-11-26T08:05:00Z"
    assert admission_of(record()) is OUT
    assert admission_of(record(provisioned=done)) is READY
    assert admission_of(record(provisioned=done, drained=True)) is DRAIN
    assert admission_of(record(provisioned=done, operation=Operation.begin("stop"))) is OUT
    assert admission_of(record(provisioned=done, operation=Operation.begin("capture"))) is READY
    assert admission_of(record(drained=True)) is OUT


def test_without_endpoints_nothing_is_looked_at(tmp_path: Path) -> None:
    assert align_endpoints(Fleet(Store(tmp_path).ensure())) == []
    assert not (tmp_path / "endpoints").exists()


# ---- errors by their names ---------------------------------------------------------------------------------------


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    made = Fleet(Store(tmp_path).ensure())
    values = {"name": "shop", "created": "", "prefix": "web", "image": "small", "user": "u", "public_key": "k"}
    machine = {"size": None, "cpus": 1, "memory": 1, "generation": 2, "secure": False, "network": None}
    rest = {"outside": False, "os_caching": "ReadWrite", "resource_size": 0}
    made.sets.add(SetRecord(**values, **machine, **rest))  # type: ignore[arg-type]
    return made


def plan_with(**change: object) -> Callable[[Fleet, Patch], object]:
    return lambda fleet, _: plan_endpoint(fleet, EndpointWishes(**{**vars(WISHES), **change}))  # type: ignore[arg-type]


def add_twice(fleet: Fleet, _patch: Patch) -> None:
    fleet.endpoints.add(RECORD)
    add_endpoint(fleet, WISHES)


def listen_on(code: int) -> Callable[[Fleet, Patch], object]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    def call(_fleet: Fleet, patch: Patch) -> None:
        patch.setattr(socket, "create_server", refuse)
        open_public("127.0.0.1", 8080)

    return call


def start(fleet: Fleet) -> None:
    folder = fleet.store.tmp
    with socket.socket() as public:
        Balancer(folder, folder / "control", folder / "namespace", Rules("tcp", 80)).start(public)


def start_without_the_program(fleet: Fleet, patch: Patch) -> None:
    patch.setattr(process, "find", lambda _name: None)
    start(fleet)


def start_what_ends(fleet: Fleet, patch: Patch) -> None:
    patch.setattr(balancer, "_user", lambda: (os.getuid(), os.getgid()))
    begin = process.start
    patch.setattr(process, "start", lambda _argv, log, **_: begin(["sh", "-c", "echo no such option; exit 1"], log))
    start(fleet)


def align_silent(fleet: Fleet, patch: Patch) -> None:
    fleet.endpoints.add(RECORD)

    def silent(*_: object) -> None:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    patch.setattr(endpoints, "ensure_endpoint", silent)
    outcome = _align(fleet, RECORD)
    assert outcome.error is not None
    raise outcome.error


def align_while_locked(fleet: Fleet, patch: Patch) -> None:
    fleet.endpoints.add(RECORD)
    patch.setattr(endpoints, "LOCK", 0.0)
    with FileLock(fleet.endpoints.root / ".lock"):
        align_endpoints(fleet)


def wait_for_a_probe(fleet: Fleet, _patch: Patch) -> None:
    fleet.endpoints.add(RECORD)
    wait_serving(fleet, "shop", ["web-0"], 0.0)


ERRORS: dict[str, Callable[[Fleet, Patch], object]] = {
    "endpoint-name": plan_with(name="Web"),
    "probe-invalid": plan_with(probe="http:health"),
    "set-unknown": plan_with(set="nix"),
    "endpoint-exists": add_twice,
    "endpoint-unknown": lambda fleet, _: remove_endpoint(fleet, "wbe"),
    "port-taken": listen_on(errno.EADDRINUSE),
    "address-unusable": listen_on(errno.EADDRNOTAVAIL),
    "haproxy-missing": start_without_the_program,
    "endpoint-not-started": start_what_ends,
    "endpoint-full": lambda _fleet, _: plan_changes([], [Backend("10.83.0.2", READY)], 80),
    "endpoint-silent": align_silent,
    "endpoint-locked": align_while_locked,
    "endpoint-probe-failed": wait_for_a_probe,
}


@pytest.mark.parametrize("name", ERRORS)
def test_each_error_has_its_name(fleet: Fleet, monkeypatch: Patch, name: str) -> None:
    with pytest.raises(GoldsmithError) as error:
        ERRORS[name](fleet, monkeypatch)
    assert error.value.name == name and error.value.hint


@pytest.mark.parametrize("probe", ["", "https:/x", "tcp:80", "http:", 'http:/"x', "http:/a b", "http:/x\ny"])
def test_what_is_no_probe(fleet: Fleet, probe: str) -> None:
    with pytest.raises(GoldsmithError) as error:
        plan_with(probe=probe)(fleet, SimpleNamespace())  # type: ignore[arg-type]
    assert error.value.name == "probe-invalid"


def test_an_endpoint_with_a_damaged_record_is_skipped_and_can_be_removed(fleet: Fleet) -> None:
    fleet.endpoints.add(RECORD)
    path = fleet.endpoints.folder("web") / "record.json"
    path.write_text(path.read_text().replace('"public": 8080', '"public": 0'))
    with pytest.raises(RecordDamaged):
        fleet.endpoints.get("web")
    assert fleet.endpoints.all() == []
    remove_endpoint(fleet, "web")
    assert fleet.endpoints.names() == []
