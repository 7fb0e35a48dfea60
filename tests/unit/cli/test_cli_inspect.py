"""The verbs inspect and checks: what they print, and what they raise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from pipeline.base.errors import CheckFailed, DiskError, UsageError
from pipeline.cli import inspect
from tests.fakes import fake_disk

app = typer.Typer()
inspect.register(app)


def call(*words: object) -> tuple[str, BaseException | None]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.stdout, result.exception


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    return fake_disk.as_vhd(fake_disk.build(folder), folder / "disk.vhd")


def test_json_of_a_good_disk(good: Path) -> None:
    out, error = call("inspect", good, "--json")
    assert error is None
    record = json.loads(out)
    assert record["disk"] == str(good) and record["profile"] == "azure-linux"
    assert {"id", "status", "evidence", "remedy", "title"} <= set(record["checks"][0])
    assert {each["status"] for each in record["checks"]} == {"pass"}


def test_a_finding_is_printed_before_it_raises(good: Path, tmp_path: Path) -> None:
    disk = fake_disk.copy(good, tmp_path / "disk.vhd")
    fake_disk.put(disk, "/root/.bash_history", "x\n", tmp_path)
    out, error = call("inspect", disk)
    assert isinstance(error, CheckFailed) and error.exit_code == 1
    assert "fail       shell-history" in out and "remedy: rm -f" in out and "1 fail" in out
    out, error = call("inspect", disk, "--json", "--profile", "any", "--generation", "1")
    assert isinstance(error, CheckFailed) and json.loads(out)["profile"] == "any"


def test_what_cannot_be_read(tmp_path: Path) -> None:
    _, error = call("inspect", tmp_path / "nothing.vhd")
    assert isinstance(error, DiskError) and error.exit_code == 2
    (tmp_path / "x.raw").write_bytes(bytes(1 << 20))
    _, error = call("inspect", tmp_path / "x.raw", "--generation", "3")
    assert isinstance(error, UsageError)
    for word in ("443", "443/icmp", "0/tcp", "x/tcp"):
        _, error = call("inspect", tmp_path / "x.raw", "--port", word)
        assert isinstance(error, UsageError) and error.name == "unknown-port"


def test_the_list() -> None:
    out, _ = call("checks", "--json")
    assert {"id", "why", "remedy", "source", "severity", "profiles"} <= set(json.loads(out)[0])
    out, _ = call("checks", "--profile", "hyper-v")
    assert "machine-id" in out and "waagent-installed" not in out
