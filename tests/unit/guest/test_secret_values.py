"""Secrets of a definition: where they come from, what goes wrong, and what refuses a master that has one on it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.disk_format import known_format
from pipeline.base.errors import CheckFailed, GoldsmithError, UsageError
from pipeline.base.store import Store
from pipeline.cache.layers import Image, Layer
from pipeline.definition import Definition, load, step_inputs
from pipeline.disk import value_question
from pipeline.engine.preconditions import check_preconditions, require_buildable
from pipeline.guest.secret_gate import refuse_secrets, without_secrets
from pipeline.guest.secret_values import KEY_FILE, LONGEST_SECRET, SECRETS, SecretValues
from tests.unit.disk.test_secret_search import write

TOKEN = "goldsmith-canary-7f3a91c2e5"
HEAD = "goldsmith: 1\nsource: {debian: {suite: bookworm}}\n"


def defined(folder: Path, secrets: str, steps: str = "[{script: step.sh, secrets: [token]}]") -> Definition:
    (folder / "images").mkdir(exist_ok=True)
    (folder / "step.sh").write_text("#!/bin/sh\ntrue\n")
    (folder / "images/x.yaml").write_text(f"{HEAD}secrets: {secrets}\nsteps: {steps}\n")
    return load(folder / "images/x.yaml", folder)


def values(folder: Path, secrets: str) -> SecretValues:
    return SecretValues(defined(folder, secrets), folder)


def test_the_three_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key.bin").write_bytes(b"\0\1binary key\xff\n")
    monkeypatch.setenv("REPO_TOKEN", TOKEN)
    sources = "{token: {env: REPO_TOKEN}, key: {file: key.bin}, made: {command: 'printf \"%s-%s\\n\" $REPO_TOKEN x'}}"
    read = values(tmp_path, sources)
    assert read.read_all(["token", "key", "made"]) == {
        "token": TOKEN.encode(),
        "key": b"\0\1binary key\xff\n",
        "made": f"{TOKEN}-x".encode(),
    }
    assert read.mask.text(f"{TOKEN}-x and {TOKEN}") == "[secret made] and [secret token]"
    assert TOKEN not in repr(read)


FAULTS = {
    "{token: {file: none}}": "secret-missing",
    "{token: {env: GOLDSMITH_NOT_SET}}": "secret-missing",
    "{token: {command: 'echo no such key >&2; exit 3'}}": "secret-command-failed",
    "{token: {command: 'echo short'}}": "secret-too-short",
    "{token: {command: 'echo; echo; echo'}}": "secret-too-short",
    f"{{token: {{command: 'head -c {LONGEST_SECRET + 1} /dev/zero'}}}}": "secret-too-long",
}


@pytest.mark.parametrize("source", FAULTS)
def test_a_source_that_gives_nothing_is_named(tmp_path: Path, source: str) -> None:
    with pytest.raises(UsageError) as caught:
        values(tmp_path, source).read("token")
    assert caught.value.name == FAULTS[source] and "token" in caught.value.message and caught.value.hint


def test_a_playbook_gets_text(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert values(tmp_path, "{token: {file: token}}").read_texts(["token"]) == {"token": TOKEN}
    (tmp_path / "token").write_bytes(b"\xff\xfe not text")
    with pytest.raises(UsageError) as caught:
        values(tmp_path, "{token: {file: token}}").read_texts(["token"])
    assert caught.value.name == "secret-not-text"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a command as somebody else")
def test_a_command_runs_as_the_owner_of_the_definition(tmp_path: Path) -> None:
    """A project that a user may write must not run commands as root."""
    read = values(tmp_path, "{token: {command: 'id -u; id -un; echo $HOME; echo long enough'}}")
    assert not read.read("token").startswith(b"0\n"), "root's own project has a user in root's place"
    os.chown(tmp_path / "images/x.yaml", 65534, 65534)
    tmp_path.chmod(0o755)
    for parent in (tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)
    assert values_of(tmp_path).read("token").startswith(b"65534\nnobody\n")


def values_of(folder: Path) -> SecretValues:
    return SecretValues(load(folder / "images/x.yaml", folder), folder)


def test_the_fingerprint_follows_the_value_and_shows_nothing(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    first = values(tmp_path, "{token: {file: token}}").fingerprints(["token"])
    assert first == values_of(tmp_path).fingerprints(["token"])
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    (tmp_path / "token").write_text(TOKEN + "2")
    assert values_of(tmp_path).fingerprints(["token"]) != first
    (tmp_path / KEY_FILE).write_bytes(b"cut")
    with pytest.raises(UsageError) as caught:
        values_of(tmp_path).fingerprints(["token"])
    assert caught.value.name == "secret-key-damaged"


def test_a_steps_inputs_have_the_name_alone(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    (without,) = defined(tmp_path, "{token: {file: token}}", "[{script: step.sh}]").steps
    (with_it,) = defined(tmp_path, "{token: {file: token}}").steps
    before, after = step_inputs(without), step_inputs(with_it)
    assert set(after) - set(before) == {"secrets"}
    (tmp_path / "token").write_text("another value")
    assert step_inputs(with_it) == after, "a new value is no reason to run a step again"


def test_a_build_asks_for_its_secrets_before_anything_starts(tmp_path: Path) -> None:
    definition = defined(tmp_path, "{token: {env: GOLDSMITH_NOT_SET}, other: {file: none}}")
    store = Store(tmp_path / "store")
    with pytest.raises(GoldsmithError) as caught:
        require_buildable([definition], store)
    assert "secrets.token: the variable GOLDSMITH_NOT_SET is not set" in str(caught.value)
    assert "other" not in str(caught.value), "no step reads it"
    found = check_preconditions([definition], store)
    assert not any("NOT_SET" in fault.message for each in found.values() for fault in each), "validate needs none"


def lineage(prints: dict[str, str]) -> list[tuple[str, Layer]]:
    record = {"title": "step.sh", "facts": {SECRETS: prints}}
    return [("provision", Layer("0" * 64, Path("/nonexistent"), record))]


def test_a_master_with_a_secret_on_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text(TOKEN)
    read = values(tmp_path, "{token: {file: token}}")
    prints = read.fingerprints(["token"])
    dirty = write(tmp_path / "dirty", {"etc/leak": TOKEN.encode()}, "16M")
    clean = write(tmp_path / "clean", {"etc/none": b"nothing"}, "16M")

    def look(path: Path, prints: dict[str, str]) -> None:
        refuse_secrets(read, lineage(prints), Image(path, known_format("raw")), lambda _text: None)

    look(clean, prints)
    with pytest.raises(CheckFailed) as caught:
        look(dirty, prints)
    assert caught.value.name == "secret-in-image" and "token in /etc/leak" in caught.value.message
    assert TOKEN not in caught.value.message
    with pytest.raises(CheckFailed) as caught:
        look(clean, {"token": "0" * 64})
    assert caught.value.name == "secret-changed" and '--from "step.sh"' in (caught.value.hint or "")
    monkeypatch.setattr(value_question, "search_disk", lambda *_words, **_named: ([], ["more candidates"]))
    with pytest.raises(CheckFailed) as caught:
        look(clean, prints)
    assert caught.value.name == "secret-search-incomplete", "what was not searched is not clean"
    manifest: dict[str, Any] = {"definition": "vars: {a: b}"}
    assert without_secrets(read, manifest) == manifest
    with pytest.raises(CheckFailed) as caught:
        without_secrets(read, {"definition": json.dumps({"token": TOKEN})})
    assert caught.value.name == "secret-in-record"
