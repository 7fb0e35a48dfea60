"""The night: its order, its summary, what a failure leaves alone. The builds themselves are played."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from filelock import FileLock

from pipeline.base.errors import BuildError, CheckFailed, GoldsmithError, Interrupted
from pipeline.base.store import Store
from pipeline.cache.layers import RECORD, Draft, Layers
from pipeline.definition import Definition, build_order, load_all
from pipeline.engine.runner import Outcome
from pipeline.gallery import Gallery
from pipeline.nightly import refresh as night
from tests.unit.test_keeping import capture

MIB = 1 << 20
CHAIN = {
    "base": "source: {debian: {suite: bookworm}}",
    "shop": "source: {master: base@golden}",
    "till": "source: {master: shop@golden}",
    "other": "source: {debian: {suite: trixie}}",
}


class Builder:
    """Plays builds: an image in `changed` gets a new version, one in `bad` raises."""

    def __init__(self, gallery: Gallery) -> None:
        self.gallery = gallery
        self.changed: set[str] = set()
        self.bad: dict[str, GoldsmithError] = {}
        self.built: list[str] = []

    def __call__(self, definition: Definition, _store: Store, **_more: object) -> Outcome:
        name = definition.name
        self.built.append(name)
        if name in self.bad:
            raise self.bad[name]
        if name not in self.changed:
            return Outcome("R1", None, True, 0.1)
        made = capture(self.gallery, name=name)
        self.gallery.promote(made)
        return Outcome("R2", made, False, 9.0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").ensure()


@pytest.fixture
def definitions(tmp_path: Path) -> list[Definition]:
    (tmp_path / "images").mkdir()
    for name, source in CHAIN.items():
        (tmp_path / "images" / f"{name}.yaml").write_text(f"goldsmith: 1\n{source}\nkeep: {{versions: 2}}\n")
    return list(build_order(load_all(tmp_path)))


@pytest.fixture
def builder(store: Store, monkeypatch: pytest.MonkeyPatch) -> Builder:
    builder = Builder(Gallery(store.gallery))
    monkeypatch.setattr(night.builder, "build", builder)
    monkeypatch.setattr(night, "explain", lambda _definition, _store: [])
    for name in CHAIN:
        builder.gallery.promote(capture(builder.gallery, name=name))
    return builder


def go(definitions: list[Definition], store: Store) -> dict[str, str]:
    return {one.name: one.outcome for one in night.refresh(definitions, store, command="test").images}


def test_an_unchanged_night(definitions: list[Definition], store: Store, builder: Builder) -> None:
    assert set(go(definitions, store).values()) == {night.UNCHANGED}
    told = json.loads((store.root / night.SUMMARY).read_text())
    assert told["ok"] and told["ended"]
    assert [one["name"] for one in told["images"]] == [one.name for one in definitions]


def test_a_new_master_is_promoted_and_the_oldest_goes(
    definitions: list[Definition], store: Store, builder: Builder
) -> None:
    builder.changed = {"shop"}
    for _ in range(3):
        told = go(definitions, store)
    assert told == {"base": "unchanged", "shop": "promoted", "till": "unchanged", "other": "unchanged"}
    versions = [version.version for version in builder.gallery.versions("shop")]
    assert len(versions) == 2
    assert builder.gallery.get("shop").version == versions[-1]
    last = json.loads((store.root / night.SUMMARY).read_text())["images"]
    (shop,) = [one for one in last if one["name"] == "shop"]
    assert shop["golden"] == versions[-1] and shop["before"] == versions[-2] and len(shop["pruned"]) == 1


def test_a_failure_leaves_golden_and_the_others_alone(
    definitions: list[Definition], store: Store, builder: Builder
) -> None:
    builder.changed = {"other"}
    builder.bad = {"shop": CheckFailed("the page is empty", name="prove-failed")}
    before = builder.gallery.get("shop").version
    told = go(definitions, store)
    assert told == {"base": "unchanged", "shop": "failed", "till": "skipped", "other": "promoted"}
    assert "till" not in builder.built
    assert builder.gallery.get("shop").version == before
    summary = json.loads((store.root / night.SUMMARY).read_text())
    assert not summary["ok"]
    why = {one["name"]: one["why"] for one in summary["images"]}
    assert why["shop"] == "prove-failed: the page is empty" and why["till"] == "shop was not refreshed"
    builder.bad = {}
    builder.changed = {"shop"}
    assert go(definitions, store)["shop"] == "promoted"


def test_two_nights_never_collide(definitions: list[Definition], store: Store, builder: Builder) -> None:
    with FileLock(store.tmp / night.LOCK), pytest.raises(CheckFailed, match="another refresh"):
        go(definitions, store)
    assert builder.built == []


def test_a_file_that_went_fails_one_image(
    definitions: list[Definition], store: Store, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(definition: Definition, _store: Store) -> list[dict[str, str]]:
        if definition.name == "shop":
            raise FileNotFoundError(2, "No such file", "playbooks/shop.yml")
        return []

    monkeypatch.setattr(night, "explain", gone)
    assert go(definitions, store) == {"base": "unchanged", "shop": "failed", "till": "skipped", "other": "unchanged"}


def test_an_interrupt_ends_the_night(definitions: list[Definition], store: Store, builder: Builder) -> None:
    builder.bad = {"base": Interrupted(15)}
    with pytest.raises(Interrupted):
        go(definitions, store)
    builder.bad = {"base": BuildError("no", name="no")}
    assert go(definitions, store)["base"] == "failed"


def layer(store: Store, key: str) -> Path:
    """A layer of a MiB that was last used long ago."""
    draft = Layers(store.layers).begin(key)
    assert isinstance(draft, Draft)
    (draft.path / "data").write_bytes(b"x" * MIB)
    made = draft.commit(stage="provision", inputs={}, source=None, image=None, title=key)
    os.utime(made.path / RECORD, (0, 0))
    return made.path


def test_a_night_leaves_no_more_layers_than_it_was_told(
    definitions: list[Definition], store: Store, builder: Builder
) -> None:
    old = [layer(store, "one"), layer(store, "two")]
    builder.bad["other"] = BuildError("no", name="step-failed")
    builder.changed.add("other")
    assert night.refresh(definitions, store, command="test").layers == []
    # as much as one takes, its record too
    keep = sum(path.stat().st_blocks * 512 for path in old[0].iterdir())
    told = night.refresh(definitions, store, command="test", keep=keep)
    assert sum(path.exists() for path in old) == 1
    (line,) = json.loads(told.path.read_text())["layers"]
    assert "MiB  provision" in line
