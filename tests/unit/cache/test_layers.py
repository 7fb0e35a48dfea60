from __future__ import annotations

import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.base.disk_format import QCOW2, VHD
from pipeline.base.runs import remove_tree
from pipeline.base.store import DEFAULT_HOME, Store
from pipeline.cache.layers import CHECKED, DISK, Image, Layer, Layers, PendingLayer, layer_key, mode


def commit(layers: Layers, key: str, backing: Image | None = None) -> Layer:
    draft = layers.begin(key)
    assert isinstance(draft, PendingLayer)
    (draft.path / DISK).write_bytes(b"data")
    return draft.commit(stage="acquire", inputs={"a": 1}, source=None, image=Image(draft.path / DISK, QCOW2, backing))


def test_a_key_hangs_on_everything() -> None:
    base = layer_key("s", 1, {"a": "1"}, "src")
    assert base == layer_key("s", 1, {"a": "1"}, "src")
    others = {
        layer_key("t", 1, {"a": "1"}, "src"),
        layer_key("s", 2, {"a": "1"}, "src"),
        layer_key("s", 1, {"a": "2"}, "src"),
        layer_key("s", 1, {"b": "1"}, "src"),
        layer_key("s", 1, {"a": "1"}, None),
    }
    assert len(others) == 5 and base not in others


def test_a_layer_exists_once_its_record_does(tmp_path: Path) -> None:
    layers = Layers(tmp_path)
    draft = layers.begin("k")
    assert isinstance(draft, PendingLayer)
    (draft.path / DISK).write_bytes(b"data")
    assert layers.get("k") is None
    draft.commit(stage="s", inputs={}, source=None, image=Image(draft.path / DISK, QCOW2))
    layer = layers.get("k")
    assert layer is not None and layer.image.format == QCOW2
    assert mode(layer.path / DISK) == 0o444
    assert isinstance(layers.begin("k"), Layer)


def test_sweep_takes_dead_scratch_only(tmp_path: Path) -> None:
    layers = Layers(tmp_path)
    commit(layers, "good")
    held = layers.begin("held")
    assert isinstance(held, PendingLayer)
    (tmp_path / "dead").mkdir()
    (tmp_path / "dead" / DISK).write_bytes(b"x")
    (tmp_path / "dead" / ".lock").touch()
    assert layers.sweep() == ["dead"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["good", "held"]
    held.discard()
    assert [p.name for p in tmp_path.iterdir()] == ["good"]


def test_a_killed_writer_leaves_scratch_that_the_next_one_takes(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        draft = Layers(tmp_path).begin("k")
        assert isinstance(draft, PendingLayer)
        (draft.path / "half").write_bytes(b"x")
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    draft = Layers(tmp_path).begin("k")
    assert isinstance(draft, PendingLayer)
    assert [p.name for p in draft.path.iterdir()] == [".lock"]
    draft.discard()


def test_a_layer_whose_base_is_gone_is_none(tmp_path: Path) -> None:
    layers = Layers(tmp_path)
    base = commit(layers, "base")
    commit(layers, "top", base.image)
    assert layers.get("top") is not None
    layers.drop("base")
    assert layers.get("top") is None


def test_a_failed_commit_is_no_layer(tmp_path: Path) -> None:
    layers = Layers(tmp_path)
    draft = layers.begin("k")
    assert isinstance(draft, PendingLayer)
    (draft.path / DISK).write_bytes(b"data")
    with pytest.raises(AttributeError):
        draft.commit(stage="s", inputs={}, source=None, image=object())  # type: ignore[arg-type]
    assert layers.get("k") is None


def test_a_store_knows_its_own_runs(tmp_path: Path) -> None:
    """Two stores on one host must not sweep each other's guests."""
    first, two, usual = Store(tmp_path / "one"), Store(tmp_path / "two"), Store(DEFAULT_HOME)
    assert first.own_run(first.label("R1")) == "R1"
    assert first.own_run(two.label("R1")) is None
    assert usual.own_run(first.label("R1")) is None
    assert first.own_run(usual.label("R1")) is None
    assert usual.own_run("R1") == "R1"


def test_scratch_that_others_sweep_at_the_same_time_is_gone_without_an_error(tmp_path: Path) -> None:
    for number in range(400):
        (tmp_path / "scratch" / f"{number % 7}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "scratch" / f"{number % 7}" / str(number)).touch()
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(remove_tree, tmp_path / "scratch") for _ in range(8)]:
            done.result()
    assert not (tmp_path / "scratch").exists()


# ---- what was written to since -----------------------------------------------------------------------------------


def write_over(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)


def flip(path: Path) -> None:
    """Other bytes, the same size and times: what a failing disk does."""
    status = path.stat()
    write_over(path, bytes(byte ^ 1 for byte in path.read_bytes()))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_layer_that_was_written_to_is_not_believed(tmp_path: Path) -> None:
    layer = commit(Layers(tmp_path), "k")
    assert layer.changed() == ""
    write_over(layer.path / DISK, b"other")
    assert "has been modified" in layer.changed()


def test_a_layer_is_hashed_before_it_is_used_after_a_day(tmp_path: Path) -> None:
    layer = commit(Layers(tmp_path), "k")
    flip(layer.path / DISK)
    assert layer.changed() == ""  # hashed an hour ago, say
    os.utime(layer.path / CHECKED, (0, 0))
    assert "is damaged" in layer.changed()
    flip(layer.path / DISK)
    assert layer.changed() == ""
    flip(layer.path / DISK)
    assert layer.changed() == ""  # and now it is believed for a day


def test_the_master_below_the_first_layer_is_hashed_with_it(tmp_path: Path) -> None:
    master = tmp_path / "gallery" / "disk.vhd"
    master.parent.mkdir()
    master.write_bytes(b"master")
    layers = Layers(tmp_path / "layers")
    first = commit(layers, "first", Image(master, VHD))
    above = commit(layers, "above", first.image)
    assert (str(master) in first.record["seals"], list(above.record["seals"])) == (True, [DISK])
    os.utime(first.path / CHECKED, (0, 0))
    flip(master)
    assert str(master) in first.changed()
    assert above.changed() == ""


def test_a_missing_file_and_an_old_layer(tmp_path: Path) -> None:
    layer = commit(Layers(tmp_path), "k")
    (layer.path / DISK).unlink()
    assert "cannot be read" in layer.changed()
    old = Layer("k", layer.path, {"image": None})
    assert old.changed() == ""


def test_a_sweep_takes_no_layer_that_somebody_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build begins a layer between a sweep's look at its scratch and the scratch's end."""
    (tmp_path / "k").mkdir()
    with ThreadPoolExecutor(1) as pool:
        begun: list[Future[Layer]] = []

        def remove(folder: Path) -> None:
            begun.append(pool.submit(commit, Layers(tmp_path), "k"))
            time.sleep(0.3)
            remove_tree(folder)

        with monkeypatch.context() as patched:
            patched.setattr("pipeline.cache.layers.remove_tree", remove)
            assert Layers(tmp_path).sweep() == ["k"]
        assert begun[0].result().key == "k"
    assert Layers(tmp_path).get("k") is not None
