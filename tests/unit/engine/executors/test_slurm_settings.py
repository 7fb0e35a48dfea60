"""slurm.yaml, the words for Slurm's programs and their answers, and what a worker lacks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

import pipeline
from pipeline.base.errors import BuildError, UsageError
from pipeline.base.process import CommandFailed
from pipeline.cli.app import app
from pipeline.definition.diagnostics import DefinitionError
from pipeline.engine.executors import slurm_queue
from pipeline.engine.executors.exchange import JobSpec, read_spec
from pipeline.engine.executors.handover import batch_script
from pipeline.engine.executors.slurm_hosts import examine_workers
from pipeline.engine.executors.slurm_queue import JobRequest, JobState, QueueSilent, Slurm, parse_jobs, submit_argv
from pipeline.engine.executors.slurm_settings import SlurmSettings, read_settings
from pipeline.evidence import signing

WHOLE = """\
exchange: /srv/goldsmith
goldsmith: "sudo -n /usr/bin/goldsmith"
options: "--partition=images --qos=night"
kvm-options: "--gres=kvm:1"
minutes: 240
workers: {host1: keys/host1.pub, host-2.example: keys/host2.pub}
"""


def test_all_settings_are_read(tmp_path: Path) -> None:
    (tmp_path / "slurm.yaml").write_text(WHOLE)
    assert read_settings(tmp_path) == SlurmSettings(
        Path("/srv/goldsmith"),
        {"host1": tmp_path / "keys/host1.pub", "host-2.example": tmp_path / "keys/host2.pub"},
        ("sudo", "-n", "/usr/bin/goldsmith"),
        ("--partition=images", "--qos=night"),
        ("--gres=kvm:1",),
        240,
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("exchange: srv\nworkers: {a: b}\n", "is not an absolute path"),
        ("exchange: /srv\n", "workers"),
        ("exchange: /srv\nworkers: {}\n", "workers"),
        ("exchange: /srv\nworkers: {'a b': c}\n", "a b"),
        ("exchange: /srv\nworkers: {a: b}\ngoldsmith: ''\n", "is empty"),
        ("exchange: /srv\nworkers: {a: b}\nminutes: 0\n", "minutes"),
        ("exchange: /srv\nworkers: {a: b}\nqueue: c\n", "queue"),
        ("exchange: [\n", ""),
    ],
)
def test_a_wrong_setting_is_named_with_its_line(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "slurm.yaml").write_text(text)
    with pytest.raises(DefinitionError) as caught:
        read_settings(tmp_path)
    assert fault in str(caught.value) and "slurm.yaml:" in str(caught.value)


def test_without_settings_nothing_is_submitted(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.yaml").write_text("goldsmith: 1\nsource: {debian: {suite: bookworm}}\n")
    with pytest.raises(UsageError) as caught:
        read_settings(tmp_path)
    assert caught.value.name == "slurm-undefined"
    for words in (["refresh", "--all", "--executor", "slurm"], ["doctor", "--fleet"]):
        done = CliRunner().invoke(app, ["--project", str(tmp_path), *words])
        assert isinstance(done.exception, UsageError) and done.exception.name == "slurm-undefined", words


@pytest.mark.parametrize(
    "words",
    [
        ["refresh", "--all", "--executor", "condor"],
        ["build", "a", "--executor", "slurm", "--until", "convert"],
        ["build", "a", "--executor", "slurm", "--warm"],
        ["build", "a", "--executor", "slurm", "--keep-failed"],
    ],
)
def test_words_that_jobs_cannot_have_are_refused(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.yaml").write_text("goldsmith: 1\nsource: {debian: {suite: bookworm}}\n")
    done = CliRunner().invoke(app, ["--project", str(tmp_path), *words])
    assert isinstance(done.exception, UsageError) and done.exception.name == "usage"
    assert "--executor" in done.exception.message


def test_the_words_of_sbatch() -> None:
    request = JobRequest(
        "goldsmith-12ab-web-1", "", 2, (1 << 30) + 1, Path("/x/output.log"), (4, 5), "host1", 60, ("--qos=night",)
    )
    words = submit_argv(request)
    assert words[0] == "sbatch" and words[-1] == "--qos=night", "a site's options go before ours"
    wanted = (
        *("--cpus-per-task=2", "--mem=1025M", "--time=60", "--dependency=afterok:4:5", "--nodelist=host1"),
        *("--requeue", "--export=NIL", "--kill-on-invalid-dep=yes", "--output=/x/output.log"),
    )
    assert set(wanted) <= set(words)
    bare = submit_argv(JobRequest("a", "", 1, 1 << 20, Path("/o")))
    assert not [word for word in bare if word.startswith(("--dependency", "--nodelist", "--time"))]


def test_the_lines_of_squeue() -> None:
    text = "3|COMPLETED|kvm1|None|goldsmith-a-web-1\n4|PENDING||Dependency|a | name\n"
    assert parse_jobs(text) == {
        3: JobState("goldsmith-a-web-1", "COMPLETED", "kvm1", "None"),
        4: JobState("a | name", "PENDING", "", "Dependency"),
    }
    assert parse_jobs(text)[3].ended and not parse_jobs(text)[4].ended


def test_a_script_holds_its_spec_as_data() -> None:
    """No text of a definition can end the document in which the script holds it."""
    spec = JobSpec(
        image="web", goldsmith="0.1.0", words=["refresh", "a\nEND_OF_JOB\nrm -rf /"], variables={"KEY": "ü'\n"},
        folder="/x", project="/p", project_digest="0", parents=[], golden=None, numbers=[], always=False,
    )  # fmt: skip
    lines = batch_script(["sudo", "it's"], spec).splitlines()
    assert lines[0] == "#!/bin/sh" and lines[-1] == "END_OF_JOB" and len(lines) == 4
    assert lines[1] == "exec 'sudo' 'it'\\''s' 'worker' 'run' <<'END_OF_JOB'"
    assert lines[2].isascii() and read_spec(lines[2]) == spec


@pytest.mark.parametrize(
    ("stderr", "error"),
    [
        ("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", QueueSilent),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", QueueSilent),
        ("sbatch: error: Memory specification can not be satisfied", BuildError),
    ],
)
def test_a_silent_controller_is_told_from_a_refusal(
    monkeypatch: pytest.MonkeyPatch, stderr: str, error: type[Exception]
) -> None:
    def fail(argv: Sequence[str], **_more: object) -> None:
        raise CommandFailed(argv, 1, "", stderr, None)

    monkeypatch.setattr(slurm_queue.process, "run", fail)
    with pytest.raises(error) as caught:
        Slurm().submit(JobRequest("a", "", 1, 1, Path("/o")))
    assert caught.value.name in ("slurm-silent", "slurm-refused")  # type: ignore[attr-defined]


class Cluster:
    """Answers as the workers would; `answers` are what they print, by node."""

    def __init__(self, **answers: str) -> None:
        self.answers = answers

    def usable_nodes(self) -> frozenset[str]:
        return frozenset(self.answers)

    def run_on(self, node: str, _words: Sequence[str], _options: Sequence[str]) -> str:
        if not self.answers[node]:
            raise CommandFailed(["srun"], 1, "", "srun: error: Unable to allocate resources", "look")
        return self.answers[node]


def test_each_worker_says_what_it_lacks(tmp_path: Path) -> None:
    keys = {node: signing.make(tmp_path / f"{node}.key") for node in ("good", "old", "mute", "strange", "away")}
    settings = SlurmSettings(tmp_path, {node: tmp_path / f"{node}.pub" for node in keys})
    everybody = [key.id for key in keys.values()]

    def report(**fields: object) -> str:
        row = {"name": "disk", "verdict": "ok", "text": "20 GiB", "fix": None, "facts": {}}
        base = {"goldsmith": pipeline.__version__, "key": keys["good"].id, "trusted": everybody, "problems": []}
        return "a note\n" + json.dumps({**base, "findings": [row], **fields}) + "\n"

    cluster = Cluster(
        good=report(),
        old=report(goldsmith="0.0.1", key=None, trusted=everybody[:1], problems=["/srv: read-only"]),
        strange=report(key=keys["good"].id),
        mute="",
    )
    found = examine_workers(settings, cluster)
    bad = {node: [each.name for each in rows if each.verdict != "ok"] for node, rows in found.items()}
    assert bad == {
        "good": [],
        "old": ["version", "key", "trust", "exchange"],
        "mute": ["slurm"],
        "strange": ["key"],
        "away": ["slurm"],
    }
    assert [each.name for each in found["good"]] == ["slurm", "version", "key", "trust", "disk"]
