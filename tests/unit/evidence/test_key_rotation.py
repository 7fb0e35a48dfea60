"""A key is replaced, at whatever point that ends; what the old one signed stays good until it is withdrawn."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from securesystemslib.signer import Key

from pipeline.base.errors import CheckFailed, NotFound, UsageError
from pipeline.evidence import key_rotation
from pipeline.evidence.key_rotation import list_keys, rotate, withdraw
from pipeline.evidence.signing import SigningKey, load, load_public, make, opened, public_path, signed, trusted


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "key/signing.key"


def keys(path: Path) -> list[Key]:
    return [load_public(each) for each in trusted(path)]


def current(path: Path, store: Path) -> SigningKey:
    found = load(path, store)
    assert found is not None
    return found


def test_signatures_of_a_retired_key_stay_good_until_it_is_withdrawn(path: Path, tmp_path: Path) -> None:
    old = make(path)
    envelope = signed(b"{}", old)
    retired, new = rotate(path, tmp_path / "store")
    assert retired.keyid == old.id != new.id == current(path, tmp_path / "store").id
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert opened(envelope, keys(path)) == b"{}"
    assert opened(signed(b"[]", new), keys(path)) == b"[]"
    assert [(each.id, each.is_own) for each in list_keys(path)] == [(new.id, True), (old.id, False)]
    # its private half is nowhere
    assert [each.name for each in path.parent.iterdir() if b"PRIVATE" in each.read_bytes()] == ["signing.key"]
    withdraw(path, old.id[:12])
    with pytest.raises(CheckFailed):
        opened(envelope, keys(path))
    assert [each.id for each in list_keys(path)] == [new.id]


@pytest.mark.parametrize("steps", range(4))
def test_a_rotation_that_is_interrupted_is_completed_by_the_next(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    old = make(path)
    envelope = signed(b"{}", old)
    done: list[Path] = []
    sync = key_rotation.sync_folder

    def end(folder: Path) -> None:
        done.append(folder)
        if len(done) > steps // 2:
            raise KeyboardInterrupt
        sync(folder)

    def end_at(target: Path, key: SigningKey) -> None:
        if steps == 3:
            raise KeyboardInterrupt
        keep(target, key)

    keep = key_rotation._keep_public
    monkeypatch.setattr(key_rotation, "sync_folder", end)
    monkeypatch.setattr(key_rotation, "_keep_public", end_at)
    with pytest.raises(KeyboardInterrupt):
        rotate(path, tmp_path / "store")
    monkeypatch.undo()
    between = signed(b"[]", current(path, tmp_path / "store"))
    rotate(path, tmp_path / "store")
    assert opened(envelope, keys(path)) == b"{}"
    assert opened(between, keys(path)) == b"[]"


def test_the_key_that_signs_is_not_withdrawn(path: Path) -> None:
    made = make(path)
    with pytest.raises(UsageError) as error:
        withdraw(path, made.id)
    assert error.value.name == "key-in-use" and public_path(path).exists()


@pytest.mark.parametrize("which", ["", "0123"])
def test_only_a_known_key_is_withdrawn(path: Path, which: str) -> None:
    make(path)
    with pytest.raises(NotFound) as error:
        withdraw(path, which)
    assert error.value.name == "key-unknown"


def test_there_is_no_rotation_without_a_key(path: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        rotate(path, tmp_path / "store")
    assert error.value.name == "no-key"
