"""What is judged of Azure's agent in a clone: the status of the extension, and the certificate in its folder."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.base.errors import GuestError
from pipeline.fabric.certificates import KeyPair, make_key_pair
from pipeline.fabric.extension import NAME, Extension
from pipeline.fabric.guest_record import GuestRecord
from pipeline.fabric.instance import PLUGIN_PORT, Instance, Request, Response
from pipeline.prove.result import CloneResult
from pipeline.systems.linux import agent_assertions


class Clone:
    """A clone whose shell is this host's: what is asked of it by ssh runs here."""

    def __init__(self) -> None:
        self.spec = SimpleNamespace(kvm=True)
        self.timeouts = SimpleNamespace(command=30.0)
        self.steps = self
        self.machine = self

    def ssh(self, command: str, *, stdin: str, deadline: float) -> subprocess.CompletedProcess[str]:
        assert command == "sudo -n sh -s"
        return subprocess.run(["sh", "-s"], input=stdin, text=True, capture_output=True, check=True, timeout=deadline)

    def wait(self, what: str, probe: Callable[[], object], *, deadline: float, name: str) -> object:
        found = probe()
        if found is None:
            raise GuestError(f"{what} did not come within {deadline:.0f} s", name=name)
        return found


@pytest.fixture(scope="module")
def offered() -> Extension:
    return Extension.make("web1")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(agent_assertions, "FOLDER", str(tmp_path / "waagent"))
    (tmp_path / "waagent").mkdir()
    return tmp_path / "waagent"


def _land(folder: Path, pair: KeyPair, *, as_name: str = "") -> None:
    """The certificate and its key as the agent writes them."""
    made = ["openssl", "pkcs12", "-nodes", "-password", "pass:"]
    for option, suffix in (("-nocerts", "prv"), ("-nokeys", "crt")):
        pem = subprocess.run([*made, option], input=pair.bundle, check=True, capture_output=True).stdout
        (folder / f"{as_name or pair.thumbprint}.{suffix}").write_bytes(pem)


def _judge(tmp_path: Path, offered: Extension, row: dict[str, object] | None) -> CloneResult:
    vm = Instance("web1", "u", "k", "00:0d:3a:01:02:03", "10.83.0.10", extension=offered)
    guest = GuestRecord(vm, tmp_path)
    if row is not None:
        status = {"aggregateStatus": {"handlerAggregateStatus": [{"handlerName": NAME, **row}]}}
        body = json.dumps({"content": base64.b64encode(json.dumps(status).encode()).decode()}).encode()
        guest.record(Request("PUT", PLUGIN_PORT, "/status", body=body), Response())
    result = CloneResult("gen1")
    agent_assertions.extension(Clone(), result, guest)  # type: ignore[arg-type]  its shape is what counts
    return result


def _row(state: str, message: str) -> dict[str, object]:
    work = {"status": state, "code": 0, "formattedMessage": {"message": message}}
    return {"status": "Ready", "code": 0, "runtimeSettingsStatus": {"settingsStatus": {"status": work}}}


def test_success_with_both_values_and_the_certificate_is_good(
    folder: Path, tmp_path: Path, offered: Extension
) -> None:
    _land(folder, offered.pair)
    result = _judge(tmp_path, offered, _row("success", f"read {offered.public} {offered.secret}"))
    assert result.failures == []
    assert result.checks == {"extension": "success", "certificate": f"{offered.pair.thumbprint} with its key"}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (None, "no final status within 120 s: the agent reported no extension"),
        ({"status": "NotReady", "code": 0}, "no final status within 120 s: NotReady"),
        (
            {"status": "NotReady", "code": 1001, "formattedMessage": {"message": "no package"}},
            "code 1001: no package",
        ),
        (_row("transitioning", "at it"), "no final status within 120 s: Ready transitioning"),
        (_row("error", "the private key is not there"), "failed: Ready error, code 0: the private key is not there"),
        (_row("success", "read somebody's values"), "failed: Ready success"),
    ],
)
def test_every_other_status_is_a_named_failure(
    row: dict[str, object] | None, words: str, folder: Path, tmp_path: Path, offered: Extension
) -> None:
    _land(folder, offered.pair)
    (failure,) = _judge(tmp_path, offered, row).failures
    assert failure.startswith("extension: ")
    assert words in failure


def _none(folder: Path, offered: Extension) -> None:
    folder.rmdir()


def _other_certificate(folder: Path, offered: Extension) -> None:
    _land(folder, make_key_pair("web2"), as_name=offered.pair.thumbprint)


def _no_key(folder: Path, offered: Extension) -> None:
    _land(folder, offered.pair)
    (folder / f"{offered.pair.thumbprint}.prv").unlink()


def _other_key(folder: Path, offered: Extension) -> None:
    _land(folder, offered.pair)
    other = make_key_pair("web2")
    _land(folder, other)
    (folder / f"{other.thumbprint}.prv").replace(folder / f"{offered.pair.thumbprint}.prv")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_none, "not there: "),
        (lambda _folder, _offered: None, "not there: "),
        (_other_certificate, "not there: "),
        (_no_key, "its private key is not there: "),
        (_other_key, "its private key is not there: "),
    ],
)
def test_a_certificate_that_did_not_land_is_a_named_failure(
    change: Callable[[Path, Extension], None], words: str, folder: Path, tmp_path: Path, offered: Extension
) -> None:
    change(folder, offered)
    (failure,) = _judge(tmp_path, offered, _row("success", f"read {offered.public} {offered.secret}")).failures
    assert failure.startswith(f"certificate: {words}")
