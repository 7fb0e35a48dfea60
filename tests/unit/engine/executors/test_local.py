"""In this process, and in a child process: the same work with the same result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.base import surroundings
from pipeline.base.errors import BuildError, GoldsmithError
from pipeline.base.store import Store
from pipeline.definition import Definition, load_all
from pipeline.engine.executors import ChildProcess, Executor, ImageJob, ThisProcess, run_jobs

ROOT = Path(__file__).parents[4]
IMAGES = {
    "parent": "source: {debian: {suite: bookworm}}",
    "child": "source: {master: parent@golden}",
    "other": "source: {debian: {suite: trixie}}",
}
#: A program in place of goldsmith: it does what the words behind the image's name say.
PROGRAM = """\
import json, os, sys, time
_, project, verb, name, result, *words = sys.argv[1:]
print(f"{verb} {name}", flush=True)
if "--suite" in words:
    print(os.environ.get("SUITE"))
if "--write" in words:
    open(result, "w").write(json.dumps({"name": name}))
if "--wait" in words:
    time.sleep(600)
if "--fail" in words:
    print("no disk", file=sys.stderr)
    sys.exit(3)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").ensure()


@pytest.fixture
def definitions(tmp_path: Path) -> dict[str, Definition]:
    (tmp_path / "images").mkdir()
    for name, source in IMAGES.items():
        (tmp_path / "images" / f"{name}.yaml").write_text(f"goldsmith: 1\n{source}\n")
    return {definition.name: definition for definition in load_all(tmp_path)}


class Children:
    """A child process executor over PROGRAM, and what its children printed."""

    def __init__(self, store: Store, folder: Path) -> None:
        program = folder / "program.py"
        program.write_text(PROGRAM)
        self.lines: list[tuple[str, str]] = []
        self.executor = ChildProcess(
            store, lambda image, line: self.lines.append((image, line)), (sys.executable, str(program))
        )


@pytest.fixture
def children(store: Store, tmp_path: Path) -> Children:
    return Children(store, tmp_path)


def read(path: Path) -> str:
    return str(json.loads(path.read_text())["name"])


def job(definition: Definition, *words: str) -> ImageJob[str]:
    """A job that names its image, and fails where its words say so."""

    def run() -> str:
        if "--fail" in words:
            raise BuildError("no disk", name="no-disk")
        return definition.name

    return ImageJob(definition, run, lambda path: ["make", definition.name, str(path), *words], read)


def test_a_child_process_leaves_its_result_and_its_output(
    children: Children, definitions: dict[str, Definition], store: Store
) -> None:
    assert children.executor.execute(job(definitions["other"], "--write"), threading.Event()) == "other"
    assert children.lines == [("other", "make other")]
    assert not list(store.tmp.glob(".goldsmith-*")), "the result's folder goes with it"


def test_a_child_has_the_variables_that_set_parameters(
    children: Children, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surroundings, "_environment", {"SUITE": "trixie", "OTHER": "kept here"})
    path = tmp_path / "images" / "set.yaml"
    path.parent.mkdir()
    path.write_text(
        "goldsmith: 1\nparameters: {suite: {default: bookworm, env: SUITE}}\nsource: {debian: {suite: '${suite}'}}\n"
    )
    (definition,) = load_all(tmp_path)
    assert definition.variables == {"SUITE": "trixie"}
    children.executor.execute(job(definition, "--write", "--suite"), threading.Event())
    assert ("set", "trixie") in children.lines


def test_a_failed_child_has_its_exit_code_or_its_own_result(
    children: Children, definitions: dict[str, Definition]
) -> None:
    with pytest.raises(GoldsmithError) as caught:
        children.executor.execute(job(definitions["other"], "--fail"), threading.Event())
    assert (caught.value.name, caught.value.exit_code) == ("image-failed", 3)
    assert ("other", "no disk") in children.lines
    assert children.executor.execute(job(definitions["other"], "--write", "--fail"), threading.Event()) == "other"


def test_a_child_ends_when_the_others_stop(children: Children, definitions: dict[str, Definition]) -> None:
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    began = time.monotonic()
    with pytest.raises(BuildError) as caught:
        children.executor.execute(job(definitions["other"], "--wait"), stop)
    assert caught.value.name == "cancelled"
    assert time.monotonic() - began < 120


@pytest.mark.parametrize("kind", ["this process", "a child process"])
@pytest.mark.parametrize("bad", ["", "parent"])
def test_both_do_the_same_jobs(kind: str, bad: str, children: Children, definitions: dict[str, Definition]) -> None:
    executor: Executor = ThisProcess() if kind == "this process" else children.executor
    jobs = [job(definitions[name], *(["--fail"] if name == bad else ["--write"])) for name in IMAGES]
    done: list[str] = []
    skipped: list[tuple[str, str]] = []
    failed = run_jobs(jobs, executor, 2, lambda name, _result: done.append(name), lambda *pair: skipped.append(pair))
    if bad:
        assert sorted(failed) == ["child", "parent"] and done == ["other"]
        assert skipped == [("child", "parent")]
    else:
        assert not failed and sorted(done) == sorted(IMAGES)
        assert done.index("parent") < done.index("child")


#: Images that fail, or are skipped, before any guest, network or daemon is asked.
BROKEN = {
    "a": "source: {master: ghost@2020.1101.0}",
    "b": "source: {master: ghost@2020.1101.1}",
    "c": "source: {master: a@golden}",
}


@pytest.mark.skipif(os.geteuid() != 0, reason="refresh needs root")
def test_a_refresh_reports_the_same_from_child_processes(tmp_path: Path) -> None:
    """The command line itself: its report and its exit code do not depend on how many images it refreshes at once."""
    (tmp_path / "images").mkdir()
    for name, source in BROKEN.items():
        (tmp_path / "images" / f"{name}.yaml").write_text(f"goldsmith: 1\n{source}\n")
    seen = [refresh(tmp_path, "-j", number) for number in "12"]
    assert seen[0] == seen[1]
    code, images, errors = seen[0]
    assert code == 1 and errors == 2
    assert [(image["name"], image["outcome"]) for image in images] == [
        ("a", "failed"),
        ("c", "skipped"),
        ("b", "failed"),
    ]
    assert images[0]["why"].startswith("gallery-unknown: ") and images[1]["why"] == "a was not refreshed"


def refresh(project: Path, *words: str) -> tuple[int, list[dict[str, Any]], int]:
    """Exit code, images of the report without their times, and how many errors of images stand on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "--project", str(project), "refresh", "a", "b", "c", "--json", *words],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "GOLDSMITH_HOME": str(project / "store")},
    )  # fmt: skip
    images = json.loads(done.stdout)["images"]
    for image in images:
        assert image.pop("seconds") < 60
    return done.returncode, images, done.stderr.count("no image ghost")
