"""What two masters differ in, read off their disks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import phony
import phony_hive
from test_listing import TREE, ntfs

from pipeline.compare import compare

#: Two files of one size.
ONE, OTHER = "one" * 400, "two" * 400


def version(number: str, disk: Path) -> Any:
    """As much of a version as is compared."""
    folder = disk.parent
    manifest = {"disk": {}, "checks": [{"id": "root-size", "status": "pass" if number == "1" else "warn"}]}
    return SimpleNamespace(name="site", version=number, path=folder, disk=disk, manifest=manifest)


def of_linux(folder: Path, changes: dict[str, str], *commands: str) -> Path:
    folder.mkdir()
    disk = phony.as_vhd(phony.build(folder), folder / "disk.vhd")
    for path, text in changes.items():
        phony.put(disk, path, text, folder)
    if commands:
        phony.debugfs(disk, *commands)
    return disk


def test_files_that_came_went_and_are_others(tmp_path: Path) -> None:
    old = of_linux(tmp_path / "old", {"/etc/same": ONE, "/etc/size": "a", "/etc/words": ONE, "/etc/gone": "x"})
    new = of_linux(
        tmp_path / "new",
        {"/etc/same": ONE, "/etc/size": "ab", "/etc/words": OTHER, "/etc/came": "x"},
        "sif /etc/same mode 0100600",
    )
    seen = compare(version("1", old), version("2", new))
    mine = {path: told for path, told in seen.files.changed.items() if path.startswith("/etc/")}
    assert mine["/etc/size"] == ("1 bytes", "2 bytes")
    # a size that stayed hides no content, and a content no mode
    assert mine["/etc/words"] == ("1200 bytes", "other content")
    assert mine["/etc/same"] == ("1200 bytes", "0:0 600")
    assert seen.files.added == {"/etc/came": "1 bytes"}
    assert seen.files.removed == {"/etc/gone": "1 bytes"}
    assert seen.checks.changed == {"root-size": ("pass", "warn")}
    assert seen.blocks > 0
    assert seen.changed_bytes > 0


def test_a_disk_and_itself_differ_in_nothing(tmp_path: Path) -> None:
    disk = of_linux(tmp_path / "one", {})
    seen = compare(version("1", disk), version("1", disk))
    assert not seen.files
    assert not seen.packages
    assert (seen.blocks, seen.changed_bytes) == (0, 0)


def test_windows_disks(tmp_path: Path) -> None:
    """Their files are found, where there is no Linux."""
    disks = []
    for value in ("2019", "2022"):
        folder = tmp_path / value
        folder.mkdir()
        hive = phony_hive.build({**TREE, "Version": {"Name": value}})
        disks.append(phony.as_vhd(ntfs(folder, {"SOFTWARE": hive}), folder / "disk.vhd"))
    seen = compare(version("1", disks[0]), version("2", disks[1]))
    assert seen.files.changed["/Windows/System32/config/SOFTWARE"][1] == "other content"
    assert not seen.files.added
