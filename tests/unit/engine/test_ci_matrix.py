"""A plan for programs: its schema, and pipelines that GitHub and GitLab accept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner as ClickRunner
from typer.testing import CliRunner

from pipeline.base.errors import UsageError
from pipeline.base.store import Store
from pipeline.cli.app import app
from pipeline.definition import build_order, load_all
from pipeline.engine.ci_matrix import MATRIX_LIMIT, github_outputs, github_workflow, gitlab_pipeline
from pipeline.engine.image_plan import ImagePlan, levels, plan_images, plan_schema

DISK = "goldsmith: 1\nsource: {disk: {path: base.raw}}\nsteps: [{script: step.sh}]\n"
CHILD = (
    "goldsmith: 1\nsource: {master: PARENT@golden}\nsteps: [{script: step.sh}]\nmachine: {cpus: 1, memory: 1 GiB}\n"
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """base, web on it, shop on web; and alone."""
    (tmp_path / "images").mkdir()
    (tmp_path / "step.sh").write_text("echo step\n")
    with (tmp_path / "base.raw").open("wb") as disk:
        disk.truncate(8 << 20)
    texts = {
        "base": DISK,
        "alone": DISK,
        "web": CHILD.replace("PARENT", "base"),
        "shop": CHILD.replace("PARENT", "web"),
    }
    for name, text in texts.items():
        (tmp_path / f"images/{name}.yaml").write_text(text)
    monkeypatch.setenv("GOLDSMITH_HOME", str(tmp_path / "store"))
    return tmp_path


def plans_of(project: Path) -> list[ImagePlan]:
    store = Store(project / "store").ensure()
    return plan_images(list(build_order(load_all(project))), store)


def kept(plan: ImagePlan) -> ImagePlan:
    """The plan where nothing would run."""
    return replace(plan, rows=[{**row, "action": "keep", "why": ""} for row in plan.rows])


def accepts(schema: str, text: str, folder: Path) -> bool:
    """Whether check-jsonschema's own copy of a vendor's schema takes a file."""
    program = pytest.importorskip(
        "check_jsonschema.cli", reason="check-jsonschema is not installed: make test installs it"
    )
    file = folder / "pipeline.yml"
    file.write_text(text)
    done = ClickRunner().invoke(program.main, ["--builtin-schema", f"vendor.{schema}", str(file)])
    print(done.output)
    return done.exit_code == 0


def test_parents_are_levels(project: Path) -> None:
    names = [[plan.definition.name for plan in level] for level in levels(plans_of(project))]
    assert names == [["alone", "base"], ["web"], ["shop"]]


def test_a_program_gets_what_it_needs(project: Path) -> None:
    done = CliRunner().invoke(app, ["--project", str(project), "plan", "--all", "--json"])
    assert done.exit_code == 0, done.output
    listed = json.loads(done.stdout)
    jsonschema.validate(listed, plan_schema())
    shop = next(each for each in listed if each["image"] == "shop")
    assert shop["parents"] == ["web"] and shop["definition"] == "images/shop.yaml" and shop["action"] == "run"
    assert shop["needs"]["cpus"] == 1 and shop["needs"]["memory"] > 1 << 30 and shop["needs"]["root"]
    assert {unit["why"] for unit in shop["units"]} == {"web is built first"}
    base = next(each for each in listed if each["image"] == "base")
    assert base["units"][0]["key"] and base["parents"] == [] and base["host"] == shop["host"]
    printed = json.loads(CliRunner().invoke(app, ["schema", "plan"]).stdout)
    assert printed == plan_schema()


def test_github_takes_the_workflow(project: Path, tmp_path: Path) -> None:
    text = github_workflow(plans_of(project))
    assert accepts("github-workflows", text, tmp_path)
    assert not accepts("github-workflows", text.replace("runs-on:", "run-on:"), tmp_path), "the check can fail"
    workflow = yaml.load(text, Loader=yaml.BaseLoader)
    assert set(workflow["on"]) == {"schedule", "push", "workflow_dispatch"}, "no request of a fork reaches a runner"
    assert list(workflow["jobs"]) == ["plan", "level1", "level2", "level3"]
    assert workflow["jobs"]["level3"]["needs"] == ["plan", "level1", "level2"]


def test_github_builds_what_has_changed(project: Path) -> None:
    plans = plans_of(project)
    outputs = dict(line.split("=", 1) for line in github_outputs(plans).splitlines())
    assert [each["image"] for each in json.loads(outputs["level1"])["include"]] == ["alone", "base"]
    changed = [plan if plan.definition.name == "shop" else kept(plan) for plan in plans]
    outputs = dict(line.split("=", 1) for line in github_outputs(changed).splitlines())
    assert outputs["level1"] == outputs["level2"] == ""
    assert json.loads(outputs["level3"])["include"][0]["image"] == "shop"


def test_a_matrix_that_github_would_cut_is_refused(project: Path) -> None:
    base = next(plan for plan in plans_of(project) if plan.definition.name == "base")
    many = [
        replace(base, definition=replace(base.definition, name=f"image-{number}"))
        for number in range(MATRIX_LIMIT + 1)
    ]
    with pytest.raises(UsageError) as caught:
        github_outputs(many)
    assert caught.value.name == "matrix-too-large"


def test_gitlab_takes_the_pipeline(project: Path, tmp_path: Path) -> None:
    plans = plans_of(project)
    text = gitlab_pipeline(plans)
    assert accepts("gitlab-ci", text, tmp_path)
    assert not accepts("gitlab-ci", text.replace("script:", "script: {}\n  x:"), tmp_path), "the check can fail"
    pipeline: dict[str, Any] = yaml.safe_load(text)
    assert pipeline["image shop"]["needs"] == ["image web"] and pipeline["image base"]["needs"] == []
    assert pipeline["workflow"]["rules"][0]["when"] == "never"
    changed = [plan if plan.definition.name == "shop" else kept(plan) for plan in plans]
    pipeline = yaml.safe_load(gitlab_pipeline(changed))
    assert pipeline["image shop"]["needs"] == [], "a parent that is not built again is no job"
    nothing = gitlab_pipeline([kept(plan) for plan in plans])
    assert accepts("gitlab-ci", nothing, tmp_path) and "unchanged" in yaml.safe_load(nothing)


@pytest.mark.parametrize("words", [["--all", "--format", "jenkins"], ["base", "--format", "gitlab"]])
def test_a_wrong_word_is_named(project: Path, words: list[str]) -> None:
    done = CliRunner().invoke(app, ["--project", str(project), "plan", *words])
    assert isinstance(done.exception, UsageError) and done.exception.name == "usage"
