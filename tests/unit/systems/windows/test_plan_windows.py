"""What a Windows image is made of, changed part by part: each change runs what hangs on it, and nothing before it."""

from __future__ import annotations

from datetime import date
from hashlib import sha256
from pathlib import Path

import pytest

from pipeline.definition import MasterSource, load_named
from pipeline.engine.plan import explain, plan
from pipeline.gallery import Gallery, Version
from pipeline.nightly import patch as patching
from pipeline.systems.windows import first_boot, release_days, updates
from tests.unit.engine.test_plan import Change, build_all, edit, job_of, patched, run_of, store_of
from tests.unit.gallery.test_retention import capture

MSI = "NOT AN MSI"
DEFINITION = f"""\
goldsmith: 1
summary: NOT WINDOWS
os: windows
source:
  iso: {{path: server.iso, sha256: {"a" * 64}}}
  drivers: {{path: virtio-win.iso, sha256: {"b" * 64}}}
  edition: ServerStandard
updates: {{only: security, deadline: 2 h}}
ports: [{{port: 443, name: web}}]
first_boot: {{apply: scripts/apply.ps1, sample: one}}
steps:
  - powershell: scripts/features.ps1
    checkpoint: true
  - cmd: sc config wuauserv start= disabled
    checkpoint: true
  - msi: {{path: media/agent.msi, sha256: {sha256(MSI.encode()).hexdigest()}, arguments: [A=1]}}
"""
FILES = {"server.iso": "", "media/agent.msi": MSI, "virtio-win.iso": "", "scripts/features.ps1": "exit 0\n",
         "scripts/apply.ps1": "exit 0\n"}  # fmt: skip
UNITS = ("server.iso", "ServerStandard", "updates", "features.ps1", "sc config wuauserv start= disabled", "agent.msi",
         "sysprep",
         "fixed VHD", "checks", "gen2", "golden")  # fmt: skip


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    for name, text in {**FILES, "images/site.yaml": DEFINITION}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(release_days, "today", lambda: date(2026, 11, 10))
    build_all(folder)
    return folder


def define(old: str, new: str) -> Change:
    return edit("images/site.yaml", old, new)


CHANGES: dict[str, tuple[Change, str]] = {
    "the edition": (define("ServerStandard", "ServerDatacenter"), "ServerDatacenter"),
    "which updates": (define("only: security", "only: all"), "updates"),
    "a month's updates": (patched(release_days, "today", lambda: date(2026, 12, 8)), "updates"),
    "how updates are brought in": (patched(updates, "script", lambda _only: b"another"), "updates"),
    "no updates": (define("updates: {only: security, deadline: 2 h}\n", ""), "features.ps1"),
    "a script": (edit("scripts/features.ps1", "0", "1"), "features.ps1"),
    "a port": (define("port: 443", "port: 80"), "sysprep"),
    "a port's name": (define("name: web", "name: shop"), "sysprep"),
    "no ports": (define("ports: [{port: 443, name: web}]\n", ""), "sysprep"),
    "a first-boot script": (edit("scripts/apply.ps1", "0", "1"), "sysprep"),
    "the first-boot service": (patched(first_boot, "TASK_LINE", "another"), "sysprep"),
    "a first-boot sample": (define("sample: one", "sample: two"), "gen2"),
    "a package": (
        lambda project, patch: [
            edit("media/agent.msi", MSI, "NOT AN MSI either")(project, patch),
            define(sha256(MSI.encode()).hexdigest(), sha256(b"NOT AN MSI either").hexdigest())(project, patch),
        ],
        "agent.msi",
    ),
    "a package's arguments": (define("A=1", "A=2"), "agent.msi"),
    "a command line": (define("disabled", "demand"), "sc config wuauserv start= demand"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_an_input_changed_alone_runs_what_hangs_on_it(
    what: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_of(project) == []
    change, first = CHANGES[what]
    change(project, monkeypatch)
    titles = [row["title"] for row in explain(load_named(project, "site"), store_of(project))]
    assert run_of(project) == titles[titles.index(first) :]
    build_all(project)
    assert run_of(project) == []


def test_the_units(project: Path) -> None:
    assert tuple(row["title"] for row in explain(load_named(project, "site"), store_of(project))) == UNITS


def test_a_deadline_is_no_input(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    define("2 h", "5 h")(project, monkeypatch)
    assert run_of(project) == []


def test_why_updates_are_looked_for_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release_days, "today", lambda: date(2026, 12, 8))
    rows = {row["title"]: row["why"] for row in explain(load_named(project, "site"), store_of(project))}
    assert rows["updates"] == "changed: released"


@pytest.mark.parametrize(("word", "first"), [("updates", "updates"), ("1", "features.ps1"), ("2", UNITS[4])])
def test_updates_are_asked_for_by_name_and_steps_by_number(project: Path, word: str, first: str) -> None:
    """A step's number is its place in the definition, with updates or without."""
    rows = explain(load_named(project, "site"), store_of(project), again=word)
    assert next(row["title"] for row in rows if row["action"] == "run") == first


# ---- patch mode ---------------------------------------------------------------------------------------------------


def golden_of(project: Path, **more: object) -> Version:
    units = plan(job_of(project))
    inputs = [{"stage": unit.stage.name, "title": unit.spec.title, "inputs": dict(unit.inputs)} for unit in units]
    return capture(Gallery(store_of(project).gallery), name="site", **{"inputs": inputs, "os": "windows", **more})


def test_a_months_updates_are_patched_into_golden(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    definition, golden = load_named(project, "site"), golden_of(project, rearms_left=2)
    assert patching.needs_patch(definition, golden, store_of(project))[1] == ""
    monkeypatch.setattr(release_days, "today", lambda: date(2026, 12, 8))
    wanted, why = patching.needs_patch(definition, golden, store_of(project))
    assert (wanted.source, wanted.steps) == (MasterSource("site", golden.version), ())
    assert (wanted.updates, why) == (definition.updates, "newer: updates of 2026-12-08")
    # what a patch looked for is newer than what its line began with
    inputs = [{"stage": "provision", "title": "updates", "inputs": {release_days.RELEASED: "2026-12-08"}}]
    root = {"version": golden.version, "inputs": golden.manifest["inputs"]}
    second = golden_of(project, inputs=inputs, rebuilt=root)
    assert patching.needs_patch(definition, second, store_of(project))[1] == ""


def test_without_a_rearm_it_is_built_anew(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    definition, golden = load_named(project, "site"), golden_of(project, rearms_left=0)
    assert patching.needs_patch(definition, golden, store_of(project))[1] == ""
    monkeypatch.setattr(release_days, "today", lambda: date(2026, 12, 8))
    wanted, why = patching.needs_patch(definition, golden, store_of(project))
    assert wanted == definition
    assert why == "rebuilt: golden cannot be generalized again, because no rearm is left"


@pytest.mark.parametrize("what", ["the edition", "a script"])
def test_what_is_no_update_asks_for_a_rebuild(project: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    golden = golden_of(project, rearms_left=2)
    changed = {"the edition": "ServerDatacenter is new", "a script": "features.ps1: changed"}
    CHANGES[what][0](project, monkeypatch)
    wanted, why = patching.needs_patch(load_named(project, "site"), golden, store_of(project))
    assert not isinstance(wanted.source, MasterSource)
    assert changed[what] in why
