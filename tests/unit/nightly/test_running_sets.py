"""After a refresh the sets that follow golden, or all of its images, are brought to golden; what is not is named.

libvirt is its own test driver. Builds are played, and a reimage writes what a guest's Ready would.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import pipeline.systems.registry  # noqa: F401  a VM's system is found by its name
from pipeline.base.errors import BuildError, CheckFailed, GoldsmithError
from pipeline.base.store import Store
from pipeline.cli.app import app
from pipeline.cli.refresh import _print, _sets_error, _why
from pipeline.definition import Definition, load_all
from pipeline.engine.runner import Outcome
from pipeline.gallery import Version
from pipeline.instances.fleet import Fleet
from pipeline.nightly import refresh as night
from pipeline.nightly.running_sets import SetResult, upgrade_running_sets
from pipeline.operations.create import Wishes, _reserve, plan
from pipeline.operations.sets import Domains, ensure_set, follow_golden, members
from tests.fakes.disks import add_master
from tests.fakes.libvirt_host import open_host

READY = "2026-11-26T08:05:00Z"


class Night:
    """A store with golden versions of two images, whose builds are played, and sets of VMs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fleet = Fleet(Store(root / "store").ensure(), open_host)
        self.fleet.keep_fabric = lambda: None  # type: ignore[method-assign]  the fabric needs root
        self.off: set[str] = set()
        self.fleet.is_on = lambda record: record.name not in self.off  # type: ignore[method-assign]
        (root / "images").mkdir()
        for name in ("small", "other"):
            (root / "images" / f"{name}.yaml").write_text("goldsmith: 1\nsource: {debian: {suite: trixie}}\n")
            self.add_master(name)
        self.bad: GoldsmithError | None = None
        self.sick: set[str] = set()
        self.reimaged: list[tuple[str, ...]] = []
        self.errors: list[GoldsmithError] = []

    def add_master(self, name: str) -> Version:
        raw = self.fleet.store.tmp / f"{name}.raw"
        with raw.open("wb") as file:
            file.truncate(1 << 20)
        return add_master(self.fleet.gallery, name, raw, machine={"cpus": 1, "memory": 1 << 20})

    def make_set(self, name: str, count: int, image: str = "small", *, auto: bool = False) -> None:
        wishes = Wishes(f"{name}-web", image, "azureuser", "ssh-ed25519 AAAA me", set=name)
        ensure_set(self.fleet, name, wishes, Domains(2, 3))
        follow_golden(self.fleet, name, auto)
        for number in range(count):
            each = replace(wishes, name=f"{name}-web-{number}")
            made, _ = plan(self.fleet, each)
            disk = {"path": "/x", "format": "qcow2"}
            _reserve(self.fleet, replace(made, operation=None, provisioned=READY, disk=disk), each)

    def build(self, definition: Definition, _store: Store, **_more: object) -> Outcome:
        if self.bad is not None and definition.name == "small":
            raise self.bad
        return Outcome("R2", self.add_master(definition.name), False, 9.0)

    def renew(self, _fleet: Fleet, wanted: Mapping[str, str]) -> None:
        self.reimaged.append(tuple(wanted))
        for name, to in wanted.items():
            record = self.fleet.instances.get(name)
            disk = {"path": f"/{to}", "format": "qcow2"}
            self.fleet.instances.save(replace(record, version=to.partition("@")[2], disk=disk))
        if found := self.sick & set(wanted):
            self.sick.clear()
            raise BuildError(f"{found.pop()}: no agent asked", name="agent-silent")

    def refresh(
        self, *, everything: bool = False, names: Collection[str] = ("small", "other")
    ) -> night.RefreshReport:
        upgrade = partial(
            upgrade_running_sets,
            self.fleet,
            everything=everything,
            renew=self.renew,
            on_failure=self.errors.append,
        )
        chosen = [each for each in load_all(self.root) if each.name in names]
        return night.refresh(chosen, self.fleet.store, command="test", upgrade_sets=upgrade)

    def versions(self, name: str) -> dict[str, str]:
        return {each.name: each.reference for each in members(self.fleet, name)}

    def golden(self, image: str = "small") -> str:
        return f"{image}@{self.fleet.gallery.get(image).version}"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Night:
    made = Night(tmp_path)
    monkeypatch.setattr(night.runner, "build", made.build)
    monkeypatch.setattr(night, "explain", lambda _definition, _store: [])
    monkeypatch.setattr("pipeline.instances.budget.free_disk", lambda _instances: 512 << 30)
    monkeypatch.setattr("pipeline.operations.upgrade.wait_serving", lambda *_arguments: None)
    return made


def by_name(report: night.RefreshReport) -> dict[str, SetResult]:
    return {each.name: each for each in report.sets}


def test_only_sets_that_follow_golden_of_a_refreshed_image_are_upgraded(site: Night) -> None:
    site.make_set("shop", 3, auto=True)
    site.make_set("still", 1)
    site.make_set("pinned", 1, image=site.golden(), auto=True)
    site.make_set("aside", 1, image="other", auto=True)
    old = site.golden()
    report = site.refresh(names=["small"])
    assert site.golden() != old and report.to_json()["ok"]
    assert {name: (each.outcome, each.golden) for name, each in by_name(report).items()} == {
        "pinned": ("upgraded", site.golden()),
        "shop": ("upgraded", site.golden()),
    }
    assert set(site.versions("shop").values()) == {site.golden()} and set(site.versions("still").values()) == {old}
    # the reference stays as its user wrote it where it means golden
    assert {each.name: each.image for each in site.fleet.sets.all()} == {
        "aside": "other", "pinned": "small@golden", "shop": "small", "still": old.partition("@")[0],
    }  # fmt: skip
    seen = json.loads((site.fleet.store.root / night.SUMMARY).read_text())
    assert [each["name"] for each in seen["sets"]] == ["pinned", "shop"]
    follow_golden(site.fleet, "shop", False)
    assert list(by_name(site.refresh(names=["small"]))) == ["pinned"]


def test_an_emergency_patch_makes_golden_and_a_set_of_six_current(site: Night) -> None:
    site.make_set("shop", 6)
    report = site.refresh(everything=True)
    assert [each.outcome for each in report.images] == ["promoted", "promoted"]
    (done,) = report.sets
    assert not done.failed and len(done.upgraded) == 6
    # one update domain after the other
    assert site.reimaged == [(f"shop-web-{n}", f"shop-web-{n + 3}") for n in range(3)]
    assert set(site.versions("shop").values()) == {site.golden()}


def test_what_could_not_be_upgraded_is_named_and_other_sets_go_on(
    site: Night, capsys: pytest.CaptureFixture[str]
) -> None:
    site.make_set("shop", 6)
    site.make_set("till", 2)
    old = site.golden()
    site.sick, site.off = {"shop-web-1"}, {"shop-web-5", "till-web-0"}
    report = site.refresh(everything=True)
    assert not report.to_json()["ok"]
    shop, till = report.sets
    assert (
        shop.outcome == "failed"
        and shop.golden == site.golden()
        and [e.name for e in site.errors] == ["set-upgrade-stopped"]
    )
    assert shop.left == {f"shop-web-{n}": f"the upgrade stopped: it has {old}" for n in (1, 2, 4, 5)}
    assert (till.outcome, till.upgraded, till.left) == (
        "upgraded",
        ("till-web-1",),
        {"till-web-0": "it does not run"},
    )
    error = _sets_error(report.sets, report)
    assert error.name == "sets-not-upgraded" and error.exit_code == BuildError.exit_code and error.hint
    assert all(f"shop-web-{n}" in error.message for n in (1, 2, 4, 5)) and "till-web-0" in error.message
    assert _sets_error([till], report).exit_code == CheckFailed.exit_code
    assert _why(till) == "sets-not-upgraded: till-web-0: it does not run"
    assert _why(shop).startswith("set-upgrade-stopped: ")
    _print(report)
    printed = capsys.readouterr().out
    assert f"set till: upgraded, till-web-1, golden is {site.golden()}\n" in printed
    assert "set till: till-web-0 was not upgraded: it does not run\n" in printed
    # the next command finishes what this one left
    site.off = set()
    again = by_name(site.refresh(everything=True))
    assert not any(each.failed for each in again.values())
    assert set(site.versions("shop").values()) == {site.golden()}


def test_the_sets_of_an_image_that_was_not_refreshed_are_left_and_named(site: Night) -> None:
    site.make_set("shop", 2)
    site.make_set("aside", 1, image="other")
    site.bad = CheckFailed("the page is empty", name="prove-failed")
    aside, shop = site.refresh(everything=True).sets
    assert aside.outcome == "upgraded"
    assert (shop.outcome, shop.why, list(shop.left)) == (
        "skipped", "small was not refreshed", ["shop-web-0", "shop-web-1"],
    )  # fmt: skip
    assert shop.failed and site.reimaged == [("aside-web-0",)]
    assert _why(shop).startswith("sets-not-upgraded: shop-web-0: small was not refreshed: it has small@")


def test_a_set_says_that_it_follows_golden(site: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    site.make_set("shop", 1)
    monkeypatch.setenv("GOLDSMITH_HOME", str(site.fleet.store.root))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(Fleet, "keep_fabric", lambda _fleet: None)

    def run(*words: str) -> Any:
        done = CliRunner().invoke(app, ["set", *words])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert run("auto", "shop", "on") == "shop: each refresh of small upgrades its VMs to golden\n"
    assert run("show", "shop").startswith("shop  small, follows golden, 1 VM, ")
    assert json.loads(run("show", "shop", "--json"))["auto"] is True
    assert "goldsmith set upgrade shop" in run("auto", "shop", "off")
    assert json.loads(run("list", "--json"))[0]["auto"] is False
