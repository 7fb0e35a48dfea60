"""Two images that share layers, built at the same time: each layer is made once, and nobody deletes another's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from pipeline.base.errors import UsageError
from pipeline.base.runs import list_runs
from pipeline.base.store import Store
from pipeline.cache.layers import Layer, PendingLayer
from pipeline.definition import Definition, load
from pipeline.engine import runner
from pipeline.systems.questions import list_disk
from tests.harness import wait_for
from tests.unit.systems.test_toy_build import DEFINITION, build, definition, store, toy  # noqa: F401  fixtures


@pytest.fixture
def horn(definition: Definition) -> Definition:  # noqa: F811  the fixture
    """Another image of the same steps."""
    (definition.project / "images/horn.yaml").write_text(DEFINITION)
    return load(definition.project / "images/horn.yaml", definition.project)


@contextmanager
def held_in(stage: str, image: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], PendingLayer]]:
    """A build of an image stops before its layer of a stage is committed, until this context ends.

    What is yielded waits for that moment, and returns the layer.
    """
    commit = PendingLayer.commit
    here, go, held = threading.Event(), threading.Event(), []

    def wait_first(self: PendingLayer, **facts: Any) -> Layer:
        if facts["stage"] == stage and facts["name"] == image:
            held.append(self)
            here.set()
            assert go.wait(60)
        return commit(self, **facts)

    def moment() -> PendingLayer:
        assert here.wait(60)
        return held[0]

    monkeypatch.setattr(PendingLayer, "commit", wait_first)
    try:
        yield moment
    finally:
        go.set()


def begun(store: Store, image: str) -> bool:  # noqa: F811  the fixture's value
    """Whether a build of an image has decided which layers it uses."""
    return any(run["image"] == image and "layers" in run for run in list_runs(store.runs))


def test_a_build_waits_for_the_layer_that_another_one_makes(
    definition: Definition,  # noqa: F811
    horn: Definition,
    store: Store,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before, the second build deleted the folder into which the first one wrote, and made the layer there itself."""
    with ThreadPoolExecutor(2) as pool:
        with held_in("provision", "drum", monkeypatch) as moment:
            first = pool.submit(build, definition, store)
            draft = moment()
            files = {path.name: path.stat().st_ino for path in draft.path.iterdir()}
            second: Future[runner.Outcome] = pool.submit(runner.build, horn, store, command="goldsmith build horn")
            wait_for("the second build", lambda: begun(store, "horn"), 60)
            assert not second.done()
            assert {path.name: path.stat().st_ino for path in draft.path.iterdir()} == files
        outcomes = first.result(60), second.result(60)
    assert draft.key in outcomes[0].layers and draft.key in outcomes[1].layers
    (run,) = (each for each in list_runs(store.runs) if each["id"] == outcomes[1].run)
    states = {each["stage"]: each["state"] for each in run["stages"]}
    assert states["acquire"] == states["provision"] == "kept" and states["capture"] == "new"
    for version in (outcome.version for outcome in outcomes):
        assert version is not None
        assert "/TOY/PAGE.TXT" in [row[0] for row in list_disk(version.disk, version.format.key, what="files")]


def test_what_another_build_uses_is_not_made_again(
    definition: Definition,  # noqa: F811
    horn: Definition,
    store: Store,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ThreadPoolExecutor(1) as pool:
        with held_in("provision", "drum", monkeypatch) as moment:
            first = pool.submit(build, definition, store)
            draft = moment()
            kept = sorted(path.name for path in store.layers.iterdir())
            with pytest.raises(UsageError, match="another build uses layers that --from acquire") as caught:
                runner.build(horn, store, command="goldsmith build horn --from acquire", from_stage="acquire")
            assert caught.value.name == "layers-in-use" and "goldsmith runs list" in str(caught.value.hint)
            assert sorted(path.name for path in store.layers.iterdir()) == kept and draft.path.exists()
        assert first.result(60).version is not None
    assert not runner.build(horn, store, command="goldsmith build horn", from_stage="acquire").unchanged


def test_a_build_of_a_part_keeps_the_layers_behind_it(definition: Definition, store: Store) -> None:  # noqa: F811
    build(definition, store)
    kept = sorted(path.name for path in store.layers.iterdir())
    runner.build(definition, store, command="goldsmith build drum --until acquire", until="acquire")
    assert sorted(path.name for path in store.layers.iterdir()) == kept
