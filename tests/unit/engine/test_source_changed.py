"""A file that is edited while a build runs: no layer is made whose content is not what its key says."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pipeline.base.errors import UsageError
from pipeline.base.store import Store
from pipeline.cache.layers import Layer, Layers, PendingLayer
from pipeline.cache.units import StageResult, UnitSpec
from pipeline.context import BuildContext
from pipeline.engine.plan import plan
from tests.unit.engine import test_stage_protocol
from tests.unit.engine.test_plan import CHANGES, job_of
from tests.unit.engine.test_plan import project as project
from tests.unit.engine.test_stage_protocol import Toy, Toys, build

toys = test_stage_protocol.toys
soup = test_stage_protocol.project

#: A file of each kind, and the unit that it belongs to.
FILES = {
    "the playbook": "site.yml",
    "a role's tasks": "site.yml",
    "a template": "site.yml",
    "a variables file": "site.yml",
    "a template's mode": "site.yml",
    "a script": "tune.sh",
    "a copied file": "/etc/motd",
    "a copied file's mode": "/etc/motd",
    "a first-boot program": "generalize",
}


@pytest.mark.parametrize("what", FILES)
def test_a_changed_file_is_named_by_its_unit_and_no_other(
    what: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = {unit.spec.title: unit.spec for unit in plan(job_of(project))}
    for spec in units.values():
        spec.require_unchanged(new_files=True)
    CHANGES[what][0](project, monkeypatch)
    for title, spec in units.items():
        if title != FILES[what]:
            spec.require_unchanged(new_files=True)
            continue
        with pytest.raises(UsageError, match="has changed since") as caught:
            spec.require_unchanged(new_files=False)
        assert caught.value.name == "source-changed" and title in caught.value.message and caught.value.hint


def test_a_file_that_has_gone_or_come(project: Path) -> None:
    units = {unit.spec.title: unit.spec for unit in plan(job_of(project))}
    (project / "playbooks/group_vars").mkdir()
    (project / "playbooks/group_vars/all.yml").write_text("port: 81\n")
    units["site.yml"].require_unchanged(new_files=False)
    with pytest.raises(UsageError, match=r"file group_vars/all\.yml"):
        units["site.yml"].require_unchanged(new_files=True)
    (project / "scripts/tune.sh").unlink()
    with pytest.raises(UsageError, match=r"tune\.sh has changed"):
        units["tune.sh"].require_unchanged(new_files=False)


def test_a_disk_given_by_its_path(project: Path) -> None:
    disk = project / "base.raw"
    disk.write_bytes(bytes(1 << 20))
    (project / "images/brought.yaml").write_text(
        f"goldsmith: 1\nsummary: brought\nsource: {{disk: {{path: {disk}, format: raw}}}}\n"
    )
    spec = plan(job_of(project, "brought"))[0].spec
    spec.require_unchanged(new_files=True)
    disk.write_bytes(bytes((1 << 20) - 1) + b"x")
    with pytest.raises(UsageError, match="sha256 has changed"):
        spec.require_unchanged(new_files=True)


class Seasoning(Toy):
    """A stage whose unit reads a file of the project."""

    def units(self, context: BuildContext) -> tuple[UnitSpec, ...]:
        def run(
            work: Callable[[BuildContext, Layer | None, PendingLayer], StageResult],
            building: BuildContext,
            source: Layer | None,
            draft: PendingLayer,
        ) -> StageResult:
            made = work(building, source, draft)
            if self.edit == "while it runs":
                recipe.write_text("two\n")
            return made

        recipe = context.definition.project / "recipe"
        if self.edit == "after the plan":
            recipe.write_text("one\n")
        read = partial(lambda: {"recipe": recipe.read_text()})
        spec = UnitSpec("salt", read(), partial(run, self._work("salt")), reread=read)
        if self.edit == "after the plan":
            recipe.write_text("two\n")
        return (spec,)

    edit = ""


@pytest.mark.parametrize("when", ["after the plan", "while it runs"])
def test_a_build_makes_no_layer_of_a_file_that_was_edited(
    when: str, toys: Toys, soup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    season = Seasoning("season", makes_content=True)
    monkeypatch.setattr("pipeline.engine.stage.STAGES", (toys.brew, season, toys.bottle))
    (soup / "recipe").write_text("one\n")
    season.edit = when
    with pytest.raises(UsageError, match="salt: recipe has changed"):
        build(soup)
    season.edit = ""
    assert season.made == (["salt"] if when == "while it runs" else [])
    layers = Layers(Store(soup / "store").layers)
    assert [layer.record["title"] for layer in layers.of_image("soup")] == ["all"]
    # the next build takes the file as it is now
    (soup / "recipe").write_text("one\n")
    season.made.clear()
    build(soup)
    assert season.made == ["salt"]
