"""A system from a folder of its own builds masters by the engine of all others; pipeline/ knows nothing of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pipeline
from pipeline.base.errors import UsageError
from pipeline.base.runs import list_runs
from pipeline.base.store import Store
from pipeline.cache.layers import Layer, PendingLayer
from pipeline.context import BuildContext
from pipeline.definition import Definition, DefinitionError, json_schema, load
from pipeline.engine import runner
from pipeline.engine.plan import Unit, explain
from pipeline.engine.preconditions import require_buildable
from pipeline.gallery import Gallery
from pipeline.nightly.patch import patched
from pipeline.systems import registry
from pipeline.systems.questions import list_disk
from tests.fakes.toy_system.system import SYSTEM
from tests.harness import wait_for
from tests.unit.systems.test_toy_inspection import FILES, disk_of

DEFINITION = """\
goldsmith: 1
os: toy
source: {disk: {path: toy.raw, format: raw}}
steps:
  - copy: {from: page.txt, to: /TOY/PAGE.TXT}
prove: [gen1]
"""


@pytest.fixture(autouse=True)
def toy() -> Iterator[None]:
    registry.register(SYSTEM)
    yield
    registry.unregister(SYSTEM.name)


@pytest.fixture
def definition(tmp_path: Path) -> Definition:
    project = tmp_path / "project"
    (project / "images").mkdir(parents=True)
    (project / "images/drum.yaml").write_text(DEFINITION)
    (project / "page.txt").write_text("bang\n")
    disk_of(project, {**FILES, "TOY/WOUND": "up"})
    return load(project / "images/drum.yaml", project)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store on a host whose libvirt has no guest of ours."""
    monkeypatch.setattr(runner, "collect_orphans", lambda *_: None)
    monkeypatch.setattr(BuildContext, "accelerator", SimpleNamespace(kind="tcg"))
    monkeypatch.setattr(BuildContext, "connection", SimpleNamespace(version="9.0.0", qemu_version="7.2.0"))
    return Store(tmp_path / "store").ensure()


def build(definition: Definition, store: Store) -> runner.Outcome:
    return runner.build(definition, store, command="goldsmith build drum")


def test_a_master_is_built_inspected_proven_and_listed(definition: Definition, store: Store) -> None:
    require_buildable([definition], store)
    outcome = build(definition, store)
    version = outcome.version
    assert version is not None and version.channels == ("golden",)
    assert version.manifest["os"] == "toy" and version.manifest["verdict"]["failed"] == 0
    assert version.manifest["prove"]["gen1"]["checks"] == {"release": "Tin Drum 3"}
    assert "toy-wound-down" in {check["id"] for check in version.manifest["checks"]}
    page = (store.runs / outcome.run / "report.html").read_text()
    assert f"{version.version} was made" in page and "ran because: " in page and "gen1: " in page
    paths = [row[0] for row in list_disk(version.disk, version.format.key, what="files")]
    assert "/TOY/PAGE.TXT" in paths and "/TOY/WOUND" not in paths
    assert [each.version for each in Gallery(store.gallery).versions("drum")] == [version.version]
    # nothing has changed: nothing is made again
    assert build(definition, store).unchanged
    assert {row["action"] for row in explain(definition, store)} == {"keep"}
    # what was built says how it is updated
    assert patched(definition, version).steps == definition.steps


def test_an_input_changed_alone_runs_what_stands_on_it(definition: Definition, store: Store) -> None:
    build(definition, store)
    (definition.project / "page.txt").write_text("boom\n")
    rows = [(row["stage"], row["action"]) for row in explain(definition, store)]
    assert [stage for stage, action in rows if action == "keep"] == ["acquire"]


def test_a_layer_that_goes_as_the_build_begins_is_made_again(
    definition: Definition, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next step does not run on the layer below it: the master would lack what the deleted layer's step did."""
    (definition.project / "song.txt").write_text("one\n")
    definition.path.write_text(DEFINITION.replace("prove:", "  - copy: {from: song.txt, to: /TOY/SONG.TXT}\nprove:"))
    definition = load(definition.path, definition.project)
    build(definition, store)
    (definition.project / "song.txt").write_text("two\n")
    sound = runner._sound

    def delete_then(context: BuildContext, units: Sequence[Unit], begin: int) -> int:
        found = sound(context, units, begin)
        assert [unit.stage.name for unit in units[:found]] == ["acquire", "provision"]
        context.layers.drop(units[found - 1].key)
        return found

    monkeypatch.setattr(runner, "_sound", delete_then)
    version = build(definition, store).version
    assert version is not None
    paths = [row[0] for row in list_disk(version.disk, version.format.key, what="files")]
    assert {"/TOY/PAGE.TXT", "/TOY/SONG.TXT"} <= set(paths)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("first_boot: {apply: page.txt}", "a toy is wound up by hand (remove first_boot)"),
        ("generations: [2]\nprove: [gen1]", "gen1 is not in the image's generations"),
        ("source: {debian: {suite: bookworm}}", "toy cannot be built from a source of the type DebianSource"),
    ],
)
def test_its_rules_are_the_definitions(line: str, message: str, definition: Definition, store: Store) -> None:
    text = DEFINITION
    for key in (part.split(":")[0] for part in line.splitlines()):
        text = "".join(each for each in text.splitlines(keepends=True) if not each.startswith(f"{key}:"))
    definition.path.write_text(f"{text}{line}\n")
    with pytest.raises((DefinitionError, pipeline.base.errors.UsageError)) as caught:
        explain(load(definition.path, definition.project), store)
    assert message in str(caught.value)


def known_systems() -> list[str]:
    """What the schema lets `os:` be, beside a parameter."""
    names, _parameter = json_schema()["properties"]["os"]["anyOf"]
    return list(names["enum"])


def test_editors_know_it(definition: Definition) -> None:
    known = known_systems()
    assert set(known) >= {"linux", "windows", "toy"}
    registry.unregister(SYSTEM.name)
    assert known_systems() == [name for name in known if name != "toy"]
    with pytest.raises(DefinitionError, match=r"must be .*linux.*windows, not toy"):
        load(definition.path, definition.project)
    registry.register(SYSTEM)


# ---- two images that share layers ---------------------------------------------------------------------------------


@pytest.fixture
def horn(definition: Definition) -> Definition:
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


def begun(store: Store, image: str) -> bool:
    """Whether a build of an image has decided which layers it uses."""
    return any(run["image"] == image and "layers" in run for run in list_runs(store.runs))


def test_a_build_waits_for_the_layer_that_another_one_makes(
    definition: Definition,
    horn: Definition,
    store: Store,
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
    definition: Definition,
    horn: Definition,
    store: Store,
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


def test_a_build_of_a_part_keeps_the_layers_behind_it(definition: Definition, store: Store) -> None:
    build(definition, store)
    kept = sorted(path.name for path in store.layers.iterdir())
    runner.build(definition, store, command="goldsmith build drum --until acquire", until="acquire")
    assert sorted(path.name for path in store.layers.iterdir()) == kept
