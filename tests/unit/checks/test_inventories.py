"""Packages and services of systems that are not Debian: listed, or an error with a name; never an empty list."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.base.errors import DiskError
from pipeline.cli.app import app
from pipeline.disk import open_disk
from pipeline.systems.listing import listing
from pipeline.systems.questions import list_disk
from tests.cases import unpacked
from tests.fakes import fake_disk

MIB = 1 << 20
MUSL = "C:Q1x=\nP:musl\nV:1.2.5-r0\nA:x86_64\nF:lib\nR:ld-musl-x86_64.so.1\na:0:0:755\n\n"
APK = MUSL + "P:busybox\nV:1.36.1-r29\nA:x86_64\n\n"
DESC = "%NAME%\nbash\n\n%VERSION%\n5.2.037-1\n\n%BASE%\nbash\n\n%ARCH%\nx86_64\n\n%DEPENDS%\nreadline\n"


def root_of(folder: Path, files: dict[str, str], links: dict[str, str] | None = None) -> Path:
    tree, disk = folder / "tree", folder / "disk.raw"
    for name, text in ({"etc/os-release": "ID=other\n"} | files).items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name, target in (links or {}).items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).symlink_to(target)
    with disk.open("wb") as file:
        file.truncate(8 * MIB)
    fake_disk.tool("mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, disk)
    return disk


def rows_of(disk: Path, what: str) -> list[list[str]]:
    """`list_disk` without a process of its own."""
    with open_disk(disk, "raw") as opened:
        return listing(opened, what)


@pytest.mark.parametrize(
    ("files", "rows"),
    [
        (
            {"lib/apk/db/installed": APK},
            [["busybox", "1.36.1-r29", "x86_64"], ["musl", "1.2.5-r0", "x86_64"]],
        ),
        ({"usr/lib/apk/db/installed": MUSL}, [["musl", "1.2.5-r0", "x86_64"]]),
        (
            {"var/lib/pacman/local/bash-5.2.037-1/desc": DESC, "var/lib/pacman/local/ALPM_DB_VERSION": "9\n"},
            [["bash", "5.2.037-1", "x86_64"]],
        ),
        (
            {"usr/lib/opkg/status": "Package: uci\nVersion: 2023\nStatus: install ok installed\nArchitecture: a\n"},
            [["uci", "2023", "a"]],
        ),
        # a tool that is installed, and whose record is empty, hides nobody else's
        ({"var/lib/dpkg/status": "", "lib/apk/db/installed": MUSL}, [["musl", "1.2.5-r0", "x86_64"]]),
    ],
)
def test_packages(files: dict[str, str], rows: list[list[str]], tmp_path: Path) -> None:
    assert rows_of(root_of(tmp_path, files), what="packages") == rows


def test_a_strangers_alpine(tmp_path: Path) -> None:
    disk = unpacked("files/alpine-packages.img.xz", tmp_path)
    rows = list_disk(disk, what="packages")
    assert len(rows) == 59 and all(name and version and architecture for name, version, architecture in rows)
    assert ["ID", "alpine"] in list_disk(disk, what="os")
    with pytest.raises(DiskError) as caught:
        list_disk(disk, what="units")
    assert caught.value.name == "no-services"


@pytest.mark.parametrize(
    ("files", "name", "word"),
    [
        ({}, "no-package-database", "rpm, apk, pacman"),
        ({"var/db/pkg/sys-apps/sed-4.9/PF": "sed-4.9\n"}, "packages-not-read", "portage"),
        ({"var/db/xbps/pkgdb-0.38.plist": "<plist/>\n"}, "packages-not-read", "xbps"),
        ({"nix/var/nix/db/db.sqlite": "x"}, "packages-not-read", "nix"),
    ],
)
def test_records_that_are_not_read_are_named(files: dict[str, str], name: str, word: str, tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=word) as caught:
        rows_of(root_of(tmp_path, files), what="packages")
    assert caught.value.name == name and caught.value.hint


OPENRC = {"etc/init.d/sshd": "#!/sbin/openrc-run\n", "etc/init.d/crond": "", "etc/init.d/functions.sh": ""}
RUNIT = {"etc/sv/sshd/run": "#!/bin/sh\n", "etc/sv/dhcpcd/run": ""}
SYSV = {"etc/init.d/ssh": "#!/bin/sh\n", "etc/init.d/cron": "", "etc/init.d/README": ""}


@pytest.mark.parametrize(
    ("files", "links", "rows"),
    [
        (
            OPENRC,
            {"etc/runlevels/default/sshd": "/etc/init.d/sshd"},
            [["crond", "disabled", "", "/etc/init.d/crond"], ["sshd", "enabled", "default", "/etc/init.d/sshd"]],
        ),
        (
            RUNIT,
            {"etc/runit/runsvdir/default/sshd": "/etc/sv/sshd", "etc/runit/runsvdir/current": "default"},
            [["dhcpcd", "disabled", "", "/etc/sv/dhcpcd"], ["sshd", "enabled", "default", "/etc/sv/sshd"]],
        ),
        (
            SYSV,
            {"etc/rc2.d/S20ssh": "../init.d/ssh", "etc/rc3.d/S20ssh": "../init.d/ssh", "etc/rc2.d/K01cron": "../x"},
            [["cron", "disabled", "", "/etc/init.d/cron"], ["ssh", "enabled", "rc2, rc3", "/etc/init.d/ssh"]],
        ),
    ],
)
def test_services(files: dict[str, str], links: dict[str, str], rows: list[list[str]], tmp_path: Path) -> None:
    assert rows_of(root_of(tmp_path, files, links), what="units") == rows


@pytest.mark.parametrize(("files", "word"), [({}, "systemd, OpenRC"), ({"etc/dinit.d/boot": "x\n"}, "dinit")])
def test_no_services_is_an_error_with_a_name(files: dict[str, str], word: str, tmp_path: Path) -> None:
    disk = root_of(tmp_path, files)
    with pytest.raises(DiskError, match=word) as caught:
        rows_of(disk, what="units")
    assert caught.value.name == "no-services" and caught.value.hint


def test_names_stay_different_where_they_cannot_be_shown(tmp_path: Path) -> None:
    disk = root_of(tmp_path, {"a\tb": "", "a\nb": "", "a\x1bb": "", "a?b": "", "a\u202eb": ""})
    names = [path for path, _, _ in rows_of(disk, what="files")]
    assert {"/a\\tb", "/a\\nb", "/a\\x1bb", "/a?b", "/a\\u202eb"} <= set(names)


def test_a_root_without_os_release(tmp_path: Path) -> None:
    disk = root_of(tmp_path, {"etc/os-release": "", "etc/fstab": "# nothing\n"})
    with pytest.raises(DiskError) as caught:
        rows_of(disk, what="os")
    assert caught.value.name == "no-os-release" and caught.value.hint


@pytest.mark.parametrize("kind", ["fat", "fat with a file", "small fat32"])
def test_files_of_a_file_system_without_a_system(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "small fat32":
        disk = unpacked("files/small-fat32.img.xz", tmp_path)
    else:
        disk = tmp_path / "disk.raw"
        with disk.open("wb") as file:
            file.truncate(4 * MIB)
        fake_disk.tool("mkfs.vfat", "-n", "EMPTY", disk)
    if "file" in kind:
        fake_disk.tool("mcopy", "-i", disk, "/etc/hostname", "::/HELLO.TXT")
    app(["inspect", str(disk), "--list", "files", "--json"], standalone_mode=False)
    shown = capsys.readouterr()
    assert [row["path"] for row in json.loads(shown.out)] == (["/HELLO.TXT"] if "file" in kind else [])
    assert ("no files" in shown.err) == ("file" not in kind)


def test_files_of_one_file_system_are_not_those_of_a_disk(tmp_path: Path) -> None:
    """Beside an ESP stands what cannot be read: its files alone would be a lie."""
    disk = unpacked("files/bitlocker-system.raw.xz", tmp_path)
    with pytest.raises(DiskError, match="cannot read bitlocker") as caught:
        rows_of(disk, "files")
    assert caught.value.name == "no-linux-root" and caught.value.hint


def test_an_empty_list_is_said_to_people_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(16 * MIB)
    fake_disk.tool("sgdisk", "-o", disk)
    app(["inspect", str(disk), "--list", "volumes", "--json"], standalone_mode=False)
    shown = capsys.readouterr()
    assert json.loads(shown.out) == [] and "no volumes" in shown.err
