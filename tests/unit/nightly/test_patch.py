"""Patch mode and cold truth: what a night decides to build, from what, and what it holds against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.errors import CheckFailed
from pipeline.definition import Definition, MasterSource, Refresh, ScriptStep, load_named
from pipeline.engine.plan import explain, plan
from pipeline.engine.runner import Outcome
from pipeline.gallery import Gallery, Version
from pipeline.nightly import patch, rebuild_check
from pipeline.nightly import refresh as night
from pipeline.stages import capture as stage
from pipeline.systems.debian.system import DebianSystem
from tests.unit.engine.test_plan import index, job_of, project, store_of
from tests.unit.gallery.test_retention import capture

__all__ = ["project"]  # the fixture

TREE = {"/etc": ["dir", "0", "0", "755", ""], "/etc/motd": ["file", "0", "0", "644", "aa"]}


def patching_definition(project: Path) -> Definition:
    return replace(load_named(project, "site"), refresh=Refresh(mode="patch"))


def golden_of(project: Path, **more: object) -> Version:
    """A golden master of `site` that says what went in."""
    units = plan(job_of(project))
    inputs = [{"stage": u.stage.name, "title": u.spec.title, "inputs": dict(u.inputs)} for u in units]
    gallery = Gallery(store_of(project).gallery)
    version = capture(gallery, name="site", **{"inputs": inputs, "suite": "bookworm", **more})
    gallery.promote(version)
    return gallery.get("site")


def newer(monkeypatch: pytest.MonkeyPatch, found: list[str] | None) -> None:
    monkeypatch.setattr(DebianSystem, "updates_for", lambda _self, _golden: found)


def test_nothing_new_is_no_patch(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = golden_of(project)
    for found in ([], None):
        newer(monkeypatch, found)
        assert patch.needs_patch(patching_definition(project), golden, store_of(project))[1] == ""


def test_newer_packages_are_patched_into_golden(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = golden_of(project)
    index(monkeypatch, "index two", ["bash"])
    newer(monkeypatch, ["bash 1 -> 2", "b", "c", "d"])
    wanted, why = patch.needs_patch(patching_definition(project), golden, store_of(project))
    assert wanted.source == MasterSource("site", golden.version)
    assert [step.title for step in wanted.steps] == ["updates"]
    assert why == "newer: bash 1 -> 2, b, c and 1 more"


def test_a_patch_runs_the_definitions_own_steps(project: Path) -> None:
    step = ScriptStep(file=project / "scripts/tune.sh", script="scripts/tune.sh")
    definition = replace(load_named(project, "site"), refresh=Refresh("patch", (step,)))
    assert patch.patched(definition, golden_of(project)).steps == (step,)


@pytest.mark.parametrize("patched", [False, True])
def test_what_is_no_package_asks_for_a_rebuild(project: Path, monkeypatch: pytest.MonkeyPatch, patched: bool) -> None:
    golden = golden_of(project)
    if patched:
        # of a line's later members, what counts is how its first was built
        root = {"version": golden.version, "inputs": golden.manifest["inputs"]}
        golden = golden_of(project, inputs=[], patched_from=golden.version, rebuilt=root)
    newer(monkeypatch, ["bash 1 -> 2"])
    unchanged, _ = patch.needs_patch(patching_definition(project), golden, store_of(project))
    assert unchanged.source == MasterSource("site", golden.version)
    (project / "scripts/tune.sh").write_text("#!/bin/sh\nfalse\n")
    wanted, why = patch.needs_patch(patching_definition(project), golden, store_of(project))
    assert wanted.source == load_named(project, "site").source
    assert why == "rebuilt: tune.sh: changed: script scripts/tune.sh"
    text = (project / "images/site.yaml").read_text()
    (project / "images/site.yaml").write_text(text.replace("  - copy: {from: files/motd, to: /etc/motd}\n", ""))
    assert "/etc/motd is gone" in patch.needs_patch(patching_definition(project), golden, store_of(project))[1]


def test_a_patched_master_knows_its_line(project: Path) -> None:
    first = golden_of(project)
    job = job_of(project)
    job.definition = patch.patched(job.definition, first)
    seen = stage._lineage(job)
    assert seen["patched_from"] == seen["rebuilt"]["version"] == first.version
    second = golden_of(project, **seen)
    job.definition = patch.patched(job.definition, second)
    assert stage._lineage(job)["patched_from"] == second.version
    assert stage._lineage(job)["rebuilt"]["version"] == first.version
    assert stage._lineage(job_of(project)) == {}


# ---- cold truth --------------------------------------------------------------------------------------------------


def test_a_cold_build_reuses_nothing_and_leaves_nothing_to_explain(project: Path) -> None:
    warm, cold = plan(job_of(project)), plan(job_of(project), cold="tonight")
    assert not {unit.key for unit in warm} & {unit.key for unit in cold}
    assert [unit.key for unit in cold] == [unit.key for unit in plan(job_of(project), cold="tonight")]
    rows = explain(load_named(project, "site"), store_of(project))
    assert {row["action"] for row in rows[:-1]} == {"keep"}


def test_cold_is_due_by_the_last_one_or_the_first_version(project: Path) -> None:
    gallery = Gallery(store_of(project).gallery)
    definition = load_named(project, "site")
    assert not rebuild_check.check_is_due(definition, gallery)  # nothing there yet
    golden_of(project, age=3)
    today = datetime.now(UTC)
    assert not rebuild_check.check_is_due(definition, gallery, today)
    assert rebuild_check.check_is_due(definition, gallery, today + timedelta(days=5))
    # what sysprep leaves no two times alike cannot be compared
    assert not rebuild_check.check_is_due(replace(definition, os="windows"), gallery, today + timedelta(days=5))
    rebuild_check.record_check(definition, gallery, "R1")
    assert not rebuild_check.check_is_due(definition, gallery, today + timedelta(days=5))
    assert rebuild_check.check_is_due(definition, gallery, today + timedelta(days=8))
    never = replace(definition, refresh=Refresh(cold_days=0))
    assert not rebuild_check.check_is_due(never, gallery, today + timedelta(days=99))


class Builds:
    """Plays the two builds of a cold truth: `trees` and `packages` are those of the layered and the cold disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.root = root
        self.packages: list[list[list[str]]] = [[["bash", "1", "amd64"]]] * 2
        self.trees: list[Mapping[str, Sequence[str]]] = [TREE, TREE]
        self.dropped: list[str] = []
        self.calls: list[dict[str, Any]] = []
        monkeypatch.setattr(rebuild_check.runner, "build", self)
        monkeypatch.setattr(rebuild_check, "list_disk", self.listed)
        monkeypatch.setattr(rebuild_check.Layers, "drop", lambda _self, key: self.dropped.append(key))

    def __call__(self, definition: Definition, _store: object, **more: Any) -> Outcome:
        number = len(self.calls)
        self.calls.append(more)
        (self.root / "runs" / f"R{number}").mkdir(parents=True, exist_ok=True)
        (self.root / "gallery" / definition.name).mkdir(parents=True, exist_ok=True)
        return Outcome(f"R{number}", None, False, 1.0, Path(str(number)), (f"k{number}",))

    def listed(self, path: Path, _fmt: str, *, what: str) -> list[list[str]]:
        number = int(path.name)
        if what == "packages":
            return self.packages[number]
        return [[name, *entry] for name, entry in self.trees[number].items()]


@pytest.fixture
def builds(project: Path, monkeypatch: pytest.MonkeyPatch) -> Builds:
    return Builds(monkeypatch, store_of(project).root)


def hold(project: Path) -> None:
    rebuild_check.verify_reproducible(load_named(project, "site"), store_of(project), command="test", listeners=[])


def test_the_same_is_the_truth(project: Path, builds: Builds) -> None:
    builds.trees = [TREE, {**TREE, "/etc/shadow": ["file", "0", "42", "640", "bb"]}]  # expected to differ
    hold(project)
    assert [bool(call.get("cold")) for call in builds.calls] == [False, True]
    assert {call["until"] for call in builds.calls} == {"convert"}
    assert builds.dropped == ["k1"]
    assert not rebuild_check.check_is_due(load_named(project, "site"), Gallery(store_of(project).gallery))


def test_another_tree_is_named_and_not_believed(project: Path, builds: Builds) -> None:
    builds.trees = [TREE, {**TREE, "/etc/motd": ["file", "0", "0", "644", "cc"]}]
    with pytest.raises(CheckFailed, match="the clean rebuild differs in 1 paths: /etc/motd") as caught:
        hold(project)
    assert caught.value.name == "cold-differs"
    assert caught.value.evidence is not None
    seen = (caught.value.evidence / "cold-differences.txt").read_text()
    assert seen == "/etc/motd: file 0 0 644 aa | file 0 0 644 cc\n"
    assert builds.dropped == ["k1"]
    assert not (store_of(project).gallery / "site" / rebuild_check.CHECK_RECORD).exists()


def test_an_archive_that_moved_cannot_tell(project: Path, builds: Builds) -> None:
    builds.packages = [[["bash", "1", "amd64"]], [["bash", "2", "amd64"]]]
    with pytest.raises(CheckFailed) as caught:
        hold(project)
    assert caught.value.name == "cold-overtaken"


# ---- the night ---------------------------------------------------------------------------------------------------


def test_a_night_patches_and_the_week_builds_anew(
    project: Path, builds: Builds, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = golden_of(project)
    newer(monkeypatch, ["bash 1 -> 2"])
    built: list[Definition] = []

    def build(definition: Definition, _store: object, **more: Any) -> Outcome:
        built.append(definition)
        return builds(definition, _store, **more)

    monkeypatch.setattr(night.runner, "build", build)
    definition = patching_definition(project)
    seen = night.refresh([definition], store_of(project), command="test").images[0]
    assert built[-1].source == MasterSource("site", golden.version)
    assert seen.why == "newer: bash 1 -> 2"
    monkeypatch.setattr(rebuild_check, "check_is_due", lambda *_: True)
    seen = night.refresh([definition], store_of(project), command="test").images[0]
    assert built[-1].source == definition.source
    assert builds.calls[-1]["cold"]
    assert seen.why == "rebuilt after 7 days"


def test_a_cold_build_that_differs_fails_the_night(
    project: Path, builds: Builds, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = golden_of(project)
    monkeypatch.setattr(rebuild_check, "check_is_due", lambda *_: True)
    builds.trees = [TREE, {}]
    seen = night.refresh([load_named(project, "site")], store_of(project), command="test").images[0]
    assert (seen.outcome, seen.golden) == (night.FAILED, golden.version)
    assert seen.why.startswith("cold-differs: ")
    assert [call.get("until") for call in builds.calls] == ["convert", "convert"]  # nothing was promoted
