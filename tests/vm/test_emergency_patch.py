"""An emergency patch: one command makes golden and a set of six small guests current. The build alone is played."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import pipeline.systems.registry  # noqa: F401  a VM's system is found by its name
from pipeline.cli.app import app
from pipeline.engine.runner import Outcome
from pipeline.gallery import Gallery
from pipeline.nightly import refresh as night
from tests.harness import remove
from tests.tools import skip_without
from tests.vms import Vms, make_lab

COUNT = 6


@pytest.fixture
def lab(packages: Path) -> Iterator[Vms]:
    skip_without("cpio", "depmod", "dpkg-deb", "grub-mkimage", "haproxy", "mke2fs")
    made = make_lab("emergency")
    made.add_small(packages)
    made.write("images/small.yaml", "goldsmith: 1\nsource: {debian: {suite: trixie}}\n")
    yield made
    made.run("set", "delete", "shop", "--yes")
    left = made.left()
    remove(made.home)
    assert left == []


def test_golden_and_a_set_of_six_are_current_after_one_command(
    lab: Vms, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--image", "small", "--ssh-key", str(lab.key), "--set", "shop", "--update-domains", "2"]
    lab.vm("create", "web", *words, "--count", str(COUNT))
    lab.vm("stop", "web-5", "--force")
    gallery = Gallery(lab.store.gallery)
    old = gallery.get("small").version

    def build(*_words: object, **_more: object) -> Outcome:
        lab.add_small(packages)
        return Outcome("R1", gallery.get("small"), False, 1.0)

    monkeypatch.setattr(night.runner, "build", build)
    monkeypatch.setattr(night, "explain", lambda _definition, _store: [])
    for name, value in lab.environment.items():
        monkeypatch.setenv(name, value)

    def refresh() -> tuple[Any, dict[str, Any]]:
        argv = ["--project", str(lab.home / "project"), "refresh", "small", "--sets", "--json"]
        result = CliRunner().invoke(app, argv)
        return result.exception, json.loads((lab.home / night.SUMMARY).read_text())

    error, report = refresh()
    golden = gallery.get("small").version
    assert golden != old and report["images"][0]["outcome"] == "promoted"
    (shop,) = report["sets"]
    assert sorted(shop["upgraded"]) == [f"web-{number}" for number in range(COUNT - 1)]
    # what could not be upgraded is named
    assert shop["left"] == {"web-5": "it does not run"} and not report["ok"]
    assert error.name == "sets-not-upgraded" and "web-5 (it does not run)" in error.message and error.exit_code == 1
    found = json.loads(lab.run("set", "show", "shop", "--json").stdout)
    assert {vm["name"]: vm["version"] for vm in found["vms"]} == {
        **{f"web-{number}": golden for number in range(COUNT - 1)},
        "web-5": old,
    }
    assert {(vm["status"], vm["agent"]) for vm in found["vms"] if vm["name"] != "web-5"} == {("Running", "ready")}
