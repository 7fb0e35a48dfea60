"""Care of the store: what goes for a size, in which order, and what never goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.base.disk_format import QCOW2, VHD
from pipeline.base.runs import Run
from pipeline.base.store import Host, Store
from pipeline.cache.layers import DISK, Image, Layer, Layers, PendingLayer
from pipeline.gallery import Gallery
from pipeline.maintenance import gc
from pipeline.maintenance.gc import LayerUsage, _sweep_store, clean_up, evictable
from tests.fakes.libvirt_host import open_host
from tests.unit.gallery.test_retention import capture


def holding(key: str, size: int, used: float, *below: str) -> LayerUsage:
    return LayerUsage(Layer(key, Path("/nowhere") / key, {"stage": "provision"}), size, used, frozenset(below))


#: base <- one <- two, base <- other, and a VHD that stands alone; used in the order of the numbers.
STORE = [
    holding("base", 50, 1.0),
    holding("one", 10, 2.0, "base"),
    holding("two", 10, 3.0, "one", "base"),
    holding("other", 10, 4.0, "base"),
    holding("vhd", 20, 5.0),
]


def gone(keep: int, *in_use: str, fresh_since: float = 99.0) -> list[str]:
    return [usage.layer.key for usage in evictable(STORE, keep, frozenset(in_use), fresh_since)]


def test_what_fits_stays() -> None:
    assert gone(100) == []


def test_the_longest_unused_goes_first_and_nothing_from_under_another() -> None:
    assert gone(90) == ["two"]
    assert gone(80) == ["two", "one"]
    assert gone(70) == ["two", "one", "other"]
    assert gone(0) == ["two", "one", "other", "base", "vhd"]


def test_what_a_build_uses_stays_with_all_below_it() -> None:
    assert gone(0, "two") == ["other", "vhd"]
    assert gone(0, "other") == ["two", "one", "vhd"]


def test_what_was_used_just_now_stays_with_all_below_it() -> None:
    assert gone(0, fresh_since=4.0) == ["two", "one"]


# ---- what killed processes left ----------------------------------------------------------------------------------


def test_the_store_is_swept_of_what_never_came_to_anything(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", Host(key=tmp_path / "key/signing.key")).ensure()
    gallery = Gallery(store.gallery)
    made = capture(gallery)
    for name in (".new-2026.1.1", ".gone-2026.1.1-ab"):
        (made.path.parent / name).mkdir()
    (made.path.parent / ".point-golden-5").symlink_to("2026.1.1")
    (store.gallery / "empty").mkdir()
    (store.gallery / "empty/.lock").touch()
    (store.runs / "R7").mkdir()
    (store.runs / "R7/lock").touch()
    (made.path.parent / ".refused.json.12.34").write_text("{")
    living = Run.start(store.runs, "web", "goldsmith build web")
    for name in ("unpacked-x", "capture-x"):
        (store.tmp / name).mkdir()
        os.utime(store.tmp / name, (0, 0))
    (store.tmp / "unpacked-young").mkdir()
    gone = _sweep_store(store)
    assert {path.name for path in made.path.parent.iterdir()} == {".lock", made.version}
    assert [path.name for path in store.gallery.iterdir()] == ["web"]
    assert [path.name for path in store.runs.iterdir()] == [living.id]
    assert [path.name for path in store.tmp.iterdir()] == ["unpacked-young"]
    assert len(gone) == 8
    living.finish("done")
    assert _sweep_store(store) == []


@pytest.fixture
def no_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose libvirt has no guest of ours, and on which no run died."""
    monkeypatch.setattr(gc, "connect", open_host)
    monkeypatch.setattr(gc, "collect_orphans", lambda *_args, **_options: [])


def _layer(store: Store, key: str, below: Image | None = None) -> Image:
    draft = Layers(store.layers).begin(key)
    assert isinstance(draft, PendingLayer)
    image = Image(draft.path / DISK, QCOW2, below)
    image.path.write_bytes(b"data")
    draft.commit(stage="provision", inputs={}, source=None, image=image, facts={})
    return image


def test_layers_that_no_build_can_use_are_removed(tmp_path: Path, no_domains: None) -> None:
    """Whoever removed their master was killed before it removed them."""
    store = Store(tmp_path / "store", Host(key=tmp_path / "key/signing.key")).ensure()
    master = store.gallery / "web/2026.1.0/disk.vhd"
    master.parent.mkdir(parents=True)
    master.write_bytes(b"disk")
    low = _layer(store, "a" * 32, Image(master, VHD))
    _layer(store, "b" * 32, low)
    _layer(store, "c" * 32)
    assert clean_up(store, layers=False) == []
    # a gallery that is not mounted is not one without masters
    store.gallery.rename(tmp_path / "elsewhere")
    assert clean_up(store, layers=False) == []
    (tmp_path / "elsewhere").rename(store.gallery)
    master.unlink()
    assert len(clean_up(store, layers=False, dry=True)) == 2
    assert Layers(store.layers).keys() == ["a" * 32, "b" * 32, "c" * 32]
    assert {each.name for each in clean_up(store, layers=False)} == {"a" * 32, "b" * 32}
    assert Layers(store.layers).keys() == ["c" * 32]


def test_all_layers_are_removed_also_those_whose_record_is_damaged(tmp_path: Path, no_domains: None) -> None:
    store = Store(tmp_path / "store", Host(key=tmp_path / "key/signing.key")).ensure()
    for key in ("a" * 32, "b" * 32):
        _layer(store, key)
    record = store.layers / ("a" * 32) / "record.json"
    record.unlink()
    record.write_text("{")
    assert clean_up(store, layers=False) == []
    assert len(clean_up(store, layers=True)) == 2
    assert list(store.layers.iterdir()) == []


def test_a_record_beside_the_key_that_was_never_finished_is_removed(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", Host(key=tmp_path / "key/signing.key")).ensure()
    (tmp_path / "key").mkdir()
    unfinished = tmp_path / "key/.unsigned-masters.json.12.34"
    unfinished.write_text("{")
    (tmp_path / "key/signing.pub").write_text("a key")
    assert _sweep_store(store, dry=True) == [str(unfinished)] and unfinished.exists()
    assert _sweep_store(store) == [str(unfinished)]
    assert [path.name for path in (tmp_path / "key").iterdir()] == ["signing.pub"]


def test_an_image_whose_folder_is_held_is_left_alone(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", Host(key=tmp_path / "key/signing.key")).ensure()
    gallery = Gallery(store.gallery)
    with gallery.hold("web", make=True) as folder:
        (folder / ".new-2026.1.1").mkdir()
        assert _sweep_store(store) == []
    assert len(_sweep_store(store)) == 2
