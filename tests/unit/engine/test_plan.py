"""Each input changed alone runs what hangs on it, and nothing before it: keys miss nothing, and take nothing more."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import context
from pipeline.base.disk_format import QCOW2
from pipeline.base.errors import UsageError
from pipeline.base.runs import NO_RUN
from pipeline.base.store import Store
from pipeline.cache.layers import DISK, Image, Layer, Layers, PendingLayer
from pipeline.checks import versions
from pipeline.context import BuildContext
from pipeline.definition import load_all, load_named
from pipeline.engine.image_plan import plan_images
from pipeline.engine.plan import START, WARM, current_golden, explain, plan, root_needed_for
from pipeline.engine.runner import _run, _sound
from pipeline.engine.stage import stage_names
from pipeline.gallery import DISK as MASTER
from pipeline.gallery import Gallery
from pipeline.nightly.refresh import _is_current
from pipeline.stages import generalize
from pipeline.systems.debian import apt, bootstrap
from pipeline.systems.inspection import Part, inspection_of
from pipeline.systems.linux import first_boot_service, provision, scripts
from tests.unit.gallery.test_gallery import least_manifest

DEFINITION = """\
goldsmith: 1
summary: an image with all kinds of inputs
os: linux
source: {debian: {suite: bookworm, packages: [less]}}
disk: 8 GiB
steps:
  - playbook: site.yml
    vars: {greeting: hello}
  - script: scripts/tune.sh
    network: none
  - copy: {from: files/motd, to: /etc/motd}
expect:
  - command: "true"
first_boot: {apply: scripts/configure.sh, deadline: 1 min, sample: one}
"""
FILES = {
    "playbooks/site.yml": "- hosts: all\n  vars_files: [vars/common.yml]\n  roles: [web]\n"
    "  tasks:\n    - ansible.builtin.include_tasks: extra.yml\n",
    "playbooks/vars/common.yml": "port: 80\n",
    "playbooks/extra.yml": "- ansible.builtin.command: 'true'\n",
    "playbooks/roles/web/tasks/main.yml": "- ansible.builtin.template: {src: page.j2, dest: /srv/page}\n",
    "playbooks/roles/web/templates/page.j2": "{{ greeting }}\n",
    "playbooks/other.yml": "- hosts: all\n",
    "scripts/tune.sh": "#!/bin/sh\ntrue\n",
    "scripts/configure.sh": "#!/bin/sh\ntrue\n",
    "files/motd": "welcome\n",
}
UNITS = ("bootstrap bookworm", "site.yml", "tune.sh", "/etc/motd", "generalize", "fixed VHD", "checks", "gen1, gen2")

Change = Callable[[Path, pytest.MonkeyPatch], None]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    for name, text in {**FILES, "images/site.yaml": DEFINITION}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o644)
    index(monkeypatch, "index one", None)
    build_all(folder)
    return folder


def index(monkeypatch: pytest.MonkeyPatch, digest: str, outdated: list[str] | None) -> None:
    monkeypatch.setattr(context, "INDEX_AGE", 0.0)
    monkeypatch.setattr(apt, "package_index", lambda _suite: digest)
    monkeypatch.setattr(BuildContext, "outdated", lambda _job, _layer: outdated)


def store_of(project: Path) -> Store:
    return Store(project.parent / "store")


def job_of(project: Path, name: str = "site") -> BuildContext:
    store = store_of(project)
    store.ensure()
    return BuildContext(load_named(project, name), store, NO_RUN, Layers(store.layers), Gallery(store.gallery))


def build_all(project: Path, name: str = "site", *, warm: bool = False) -> None:
    """Leave what a build would leave, but for the contents."""
    building = job_of(project, name)
    image: Image | None = None
    for unit in plan(building, warm=warm):
        draft = building.layers.begin(unit.key)
        if isinstance(draft, PendingLayer):
            (draft.path / DISK).write_bytes(b"")
            # a VHD stands alone
            image = Image(draft.path / DISK, QCOW2, None if unit.stage.name == "convert" else image)
            draft.commit(
                stage=unit.stage.name,
                inputs=unit.inputs,
                source=unit.source,
                image=image,
                title=unit.spec.title,
                name=name,
                version=unit.stage.version,
            )
        else:
            image = draft.image


def run_of(project: Path, name: str = "site") -> list[str]:
    return [row["title"] for row in explain(load_named(project, name), store_of(project)) if row["action"] == "run"]


def edit(name: str, old: str, new: str) -> Change:
    def change(project: Path, _patch: pytest.MonkeyPatch) -> None:
        path = project / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def define(old: str, new: str) -> Change:
    return edit("images/site.yaml", old, new)


def mode(name: str) -> Change:
    return lambda project, _patch: (project / name).chmod(0o755)


def patched(thing: object, name: str, value: object) -> Change:
    return lambda _project, patch: patch.setattr(thing, name, value)


def raised(table: Mapping[str, Part], label: str) -> Change:
    """The version of a part of the inspection is raised."""
    part = table[label]
    return lambda _project, patch: patch.setitem(table, label, replace(part, version=part.version + 1))


CHANGES: dict[str, tuple[Change, str]] = {
    "the suite": (define("bookworm", "trixie"), "bootstrap trixie"),
    "the base's packages": (define("[less]", "[less, tree]"), UNITS[0]),
    "the package index": (lambda _project, patch: index(patch, "index two", None), UNITS[0]),
    "how a base is made": (patched(bootstrap, "recipe", lambda: "another"), UNITS[0]),
    "ansible-core": (patched(provision, "ansible_version", lambda: "another"), "site.yml"),
    "the disk's size": (define("8 GiB", "9 GiB"), "site.yml"),
    "what guests may reach": (define("disk: 8 GiB", "disk: 8 GiB\nnetwork: {allow: [10.1.2.3:80]}"), "site.yml"),
    "the playbook": (edit("playbooks/site.yml", "roles: [web]", "roles: [web]\n  gather_facts: false"), "site.yml"),
    "a role's tasks": (edit("playbooks/roles/web/tasks/main.yml", "/srv/page", "/srv/pages"), "site.yml"),
    "a template": (edit("playbooks/roles/web/templates/page.j2", "greeting", "port"), "site.yml"),
    "included tasks": (edit("playbooks/extra.yml", "true", "false"), "site.yml"),
    "a variables file": (edit("playbooks/vars/common.yml", "80", "81"), "site.yml"),
    "a step's variables": (define("hello", "good day"), "site.yml"),
    "a template's mode": (mode("playbooks/roles/web/templates/page.j2"), "site.yml"),
    "a script": (edit("scripts/tune.sh", "true", "false"), "tune.sh"),
    "a step's network": (define("network: none", "network: full"), "tune.sh"),
    "a copied file": (edit("files/motd", "welcome", "good day"), "/etc/motd"),
    "a copied file's mode": (mode("files/motd"), "/etc/motd"),
    "where a copy goes": (define("to: /etc/motd", "to: /etc/issue"), "/etc/issue"),
    "the agent": (define("expect:", "generalize: {agent: none}\nexpect:"), "generalize"),
    "the generalize script": (
        patched(scripts, "generalize_script", lambda _agent, _installs, **_more: "another"),
        "generalize",
    ),
    "the version of a stage": (patched(generalize.Generalize, "version", 99), "generalize"),
    "a check": (raised(versions.COMMON, "checks.boot"), "checks"),
    "the packages' reader": (raised(inspection_of("linux").parts, "offline.packages"), "checks"),
    "the rules for secrets": (patched(versions, "RULES", versions.RULES[:1]), "checks"),
    "a waived check": (define("expect:", "waive: {apt-proxy: a reason}\nexpect:"), "checks"),
    "the cells": (define("expect:", "prove: [gen1]\nexpect:"), "gen1"),
    "an expectation": (define('"true"', '"false"'), "gen1, gen2"),
    "a first-boot program": (edit("scripts/configure.sh", "true", "false"), "generalize"),
    "a first-boot deadline": (define("deadline: 1 min", "deadline: 2 min"), "generalize"),
    "a first-boot sample": (define("sample: one", "sample: two"), "gen1, gen2"),
    "the first-boot service": (patched(first_boot_service, "_SERVICE", "another"), "generalize"),
    "the summary": (define("an image with", "another image with"), "golden"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_an_input_changed_alone_runs_what_hangs_on_it(
    what: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_of(project) == []
    change, first = CHANGES[what]
    change(project, monkeypatch)
    rows = explain(load_named(project, "site"), store_of(project))
    titles = [row["title"] for row in rows]
    assert [row["title"] for row in rows if row["action"] == "run"] == titles[titles.index(first) :]
    build_all(project)
    assert run_of(project) == []


def test_there_are_enough_of_them() -> None:
    assert len(CHANGES) >= 15


NOTHING: dict[str, Change] = {
    "another image's playbook": edit("playbooks/other.yml", "all", "web"),
    "a comment": define("disk: 8 GiB", "disk: 8 GiB  # enough"),
    "a deadline": define("network: none", "network: none\n    timeout: 5 min"),
    "a reader of Windows' registry": raised(inspection_of("windows").parts, "offline.registry"),
    "the machine": define("expect:", "machine: {cpus: 4}\nexpect:"),
    "an index without news for this disk": lambda _project, patch: index(patch, "index two", []),
}


@pytest.mark.parametrize("what", NOTHING)
def test_what_is_no_input_runs_nothing(what: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    NOTHING[what](project, monkeypatch)
    assert run_of(project) == []


def test_data_disks_are_an_input(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A larger one is made again; for another caching nothing but the manifest is."""
    first = "data_disks: [{lun: 0, size: 1 GiB, caching: None, filesystem: ext4}]\nexpect:"
    define("expect:", first)(project, monkeypatch)
    assert run_of(project)[0] == "data disks"
    build_all(project)
    define("caching: None", "caching: ReadOnly")(project, monkeypatch)
    assert run_of(project) == ["golden"]
    define("size: 1 GiB", "size: 2 GiB")(project, monkeypatch)
    assert run_of(project)[0] == "data disks"


def test_another_goldsmith_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generalize.Generalize, "version", 99)
    rows = {row["title"]: row["why"] for row in explain(load_named(project, "site"), store_of(project))}
    assert rows["generalize"] == "changed: goldsmith's own generalize"
    assert rows["fixed VHD"] == "the layer below it is run"


def test_an_index_with_news_says_which(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index(monkeypatch, "index two", ["openssl 3.0.1 -> 3.0.2"])
    rows = explain(load_named(project, "site"), store_of(project))
    assert rows[0]["action"] == "run"
    assert rows[0]["why"] == "changed: package index; newer: openssl 3.0.1 -> 3.0.2"


def test_the_parents_version_is_an_input(project: Path) -> None:
    def capture(text: str) -> None:
        gallery = Gallery(store_of(project).gallery)
        disk = project / "disk.vhd"
        disk.write_text(text)
        gallery.promote(
            gallery.capture(
                "base",
                {MASTER: disk},
                [],
                lambda version: {**least_manifest("base", version, disk), "suite": "bookworm"},
            )
        )
        disk.unlink()

    child = "goldsmith: 1\nsummary: a child\nos: linux\nsource: {master: base@golden}\n"
    (project / "images/child.yaml").write_text(child)
    capture("one")
    build_all(project, "child")
    assert run_of(project, "child") == []
    capture("two")
    assert run_of(project, "child")[0].startswith("base ")


def test_a_layer_that_was_written_to_is_made_anew(project: Path) -> None:
    building = job_of(project)
    units = plan(building)
    first = next(i for i, unit in enumerate(units) if unit.stage.name == "convert")
    written = building.layers.root / units[1].key / DISK
    written.chmod(0o644)
    written.write_bytes(b"other")
    # the VHD stands alone: what is below it is not used
    assert _sound(building, units, len(units)) == len(units)
    assert _sound(building, units, first) == 1


# ---- asking for it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "first"),
    [("provision", "site.yml"), ("tune.sh", "tune.sh"), ("2", "tune.sh"), ("prove", "gen1, gen2")],
)
def test_from_a_stage_or_a_step(project: Path, word: str, first: str) -> None:
    rows = explain(load_named(project, "site"), store_of(project), again=word)
    assert next(row["title"] for row in rows if row["action"] == "run") == first


def test_a_word_that_is_no_stage_and_no_step(project: Path) -> None:
    with pytest.raises(UsageError, match="no stage or step 7") as caught:
        explain(load_named(project, "site"), store_of(project), again="7")
    assert "site.yml, tune.sh, /etc/motd" in str(caught.value.hint)


# ---- warm --------------------------------------------------------------------------------------------------------


def starts(project: Path, *, again: str | None = None) -> list[str]:
    """The titles of the units that a warm build marks as its own."""
    units = plan(job_of(project), warm=True, again=again)
    return [unit.spec.title for unit in units if unit.inputs.get(START) == WARM]


def test_a_warm_build_keeps_cold_layers_and_goes_on_warm(project: Path) -> None:
    assert starts(project) == []
    edit("scripts/tune.sh", "true", "false")(project, pytest.MonkeyPatch())
    assert starts(project) == ["tune.sh"]
    assert starts(project, again="provision") == ["site.yml"]


def test_a_cold_build_takes_nothing_from_a_warm_one(project: Path) -> None:
    edit("scripts/tune.sh", "true", "false")(project, pytest.MonkeyPatch())
    build_all(project, warm=True)
    assert starts(project) == ["tune.sh"]  # kept under its warm key
    assert run_of(project)[0] == "tune.sh"
    warm, cold = (plan(job_of(project), warm=flag) for flag in (True, False))
    assert [a.key == b.key for a, b in zip(warm, cold, strict=True)] == [True, True] + [False] * 7


def test_the_plan_is_json(project: Path) -> None:
    rows = explain(load_named(project, "site"), store_of(project))
    assert {"stage", "title", "action", "why", "key"} == set(json.loads(json.dumps(rows))[0])
    assert stage_names()[0] == rows[0]["stage"]


# ---- golden stands without its layers ----------------------------------------------------------------------------


@pytest.fixture
def without_layers(project: Path) -> Path:
    """Golden was captured; then every layer went, as a night's `--keep` may have it."""
    made = job_of(project)
    inputs = [
        {"stage": unit.stage.name, "title": unit.spec.title, "key": unit.key, "inputs": unit.inputs}
        for unit in plan(made)
        if unit.stage.name != "capture"
    ]
    (project.parent / "shipped.vhd").write_bytes(random.randbytes(4096))

    def manifest(version: str) -> dict[str, Any]:
        least = least_manifest("site", version, project.parent / "shipped.vhd")
        return {**least, "inputs": inputs, "summary": made.definition.summary, "start": "cold"}

    made.gallery.promote(made.gallery.capture("site", {MASTER: project.parent / "shipped.vhd"}, [], manifest))
    for layer in list(made.layers.all()):
        made.layers.drop(layer.key)
    return project


def test_golden_stands_whatever_layers_are_left(without_layers: Path) -> None:
    assert run_of(without_layers) == []
    made = job_of(without_layers)
    assert current_golden(made) is not None
    assert _run(made, None, None, False, None) is True  # a build of it boots nothing
    rows = explain(load_named(without_layers, "site"), store_of(without_layers))
    assert _is_current(rows, store_of(without_layers), made.gallery.get("site"))


@pytest.mark.parametrize("what", [what for what in CHANGES if what != "the package index"])
def test_what_changed_is_built_where_layers_are_gone(
    what: str, without_layers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CHANGES[what][0](without_layers, monkeypatch)
    assert run_of(without_layers) != []


@pytest.mark.parametrize(("newer", "stands"), [([], True), (["bash 5.3"], False), (None, False)])
def test_an_index_that_moved_asks_goldens_own_disk(
    without_layers: Path, monkeypatch: pytest.MonkeyPatch, newer: list[str] | None, stands: bool
) -> None:
    index(monkeypatch, "index two", newer)
    monkeypatch.setattr(BuildContext, "outdated_packages", lambda _job, _image: newer)
    assert (current_golden(job_of(without_layers)) is not None) is stands


def test_what_is_asked_for_is_run_where_layers_are_gone(without_layers: Path) -> None:
    rows = explain(load_named(without_layers, "site"), store_of(without_layers), again="prove")
    assert all(row["action"] == "run" for row in rows)


def test_root_is_needed_where_something_runs_that_needs_it(project: Path) -> None:
    store, definition = store_of(project), load_named(project, "site")
    assert root_needed_for(definition, store) == ""  # all is kept
    Layers(store.layers).drop(plan(job_of(project))[-2].key)  # prove runs
    assert root_needed_for(definition, store).startswith("prove: ")
    assert root_needed_for(definition, store, until="inspect") == ""
    assert root_needed_for(definition, store, again="convert", until="convert") == ""
    assert root_needed_for(definition, store, again="2").startswith("provision: ")
    assert root_needed_for(definition, store, again="acquire", until="acquire").startswith("acquire: it bootstraps")


def test_layers_are_listed_once_for_many_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The records of a store with all layers of 2,000 images are read once, not once for each image."""
    (tmp_path / "images").mkdir()
    for number in range(4):
        text = (
            f"goldsmith: 1\nsource: {{disk: {{url: 'https://a.example/d', sha256: '{number:064x}', format: raw}}}}\n"
        )
        (tmp_path / "images" / f"i{number}.yaml").write_text(text)
    listed: list[Path] = []
    original = Layers.all

    def count(layers: Layers) -> Iterator[Layer]:
        listed.append(layers.root)
        return original(layers)

    monkeypatch.setattr(Layers, "all", count)
    monkeypatch.setattr(context.BuildContext, "package_index", lambda _context, _suite: None)
    plans = plan_images(load_all(tmp_path), Store(tmp_path / "store"))
    assert len(plans) == 4 and len(listed) == 1


def test_an_unchanged_image_lists_no_layers(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Layers, "all", lambda _layers: pytest.fail("all layers were listed"))
    rows = explain(job_of(project).definition, store_of(project))
    assert {row["action"] for row in rows} == {"keep"}
