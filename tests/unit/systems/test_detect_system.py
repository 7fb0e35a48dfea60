"""Which system a disk holds: by os-release's ID and ID_LIKE, by the registry; what none claims is a generic Linux."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from pipeline.base.errors import CheckFailed, DiskError, UsageError
from pipeline.checks import inspect, inspect_disk
from pipeline.cli import capture
from pipeline.cli import inspect as verb
from pipeline.systems import inspection
from pipeline.systems.questions import detect_system, list_disk
from tests.fakes import fake_disk, fake_windows_disk
from tests.tools import needs_tool

app = typer.Typer()
verb.register(app)


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_disk.build(tmp_path_factory.mktemp("debian"))


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_windows_disk.build(fake_windows_disk.Model(), tmp_path_factory.mktemp("windows"))


def with_release(debian: Path, folder: Path, text: str | None) -> Path:
    disk = fake_disk.copy(debian, folder / "disk.raw")
    fake_disk.debugfs(disk, "rm /usr/lib/os-release")
    if text is not None:
        fake_disk.put(disk, "/usr/lib/os-release", text, folder)
    return disk


@pytest.mark.parametrize(
    ("release", "system", "name"),
    [
        ('ID=debian\nPRETTY_NAME="Debian GNU/Linux 13"\n', "debian", "Debian GNU/Linux 13"),
        ('ID=ubuntu\nID_LIKE=debian\nPRETTY_NAME="Ubuntu 24.04"\n', "debian", "Ubuntu 24.04"),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"\n', "debian", ""),
        ('ID="rhel"\nID_LIKE="fedora"\nPRETTY_NAME="RHEL 9"\n', "rhel", "RHEL 9"),
        ('ID=fedora\nPRETTY_NAME="Fedora Linux 41"\n', "rhel", "Fedora Linux 41"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "rhel", ""),
        ('ID="amzn"\nID_LIKE="centos rhel fedora"\n', "rhel", ""),
        ('ID="opensuse-leap"\nID_LIKE="suse opensuse"\n', "suse", ""),
        ('ID="sles"\nID_LIKE="suse"\nPRETTY_NAME="SLES 15 SP6"\n', "suse", "SLES 15 SP6"),
        ('ID=alpine\nPRETTY_NAME="Alpine Linux v3.20"\n', "alpine", "Alpine Linux v3.20"),
        ("ID=arch\n", "linux", ""),
        ("ID=debianish\n", "linux", ""),
        ("", "linux", ""),
        (None, "linux", ""),
    ],
)
def test_a_linux_by_its_release(debian: Path, tmp_path: Path, release: str | None, system: str, name: str) -> None:
    found = detect_system(with_release(debian, tmp_path, release))
    assert (found.system, found.os, found.profile, found.name) == (system, "linux", "azure-linux", name)
    # an fstab makes a Linux, whatever it calls itself
    assert found.recognized


def test_a_windows_by_its_registry(windows: Path) -> None:
    found = detect_system(windows)
    assert (found.system, found.os, found.profile, found.recognized) == ("windows", "windows", "azure-windows", True)
    assert (found.id, found.name, found.version) == (
        "windows",
        "NOT WINDOWS (a stand-in for tests) 20348.2201",
        "20348.2201",
    )
    # nobody has to name the profile
    assert {each.id for each in inspect(windows).results} == {
        each.id for each in inspect_disk(windows, profile="azure-windows")
    }


def test_a_profile_overrides(debian: Path, windows: Path) -> None:
    for disk, profile, id_ in ((windows, "azure-linux", "linux-root"), (debian, "azure-windows", "windows-root")):
        assert not detect_system(disk, profile=profile).recognized
        inspected = inspect(disk, profile=profile)
        assert inspected.system.profile == profile
        root = next(each for each in inspected.results if each.id == id_)
        assert root.status == "fail" and "--profile azure-" in root.evidence
    assert inspect(debian, profile="any").system.system == "debian"
    with pytest.raises(UsageError) as caught:
        detect_system(debian, profile="azure-plan9")
    assert caught.value.name == "unknown-profile"


@needs_tool("mkfs.f2fs")
def test_what_cannot_be_read_is_no_pass(tmp_path: Path) -> None:
    """A file system without a reader: the disk is read as a Linux, which is said, and no check passes for it."""
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(320 << 20)
    subprocess.run(["mkfs.f2fs", "-q", str(disk)], check=True, capture_output=True)
    found = CliRunner().invoke(app, ["inspect", str(disk), "--json"])
    assert isinstance(found.exception, CheckFailed)
    report = json.loads(found.stdout)
    assert report["profile"] == "azure-linux" and report["verdict"]["passed"] < len(report["checks"])
    assert (report["detected"]["system"], report["detected"]["recognized"]) == ("linux", False)
    assert "cannot read f2fs" in report["detected"]["why"]
    statuses = {each["id"]: each["status"] for each in report["checks"]}
    assert statuses["linux-root"] == "fail" and statuses["machine-id"] == "unchecked"
    assert "no system was recognized" in CliRunner().invoke(app, ["inspect", str(disk)]).stdout
    with pytest.raises(DiskError, match="cannot read f2fs"):
        list_disk(disk, what="packages")


def test_a_disk_is_captured_as_what_it_is(debian: Path, windows: Path) -> None:
    assert capture._system(windows, "raw", None).os == "windows"
    assert capture._system(debian, "raw", None).os == "linux"
    assert capture._system(windows, "raw", "azure-linux").os == "linux"
    with pytest.raises(UsageError, match="a master is not kept for the profile any"):
        capture._system(debian, "raw", "any")


def test_the_last_registered_system_that_claims_a_disk_has_it() -> None:
    names = [each.system for each in inspection.inspections()]
    # families before their distributions, the generic one last of the families
    assert names.index("windows") < names.index("linux") < names.index("debian")
    assert {each.system for each in inspection.of_profile("any")} >= {"linux", "debian"}
    assert inspection.profiles()[:3] == ("azure-linux", "hyper-v", "any") and "azure-windows" in inspection.profiles()
