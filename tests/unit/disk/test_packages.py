"""rpm's database and systemd's units, read off a disk at rest."""

from __future__ import annotations

import shutil
import sqlite3
import struct
import subprocess
from pathlib import Path

import pytest

from pipeline.base.errors import DiskError
from pipeline.base.process import find
from pipeline.disk import open_disk
from pipeline.disk.packages import parse_rpmdb, read_packages
from pipeline.disk.units import read_units
from tests.fakes import fake_disk
from tests.fakes.rpm_database import database, header
from tests.tools import needs_tool, skip_without

BASH = {1000: "bash", 1001: "5.2.26", 1002: "4.el10", 1022: "x86_64"}
SHADOW = {1000: "shadow-utils", 1001: "4.15", 1002: "1", 1003: 2, 1022: "x86_64", 1004: "Other text"}


@pytest.mark.parametrize("wal", [False, True])
def test_rpm_database(tmp_path: Path, wal: bool) -> None:
    found = parse_rpmdb(database(tmp_path / "db", header(SHADOW), header(BASH), wal=wal))
    assert [(each.name, each.version, each.architecture) for each in found] == [
        ("bash", "5.2.26-4.el10", "x86_64"),
        ("shadow-utils", "2:4.15-1", "x86_64"),
    ]
    assert all(each.installed for each in found)


def test_damaged_databases_have_a_name(tmp_path: Path) -> None:
    good = database(tmp_path / "db", header(BASH))
    view = sqlite3.connect(tmp_path / "view")
    view.execute("CREATE VIEW Packages AS SELECT zeroblob(100000000) AS blob")
    view.commit()
    view.close()
    for data in (
        b"",
        b"x" * 5000,
        good[:600],
        good[:100] + b"\xff" * (len(good) - 100),
        # sqlite3 quotes the name in its message, and Python cannot decode it
        good.replace(b"CREATE TABLE", b"CREATE \xe9\xff\x80xx"),
        (tmp_path / "view").read_bytes(),
        database(tmp_path / "db", header(BASH)[:20]),
        database(tmp_path / "db", struct.pack(">II", 0xFFFFFFFF, 0xFFFFFFFF)),
    ):
        with pytest.raises(DiskError) as caught:
            parse_rpmdb(data)
        assert caught.value.name == "rpm-database-damaged"


@needs_tool("rpm", "rpmbuild")
def test_rpm_itself_wrote_it(tmp_path: Path) -> None:
    spec, base = tmp_path / "thing.spec", tmp_path / "base"
    spec.write_text(
        "Name: thing\nVersion: 1.2\nRelease: 3\nEpoch: 4\nSummary: x\nLicense: x\nBuildArch: noarch\n"
        "%description\nx\n%files\n"
    )
    subprocess.run(["rpmbuild", "-bb", "--define", f"_topdir {tmp_path}", spec], check=True, capture_output=True)
    (package,) = tmp_path.glob("RPMS/noarch/*.rpm")
    words = ["rpm", "--dbpath", base, "--define", "_db_backend sqlite", "-i", "--justdb", "--nodeps", package]
    subprocess.run(words, check=True, capture_output=True)
    (found,) = parse_rpmdb((base / "rpmdb.sqlite").read_bytes())
    assert (found.name, found.version, found.architecture) == ("thing", "4:1.2-3", "noarch")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_disk.build(tmp_path_factory.mktemp("good"))


def rpm_disk(good: Path, folder: Path, files: dict[str, bytes]) -> Path:
    disk = fake_disk.copy(good, folder / "disk.raw")
    fake_disk.debugfs(disk, "rm /var/lib/dpkg/status")
    for name, data in files.items():
        fake_disk.put(disk, f"/var/lib/rpm/{name}", data, folder)
    return disk


def test_packages_of_a_root(good: Path, tmp_path: Path) -> None:
    with open_disk(good) as disk:
        assert {each.name for each in read_packages(disk.root)} >= {"waagent", "cloud-init"}
    data = database(tmp_path / "db", header(BASH))
    with open_disk(rpm_disk(good, tmp_path, {"rpmdb.sqlite": data})) as disk:
        assert [each.name for each in read_packages(disk.root)] == ["bash"]


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"Packages": b"x"}, "rpm-database-damaged"),
        ({"Packages.db": b"x"}, "rpm-database-damaged"),
        ({"rpmdb.sqlite": b"x", "rpmdb.sqlite-wal": b"x"}, "rpm-database-open"),
        ({"rpmdb.sqlite": b"x"}, "rpm-database-damaged"),
    ],
)
def test_rpm_databases_that_are_not_read(good: Path, tmp_path: Path, files: dict[str, bytes], name: str) -> None:
    with open_disk(rpm_disk(good, tmp_path, files)) as disk, pytest.raises(DiskError) as caught:
        read_packages(disk.root)
    assert caught.value.name == name


def test_units(good: Path, tmp_path: Path) -> None:
    disk = fake_disk.copy(good, tmp_path / "disk.raw")
    folder = "/etc/systemd/system"
    fake_disk.put(disk, "/usr/lib/systemd/system/off.timer", "[Install]\nWantedBy=timers.target\n", tmp_path)
    fake_disk.put(disk, "/usr/lib/systemd/system/plain.service", "[Service]\n", tmp_path)
    fake_disk.debugfs(
        disk,
        f"symlink {folder}/mask.service /dev/null",
        f"symlink {folder}/sshd.service /lib/systemd/system/ssh.service",
    )
    with open_disk(disk) as opened:
        found = {unit.name: unit for unit in read_units(opened.root)}
    assert {name: unit.state for name, unit in found.items()} == {
        "cloud-init.service": "enabled",
        "hv-kvp-daemon.service": "enabled",
        "mask.service": "masked",
        "off.timer": "disabled",
        "plain.service": "static",
        "ssh.service": "enabled",
        "sshd.service": "alias",
        "systemd-networkd.service": "enabled",
        "systemd-resolved.service": "enabled",
        "walinuxagent.service": "enabled",
    }
    assert found["ssh.service"].wanted_by == ("multi-user.target",)
    assert found["ssh.service"].path == "/usr/lib/systemd/system/ssh.service"


@pytest.mark.parametrize(("kind", "hint"), [("f2fs", "install libguestfs-tools"), ("lvm", "check its description")])
def test_what_is_named_and_not_read(tmp_path: Path, kind: str, hint: str) -> None:
    """f2fs has no reader; of a volume group whose description is damaged only the name is read."""
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(320 << 20)
        if kind == "lvm":
            file.seek(512)
            file.write(b"LABELONE" + bytes(16) + b"LVM2 001")
    if kind == "f2fs":
        skip_without("mkfs.f2fs")
        subprocess.run([find("mkfs.f2fs") or "", "-q", str(disk)], check=True, capture_output=True)
    with open_disk(disk) as opened:
        (volume,) = opened.filesystems
        assert volume.kind == kind
        with pytest.raises(DiskError) as caught:
            opened.filesystem(volume)
        assert caught.value.name == "fs-unsupported" and hint in (caught.value.hint or "")
        with pytest.raises(DiskError, match=f"cannot read {kind}: {hint}"):
            _ = opened.root
    shutil.rmtree(tmp_path)
