"""What a hostile guest's agent may answer: each answer comes through libvirt's own call, and is named or taken."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import libvirt
import libvirt_qemu
import pytest

from pipeline.base.errors import GuestError, HostError
from pipeline.guest.agent_script import AgentScript
from pipeline.hypervisor.agent import CHUNK, Agent
from pipeline.hypervisor.answers import MALFORMED

Reply = str | None | Exception | Callable[[dict[str, Any]], str]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def returns(value: object) -> str:
    return json.dumps({"return": value})


class Domain:
    """What the agent asks its domain besides."""

    now: ClassVar[list[int]] = [libvirt.VIR_DOMAIN_RUNNING, 0]

    def state(self) -> list[int]:
        return self.now

    def diskErrors(self, _flags: int) -> dict[str, int]:
        return {"sdb": libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE}

    def XMLDesc(self, _flags: int) -> str:
        return (
            "<domain><devices><disk><source file='/store/data.qcow2'/><target dev='sda'/></disk>"
            "<disk><source file='/store/os.qcow2'/><target dev='sdb'/></disk></devices></domain>"
        )


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Agent]:
    """An agent in a guest that answers each command as told, and the file commands soundly."""

    def make(**replies: Reply) -> Agent:
        def ask(_domain: object, message: str, timeout: int, _flags: int) -> Any:
            assert timeout > 0
            command = json.loads(message)
            name = command["execute"].replace("-", "_")
            reply = replies.get(name, returns(1000 if name == "guest_file_open" else {}))
            if isinstance(reply, Exception):
                raise reply
            return reply(command.get("arguments", {})) if callable(reply) else reply

        monkeypatch.setattr(libvirt_qemu, "qemuAgentCommand", ask)
        return Agent(Domain, tmp_path / "agent.log")  # type: ignore[arg-type]

    return make


def named(call: Callable[[], object]) -> None:
    began = time.monotonic()
    with pytest.raises(GuestError) as caught:
        call()
    assert caught.value.name == MALFORMED
    assert caught.value.message and caught.value.hint
    assert caught.value.message.isprintable() and len(caught.value.message) < 400
    assert time.monotonic() - began < 60


NO_ANSWERS: list[Any] = [
    None,
    "",
    "no json",
    "[]",
    "17",
    "null",
    '"text"',
    "{}",
    '{"error": {"class": "GenericError", "desc": "no"}}',
    '{"return": NaN}',
    '{"return": Infinity}',
    '{"return": ' + "[" * 100_000 + "]" * 100_000 + "}",
    '{"return": ' + "[" * 500 + "]" * 500 + "}",
    '{"return": ' + '{"a":' * 400 + "1" + "}" * 401,
    '{"return": {"pid": ' + "9" * 5000 + "}}",
    '{"return": {"pid": 1',
    b"\xff\xfe",
]


@pytest.mark.parametrize("reply", NO_ANSWERS, ids=range(len(NO_ANSWERS)))
def test_what_is_no_answer(reply: Any, agent: Callable[..., Agent]) -> None:
    named(lambda: agent(guest_exec=reply).execute(["/bin/true"], deadline=600))


@pytest.mark.parametrize(
    "value",
    [None, [], "1", 5, {}, {"pid": "1"}, {"pid": -1}, {"pid": 0}, {"pid": 1.5}, {"pid": True}, {"pid": 1 << 64}],
)
def test_what_is_no_process(value: object, agent: Callable[..., Agent]) -> None:
    named(lambda: agent(guest_exec=returns(value)).execute(["/bin/true"], deadline=600))


@pytest.mark.parametrize(
    "value",
    [
        *(None, [], {}, {"exited": 1}, {"exited": "true"}, {"exited": None}, [{"exited": True}]),
        {"exited": True, "exitcode": "0"},
        {"exited": True, "exitcode": None},
        {"exited": True, "exitcode": True},
        {"exited": True, "exitcode": 0.0},
        {"exited": True, "exitcode": 1 << 40},
        {"exited": True, "exitcode": 0, "out-data": "!!!"},
        {"exited": True, "exitcode": 0, "out-data": "YQ"},
        {"exited": True, "exitcode": 0, "out-data": "größe"},
        {"exited": True, "exitcode": 0, "out-data": ["YQ=="]},
        {"exited": True, "exitcode": 0, "err-data": 7},
        {"exited": True, "exitcode": 0, "err-data": None},
    ],
)
def test_what_is_no_status(value: object, agent: Callable[..., Agent]) -> None:
    first = agent(guest_exec=returns({"pid": 7}), guest_exec_status=returns(value))
    named(lambda: first.execute(["/bin/true"], deadline=600))


def test_a_sound_status_is_taken_whatever_the_program_printed(agent: Callable[..., Agent]) -> None:
    status = {"exited": True, "exitcode": 3, "out-data": b64(b"\xff\x00\x1b[2J"), "err-data": b64(b"no\n")}
    first = agent(guest_exec=returns({"pid": 7}), guest_exec_status=returns(status))
    done = first.execute(["/bin/false"], deadline=600)
    assert (done.code, done.stdout, done.stderr) == (3, "\ufffd\x00\x1b[2J", "no\n")
    # a program that a signal ended has no exit code
    first = agent(guest_exec=returns({"pid": 7}), guest_exec_status=returns({"exited": True, "signal": 9}))
    assert first.execute(["/bin/false"], deadline=600).code == -1
    first = agent(guest_exec=returns({"pid": 7}), guest_exec_status=returns({"exited": True, "exitcode": 0xC0000005}))
    assert first.execute(["x.exe"], deadline=600).code == 0xC0000005


def test_a_program_that_never_exits_is_given_up(agent: Callable[..., Agent]) -> None:
    first = agent(guest_exec=returns({"pid": 7}), guest_exec_status=returns({"exited": False}))
    with pytest.raises(GuestError) as caught:
        first.execute(["/bin/sleep"], deadline=0.3)
    assert caught.value.name == "guest-command-timeout"


@pytest.mark.parametrize("handle", [None, "1000", -1, 1.5, True, {}, [1], 1 << 70])
def test_what_is_no_handle(handle: object, agent: Callable[..., Agent]) -> None:
    named(lambda: agent(guest_file_open=returns(handle)).read("/etc/hostname"))


@pytest.mark.parametrize(
    "value",
    [
        *(None, [], "YQ==", {}, {"count": 1, "eof": True}, {"buf-b64": "YQ==", "eof": True}),
        {"buf-b64": "YQ==", "count": 1},
        {"buf-b64": "YQ==", "count": 1 << 40, "eof": False},
        {"buf-b64": "", "count": 5, "eof": False},
        {"buf-b64": "YQ==", "count": -1, "eof": False},
        {"buf-b64": "YQ==", "count": "1", "eof": False},
        {"buf-b64": "YQ==", "count": 1, "eof": "false"},
        {"buf-b64": "YQ==\n", "count": 1, "eof": False},
        {"buf-b64": None, "count": 0, "eof": True},
        {"buf-b64": b64(b"x" * (CHUNK + 1)), "count": CHUNK + 1, "eof": False},
    ],
)
def test_what_is_no_piece_of_a_file(value: object, agent: Callable[..., Agent]) -> None:
    named(lambda: agent(guest_file_read=returns(value)).read("/etc/hostname"))


def test_a_file_without_end_is_read_to_its_limit(agent: Callable[..., Agent]) -> None:
    def endless(arguments: dict[str, Any]) -> str:
        return returns({"buf-b64": b64(b"x" * arguments["count"]), "count": arguments["count"], "eof": False})

    assert len(agent(guest_file_read=endless).read("/dev/zero", 3 << 20)) == 3 << 20
    nothing = returns({"buf-b64": "", "count": 0, "eof": False})
    assert agent(guest_file_read=nothing).read("/dev/null") == b""


@pytest.mark.parametrize(
    "value",
    [
        *(None, {}, "eth0", [1], [None], [[]], [{"ip-addresses": {}}], [{"ip-addresses": ["10.0.0.1"]}]),
        [{"ip-addresses": [{"ip-address-type": "ipv4"}]}],
        [{"ip-addresses": [{"ip-address-type": "ipv4", "ip-address": 5}]}],
        [{"ip-addresses": [{"ip-address-type": "ipv4", "ip-address": "\u001b[2J"}]}],
        [{}] * 1000,
    ],
)
def test_what_is_no_list_of_addresses(value: object, agent: Callable[..., Agent]) -> None:
    named(agent(guest_network_get_interfaces=returns(value)).addresses)


def test_addresses(agent: Callable[..., Agent]) -> None:
    cards = [
        {"name": "lo", "ip-addresses": [{"ip-address-type": "ipv4", "ip-address": "127.0.0.1", "prefix": 8}]},
        {"name": "e", "ip-addresses": [{"ip-address-type": kind, "ip-address": item} for kind, item in ADDRESSES]},
        {"name": "down"},
    ]
    assert agent(guest_network_get_interfaces=returns(cards)).addresses() == ["10.0.2.15"]


ADDRESSES = [("ipv6", "fe80::1"), ("ipv4", "10.0.2.15")]


def test_a_guest_that_is_paused_by_its_disk_is_no_silent_agent(agent: Callable[..., Agent]) -> None:
    asked = agent(guest_exec=libvirt.libvirtError("domain is not running"))
    Domain.now = [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR]
    try:
        with pytest.raises(HostError) as caught:
            asked.execute(["/bin/true"], deadline=600)
    finally:
        Domain.now = [libvirt.VIR_DOMAIN_RUNNING, 0]
    assert caught.value.name == "disk-full"
    assert caught.value.message.endswith("could not write its disk: /store/os.qcow2: No space left on device")


def test_the_words_of_an_error_reach_no_terminal_raw(agent: Callable[..., Agent], tmp_path: Path) -> None:
    error = libvirt.libvirtError("\x1b]0;owned\x07 failed\nagain " + "x" * 10_000)
    first = agent(guest_exec=error)
    with pytest.raises(GuestError) as caught:
        first.execute(["/bin/true"], deadline=600)
    assert caught.value.name == "guest-agent-silent"
    assert caught.value.message.isprintable() and len(caught.value.message) < 400
    assert "\x1b" not in (tmp_path / "agent.log").read_text()


def test_a_step_meets_a_malformed_answer_at_once(agent: Callable[..., Agent]) -> None:
    boot = {"buf-b64": b64(b"one\n"), "count": 4, "eof": True}
    asked = 0

    def read(_arguments: dict[str, Any]) -> str:
        nonlocal asked
        asked += 1
        return returns(boot if asked == 1 else {"buf-b64": "?", "count": 1, "eof": False})

    first = agent(
        guest_exec=returns({"pid": 7}),
        guest_exec_status=returns({"exited": True, "exitcode": 0}),
        guest_file_read=read,
    )
    named(lambda: AgentScript(first, lambda: None).run(b"#!/bin/sh\n", deadline=600))


@pytest.mark.parametrize("code", [b"abc\n", b"-\n", b"9" * 5000 + b"\n", "٣\n".encode(), b"0x1\n", b"\n"])
def test_an_exit_code_that_is_none(code: bytes, agent: Callable[..., Agent]) -> None:
    reads = [b"one\n", code, b"", b"", b"", b"", b""]

    def read(_arguments: dict[str, Any]) -> str:
        piece = reads.pop(0) if reads else b""
        return returns({"buf-b64": b64(piece), "count": len(piece), "eof": True})

    first = agent(
        guest_exec=returns({"pid": 7}),
        guest_exec_status=returns({"exited": True, "exitcode": 0}),
        guest_file_read=read,
    )
    named(lambda: AgentScript(first, lambda: None).run(b"#!/bin/sh\n", deadline=600))


def test_a_guest_that_was_started_again_is_asked_in_its_new_domain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest that goldsmith started by a kernel gets another domain when it restarts itself: a step waited on."""
    asked: list[object] = []

    def ask(domain: object, _text: str, _timeout: int, _flags: int) -> str:
        asked.append(domain)
        return returns({})

    monkeypatch.setattr(libvirt_qemu, "qemuAgentCommand", ask)
    domains: list[Any] = ["the first"]
    agent = Agent(lambda: domains[-1], tmp_path / "agent.log")
    agent.call("guest-ping")
    domains.append("the second")
    agent.call("guest-ping")
    assert asked == domains


def test_a_file_is_written_a_piece_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "big.msi"
    source.write_bytes(b"x" * (2 * CHUNK + 5))
    sent: list[int] = []

    def call(_self: Agent, command: str, arguments: dict[str, Any] | None = None, **_more: Any) -> Any:
        if command == "guest-file-write":
            sent.append(len(base64.b64decode((arguments or {})["buf-b64"])))
        return 7

    monkeypatch.setattr(Agent, "call", call)
    agent = Agent.__new__(Agent)
    with source.open("rb") as file:
        agent.write(r"C:\big.msi", file)
    agent.write(r"C:\small", b"abc")
    assert sent == [CHUNK, CHUNK, 5, 3]
