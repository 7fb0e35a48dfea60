"""What keeps a version and what lets it go; damage that is found; masters on their way."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import time
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.base.errors import CheckFailed, UsageError
from pipeline.base.store import Store
from pipeline.cache.digests import chunk_digests, flat_digest
from pipeline.cli.app import app
from pipeline.gallery import DISK, Gallery, Version, retention
from pipeline.gallery.export_import import export, import_version
from pipeline.gallery.integrity import verify
from pipeline.gallery.retention import (
    delete_version,
    instances_on,
    lease_to_instance,
    leased,
    leases,
    promote,
    promotion_blocker,
    prunable_versions,
    prune,
    release_instance,
    release_lease,
    roll_back,
    take_lease,
    withdrawn,
)
from pipeline.maintenance.retention import remove_master

DAY = timedelta(days=1)


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    return Gallery(tmp_path / "gallery")


def capture(gallery: Gallery, *, name: str = "web", age: int = 0, **more: object) -> Version:
    """A version with a disk of its own, `age` days old."""
    disk = gallery.root.parent / "made.vhd"
    with disk.open("wb") as file:
        file.truncate(6 << 20)
        file.seek(3 << 20)
        file.write(random.randbytes(1 << 16))
    digests = chunk_digests(disk)

    def manifest(version: str) -> dict[str, object]:
        return {
            "name": name,
            "version": version,
            "created": (datetime.now(UTC) - age * DAY).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "state": "proven",
            "start": "cold",
            "generations": [1],
            "disk": {
                "size": digests.size,
                "virtual_size": digests.size - 512,
                "sha256": flat_digest(disk),
                "chunk_size": 2 << 20,
                "chunks_sha256": list(digests.chunks),
            },
            "checks": [],
            **more,
        }

    made = gallery.capture(name, {DISK: disk}, [], manifest)
    disk.unlink()
    return made


def names(gallery: Gallery) -> list[str]:
    return [version.version for version in gallery.versions("web")]


# ---- retention ---------------------------------------------------------------------------------------------------


def test_the_newest_stay_and_each_that_goes_leaves_word(gallery: Gallery) -> None:
    made = [capture(gallery) for _ in range(5)]
    gallery.promote(made[-1])
    going = prune(gallery, "web", 2, None)
    assert [item.version.version for item in going] == [version.version for version in made[:3]]
    assert names(gallery) == [version.version for version in made[3:]]
    word = json.loads((gallery.root / "web/.tombstones" / f"{made[0].version}.json").read_text())
    assert word["why"] == "there are 2 newer versions" and word["digest"] == made[0].sha256
    # a number is given once
    for version in made[3:]:
        with gallery.hold("web") as folder:
            delete_version(folder, version, "test")
    assert capture(gallery).number > made[-1].number


def test_a_full_disk_is_freed(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tombstone finds no block; the version's own pages give it theirs."""
    made = [capture(gallery), capture(gallery)]
    page = made[0].path / "logs/serial.log"
    page.parent.mkdir()
    page.write_text("x" * 10_000)
    real = retention.write_json

    def write(path: Path, data: object) -> None:
        if page.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, data)

    monkeypatch.setattr(retention, "write_json", write)
    with gallery.hold("web") as folder:
        delete_version(folder, made[0], "too many")
    assert names(gallery) == [made[1].version]
    assert json.loads((folder / ".tombstones" / f"{made[0].version}.json").read_text())["why"] == "too many"
    assert not list(folder.glob(".gone-*"))


@pytest.mark.parametrize("ever", [False, True])
def test_a_full_disk_leaves_no_half_version(gallery: Gallery, monkeypatch: pytest.MonkeyPatch, ever: bool) -> None:
    """Nothing but the whole version makes room, or not even that."""
    made = [capture(gallery), capture(gallery)]
    real = retention.write_json

    def write(path: Path, data: object) -> None:
        if ever or list(path.parents[1].glob("*/disk.*"))[1:] or list(path.parents[1].glob(".gone-*")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, data)

    monkeypatch.setattr(retention, "write_json", write)
    with gallery.hold("web") as folder, pytest.raises(OSError, match="No space") if ever else nullcontext():
        delete_version(folder, made[0], "too many")
    assert names(gallery) == [made[1].version]
    assert (folder / ".tombstones" / f"{made[0].version}.json").exists() is not ever
    assert not list(folder.glob(".gone-*"))


def test_another_error_of_the_disk_deletes_nothing(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    made = capture(gallery)
    before = sorted(path.name for path in made.path.rglob("*"))

    def refuse(_path: Path, _data: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(retention, "write_json", refuse)
    with pytest.raises(OSError, match="Input/output"), gallery.hold("web") as folder:
        delete_version(folder, made, "too many")
    assert names(gallery) == [made.version]
    assert sorted(path.name for path in made.path.rglob("*")) == before


def test_age_lets_go_but_never_the_last_good_one(gallery: Gallery) -> None:
    made = [capture(gallery, age=age) for age in (40, 35, 31)]
    assert [item.version.version for item in prune(gallery, "web", None, 30)] == [v.version for v in made[:2]]
    assert names(gallery) == [made[2].version]


def test_only_good_versions_count(gallery: Gallery) -> None:
    """Two nights that failed must not push yesterday's master out."""
    good = [capture(gallery) for _ in range(2)]
    bad = [capture(gallery, state="captured") for _ in range(2)]
    assert prune(gallery, "web", 2, None) == []
    third = capture(gallery)
    gone = prunable_versions(gallery.versions("web"), {}, 2, None, datetime.now(UTC))
    assert [version.version for version, _ in gone] == [good[0].version]
    assert third.version in names(gallery) and bad[0].version in names(gallery)


def test_what_was_taken_back_does_not_count(gallery: Gallery) -> None:
    first, second = capture(gallery), capture(gallery)
    gallery.promote(second)
    roll_back(gallery, "web", "golden", "it lost the disks")
    assert gallery.get("web").version == first.version
    assert prunable_versions(gallery.versions("web"), withdrawn(gallery, "web"), 1, None, datetime.now(UTC)) == []


@pytest.mark.parametrize("held", ["channel", "lease", "build"])
def test_what_is_in_use_stays_and_says_by_whom(gallery: Gallery, held: str) -> None:
    first = capture(gallery)
    capture(gallery)

    def used(version: Version) -> str:
        return "a build stands on it" if held == "build" and version.version == first.version else ""

    if held == "channel":
        gallery.promote(first, "stable")
    elif held == "lease":
        take_lease(gallery, first, "an upload")
    (going,) = prune(gallery, "web", 1, None, used=used)
    assert going.held == {"channel": "stable", "lease": "leased: an upload", "build": "a build stands on it"}[held]
    assert first.version in names(gallery)


def test_a_dry_run_changes_nothing(gallery: Gallery) -> None:
    capture(gallery), capture(gallery)
    before = sorted(str(path) for path in gallery.root.rglob("*"))
    assert len(prune(gallery, "web", 1, None, dry=True)) == 1
    assert [p for p in sorted(str(path) for path in gallery.root.rglob("*")) if not p.endswith(".lock")] == [
        p for p in before if not p.endswith(".lock")
    ]


def test_deletion_follows_no_link(gallery: Gallery, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    old = capture(gallery)
    capture(gallery)
    (old.path / "out").symlink_to(precious)
    (gallery.root / "web" / ".gone-x").symlink_to(precious)
    prune(gallery, "web", 1, None)
    assert (precious / "file").read_text() == "mine"
    assert not (gallery.root / "web" / ".gone-x").is_symlink()


# ---- leases ------------------------------------------------------------------------------------------------------


def test_a_lease_ends_by_time_by_its_process_and_by_hand(gallery: Gallery) -> None:
    version = capture(gallery)
    take_lease(gallery, version, "short", seconds=0.05)
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    take_lease(gallery, version, "a dead process", pid=child.pid)
    mine = take_lease(gallery, version, "mine", pid=os.getpid())
    time.sleep(0.1)
    assert [lease.why for lease in leases(gallery, "web")] == ["mine"]
    with leased(gallery, version, "a while"):
        assert len(leases(gallery, "web")) == 2
    release_lease(gallery, "web", mine.id)
    assert leases(gallery, "web") == []
    with pytest.raises(UsageError, match="no lease"):
        release_lease(gallery, "web", mine.id)


def test_a_lease_of_another_host_holds_whatever_its_process(gallery: Gallery) -> None:
    version = capture(gallery)
    lease = take_lease(gallery, version, "elsewhere", pid=999_999_999)
    path = gallery.root / "web/.leases" / f"{lease.id}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "host": "another"}))
    assert [item.why for item in leases(gallery, "web")] == ["elsewhere"]


def test_a_lease_that_cannot_be_read_holds(gallery: Gallery) -> None:
    first = capture(gallery)
    capture(gallery)
    (gallery.root / "web/.leases").mkdir()
    (gallery.root / "web/.leases" / f"{first.version}-torn.json").write_text("{")
    (going,) = prune(gallery, "web", 1, None)
    assert going.held


def test_what_has_gone_cannot_be_leased(gallery: Gallery) -> None:
    first = capture(gallery)
    capture(gallery)
    prune(gallery, "web", 1, None)
    with pytest.raises(UsageError):
        take_lease(gallery, first, "too late")


# ---- channels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"state": "captured"}, "not proven"),
        ({"start": "warm"}, "built from a snapshot"),
        ({"checks": [{"id": "host-keys", "status": "fail"}]}, "host-keys"),
    ],
)
def test_a_shut_gate_keeps_golden_where_it_is(gallery: Gallery, more: dict[str, object], why: str) -> None:
    good, bad = capture(gallery), capture(gallery, **more)
    promote(gallery, good, "golden")
    assert why in (promotion_blocker(bad) or "")
    with pytest.raises(CheckFailed, match=why):
        promote(gallery, bad, "golden")
    assert gallery.get("web").version == good.version
    promote(gallery, bad, "candidate")
    assert gallery.get("web@candidate").version == bad.version


def test_rollback_goes_back_one_good_version_at_a_time(gallery: Gallery) -> None:
    first, _broken, third, fourth = (capture(gallery, state=s) for s in ("proven", "captured", "proven", "proven"))
    gallery.promote(fourth)
    assert [v.version for v in roll_back(gallery, "web", "golden", "a")] == [fourth.version, third.version]
    assert [v.version for v in roll_back(gallery, "web", "golden", "b")] == [third.version, first.version]
    assert withdrawn(gallery, "web") == {fourth.version: "a", third.version: "b"}
    with pytest.raises(UsageError, match="no good version"):
        roll_back(gallery, "web", "golden", "c")
    assert gallery.get("web").version == first.version
    promote(gallery, fourth, "golden")
    assert fourth.version not in withdrawn(gallery, "web")


def test_the_list_says_what_was_withdrawn(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = capture(gallery, state="proven"), capture(gallery, state="proven")
    gallery.promote(second)
    roll_back(gallery, "web", "golden", "a typing mistake")
    monkeypatch.setenv("GOLDSMITH_HOME", str(gallery.root.parent))
    shown = CliRunner().invoke(app, ["gallery", "list"]).output.splitlines()
    assert [", withdrawn" in line for line in shown[1:3]] == [False, True], shown
    rows = json.loads(CliRunner().invoke(app, ["gallery", "list", "--json"]).output)
    assert [(row["version"], row["withdrawn"]) for row in rows] == [
        (first.version, None),
        (second.version, "a typing mistake"),
    ]


def test_a_refused_candidate_is_told_of_until_a_better_one_comes(gallery: Gallery) -> None:
    capture(gallery)
    assert gallery.refused("web") is None
    gallery.refuse("web", {"gate": "prove", "why": "no page"})
    assert gallery.refused("web") == {"gate": "prove", "why": "no page"}
    capture(gallery)
    assert gallery.refused("web") is None


# ---- damage ------------------------------------------------------------------------------------------------------


def wrong(gallery: Gallery) -> dict[str, str]:
    return {item.what: item.wrong for item in verify(gallery, "web") if item.wrong}


def test_a_good_gallery_is_good(gallery: Gallery) -> None:
    gallery.promote(capture(gallery))
    assert wrong(gallery) == {}


def flip(path: Path, at: int) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("at", [0, (3 << 20) + 5, (6 << 20) - 1])
def test_a_flipped_bit_is_found(gallery: Gallery, at: int) -> None:
    made = capture(gallery)
    flip(made.disk, at)
    assert "changed: 1 chunks" in wrong(gallery)[f"web {made.version}"]


@pytest.mark.parametrize("damage", ["cut", "gone", "manifest", "sha256", "moved", "channel"])
def test_other_damage_is_found(gallery: Gallery, damage: str) -> None:
    made = capture(gallery)
    gallery.promote(made)
    manifest = made.path / "manifest.json"
    manifest.chmod(0o644)
    made.disk.chmod(0o644)
    if damage == "cut":
        os.truncate(made.disk, 1 << 20)
    elif damage == "gone":
        made.disk.unlink()
    elif damage == "manifest":
        manifest.write_text(manifest.read_text()[:50])
    elif damage == "sha256":
        record = json.loads(manifest.read_text())
        record["disk"]["sha256"] = "0" * 64
        manifest.write_text(json.dumps(record))
    elif damage == "moved":
        made.path.rename(made.path.with_name("2020.101.0"))
    else:
        (gallery.root / "web" / "stable").symlink_to("2020.101.9")
    found = wrong(gallery)
    assert found
    assert ("web@stable" in found) == (damage == "channel")


def test_scratch_is_named_and_is_no_damage(gallery: Gallery) -> None:
    capture(gallery)
    (gallery.root / "web" / ".new-2026.1.1").mkdir()
    assert [item.scratch for item in verify(gallery, "web") if item.wrong] == [True]


# ---- on their way ------------------------------------------------------------------------------------------------


def test_a_master_travels_whole(gallery: Gallery, tmp_path: Path) -> None:
    made = capture(gallery)
    exported = export(made, tmp_path / "exported")
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=exported, check=True)
    assert (exported / "disk.vhd").stat().st_blocks * 512 < 2 << 20
    other = Gallery(tmp_path / "other")
    taken = import_version(other, exported)
    assert (taken.name, taken.version, taken.sha256) == (made.name, made.version, made.sha256)
    assert taken.channels == ()
    assert import_version(other, exported).version == made.version
    assert all(not each.wrong for each in verify(other, "web"))
    with pytest.raises(UsageError, match="exists already"):
        export(made, exported)


def test_a_disk_too_large_for_a_flat_digest_is_told_apart_all_the_same(gallery: Gallery, tmp_path: Path) -> None:
    first, two = capture(gallery), capture(gallery)
    for version in (first, two):
        path = version.path / "manifest.json"
        path.chmod(0o644)
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "disk": {**record["disk"], "sha256": None}}))
    first, two = (gallery.get(f"web@{version.version}") for version in (first, two))
    assert first.sha256 is None and first.digest.startswith("tree:") and first.digest != two.digest
    assert wrong(gallery) == {}
    exported = export(first, tmp_path / "exported")
    assert import_version(Gallery(tmp_path / "other"), exported).digest == first.digest
    flip(two.disk, 3 << 20)
    assert len(wrong(gallery)) == 1
    with pytest.raises(CheckFailed):
        export(two, tmp_path / "another")


@pytest.mark.parametrize("damage", ["bit", "name", "version", "no disk", "link"])
def test_a_bad_parcel_leaves_nothing(gallery: Gallery, tmp_path: Path, damage: str) -> None:
    exported = export(capture(gallery), tmp_path / "exported")
    manifest = exported / "manifest.json"
    manifest.chmod(0o644)
    record = json.loads(manifest.read_text())
    if damage == "bit":
        flip(exported / "disk.vhd", 3 << 20)
    elif damage in ("name", "version"):
        manifest.write_text(json.dumps({**record, damage: "../../etc"}))
    else:
        (exported / "disk.vhd").unlink()
        if damage == "link":
            (exported / "disk.vhd").symlink_to("/etc/hostname")
    other = Gallery(tmp_path / "other")
    with pytest.raises((UsageError, CheckFailed)):
        import_version(other, exported)
    assert other.versions("web") == []
    assert not list(tmp_path.glob("other/*/.new-*"))


def test_what_was_let_go_does_not_come_back_by_itself(gallery: Gallery, tmp_path: Path) -> None:
    first = capture(gallery)
    exported = export(first, tmp_path / "exported")
    capture(gallery)
    prune(gallery, "web", 1, None)
    with pytest.raises(UsageError, match="was deleted"):
        import_version(gallery, exported)


def test_a_process_killed_at_any_moment_leaves_a_whole_gallery() -> None:
    """A part of `make campaign-gallery`."""
    from tests.campaigns.gallery import run

    assert [row for row in run(6) if not row["ok"]] == []


# ---- leases of VMs -----------------------------------------------------------------------------------------------


def test_a_vm_keeps_its_version_however_old_its_lease_is(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    old, _ = capture(gallery, age=400), capture(gallery)
    lease = lease_to_instance(gallery, old, "0f0e0d0c-0000-4000-8000-000000000001", "VM web runs from it")
    assert lease_to_instance(gallery, old, lease.instance, "VM web runs from it").id == lease.id  # taken twice
    later = time.time() + 20 * 365 * 86400
    monkeypatch.setattr(time, "time", lambda: later)
    (candidate,) = prune(gallery, "web", 1, 1)
    assert candidate.held == "leased: VM web runs from it" and old.path.is_dir()
    with pytest.raises(UsageError) as error:
        release_lease(gallery, "web", lease.id)
    assert error.value.name == "lease-of-vm" and instances_on(gallery, "web", old.version) == [lease]
    release_instance(gallery, "web", old.version, lease.instance)
    release_instance(gallery, "web", old.version, lease.instance)  # ended already
    assert [each.held for each in prune(gallery, "web", 1, 1)] == [""] and not old.path.is_dir()


def test_not_even_force_removes_what_a_vm_runs_from(gallery: Gallery) -> None:
    store = Store(gallery.root.parent).ensure()
    old, _ = capture(gallery), capture(gallery)
    lease = lease_to_instance(gallery, old, "0f0e0d0c-0000-4000-8000-000000000001", "VM web runs from it")
    for force in (False, True):
        with pytest.raises(CheckFailed) as error:
            remove_master(store, "web", old.version, "old", force=force)
        assert error.value.name == "version-in-use" and "VM web runs from it" in error.value.message
    release_instance(gallery, "web", old.version, lease.instance)
    assert remove_master(store, "web", old.version, "old", force=True).version == old.version


def test_of_two_exports_to_the_same_folder_the_later_is_refused(gallery: Gallery, tmp_path: Path) -> None:
    made, target = capture(gallery), tmp_path / "parcel"

    def meanwhile(_folder: Path, _manifest: object) -> str:
        """Another export ends while this one is judged."""
        target.mkdir()
        (target / "manifest.json").write_text("{}")
        return ""

    with pytest.raises(UsageError) as error:
        export(made, target, judge=meanwhile)
    assert error.value.name == "target-exists" and str(target) in error.value.message
    assert [path.name for path in target.iterdir()] == ["manifest.json"]
    assert not list(tmp_path.glob(".goldsmith-*"))
