"""The HTTP side as a process without rights: it answers as the facade in one process does, and can do no more."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.errors import GoldsmithError
from pipeline.base.store import Store
from pipeline.facade import channel as channels
from pipeline.facade.backend import ManagerBackend
from pipeline.facade.channel import RemoteBackend, answer_questions
from pipeline.facade.errors import ArmError
from pipeline.facade.fields import Fields
from pipeline.facade.routing import Request
from pipeline.facade.server import Facade, front_user
from tests.fakes.facade import GROUP, MACHINES, VERSION, Client, serving
from tests.fakes.malformed_requests import send_malformed
from tests.harness import wait_for
from tests.processes import Process, open_files, other_processes, threads
from tests.unit.operations.test_wrong_states import everything

#: A user that owns nothing, on any host.
USER = (65533, 65533)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process as another user")


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[Client]:
    with serving(tmp_path / "store", user=USER) as client:
        yield client


def fronts(client: Client) -> list[Process]:
    """The processes that read this facade's requests."""
    wanted = f"--base https://localhost:{client.facade.port} "
    return [each for each in other_processes() if wanted in each.line]


def test_it_answers_and_changes_as_one_process_does(apart: Client) -> None:
    assert [each["name"] for each in apart.ask("GET", f"{MACHINES}?{VERSION}").body["value"]] == [
        "done",
        "idle",
        "off",
    ]
    assert apart.ask("GET", "/metadata/endpoints").body["authentication"]["tenant"] == apart.tenant
    assert apart.ask("POST", f"{MACHINES}/off/deallocate?{VERSION}").status == 202
    assert apart.facade.manager.tasks.wait_idle(60)
    view = apart.ask("GET", f"{MACHINES}/off/instanceView?{VERSION}").body
    assert view["statuses"][-1]["code"] == "PowerState/deallocated"
    refused = apart.ask("POST", f"{MACHINES}/off/capture?{VERSION}", {"vhdPrefix": "web"})
    assert (refused.status, refused.body["error"]["details"][0]["code"]) == (409, "vm-not-generalized")
    links = apart.ask("POST", f"{MACHINES}/off/retrieveBootDiagnosticsData?{VERSION}").body
    (apart.facade.manager.store.instances / "off/logs/serial.log").write_bytes(b"login:\xff")
    assert (
        apart.ask("GET", links["serialConsoleLogBlobUri"].partition(str(apart.facade.port))[2]).data == b"login:\xff"
    )
    tags = {"location": "local", "tags": {"name": "ü\u2028\U0001f600"}}
    group = GROUP.replace("goldsmith", "shop")
    assert apart.ask("PUT", f"{group}?{VERSION}", tags).status == 201
    assert apart.ask("GET", f"{group}?{VERSION}").body["tags"] == tags["tags"]
    apart.token = None
    assert apart.ask("GET", f"{MACHINES}?{VERSION}").status == 401


def test_it_has_no_rights_and_sees_no_files(apart: Client) -> None:
    (process,) = fronts(apart)
    for status in (found := threads(process.pid)):
        assert status["Uid"] == ["65533"] * 4 and status["Gid"] == ["65533"] * 4
        assert status["Groups"] == []
        assert [status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")] == [["0" * 16]] * 5
        assert (status["NoNewPrivs"], status["Seccomp"]) == (["1"], ["2"])
    assert found
    assert (process.folder / "root").readlink() == apart.facade.home.empty
    assert list(apart.facade.home.empty.iterdir()) == []
    # it holds no file of the store: its program and its libraries are mapped, not open
    opened = open_files(process.pid)
    assert opened and not [each for each in opened if each.startswith(str(apart.facade.home.root))]


def test_malformed_requests_are_refused_by_it_too(apart: Client) -> None:
    store = apart.facade.manager.store
    before = everything(store)
    statuses = send_malformed(apart, 60)
    assert not [status for status in statuses if status >= 500 and status != 501], statuses
    assert everything(store) == before and len(fronts(apart)) == 1


def test_it_ends_with_the_facade_and_its_own_end_is_named(tmp_path: Path) -> None:
    with serving(tmp_path / "store", user=USER) as client:
        (process,) = fronts(client)
    wait_for("its end", lambda: not process.folder.exists(), 30)
    facade = Facade(Store(tmp_path / "store"), 0, can_change=False, user=USER)

    def spoil(_resumed: int) -> None:
        facade.home.certificate.unlink()  # it cannot start without one

    with pytest.raises(GoldsmithError) as error:
        facade.serve(spoil)
    assert error.value.name == "facade-ended" and error.value.hint


def test_a_missing_user_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.facade.server.FACADE_USER", "goldsmith-no-such-user")
    with pytest.raises(GoldsmithError) as error:
        front_user()
    assert error.value.name == "facade-user-missing" and error.value.hint


@pytest.fixture
def wire(client: Client) -> Iterator[socket.socket]:
    """A channel to a backend, as the front has it."""
    ours, theirs = socket.socketpair()
    backend = ManagerBackend(client.facade.manager)
    thread = threading.Thread(target=answer_questions, args=(theirs, backend, "https://localhost:1"), daemon=True)
    thread.start()
    with theirs, ours:
        yield ours
        ours.close()
        thread.join(30)
        assert not thread.is_alive()


def test_the_backend_believes_no_question(client: Client, wire: socket.socket) -> None:
    """A front that an attacker has taken over reaches no further than its requests do."""
    remote = RemoteBackend(wire)
    request = Request("DELETE", f"{MACHINES}/off", {"api-version": "2024-07-01"}, Fields({}), "x")
    before = everything(client.facade.manager.store)
    for who in (None, "Bearer", "Bearer x", "Basic x"):
        with pytest.raises(ArmError) as error:
            remote.answer(who, request)
        assert error.value.status == 401
    with pytest.raises(ArmError) as error:
        remote.boot_file("x", "/boot/x/serial.log", "x", "../../../etc/passwd")
    assert error.value.status == 401
    questions: list[Any] = [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b'{"do": "brew"}',
        b'{"do": "answer", "query": 4}',
        b'{"do": 1}',
    ]
    for question in questions:
        assert b'"status": 400' in remote._exchange(question), question
    assert everything(client.facade.manager.store) == before
    assert remote.client() == client.facade.home.client()


def test_a_question_that_is_too_large_or_unanswered_is_an_error(
    client: Client, wire: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "LARGEST", 1 << 10)
    with pytest.raises(ArmError) as error:
        RemoteBackend(wire).sign_in({"client_secret": "x" * 4096})
    assert error.value.status in (400, 503)
    monkeypatch.setattr(channels, "ANSWER", 0.2)
    silent, other = socket.socketpair()
    with silent, other, pytest.raises(ArmError) as error:
        RemoteBackend(silent).client()
    assert error.value.status == 504
