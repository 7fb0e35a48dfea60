"""What commit cdf019e has written stays usable: its masters are listed, verified, and serve as parents, for good.

The store is in tests/fixtures; tests/fixtures/make_old_store.py has made it with that commit's own code.
"""

from __future__ import annotations

import json
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pipeline.base.errors import CheckFailed
from pipeline.base.store import Store
from pipeline.cli.app import app
from pipeline.gallery.retention import leases
from pipeline.instances.fleet import Fleet
from pipeline.operations.create import Wishes, make_at_rest, plan
from tests.fakes.libvirt_host import open_host

FIXTURE = Path(__file__).parents[2] / "fixtures/store-cdf019e.tar.xz"
#: (image, version, channels) as the script has left them.
VERSIONS = [("base", ".1", ["stable"]), ("base", ".2", ["golden"]), ("data", ".0", ["golden"])]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with tarfile.open(FIXTURE) as packed:
        packed.extractall(tmp_path)
    # its lease was for a day from the day of the fixture
    for path in (tmp_path / "store/gallery").glob("*/.leases/*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"until": time.time() + 3600}))
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


def test_vms_run_from_its_masters_and_keep_them(store: Path) -> None:
    """An overlay on each of its disks, and a lease: what a VM stands on is neither pruned nor removed."""
    fleet = Fleet(Store(store), open_host)
    for lease in leases(fleet.gallery, "base"):
        assert run("gallery", "lease", "base", "--release", lease.id).exit_code == 0
    made = {}
    for name, reference in {"old": "base@stable", "new": "base@golden", "data": "data"}.items():
        wishes = Wishes(name, reference, "azureuser", "ssh-ed25519 AAAA me")
        record, version = plan(fleet, wishes)
        with fleet.instances.hold(name):
            made[name] = make_at_rest(fleet, record, version, wishes)
    assert len(list(fleet.folder(made["data"]).glob("disk*.qcow2"))) == 2
    assert run("gallery", "channel", "remove", "base@stable").exit_code == 0
    old = f"base@{made['old'].version}"
    for words in ((), ("--force",)):
        refused = run("gallery", "remove", old, "--why", "old", *words)
        assert refused.exit_code == 1 and isinstance(refused.exception, CheckFailed)
        assert refused.exception.name == "version-in-use" and "VM old runs from it" in refused.exception.message
    assert "VM old runs from it" in run("gallery", "prune", "base", "--keep", "1").output
    assert {f"{each['name']}@{each['version']}" for each in versions()} >= {old}
    fleet.destroy(made["old"])
    pruned = run("gallery", "prune", "base", "--keep", "1")
    assert pruned.exit_code == 0, pruned.output
    assert old not in {f"{each['name']}@{each['version']}" for each in versions()}


def _other_key(store: Path) -> Path:
    from pipeline.evidence import signing

    return signing.public_path(signing.make(store.parent / "other/signing.key").path)
