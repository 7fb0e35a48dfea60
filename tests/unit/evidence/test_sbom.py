"""What is installed on a master is listed, or its capture fails by name: never a missing or an empty bill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.base.disk_format import VHD
from pipeline.base.errors import BuildError, HostError
from pipeline.cache.layers import Image
from pipeline.disk import facts
from pipeline.evidence.checksum import Contents
from pipeline.systems import registry
from pipeline.systems.debian import apt
from tests.fakes import fake_disk, fake_windows_disk
from tests.unit.engine.test_plan import project, store_of  # noqa: F401  a fixture, by its name
from tests.unit.nightly.test_patch import golden_of

STATUS = "/var/lib/dpkg/status"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    return fake_disk.as_vhd(fake_disk.build(folder), folder / "disk.vhd")


def test_a_good_master_is_listed(good: Path) -> None:
    contents = Contents.of(Image(good, VHD))
    assert contents.system["ID"] == "debian" and len(contents.packages) == 7


CHANGES: dict[str, Callable[[Path, Path], object]] = {
    "no record": lambda disk, _: fake_disk.debugfs(disk, f"rm {STATUS}"),
    "an empty record": lambda disk, folder: fake_disk.put(disk, STATUS, "", folder),
    "a record too large to read": lambda disk, _: fake_disk.debugfs(disk, f"sif {STATUS} size {1 << 40}"),
    "a record of what is gone": lambda disk, folder: fake_disk.put(
        disk, STATUS, fake_disk.FILES[STATUS[1:]].replace("install ok installed", "deinstall ok config-files"), folder
    ),
    "a journal to replay": lambda disk, _: fake_disk.debugfs(disk, "feature needs_recovery"),
    "no root at all": lambda disk, _: fake_disk.debugfs(disk, "rm /etc/fstab", "rm /etc/os-release", "ssv magic 0"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_cannot_be_listed_is_an_error(good: Path, tmp_path: Path, name: str) -> None:
    disk = fake_disk.copy(good, tmp_path / "disk.vhd")
    CHANGES[name](disk, tmp_path)
    with pytest.raises(BuildError) as caught:
        Contents.of(Image(disk, VHD))
    assert caught.value.name == "inventory-failed" and caught.value.hint and caught.value.exit_code == 4


@pytest.mark.parametrize("damage", ["gone", "torn"])
def test_a_windows_whose_hive_cannot_be_read_is_an_error(tmp_path: Path, damage: str) -> None:
    fake_windows_disk.need_tools()
    model = fake_windows_disk.Model()
    del model.hives["SOFTWARE"]
    if damage == "torn":
        model.files["Windows/System32/config/SOFTWARE"] = b"regf" + bytes(9000)
    disk = fake_windows_disk.as_vhd(fake_windows_disk.build(model, tmp_path), tmp_path / "disk.vhd")
    with pytest.raises(BuildError) as caught:
        Contents.of(Image(disk, VHD))
    assert caught.value.name == "inventory-failed" and caught.value.hint
    assert {"gone": "no hive SOFTWARE", "torn": "hive-damaged"}[damage] in caught.value.message


def test_an_archive_that_does_not_answer_is_not_unchanged(
    project: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    golden, debian = golden_of(project), registry.get("debian")
    monkeypatch.setattr(facts, "dpkg_versions", lambda *_, **__: {"bash": "1"})
    monkeypatch.setattr(apt, "newer", lambda *_: None)
    with pytest.raises(HostError) as caught:
        debian.updates_for(golden)
    assert caught.value.name == "archive-not-reached" and caught.value.hint
    monkeypatch.setattr(apt, "newer", lambda *_: [])
    assert debian.updates_for(golden) == []
