"""A key that a real ssh agent holds: it signs, its file has no private half, and each fault has a name."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.base.errors import UsageError
from pipeline.evidence import agent_key, key_rotation, signing
from tests.harness import wait_for


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "agent.sock"
    child = subprocess.Popen(["ssh-agent", "-D", "-a", place], stdout=subprocess.DEVNULL)
    try:
        wait_for("the agent's socket", place.exists, 30)
        yield place
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait()


def add_key(agent: Path, name: str, kind: str = "ed25519") -> None:
    path = agent.parent / name
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", path], check=True)
    environment = {**os.environ, "SSH_AUTH_SOCK": str(agent)}
    subprocess.run(["ssh-add", "-q", path], env=environment, check=True)


def test_an_agent_signs_what_anybody_can_verify(agent: Path, tmp_path: Path) -> None:
    add_key(agent, "other", "ecdsa")
    add_key(agent, "own")
    path = tmp_path / "keys/signing.key"
    made = signing.make(path, agent_key.find(agent))
    read = signing.load(path, tmp_path / "store")
    assert read is not None and read.id == made.id and path.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in path.read_text()
    text = signing.signed(b"payload", read)
    assert signing.opened(text, [signing.load_public(signing.public_path(path))]) == b"payload"
    assert signing.trusted(path) == [signing.public_path(path)]


def test_one_of_several_keys_is_named_by_its_fingerprint(agent: Path) -> None:
    add_key(agent, "first")
    add_key(agent, "second")
    with pytest.raises(UsageError) as caught:
        agent_key.find(agent)
    assert caught.value.name == "agent-key-unknown"
    shown = subprocess.run(
        ["ssh-add", "-l"], env={**os.environ, "SSH_AUTH_SOCK": str(agent)}, capture_output=True, text=True, check=True
    ).stdout.split()[1]
    assert shown in str(caught.value.hint)
    assert agent_key.find(agent, shown).fingerprint == shown


def test_a_rotation_to_an_agent_and_back(agent: Path, tmp_path: Path) -> None:
    add_key(agent, "own")
    path = tmp_path / "keys/signing.key"
    first = signing.make(path)
    old, second = key_rotation.rotate(path, tmp_path / "store", agent_key.find(agent))
    assert str(old.keyid) == first.id and second.private == agent_key.parse(path.read_text())
    text = signing.signed(b"by the agent", second)
    key_rotation.rotate(path, tmp_path / "store")
    keys = [signing.load_public(each) for each in signing.trusted(path)]
    assert len(keys) == 3 and signing.opened(text, keys) == b"by the agent"


def test_an_agent_without_the_key_refuses(agent: Path) -> None:
    add_key(agent, "own")
    key = agent_key.find(agent)
    subprocess.run(["ssh-add", "-q", "-D"], env={**os.environ, "SSH_AUTH_SOCK": str(agent)}, check=True)
    with pytest.raises(UsageError) as caught:
        key.sign(b"data")
    assert caught.value.name == "agent-refused"


def test_no_agent_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        agent_key.find(tmp_path / "none.sock")
    assert caught.value.name == "agent-silent" and "No such file" in caught.value.message


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        struct.pack(">I", 0),
        struct.pack(">I", 1 << 30),
        struct.pack(">I", 5) + b"\x0c\x00\x00\x00\x09",
        struct.pack(">I", 1) + b"\x05",
    ],
    ids=["nothing", "empty", "huge", "cut short", "failure"],
)
def test_a_lying_agent_is_named(tmp_path: Path, answer: bytes) -> None:
    place = tmp_path / "liar.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()

        def lie() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)

        threading.Thread(target=lie, daemon=True).start()
        with pytest.raises(UsageError) as caught:
            agent_key.find(place)
    assert caught.value.name in ("agent-silent", "agent-refused")


@pytest.mark.parametrize(
    "text", ["ssh-agent", "ssh-agent a.sock\nssh-ed25519 AAAA\n", "ssh-agent /a\nssh-rsa AAAA\n"]
)
def test_a_damaged_file_is_no_key(tmp_path: Path, text: str) -> None:
    path = tmp_path / "signing.key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(UsageError) as caught:
        signing.load(path, tmp_path / "store")
    assert caught.value.name == "key-unreadable"
