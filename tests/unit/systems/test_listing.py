"""goldsmith inspect --list and --html: read in the child process, shown as text."""

from __future__ import annotations

import contextlib
import io
import json
import struct
from pathlib import Path

import pytest

from pipeline.base.errors import DiskError, UsageError
from pipeline.checks.html_report import report
from pipeline.checks.model import CheckResult
from pipeline.cli.app import app
from pipeline.systems.inspection import DetectedSystem
from pipeline.systems.questions import list_disk
from tests.fakes import fake_disk, fake_hive
from tests.tools import skip_without


def call(*words: object) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        app([str(word) for word in words], standalone_mode=False)
    return out.getvalue()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    return fake_disk.as_vhd(fake_disk.build(folder), folder / "disk.vhd")


def ntfs(folder: Path, hives: dict[str, bytes]) -> Path:
    """An NTFS disk with hives where Windows has them, made without mounting."""
    skip_without("mkfs.ntfs", "wimlib-imagex")
    tree = folder / "windows" / "Windows/System32/config"
    tree.mkdir(parents=True)
    for name, data in hives.items():
        (tree / name).write_bytes(data)
    disk, image = folder / "windows.raw", folder / "windows.wim"
    with disk.open("wb") as file:
        file.truncate(32 << 20)
    fake_disk.tool("mkfs.ntfs", "-q", "-F", "-s", "512", "-p", "0", "-H", "16", "-S", "63", disk)
    fake_disk.tool("wimlib-imagex", "capture", folder / "windows", image, "--compress=none")
    fake_disk.tool("wimlib-imagex", "apply", image, "1", disk)
    return disk


TREE = {"Setup": {"SetupType": 2, "CmdLine": "oobe\\windeploy.exe", "Blob": b"\1\2\3\4\5", "Many": ["a", "b"]}}


def test_packages_and_units(good: Path) -> None:
    listed = json.loads(call("inspect", good, "--list", "packages", "--json"))
    assert {"package": "waagent", "version": "2.9.1.1-1+deb12u1", "architecture": "amd64"} in listed
    assert "ssh.service" in call("inspect", good, "--list", "units")
    with pytest.raises(UsageError):
        list_disk(good, what="folders")
    with pytest.raises(DiskError) as caught:
        list_disk(good, what="registry", key="SYSTEM")
    assert caught.value.name == "no-windows-root"


def test_registry(tmp_path: Path) -> None:
    dirty = bytearray(fake_hive.build(TREE))
    struct.pack_into("<I", dirty, 4, 9)
    disk = ntfs(tmp_path, {"SYSTEM": fake_hive.build(TREE), "SOFTWARE": fake_hive.seal(bytes(dirty))})
    assert list_disk(disk, what="registry", key="system\\setup") == [
        ["SetupType", "0x2 (2)"],
        ["CmdLine", "oobe\\windeploy.exe"],
        ["Blob", "hex:0102030405"],
        ["Many", "a; b"],
    ]
    assert "Setup\\" in call("inspect", disk, "--registry-key", "SYSTEM")
    for key, name in {"SOFTWARE\\Microsoft": "hive-dirty", "SYSTEM\\No": "no-such-key", "SAM": "no-such-key"}.items():
        with pytest.raises(DiskError) as caught:
            list_disk(disk, what="registry", key=key)
        assert caught.value.name == name


def test_the_page_escapes_what_a_disk_says(good: Path, tmp_path: Path) -> None:
    odd = tmp_path / "<b>.vhd"
    odd.write_bytes(b"x")
    page = report(
        odd,
        DetectedSystem("linux", "linux", "any", True, name="<b>Odd</b>"),
        [CheckResult("x", "A title", "fail", "fail", "<script>alert(1)</script>", "Mend")],
    )
    assert (
        "<script>" not in page
        and "&lt;script&gt;" in page
        and "<b>.vhd" not in page
        and "Mend" in page
        and "<b>Odd" not in page
    )
    whole = call("inspect", good, "--html")
    assert whole.count("<tr>") > 60
    with pytest.raises(UsageError):
        call("inspect", good, "--html", "--json")
