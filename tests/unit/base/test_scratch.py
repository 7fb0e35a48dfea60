"""Temporary files: nothing stays of a process that is killed, once somebody has swept."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.base import scratch
from pipeline.base.errors import DiskError, GoldsmithError, UsageError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store, whose journal is used."""
    (tmp_path / "store").mkdir()
    monkeypatch.setenv("GOLDSMITH_HOME", str(tmp_path / "store"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "store"


@pytest.fixture(params=["nameless", "named"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With, and without, a file system that knows files without a name."""
    if request.param == "named":
        monkeypatch.setattr(scratch, "_open_nameless", lambda _folder: None)
    return str(request.param)


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_file_appears_whole(tmp_path: Path, kind: str, home: Path) -> None:
    target = tmp_path / "disk.vhd"
    with scratch.file_beside(target) as path:
        path.write_bytes(b"half")
        assert not target.exists()
        assert (hidden(tmp_path) == []) == (kind == "nameless")
    assert target.read_bytes() == b"half"
    assert target.stat().st_mode & 0o777 == 0o644 & ~_umask()
    with pytest.raises(UsageError) as caught, scratch.file_beside(target):
        raise AssertionError
    assert caught.value.name == "target-exists"
    with scratch.file_beside(target, force=True) as path:
        path.write_bytes(b"whole")
        assert target.read_bytes() == b"half"
    assert target.read_bytes() == b"whole"
    assert hidden(tmp_path) == [] and list((home / "scratch").glob("*.json")) == []


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("force", [False, True])
def test_what_fails_leaves_the_old_one_and_nothing_else(tmp_path: Path, kind: str, home: Path, force: bool) -> None:
    target = tmp_path / "disk.vhd"
    if force:
        target.write_text("old")
    with pytest.raises(DiskError) as caught, scratch.file_beside(target, force=force) as path:
        path.write_text("new")
        raise DiskError(f"{path}: no")
    assert caught.value.message == f"{target}: no"
    assert target.read_text() == "old" if force else not target.exists()
    assert hidden(tmp_path) == [] and list((home / "scratch").glob("*.json")) == []


def test_what_came_meanwhile_is_not_replaced(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "disk.vhd"
    with pytest.raises(UsageError), scratch.file_beside(target) as path:
        path.write_text("mine")
        target.write_text("theirs")
    assert target.read_text() == "theirs"
    assert hidden(tmp_path) == []


#: Makes a folder in each of its words, a named file beside each, says so, and waits to be killed.
DEAD = """
import sys, time, contextlib
from pathlib import Path
from pipeline.base import scratch
from pipeline.cli.environment import hand_in_environment
hand_in_environment()
with contextlib.ExitStack() as stack:
    for word in sys.argv[1:]:
        folder = stack.enter_context(scratch.folder(Path(word), "test"))
        (folder / "deep/er").mkdir(parents=True)
        (folder / "deep/er/file").write_text("x")
        stack.enter_context(scratch.folder_beside(Path(word) / "parcel"))
        stack.enter_context(scratch.file_beside(Path(word) / "disk", named=True)).write_text("x")
    print("made", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def owner(*places: Path) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-c", DEAD, *map(str, places)]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=Path(scratch.__file__).parents[2])
    assert child.stdout is not None and child.stdout.readline() == "made\n"
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def test_what_a_killed_process_left_is_found_anywhere(tmp_path: Path, home: Path) -> None:
    places = [tmp_path / "one", tmp_path / "two"]
    for place in places:
        place.mkdir()
    with owner(*places) as child:
        assert scratch.sweep() == []  # its owner lives
        assert all(len(hidden(place)) == 3 for place in places)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert len(scratch.sweep()) == 6
    assert all(hidden(place) == [] for place in places)
    assert list((home / "scratch").iterdir()) == []
    assert scratch.sweep() == []


def test_without_a_store_the_users_own_journal_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOLDSMITH_HOME", str(tmp_path / "nowhere"))
    with owner(tmp_path):
        assert len(list((tmp_path / "state/goldsmith/scratch").glob("*.json"))) == 3
    assert len(scratch.sweep()) == 3
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("path", ["/etc/passwd", "VICTIM", "VICTIM/..", "relative", "/", "", "nul\0", "/x" * 5000])
def test_a_forged_entry_removes_nothing(tmp_path: Path, home: Path, path: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("precious")
    (home / "scratch").mkdir()
    entry = home / "scratch" / f"{'ab' * 8}.json"
    entry.write_text(json.dumps({"path": path.replace("VICTIM", str(victim))}))
    assert scratch.sweep() == []
    assert (victim / "file").read_text() == "precious" and Path("/etc/passwd").exists()


def test_an_entry_that_leads_through_a_link_removes_the_link_only(tmp_path: Path, home: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("precious")
    token = "cd" * 8
    (tmp_path / f"{scratch.PREFIX}{token}").symlink_to(victim)
    (home / "scratch").mkdir()
    (home / "scratch" / f"{token}.json").write_text(json.dumps({"path": str(tmp_path / f"{scratch.PREFIX}{token}")}))
    assert len(scratch.sweep()) == 1
    assert (victim / "file").read_text() == "precious"


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", "[" * 100_000, '{"path": 5}', "\0", "\xff", "folder", "pipe", "link"]
)
def test_a_damaged_entry_stops_nothing(tmp_path: Path, home: Path, damage: str) -> None:
    with owner(tmp_path):
        pass
    entry = home / "scratch" / f"{'ef' * 8}.json"
    if damage == "folder":
        entry.mkdir()
    elif damage == "pipe":
        os.mkfifo(entry)
    elif damage == "link":
        entry.symlink_to(entry)
    else:
        entry.write_bytes(damage.encode("latin-1"))
    assert len([path for path in scratch.sweep() if path != str(entry)]) == 3
    assert hidden(tmp_path) == []


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_words: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(scratch, "_write_entry", full)
    with pytest.raises(GoldsmithError) as caught, scratch.folder(tmp_path):
        raise AssertionError
    assert caught.value.name == "cannot-write" and "No space left" in caught.value.message


def test_what_cannot_be_removed_now_is_removed_by_a_sweep(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with no more open files: the entry must stay, or nobody finds the folder any more."""

    def refuse(_folder: Path) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with pytest.raises(OSError, match="Too many"), scratch.folder(tmp_path) as folder:
        (folder / "data").write_text("x")
        monkeypatch.setattr(scratch, "remove_tree", refuse)
    monkeypatch.undo()
    monkeypatch.setenv("GOLDSMITH_HOME", str(home))
    assert folder.exists()
    assert scratch.sweep() == [str(folder)]
    assert not folder.exists() and list((home / "scratch").iterdir()) == []


def test_an_entry_is_on_the_disk_before_what_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut leaves no scratch that nobody finds: `make campaign-faults` plays it, this holds the order."""
    synced: list[tuple[str, bool]] = []
    real = os.fsync

    def note(fd: int) -> None:
        text = Path(f"/proc/self/fd/{fd}").readlink().read_text()
        synced.append((text, any(path.name.startswith(scratch.PREFIX) for path in tmp_path.iterdir())))
        real(fd)

    monkeypatch.setattr(os, "fsync", note)
    with scratch.folder(tmp_path) as folder:
        pass
    assert synced == [(json.dumps({"path": str(folder)}) + "\n", False)]
