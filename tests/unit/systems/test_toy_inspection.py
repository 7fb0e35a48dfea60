"""A system from a folder of its own is detected, inspected and listed; pipeline/ knows nothing of it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import pipeline
from pipeline.base.errors import CheckFailed, UsageError
from pipeline.checks import all_checks, inspect_disk
from pipeline.checks.versions import inspection_inputs
from pipeline.cli import inspect
from pipeline.systems import inspection
from pipeline.systems.questions import detect_system, list_disk
from tests.fakes import fake_disk
from tests.fakes.toy_system.inspection import INSPECTION

app = typer.Typer()
inspect.register(app)


@pytest.fixture(autouse=True)
def toy() -> Iterator[None]:
    inspection.register(INSPECTION)
    yield
    inspection.unregister(INSPECTION.system)


def disk_of(folder: Path, files: dict[str, str]) -> Path:
    part, disk = folder / "part", folder / "toy.raw"
    with part.open("wb") as file:
        file.truncate(8 << 20)
    fake_disk.tool("mkfs.vfat", "-i", "1234ABCD", "-n", "TOY", part)
    fake_disk.tool("mmd", "-i", part, "::TOY")
    for name, text in files.items():
        source = folder / "file"
        source.write_text(text)
        fake_disk.tool("mcopy", "-i", part, source, f"::{name}")
    with disk.open("wb") as file:
        file.truncate(10 << 20)
        file.seek(1 << 20)
        file.write(part.read_bytes())
    fake_disk.tool("sgdisk", "-n", "1:1M:+8M", "-t", "1:0700", disk)
    return disk


FILES = {"TOY/RELEASE": "NAME=Tin Drum\nVERSION=3\n", "TOY/PACKAGES": "spring 1.2\nkey 7\n"}


def test_it_is_detected_and_inspected(tmp_path: Path) -> None:
    disk = disk_of(tmp_path, FILES)
    found = CliRunner().invoke(app, ["inspect", str(disk), "--json"])
    assert found.exception is None, found.exception
    report = json.loads(found.stdout)
    assert report["profile"] == "toy" and report["system"] == "Tin Drum 3"
    assert report["detected"] == {
        "system": "toy",
        "os": "toy",
        "profile": "toy",
        "recognized": True,
        "id": "toy",
        "name": "Tin Drum 3",
        "version": "3",
        "why": "",
    }
    results = {each["id"]: each for each in report["checks"]}
    assert results["toy-wound-down"]["evidence"] == "2 packages"
    # what is true of every disk is looked at here too
    assert {"fs-clean", "private-keys", "access-tokens", "volumes-read"} <= set(results)
    assert not {"linux-root", "win-hives", "machine-id"} & set(results)
    assert CliRunner().invoke(app, ["inspect", str(disk)]).stdout.startswith("detected: Tin Drum 3 (system toy,")


def test_its_checks_find_faults_and_can_be_waived(tmp_path: Path) -> None:
    key = subprocess.run(["openssl", "genrsa", "1024"], capture_output=True, text=True, check=True).stdout
    disk = disk_of(tmp_path, {**FILES, "TOY/WOUND": "x", "TOY/ID.PEM": key})
    found = CliRunner().invoke(app, ["inspect", str(disk)])
    assert isinstance(found.exception, CheckFailed)
    failed = {each.id for each in inspect_disk(disk, profile=None) if each.status == "fail"}
    assert failed == {"toy-wound-down", "private-keys"}
    waive = dict.fromkeys(failed, "it is a toy")
    assert {each.id for each in inspect_disk(disk, profile=None, waive=waive) if each.status == "waived"} == failed
    with pytest.raises(UsageError, match="toy-root cannot be waived"):
        inspect_disk(disk, profile="toy", waive={"toy-root": "x"})


def test_it_is_listed(tmp_path: Path) -> None:
    disk = disk_of(tmp_path, FILES)
    assert list_disk(disk, what="packages") == [["spring", "1.2", "any"], ["key", "7", "any"]]
    assert ["PRETTY_NAME", "Tin Drum 3"] in list_disk(disk, what="os")
    assert "/TOY/RELEASE" in [row[0] for row in list_disk(disk, what="files")]


def test_other_disks_are_what_they_were(tmp_path: Path) -> None:
    debian = fake_disk.build(tmp_path)
    assert detect_system(debian).system == "debian"
    assert {each.id for each in inspect_disk(debian)} == {check.id for check in all_checks("azure-linux")}
    # asked for a toy, a Debian is none, and says what it is
    results = {each.id: each for each in inspect_disk(debian, profile="toy")}
    assert results["toy-root"].status == "unchecked" and results["toy-wound-down"].status == "unchecked"


def test_its_versions_are_in_its_key_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    toy, linux = inspection_inputs("toy"), inspection_inputs("linux")
    assert toy["checks"]["checks.toy"] == 1 and toy["readers"]["toy.installed"] == 1  # type: ignore[index]
    assert "checks.agents" not in toy["checks"]  # type: ignore[operator]
    assert not [label for label in {**linux["checks"], **linux["readers"]} if "toy" in label]  # type: ignore[dict-item]


def test_nothing_in_the_product_names_it() -> None:
    root = Path(pipeline.__file__).parent
    assert [path for path in root.rglob("*.py") if "toy_system" in path.read_text()] == []
