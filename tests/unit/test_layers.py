from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.layers import DISK, Draft, Image, Layer, Layers, layer_key, mode
from pipeline.record import remove_tree
from pipeline.store import DEFAULT_HOME, Store


def commit(layers: Layers, key: str, backing: Image | None = None) -> Layer:
    draft = layers.begin(key)
    assert isinstance(draft, Draft)
    (draft.path / DISK).write_bytes(b"data")
    return draft.commit(
        stage="acquire", inputs={"a": 1}, source=None, image=Image(draft.path / DISK, "qcow2", backing)
    )


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
    assert isinstance(draft, Draft)
    (draft.path / DISK).write_bytes(b"data")
    assert layers.get("k") is None
    draft.commit(stage="s", inputs={}, source=None, image=Image(draft.path / DISK, "qcow2"))
    layer = layers.get("k")
    assert layer is not None and layer.image.format == "qcow2"
    assert mode(layer.path / DISK) == 0o444
    assert isinstance(layers.begin("k"), Layer)


def test_sweep_takes_dead_scratch_only(tmp_path: Path) -> None:
    layers = Layers(tmp_path)
    commit(layers, "good")
    held = layers.begin("held")
    assert isinstance(held, Draft)
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
        assert isinstance(draft, Draft)
        (draft.path / "half").write_bytes(b"x")
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    draft = Layers(tmp_path).begin("k")
    assert isinstance(draft, Draft)
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
    assert isinstance(draft, Draft)
    (draft.path / DISK).write_bytes(b"data")
    with pytest.raises(AttributeError):
        draft.commit(stage="s", inputs={}, source=None, image=object())  # type: ignore[arg-type]
    assert layers.get("k") is None


def test_a_store_knows_its_own_runs(tmp_path: Path) -> None:
    """Two stores on one host must not sweep each other's guests."""
    one, two, usual = Store(tmp_path / "one"), Store(tmp_path / "two"), Store(DEFAULT_HOME)
    assert one.own_run(one.label("R1")) == "R1"
    assert one.own_run(two.label("R1")) is None
    assert usual.own_run(one.label("R1")) is None
    assert one.own_run(usual.label("R1")) is None
    assert usual.own_run("R1") == "R1"


def test_scratch_that_others_sweep_at_the_same_time_is_gone_without_an_error(tmp_path: Path) -> None:
    for number in range(400):
        (tmp_path / "scratch" / f"{number % 7}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "scratch" / f"{number % 7}" / str(number)).touch()
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(remove_tree, tmp_path / "scratch") for _ in range(8)]:
            done.result()
    assert not (tmp_path / "scratch").exists()
