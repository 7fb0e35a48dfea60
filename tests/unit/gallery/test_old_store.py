"""What commit cdf019e has written stays usable: its masters are listed, verified, and serve as parents, for good.

The store is in tests/fixtures; tests/fixtures/make_old_store.py has made it with that commit's own code.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pipeline.cli.app import app

FIXTURE = Path(__file__).parents[2] / "fixtures/store-cdf019e.tar.xz"
#: (image, version, channels) as the script has left them.
VERSIONS = [("base", ".1", ["stable"]), ("base", ".2", ["golden"]), ("data", ".0", ["golden"])]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with tarfile.open(FIXTURE) as packed:
        packed.extractall(tmp_path)
    monkeypatch.setenv("GOLDSMITH_HOME", str(tmp_path / "store"))
    monkeypatch.setenv("GOLDSMITH_KEY", str(tmp_path / "key" / "signing.key"))
    return tmp_path / "store"


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def versions() -> list[dict[str, Any]]:
    listed = run("gallery", "list", "--json")
    assert listed.exit_code == 0, listed.output
    found: list[dict[str, Any]] = json.loads(listed.stdout)
    return found


def test_the_fixture_is_small() -> None:
    assert FIXTURE.stat().st_size < 1 << 20


def test_its_masters_are_listed_and_shown(store: Path) -> None:
    found = [(each["name"], each["version"][-2:], each["channels"]) for each in versions()]
    assert found == VERSIONS
    assert {each["state"] for each in versions()} == {"proven"}
    shown = json.loads(run("gallery", "show", "base@stable", "--json").stdout)
    assert [lease["why"] for lease in shown["leases"]] == ["a machine that stands on it"]
    data = json.loads(run("gallery", "show", "data", "--json").stdout)
    assert [(disk["role"], disk["lun"]) for disk in data["disks"]] == [("os", None), ("data", 3)]


def test_its_masters_are_verified_with_their_signatures(store: Path) -> None:
    key = store / "signing.pub"
    assert run("gallery", "verify", "--key", key).exit_code == 0
    for name in ("base", "data"):
        assert run("gallery", "verify", name, "--key", key).exit_code == 0
    # a key that has signed nothing
    refused = run("gallery", "verify", "base", "--key", _other_key(store))
    assert refused.exit_code == 1
    assert "no trusted key has signed it" in refused.output


@pytest.mark.parametrize("file", ["disk.vhd", "manifest.json", "sbom.cdx.json", "logs/checks.json"])
def test_a_changed_byte_is_found(store: Path, file: str) -> None:
    folder = store / "gallery/base/golden"
    path = folder.resolve() / file
    path.chmod(0o644)
    with path.open("r+b") as opened:
        opened.seek(path.stat().st_size // 2)
        byte = opened.read(1)
        opened.seek(-1, 1)
        opened.write(bytes([byte[0] ^ 1]))
    verified = run("gallery", "verify", "base", "--key", store / "signing.pub")
    assert verified.exit_code == 1, verified.output


@pytest.mark.parametrize("which", ["base@golden", "base@stable", "data@golden"])
def test_its_masters_serve_as_parents(store: Path, tmp_path: Path, which: str) -> None:
    name, _, channel = which.partition("@")
    version = next(each["version"] for each in versions() if each["name"] == name and channel in each["channels"])
    parent = which if channel == "golden" else f"{name}@{version}"
    path = tmp_path / "project/images/child.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(f"goldsmith: 1\nos: linux\nsource: {{master: {parent}}}\ndisk: 4 GiB\n")
    planned = run("--project", tmp_path / "project", "plan", "child", "--json")
    assert planned.exit_code == 0, planned.output
    first = json.loads(planned.stdout)[0]
    assert first["stage"] == "acquire" and f"{name} {version}" in first["title"]


def test_its_master_is_exported_and_imported_elsewhere(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("gallery", "export", "base", tmp_path / "copy").exit_code == 0
    monkeypatch.setenv("GOLDSMITH_HOME", str(tmp_path / "elsewhere"))
    taken = run("gallery", "import", tmp_path / "copy", "--key", store / "signing.pub")
    assert taken.exit_code == 0, taken.output
    assert [each["name"] for each in versions()] == ["base"]
    assert run("gallery", "verify", "--key", store / "signing.pub").exit_code == 0


def _other_key(store: Path) -> Path:
    from pipeline.evidence import signing

    return signing.public_path(signing.make(store.parent / "other/signing.key").path)
