"""Care of the store: what goes for a size, in which order, and what never goes."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.base.runs import Run
from pipeline.base.store import Store
from pipeline.cache.layers import Layer
from pipeline.gallery import Gallery
from pipeline.maintenance.gc import LayerUsage, _sweep_store, evictable
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
    store = Store(tmp_path / "store").ensure()
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


def test_an_image_whose_folder_is_held_is_left_alone(tmp_path: Path) -> None:
    store = Store(tmp_path / "store").ensure()
    gallery = Gallery(store.gallery)
    with gallery.hold("web", make=True) as folder:
        (folder / ".new-2026.1.1").mkdir()
        assert _sweep_store(store) == []
    assert len(_sweep_store(store)) == 2
