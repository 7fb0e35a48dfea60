"""`goldsmith publish push --events` to a folder: transfers, then the document that --json prints."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner

from pipeline.base.store import Store
from pipeline.cli.app import app
from pipeline.cli.events import event_schema
from tests.unit.publish.conftest import Capture


def test_a_publication_has_transfers_and_a_result(
    store: Store, capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOLDSMITH_HOME", str(store.root))
    capture({0: b"first" * 1000})
    target = tmp_path / "target"
    target.mkdir()
    ended = CliRunner().invoke(app, ["publish", "push", "shop", str(target), "--events"])
    assert ended.exit_code == 0, ended.output
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    for each in found:
        jsonschema.Draft202012Validator(event_schema()).validate(each)
    assert {each["event"] for each in found[:-1]} <= {"transfer"}
    assert found[-1]["event"] == "result"
    again = CliRunner().invoke(app, ["publish", "push", "shop", str(target), "--json"])
    assert set(json.loads(again.stdout)) == set(found[-1]["document"])
