"""The list of all masters: right with every index that a dead, old or hostile hand may have left."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.gallery import DISK, Gallery
from pipeline.gallery import listing as module
from pipeline.gallery.listing import INDEX, Listing, list_versions
from pipeline.gallery.manifest import MANIFEST, manifest_of
from pipeline.gallery.verdict import Verdict, count
from tests.unit.gallery.test_gallery import capture


@pytest.fixture
def gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gallery:
    """Two images of two versions, one golden; what was written just now counts as settled."""
    monkeypatch.setattr(module, "UNSETTLED", -1.0)
    gallery = Gallery(tmp_path / "gallery")
    for name in ("debian-12", "debian-12", "web", "web"):
        made = capture(gallery, tmp_path, name)
    gallery.promote(made)
    return gallery


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which manifests are read, as NAME/VERSION."""
    seen: list[str] = []
    true = Gallery.read_manifest

    def read(self: Gallery, name: str, path: Path) -> Any:
        seen.append(f"{name}/{path.name}")
        return true(self, name, path)

    monkeypatch.setattr(Gallery, "read_manifest", read)
    return seen


def look(gallery: Gallery, *names: str) -> Listing:
    return list_versions(gallery, names or gallery.names(), lambda checks: count(checks).to_json())


def truth(gallery: Gallery) -> list[dict[str, Any]]:
    """What each version says of itself, with no index at all."""
    return [version.summary() for name in gallery.names() for version in gallery.versions(name)]


def holds(gallery: Gallery) -> bool:
    return [row.summary for row in look(gallery).rows] == truth(gallery)


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.chmod(0o644)
    time.sleep(0.05)  # past the tick of the clock in which it was looked at
    path.write_text(json.dumps(data))


def test_a_second_list_reads_no_manifest(gallery: Gallery, reads: list[str]) -> None:
    first = look(gallery)
    assert len(reads) == len(first.rows) == 4
    reads.clear()
    assert look(gallery) == first
    assert reads == []
    assert holds(gallery)


def test_a_list_of_one_image_keeps_what_is_known_of_the_others(gallery: Gallery, reads: list[str]) -> None:
    look(gallery)
    capture(gallery, gallery.root.parent, "web")
    assert len(look(gallery, "web").rows) == 3
    reads.clear()
    assert len(look(gallery).rows) == 5
    assert reads == []


def test_a_changed_manifest_is_read_anew(gallery: Gallery, reads: list[str]) -> None:
    """In place and with its old times; by a rename; with the same length."""
    look(gallery)
    path = gallery.versions("web")[0].path / MANIFEST
    before = path.stat()
    rewrite(path, lambda data: data.update(created="2025-11-21T10:00:00Z"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    reads.clear()
    assert look(gallery).rows[2].summary["created"] == "2025-11-21T10:00:00Z"
    assert reads == [f"web/{path.parent.name}"]
    other = path.with_name("other")
    shutil.copy2(path, other)
    rewrite(other, lambda data: data.update(created="2024-11-21T10:00:00Z"))
    other.rename(path)
    assert look(gallery).rows[2].summary["created"] == "2024-11-21T10:00:00Z"


def test_what_changed_just_now_is_not_remembered(
    gallery: Gallery, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may change again within one tick of the clock, and nothing would tell."""
    monkeypatch.setattr(module, "UNSETTLED", 3600.0)
    look(gallery)
    look(gallery)
    assert len(reads) == 8


def test_channels_disks_and_removals_are_seen_at_once(gallery: Gallery) -> None:
    look(gallery)
    old, new = gallery.versions("web")
    gallery.promote(old)
    gallery.promote(new, "candidate")
    assert [row.summary["channels"] for row in look(gallery, "web").rows] == [["golden"], ["candidate"]]
    (old.path / DISK).unlink()
    found = look(gallery, "web")
    assert found.rows[0].summary["disks"][0]["size"] is None
    assert found.damaged == [f"{old.path / DISK}: it is missing"]
    shutil.rmtree(new.path)
    assert [row.summary["version"] for row in look(gallery, "web").rows] == [old.version]
    shutil.rmtree(gallery.root / "web")
    assert {row.summary["name"] for row in look(gallery).rows} == {"debian-12"}
    assert not any(key.startswith("web/") for key in json.loads((gallery.root / INDEX).read_text())["versions"])


def test_a_version_that_is_damaged_later_is_named(gallery: Gallery) -> None:
    look(gallery)
    cut, gone, moved = (
        gallery.versions("web")[0].path,
        gallery.versions("web")[1].path,
        gallery.root / "web" / "1.1.1",
    )
    (cut / MANIFEST).chmod(0o644)
    (cut / MANIFEST).write_text("{")
    (gone / MANIFEST).unlink()
    shutil.copytree(gallery.versions("debian-12")[0].path, moved)
    found = look(gallery)
    assert [row.summary["name"] for row in found.rows] == ["debian-12"] * 2
    assert sorted(each.partition(": ")[0] for each in found.damaged) == sorted(
        str(path / MANIFEST) for path in (cut, gone, moved)
    )


def spoil(text: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(text)


def change_row(**values: object) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        rewrite(path, lambda data: [each["facts"].update(values) for each in data["versions"].values()])

    return change


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_link(path: Path) -> None:
    path.rename(path.with_name(".elsewhere"))
    path.symlink_to(".elsewhere")


@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        spoil(b""),
        spoil(b"{"),
        spoil(b"[]"),
        spoil(b"\xff\xfe"),
        spoil(b'{"format": 1}'),
        spoil(b'{"a":' * 5000),
        replace_by_folder,
        replace_by_pipe,
        replace_by_link,
        lambda path: rewrite(path, lambda data: data.update(format=0)),
        lambda path: rewrite(path, lambda data: data.update(goldsmith="0.0.1")),
        lambda path: rewrite(path, lambda data: data.update(versions=[])),
        lambda path: rewrite(
            path, lambda data: [each.update(file="0:0:0:0:0") for each in data["versions"].values()]
        ),
        lambda path: rewrite(path, lambda data: [each.pop("facts") for each in data["versions"].values()]),
        change_row(state=7),
        change_row(disks=[]),
        change_row(disks=[{"file": "../../../etc/shadow", "lun": None, "caching": "None"}]),
        change_row(generations="12"),
        change_row(verdict={"passed": -1}),
        change_row(created="\ud800"),
    ],
)
def test_a_damaged_index_costs_time_alone(
    gallery: Gallery, reads: list[str], damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    first = look(gallery)
    damage(gallery.root / INDEX)
    reads.clear()
    assert look(gallery) == first
    assert len(reads) == 4
    assert holds(gallery)
    assert caplog.messages == []


def test_rows_under_other_names_are_not_shown(gallery: Gallery) -> None:
    """An entry that only the index has is not a version; two swapped rows name files of each other."""
    look(gallery)

    def swap(data: dict[str, Any]) -> None:
        rows = data["versions"]
        first, *_, last = rows
        rows[first]["facts"], rows[first]["file"] = {**rows[last]["facts"], "state": "stolen"}, rows[last]["file"]
        rows["nobody/1.2.3"] = rows["web/9.9.9"] = rows[last]

    rewrite(gallery.root / INDEX, swap)
    assert holds(gallery)


@pytest.mark.skipif(os.getuid() != 0, reason="another user than the owner is needed")
def test_who_may_only_read_lists_as_well(gallery: Gallery, reads: list[str]) -> None:
    gallery.root.parent.chmod(0o755)
    for folder in gallery.root.parents:
        if folder.stat().st_mode & 0o005 != 0o005 and folder.owner() == "root" and "pytest-of" in str(folder):
            folder.chmod(0o755)
    expected = truth(gallery)
    reads.clear()
    os.seteuid(65534)
    try:
        assert [row.summary for row in look(gallery).rows] == expected
        assert not (gallery.root / INDEX).exists()
    finally:
        os.seteuid(0)
    assert len(reads) == 4
    look(gallery)
    reads.clear()
    os.seteuid(65534)
    try:
        assert [row.summary for row in look(gallery).rows] == expected
    finally:
        os.seteuid(0)
    assert reads == []


def test_a_full_disk_is_no_failure(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: Path, _data: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_json", fail)
    assert holds(gallery)


def test_lists_beside_captures_promotions_and_each_other(gallery: Gallery, tmp_path: Path) -> None:
    """Every list shows versions that were there; the last one, and its index, all of them."""
    wrong: list[object] = []

    def listing() -> None:
        for _ in range(12):
            found = look(gallery)
            wrong.extend(found.damaged)
            wrong.extend([] if len(found.rows) >= 4 else [found.rows])

    lists = [threading.Thread(target=listing) for _ in range(3)]
    for thread in lists:
        thread.start()
    for _ in range(6):
        gallery.promote(capture(gallery, tmp_path, "web"))
    for thread in lists:
        thread.join()
    assert wrong == []
    assert holds(gallery)
    assert len(look(gallery).rows) == 10
    assert holds(gallery)


def test_a_verdict_comes_back_from_its_numbers() -> None:
    seen = Verdict(1, 2, 3, 4, 5, 1, ("a-check",))
    assert Verdict.from_json(json.loads(json.dumps(seen.to_json()))) == seen


def test_the_manifest_is_what_was_captured(gallery: Gallery) -> None:
    """Nothing but the list asks the index: a version found by name has its manifest read."""
    look(gallery)
    rewrite(
        gallery.root / INDEX, lambda data: [each["facts"].update(state="x") for each in data["versions"].values()]
    )
    version = gallery.get("web")
    assert version.manifest == manifest_of(version.path)
    assert version.summary()["state"] == "captured"
