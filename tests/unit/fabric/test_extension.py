"""The extension that the fabric offers: what agents read, its own work in a folder like an agent's, its status."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from lxml import etree

from pipeline.fabric import answer, wireserver
from pipeline.fabric.extension import NAME, VERSION, Extension, HandlerStatus, package, read_statuses
from pipeline.fabric.instance import PLUGIN_PORT, Instance, Request
from pipeline.fabric.limits import KEPT_WORDS, LARGEST_DOCUMENT

PLAIN = Instance(name="web1", user="u", public_key="k", mac="00:0d:3a:01:02:03", address="10.83.0.10")


@pytest.fixture(scope="module")
def offered() -> Extension:
    return Extension.make("web1")


def _plugin(path: str, location: str = "") -> Request:
    return Request("GET", PLUGIN_PORT, path, headers={"x-ms-artifact-location": location} if location else {})


def test_both_goal_states_name_the_same_extension(offered: Extension) -> None:
    vm = replace(PLAIN, extension=offered)
    config = etree.fromstring(wireserver.extensions_config(vm, Request("GET", 80, "/")).body)
    plugin = config.find("Plugins/Plugin")
    settings = config.find("PluginSettings/Plugin/RuntimeSettings")
    assert plugin is not None and settings is not None
    state = json.loads(answer(vm, _plugin("/vmSettings")).body)["extensionGoalStates"]
    assert len(state) == 1
    assert (state[0]["name"], state[0]["version"]) == (plugin.get("name"), plugin.get("version")) == (NAME, VERSION)
    assert state[0]["location"] == plugin.get("location")
    assert state[0]["state"] == plugin.get("state") == "enabled"
    assert state[0]["settingsSeqNo"] == int(settings.get("seqNo", ""))
    handler = json.loads(settings.text or "")["runtimeSettings"][0]["handlerSettings"]
    report = state[0]["settings"][0]
    assert json.loads(report["publicSettings"]) == handler["publicSettings"]
    for key in ("protectedSettings", "protectedSettingsCertThumbprint"):
        assert report[key] == handler[key]


def test_a_vm_without_an_extension_is_offered_none() -> None:
    config = etree.fromstring(wireserver.extensions_config(PLAIN, Request("GET", 80, "/")).body)
    assert not config.findall("Plugins/*") and not config.findall("PluginSettings/*")
    assert answer(PLAIN, Request("GET", 80, "/extensions/goldsmith-proof.zip")).status == 404


def test_an_agent_finds_manifest_and_package_itself_and_through_the_plugin(offered: Extension) -> None:
    vm = replace(PLAIN, extension=offered)
    location = json.loads(answer(vm, _plugin("/vmSettings")).body)["extensionGoalStates"][0]["location"]
    path = location.removeprefix("http://168.63.129.16:80")
    manifest = answer(vm, Request("GET", 80, path))
    assert manifest.status == 200
    assert answer(vm, _plugin("/extensionArtifact", location)).body == manifest.body
    plugin = etree.fromstring(manifest.body).find("Plugins/Plugin")
    assert plugin is not None and plugin.findtext("Version") == VERSION
    uri = plugin.findtext("Uris/Uri", "")
    archive = answer(vm, Request("GET", 80, uri.removeprefix("http://168.63.129.16:80"))).body
    assert answer(vm, _plugin("/extensionArtifact", uri)).body == archive == package()
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        handler = json.loads(files.read("HandlerManifest.json"))[0]["handlerManifest"]
        for verb in ("install", "enable", "disable", "update", "uninstall"):
            assert handler[f"{verb}Command"].split()[0] in files.namelist()
    assert answer(vm, _plugin("/extensionArtifact", "http://elsewhere/x.zip")).status == 404


def _installed(folder: Path, offered: Extension, *, key: bool = True) -> Path:
    """The extension as an agent lays it out: unpacked, its settings written, the VM's key beside it."""
    home = folder / f"{NAME}-{VERSION}"
    with zipfile.ZipFile(io.BytesIO(package())) as files:
        files.extractall(home)
    (home / "run.sh").chmod(0o755)
    (home / "config").mkdir()
    (home / "config/0.settings").write_text(offered.runtime_settings)
    if key:
        made = ["openssl", "pkcs12", "-nodes", "-nocerts", "-password", "pass:"]
        pem = subprocess.run(made, input=offered.pair.bundle, check=True, capture_output=True).stdout
        (folder / f"{offered.pair.thumbprint}.prv").write_bytes(pem)
    return home


def _enabled(home: Path) -> tuple[str, str]:
    env = {"PATH": os.environ["PATH"], "ConfigSequenceNumber": "0"}
    subprocess.run([home / "run.sh", "enable"], cwd="/", env=env, check=False)
    status = json.loads((home / "status/0.status").read_text())[0]["status"]
    return status["status"], status["formattedMessage"]["message"]


def test_the_extension_reports_both_settings(offered: Extension, tmp_path: Path) -> None:
    state, message = _enabled(_installed(tmp_path, offered))
    assert state == "success"
    assert {offered.public, offered.secret} <= set(message.split())


def test_without_its_key_the_extension_reports_an_error(offered: Extension, tmp_path: Path) -> None:
    state, message = _enabled(_installed(tmp_path, offered, key=False))
    assert state == "error"
    assert "private key" in message


def test_with_a_key_of_another_certificate_the_extension_reports_an_error(offered: Extension, tmp_path: Path) -> None:
    home = _installed(tmp_path, offered)
    other = _installed(tmp_path / "other", Extension.make("web2"))
    key = next(other.parent.glob("*.prv"))
    key.replace(tmp_path / f"{offered.pair.thumbprint}.prv")
    assert _enabled(home) == ("error", "the protected settings cannot be decrypted with the VM's certificate")


def _status(row: object) -> bytes:
    """As WALinuxAgent 2.7 and 2.12 send it: the status in base64, in a document for the HostGAPlugin."""
    status = {"version": "1.1", "aggregateStatus": {"guestAgentStatus": {}, "handlerAggregateStatus": [row]}}
    content = base64.b64encode(json.dumps(status).encode()).decode()
    return json.dumps({"requestUri": "http://x", "headers": [], "content": content}).encode()


def test_a_status_is_read_as_the_agent_sends_it() -> None:
    row = {
        "handlerVersion": VERSION,
        "handlerName": NAME,
        "status": "Ready",
        "code": 0,
        "runtimeSettingsStatus": {
            "settingsStatus": {
                "status": {
                    "status": "success",
                    "code": 0,
                    "formattedMessage": {"lang": "en-US", "message": "read it"},
                }
            },
            "sequenceNumber": 0,
        },
    }
    put = Request("PUT", PLUGIN_PORT, "/status", body=_status(row))
    assert wireserver.handler_statuses(put) == [HandlerStatus(NAME, "Ready", 0, "success", "read it")]
    assert wireserver.handler_statuses(replace(put, method="GET")) == []
    failed = {"handlerName": NAME, "status": "NotReady", "code": 1001, "formattedMessage": {"message": "no download"}}
    (status,) = read_statuses(_status(failed))
    assert status.over
    assert (status.state, status.message) == ("", "no download")
    (waiting,) = read_statuses(_status({"handlerName": NAME, "status": "NotReady", "code": 0}))
    assert not waiting.over


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"content": 7}',
        b'{"content": "W10="}',
        b"[" * 100_000,
        _status("no row"),
        _status({"status": "Ready"}),
        _status({"handlerName": NAME, "runtimeSettingsStatus": 7}),
        _status({"handlerName": NAME, "code": "many"}),
        b" " * (LARGEST_DOCUMENT + 1),
    ],
)
def test_what_is_no_status_is_none(body: bytes) -> None:
    assert read_statuses(body) == []


def test_a_guests_words_are_bounded() -> None:
    (status,) = read_statuses(_status({"handlerName": NAME, "formattedMessage": {"message": "x" * 100_000}}))
    assert len(status.message) == KEPT_WORDS
