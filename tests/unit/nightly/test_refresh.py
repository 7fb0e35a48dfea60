"""The night: its order, its summary, what a failure leaves alone. The builds themselves are played."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from pipeline.base.errors import BuildError, CheckFailed, GoldsmithError, Interrupted
from pipeline.base.store import Store
from pipeline.cache.layers import RECORD, Layers, PendingLayer
from pipeline.definition import Definition, build_order, load_all
from pipeline.engine.executors import ImageJob, Result
from pipeline.engine.runner import Outcome
from pipeline.engine.scheduler import Budget
from pipeline.gallery import Gallery
from pipeline.nightly import refresh as night
from tests.unit.gallery.test_retention import capture

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
        self._capturing = threading.Lock()

    def __call__(self, definition: Definition, _store: Store, **_more: object) -> Outcome:
        name = definition.name
        self.built.append(name)
        if name in self.bad:
            raise self.bad[name]
        if name not in self.changed:
            return Outcome("R1", None, True, 0.1)
        with self._capturing:  # they share a file
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
    monkeypatch.setattr(night.runner, "build", builder)
    monkeypatch.setattr(night, "explain", lambda _definition, _store: [])
    for name in CHAIN:
        builder.gallery.promote(capture(builder.gallery, name=name))
    return builder


def go(definitions: list[Definition], store: Store) -> dict[str, str]:
    return {image.name: image.outcome for image in night.refresh(definitions, store, command="test").images}


def test_an_unchanged_night(definitions: list[Definition], store: Store, builder: Builder) -> None:
    assert set(go(definitions, store).values()) == {night.UNCHANGED}
    seen = json.loads((store.root / night.SUMMARY).read_text())
    assert seen["ok"] and seen["ended"]
    assert [image["name"] for image in seen["images"]] == [image.name for image in definitions]


def test_a_new_master_is_promoted_and_the_oldest_goes(
    definitions: list[Definition], store: Store, builder: Builder
) -> None:
    builder.changed = {"shop"}
    for _ in range(3):
        seen = go(definitions, store)
    assert seen == {"base": "unchanged", "shop": "promoted", "till": "unchanged", "other": "unchanged"}
    versions = [version.version for version in builder.gallery.versions("shop")]
    assert len(versions) == 2
    assert builder.gallery.get("shop").version == versions[-1]
    last = json.loads((store.root / night.SUMMARY).read_text())["images"]
    (shop,) = [image for image in last if image["name"] == "shop"]
    assert shop["golden"] == versions[-1] and shop["before"] == versions[-2] and len(shop["pruned"]) == 1


def test_a_failure_leaves_golden_and_the_others_alone(
    definitions: list[Definition], store: Store, builder: Builder
) -> None:
    builder.changed = {"other"}
    builder.bad = {"shop": CheckFailed("the page is empty", name="prove-failed")}
    before = builder.gallery.get("shop").version
    seen = go(definitions, store)
    assert seen == {"base": "unchanged", "shop": "failed", "till": "skipped", "other": "promoted"}
    assert "till" not in builder.built
    assert builder.gallery.get("shop").version == before
    summary = json.loads((store.root / night.SUMMARY).read_text())
    assert not summary["ok"]
    why = {image["name"]: image["why"] for image in summary["images"]}
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
    assert isinstance(draft, PendingLayer)
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
    seen = night.refresh(definitions, store, command="test", keep=keep)
    assert sum(path.exists() for path in old) == 1
    (line,) = json.loads(seen.path.read_text())["layers"]
    assert "MiB  provision" in line


class Threads:
    """Runs several images at once in threads, within a budget, and notes which ran together."""

    def __init__(self, budget: Budget, together: frozenset[str] = frozenset()) -> None:
        self._budget = budget
        self._meet = threading.Barrier(len(together)) if together else None
        self._meeting = together
        self._lock = threading.Lock()
        self._now: set[str] = set()
        self.together: set[frozenset[str]] = set()

    def budget(self, jobs: int, /) -> Budget:
        return replace(self._budget, jobs=jobs)

    def session(self, _jobs: Sequence[ImageJob[Any]], /) -> AbstractContextManager[object]:
        return nullcontext()

    def execute(self, job: ImageJob[Result], _stop: threading.Event, /) -> Result:
        name = job.definition.name
        with self._lock:
            self._now.add(name)
            self.together.add(frozenset(self._now))
        try:
            if self._meet is not None and name in self._meeting:
                self._meet.wait(60)  # all of them run at once, on a host of any load
            time.sleep(0.05)  # what a build takes
            return job.run()
        finally:
            with self._lock:
                self._now.discard(name)


GIB = 1 << 30


@pytest.mark.parametrize("budget", [Budget(9, 9, 90 * GIB), Budget(9, 1, 90 * GIB), Budget(9, 9, GIB)])
def test_several_images_are_refreshed_at_once(
    budget: Budget, definitions: list[Definition], store: Store, builder: Builder
) -> None:
    """As processors and memory allow; a child waits for its parent, and the report keeps the order."""
    small = budget.cpus == 1 or budget.memory == GIB
    first = frozenset({"base", "other"})
    executor = Threads(budget, frozenset() if small else first)
    builder.changed = set(CHAIN)
    report = night.refresh(definitions, store, command="test", executor=executor, at_once=4)
    assert [image.name for image in report.images] == [each.name for each in definitions]
    assert {image.outcome: image.why for image in report.images} == {night.PROMOTED: "golden is a different version"}
    assert builder.built.index("base") < builder.built.index("shop") < builder.built.index("till")
    assert (first in executor.together) is not small
    assert not any({"base", "shop"} <= group for group in executor.together)


def test_a_failure_leaves_what_runs_beside_it_alone(
    definitions: list[Definition], store: Store, builder: Builder
) -> None:
    executor = Threads(Budget(9, 9, 90 * GIB))
    builder.changed = {"other"}
    builder.bad = {"base": CheckFailed("the page is empty", name="prove-failed")}
    report = night.refresh(definitions, store, command="test", executor=executor, at_once=4)
    outcomes = {image.name: image.outcome for image in report.images}
    assert outcomes == {"base": "failed", "shop": "skipped", "till": "skipped", "other": "promoted"}
    assert json.loads(report.path.read_text())["ok"] is False


def test_a_process_that_ends_without_a_result_fails_its_image(
    definitions: list[Definition], store: Store, builder: Builder
) -> None:
    class Dies(Threads):
        def execute(self, job: ImageJob[Result], stop: threading.Event, /) -> Result:
            if job.definition.name == "shop":
                raise BuildError("shop failed", name="image-failed", hint="its own error stands above")
            return super().execute(job, stop)

    report = night.refresh(definitions, store, command="test", executor=Dies(Budget(9, 9, 90 * GIB)), at_once=2)
    outcomes = {image.name: (image.outcome, image.why) for image in report.images}
    assert outcomes["shop"] == ("failed", "image-failed: shop failed")
    assert outcomes["till"] == ("skipped", "shop was not refreshed")
    assert outcomes["other"][0] == "unchanged"


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    result = night.ImageResult("web", "promoted", "2026.1.2", "2026.1.1", 3.5, "new", "R7", None, 0, ("2026.1.0",))
    night.write_result(tmp_path / "result.json", result)
    assert night.read_result(tmp_path / "result.json") == result
    with pytest.raises(BuildError, match="left no result"):
        night.read_result(tmp_path / "none.json")
