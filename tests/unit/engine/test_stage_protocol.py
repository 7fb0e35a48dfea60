"""The engine drives any stages: none is known by its name, and a failed build resumes behind the last good layer."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import pipeline
from pipeline.base.disk_format import RAW
from pipeline.base.errors import BuildError, CheckFailed
from pipeline.base.runs import load_run
from pipeline.base.store import Store
from pipeline.cache.layers import Image, Layer, Layers, PendingLayer
from pipeline.cache.units import StageResult, UnitSpec
from pipeline.context import BaseStage, BuildContext
from pipeline.definition import Definition, load_named
from pipeline.engine import runner, stage
from pipeline.engine.executors import ThisProcess
from pipeline.engine.plan import explain, root_needed_for
from pipeline.gallery import Gallery
from pipeline.stages import STAGE_NAMES

ENGINE = Path(pipeline.__file__).parent / "engine"
NAMES = stage.stage_names()


def test_a_shell_completes_the_stages_that_there_are() -> None:
    assert stage.stage_names() == STAGE_NAMES


@dataclass
class Toy(BaseStage):
    """A stage of one unit or several that writes a file; it fails while its title is in `bad`."""

    name: str
    bad: dict[str, Exception] = field(default_factory=dict)
    titles: tuple[str, ...] = ("all",)
    steps: bool = False
    version: int = 1
    is_gate: bool = False
    makes_content: bool = False
    makes_master: bool = False
    root: str = ""
    made: list[str] = field(default_factory=list)

    def units(self, context: BuildContext) -> tuple[UnitSpec, ...]:
        inputs = {"summary": context.definition.summary}
        return tuple(
            UnitSpec(title, inputs, self._work(title), steps=(title,) if self.steps else ()) for title in self.titles
        )

    def why_root(self, _definition: Definition) -> str:
        return self.root

    def _work(self, title: str) -> Callable[[BuildContext, Layer | None, PendingLayer], StageResult]:
        def run(_context: BuildContext, source: Layer | None, draft: PendingLayer) -> StageResult:
            if title in self.bad:
                raise self.bad[title]
            disk = draft.path / "disk.raw"
            disk.write_bytes((source.image.path.read_bytes() if source else b"") + title.encode() + b"\n")
            self.made.append(title)
            below = None if self.makes_master or source is None else source.image
            return StageResult(Image(disk, RAW, below), {}, f"{title} made")

        return run


class Toys:
    """Stages that no other test has, in place of those of a build."""

    def __init__(self) -> None:
        self.brew = Toy("brew", makes_content=True)
        self.season = Toy(
            "season", titles=("salt", "pepper", "thyme"), steps=True, makes_content=True, root="it burns"
        )
        self.bottle = Toy("bottle", makes_master=True)
        self.taste = Toy("taste", is_gate=True)
        self.all = (self.brew, self.season, self.bottle, self.taste)

    def take_made(self) -> list[str]:
        """What was made since it was last asked, in the order of the stages."""
        found = [title for each in self.all for title in each.made]
        for each in self.all:
            each.made.clear()
        return found


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> Toys:
    toys = Toys()
    monkeypatch.setattr(stage, "STAGES", toys.all)
    # what asks libvirt and the processor
    monkeypatch.setattr(runner, "collect_orphans", lambda *_: [])
    monkeypatch.setattr(BuildContext, "accelerator", None)
    monkeypatch.setattr(runner, "require_good_playbooks", lambda *_: None)
    return toys


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/soup.yaml").write_text("goldsmith: 1\nsummary: hot\nsource: {debian: {suite: bookworm}}\n")
    return tmp_path


def store_of(project: Path) -> Store:
    return Store(project / "store")


def build(project: Path, **more: Any) -> runner.Outcome:
    return runner.build(load_named(project, "soup"), store_of(project), command="test", **more)


def actions(project: Path) -> list[str]:
    return [row["action"] for row in explain(load_named(project, "soup"), store_of(project))]


def last_run(project: Path) -> dict[str, Any]:
    return load_run(max(store_of(project).runs.glob("R*"), key=lambda folder: int(folder.name[1:])))


def test_a_build_of_stages_that_nobody_knows(toys: Toys, project: Path) -> None:
    outcome = build(project)
    assert toys.take_made() == ["all", "salt", "pepper", "thyme", "all", "all"]
    assert outcome.shipped is not None and outcome.shipped.read_text() == "all\nsalt\npepper\nthyme\nall\n"
    assert len(outcome.layers) == 6 and not outcome.unchanged
    assert build(project).unchanged and toys.take_made() == []
    assert [row["stage"] for row in last_run(project)["stages"]] == ["brew", "season", "bottle", "taste"]


def test_a_failure_resumes_behind_the_last_good_layer(toys: Toys, project: Path) -> None:
    toys.season.bad["thyme"] = BuildError("no thyme", name="step-failed", hint="buy some")
    with pytest.raises(BuildError, match="no thyme"):
        build(project)
    assert toys.take_made() == ["all", "salt", "pepper"]
    failed = last_run(project)
    assert failed["outcome"] == "failed" and failed["error"]["name"] == "step-failed"
    assert (failed["stages"][-1]["stage"], failed["stages"][-1]["state"]) == ("season", "failed")
    assert actions(project) == ["keep", "keep", "keep", "run", "run", "run"]
    toys.season.bad.clear()
    build(project)
    assert toys.take_made() == ["thyme", "all", "all"]


def test_words_of_the_command_line_name_stages_and_steps(toys: Toys, project: Path) -> None:
    build(project, until="season")
    assert toys.take_made() == ["all", "salt", "pepper", "thyme"]
    build(project, from_stage="brew", until="brew")
    assert toys.take_made() == ["all"]
    build(project)
    toys.take_made()
    build(project, from_stage="season")
    assert toys.take_made() == ["salt", "pepper", "thyme", "all", "all"]


def test_the_shipped_disk_stands_alone(toys: Toys, project: Path) -> None:
    """Layers below it may go: a build goes on from it."""
    outcome = build(project)
    assert toys.take_made()
    for key in outcome.layers[:-2]:
        Layers(store_of(project).layers).drop(key)
    assert actions(project) == ["keep"] * 6
    assert build(project).unchanged and toys.take_made() == []


def test_a_gate_that_fails_refuses_the_disk_and_another_stage_does_not(toys: Toys, project: Path) -> None:
    gallery = Gallery(store_of(project).gallery)
    toys.bottle.bad["all"] = BuildError("no cork", name="no-cork", hint="buy one")
    with pytest.raises(BuildError):
        build(project)
    assert gallery.refused("soup") is None
    toys.bottle.bad.clear()
    toys.taste.bad["all"] = CheckFailed("too salty", name="check-salt", hint="add water")
    with pytest.raises(CheckFailed):
        build(project)
    refused = gallery.refused("soup")
    assert refused is not None and (refused["gate"], refused["name"]) == ("taste", "check-salt")


def test_a_stage_says_why_it_needs_root(toys: Toys, project: Path) -> None:
    definition = load_named(project, "soup")
    assert root_needed_for(definition, store_of(project)) == "season: it burns"
    assert root_needed_for(definition, store_of(project), until="brew") == ""


def test_a_version_of_a_stage_is_part_of_its_key(toys: Toys, project: Path) -> None:
    build(project)
    toys.season.version = 2
    assert actions(project) == ["keep", "run", "run", "run", "run", "run"]


def named_stages(text: str) -> list[str]:
    """Stages that a module's code names: as a string, or by importing one of them."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and node.value in NAMES:
            found.append(str(node.value))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline.stages"):
            found.append(str(node.module))
    return found


def test_the_engine_names_no_stage() -> None:
    """The list of stages in stage.py is the only place of the engine that knows them."""
    assert {path.name: named_stages(path.read_text()) for path in ENGINE.glob("*.py") if path.name != "stage.py"} == {
        path.name: [] for path in ENGINE.glob("*.py") if path.name != "stage.py"
    }
    listed = named_stages((ENGINE / "stage.py").read_text())
    assert listed == [f"pipeline.stages.{name}" for name in sorted(NAMES)]


@pytest.mark.parametrize(
    "seeded", ['done = unit.stage.name == "convert"', "from pipeline.stages import prove", "names = ('capture',)"]
)
def test_the_census_sees_a_seeded_name(seeded: str) -> None:
    assert named_stages(seeded)


def test_an_executor_of_this_process_is_one_at_a_time() -> None:
    assert ThisProcess().budget(8).jobs == 1
