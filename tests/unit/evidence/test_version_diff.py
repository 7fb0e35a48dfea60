"""What two masters differ in, read off their disks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.base.disk_format import VHD
from pipeline.base.errors import UsageError
from pipeline.cache.digests import BLOCK, CHUNK, chunk_digests, write_block_digests
from pipeline.disk import transfer
from pipeline.evidence.version_diff import compare, delta
from pipeline.gallery import digests_file
from pipeline.vhd.compare import _common
from tests.fakes import fake_disk, fake_hive
from tests.unit.systems.test_listing import TREE, ntfs

#: Two files of one size.
TEXT, OTHER = "one" * 400, "two" * 400


def version(number: str, disk: Path, *, digests: bool = False, older: bool = False) -> Any:
    """As much of a version as is compared; an `older` one has its digests in the manifest."""
    folder = disk.parent
    changes: dict[str, Any] = {}
    if older:
        changes = {"chunk_size": CHUNK, "chunks_sha256": list(chunk_digests(disk).chunks)}
    elif digests:
        write_block_digests(disk, folder / digests_file(disk.name))
        changes = {"chunk_size": CHUNK, "digests": {"file": digests_file(disk.name), "block_size": BLOCK}}
    manifest: dict[str, Any] = {
        "disk": changes,
        "checks": [{"id": "root-size", "status": "pass" if number == "1" else "warn"}],
    }
    return SimpleNamespace(name="site", version=number, path=folder, disk=disk, format=VHD, manifest=manifest)


def of_linux(folder: Path, changes: dict[str, str], *commands: str) -> Path:
    folder.mkdir()
    disk = fake_disk.as_vhd(fake_disk.build(folder), folder / "disk.vhd")
    for path, text in changes.items():
        fake_disk.put(disk, path, text, folder)
    if commands:
        fake_disk.debugfs(disk, *commands)
    return disk


def test_files_that_came_went_and_are_others(tmp_path: Path) -> None:
    old = of_linux(tmp_path / "old", {"/etc/same": TEXT, "/etc/size": "a", "/etc/words": TEXT, "/etc/gone": "x"})
    new = of_linux(
        tmp_path / "new",
        {"/etc/same": TEXT, "/etc/size": "ab", "/etc/words": OTHER, "/etc/came": "x"},
        "sif /etc/same mode 0100600",
    )
    seen = compare(version("1", old), version("2", new))
    mine = {path: changes for path, changes in seen.files.changed.items() if path.startswith("/etc/")}
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
        # every Windows has a list of programs; without it nothing would be compared
        programs = {"Windows": {"CurrentVersion": {"Uninstall": {}}}}
        hive = fake_hive.build({**TREE, "Microsoft": programs, "Version": {"Name": value}})
        disks.append(fake_disk.as_vhd(ntfs(folder, {"SOFTWARE": hive}), folder / "disk.vhd"))
    seen = compare(version("1", disks[0]), version("2", disks[1]))
    assert seen.files.changed["/Windows/System32/config/SOFTWARE"][1] == "other content"
    assert not seen.files.added


@pytest.mark.parametrize(
    ("digests", "older"), [(True, False), (False, True), (False, False)], ids=["blocks", "chunks", "none"]
)
@pytest.mark.slow
def test_a_delta_gives_the_newer_disk_back(tmp_path: Path, digests: bool, older: bool) -> None:
    old = of_linux(tmp_path / "old", {"/etc/words": TEXT, "/etc/gone": "x"})
    new = of_linux(tmp_path / "new", {"/etc/words": OTHER, "/etc/came": "x" * 3_000_000})
    before = version("1", old, digests=digests, older=older)
    after = version("2", new, digests=digests, older=older)
    made = delta(before, after, tmp_path / "delta.vhd", timestamp=1_800_000_000)
    assert made.kind == "differencing"
    again = tmp_path / "again.vhd"
    unique_id, timestamp = transfer.identity(made.path, "vpc", 0)
    with transfer.open_source(made.path, "vpc", parent=old) as disk:
        transfer.convert(disk, again, "fixed", timestamp=timestamp, unique_id=unique_id)
    assert chunk_digests(again).tree == chunk_digests(new).tree
    # digests spare reading, and change nothing of what is said
    seen = compare(before, after)
    assert (seen.blocks, seen.changed_bytes) == _plainly(old, new)


def _plainly(old: Path, new: Path) -> tuple[int, int]:
    first, other = old.read_bytes()[:-512], new.read_bytes()[:-512]
    sectors = [at for at in range(0, len(first), 512) if first[at : at + 512] != other[at : at + 512]]
    return len({at >> 16 for at in sectors}), 512 * len(sectors)


def test_what_digests_say_is_the_same_is_not_read(tmp_path: Path) -> None:
    old = of_linux(tmp_path / "old", {"/etc/words": TEXT})
    new = of_linux(tmp_path / "new", {"/etc/words": OTHER})
    before, after = version("1", old), version("2", new)
    changes = {"chunk_size": CHUNK, "chunks_sha256": ["0" * 64] * len(chunk_digests(old).chunks)}
    before.manifest["disk"] = after.manifest["disk"] = changes
    assert compare(before, after).blocks == 0


def test_an_older_master_and_a_newer_one_are_read(tmp_path: Path) -> None:
    """Neither's digests can be held against the other's: their local files are compared."""
    old = of_linux(tmp_path / "old", {"/etc/words": TEXT})
    new = of_linux(tmp_path / "new", {"/etc/words": OTHER})
    seen = compare(version("1", old, older=True), version("2", new, digests=True))
    assert (seen.blocks, seen.changed_bytes) == _plainly(old, new)


def test_a_delta_is_of_one_disk(tmp_path: Path) -> None:
    disk = of_linux(tmp_path / "one", {})
    before, after = version("1", disk), version("2", disk)
    after.manifest["data_disks"] = [{"lun": 0}]
    with pytest.raises(UsageError, match="has data disks"):
        delta(before, after, tmp_path / "delta.vhd", timestamp=0)


@pytest.mark.parametrize(
    ("first", "other", "common"),
    [
        ([(0, 10), (20, 30)], [(0, 100)], [(0, 10), (20, 30)]),
        ([(0, 10), (20, 30)], [(5, 25)], [(5, 10), (20, 25)]),
        ([(0, 100)], [(10, 20), (20, 30), (90, 200)], [(10, 20), (20, 30), (90, 100)]),
        ([(0, 10)], [], []),
        ([(5, 10), (10, 15)], [(0, 5), (8, 12), (15, 20)], [(8, 10), (10, 12)]),
    ],
)
def test_what_two_lists_of_places_have_in_common(
    first: list[tuple[int, int]], other: list[tuple[int, int]], common: list[tuple[int, int]]
) -> None:
    assert list(_common(first, other)) == common
