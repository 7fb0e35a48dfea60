"""Executor Slurm on the real Slurm: two nodes on this host, builds that boot no guest."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.fakes import fake_disk
from tests.fakes.slurm_cluster import PACKAGES, PROGRAMS, Cluster, running_cluster
from tests.harness import ROOT, new_home, remove, wait_for
from tests.tools import missing_tools

MISSING = missing_tools(*PROGRAMS)
pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(
        bool(MISSING), reason=f"{', '.join(MISSING)} not installed (apt-get install {' '.join(PACKAGES)})"
    ),
]
IMAGES = {
    "base": "source: {disk: {path: base.raw, format: raw}}\ngeneralize: {agent: outside}\n",
    "web": "source: {master: base@golden}\n",
    "other": "source: {disk: {path: base.raw, format: raw}}\ngeneralize: {agent: outside}\n",
}
#: Seconds for what takes some seconds on a quiet host.
DEADLINE = 300.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    folder = new_home("slurm")
    try:
        with running_cluster(folder, ("kvm1", "kvm2")) as made:
            make_project(made)
            yield made
    finally:
        remove(folder)


def make_project(cluster: Cluster) -> None:
    work, project, exchange = (cluster.folder / name for name in ("work", "project", "exchange"))
    for folder in (work, exchange, project / "images"):
        folder.mkdir(parents=True)
    fake_disk.build(work).rename(project / "base.raw")
    for name, text in IMAGES.items():
        (project / "images" / f"{name}.yaml").write_text(f"goldsmith: 1\n{text}prove: [gen1]\n")
    (project / "slurm.yaml").write_text(cluster.settings(exchange))


def owner(cluster: Cluster, *words: str) -> subprocess.Popen[str]:
    place = cluster.folder / "owner"
    environment = {
        **cluster.environment,
        "GOLDSMITH_HOME": str(place / "store"),
        "GOLDSMITH_KEY": str(place / "keys" / "signing.key"),
        "PYTHONPATH": str(ROOT),
    }
    argv = [sys.executable, "-m", "tests.fakes.stub_builder", "--project", str(cluster.folder / "project"), *words]
    return subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )


def refresh(cluster: Cluster, *words: str) -> tuple[int, dict[str, dict[str, object]], str]:
    """The exit code, the images of the report by their names, and stderr."""
    running = owner(cluster, "refresh", *words, "--executor", "slurm", "--json")
    output, errors = running.communicate(timeout=DEADLINE)
    print(errors)
    return running.returncode, {str(image["name"]): image for image in json.loads(output)["images"]}, errors


def test_a_night_on_two_nodes(cluster: Cluster) -> None:
    """A chain and another image; then nothing is left to do, and no job is submitted."""
    code, images, errors = refresh(cluster, "--all")
    assert code == 0
    assert {name: image["outcome"] for name, image in images.items()} == dict.fromkeys(IMAGES, "promoted")
    assert {image["host"] for image in images.values()} <= {"kvm1", "kvm2"}
    assert " passed, 0 failed" in errors, "the logs of the jobs are streamed back"
    signed = owner(cluster, "gallery", "verify")
    assert signed.wait(DEADLINE) == 0
    before = len(cluster.jobs())
    code, images, _ = refresh(cluster, "--all")
    assert (code, {image["outcome"] for image in images.values()}) == (0, {"unchanged"})
    assert len(cluster.jobs()) == before


def test_a_cancelled_job_and_an_ended_command(cluster: Cluster) -> None:
    """scancel fails its image by name; SIGTERM to the command cancels all its jobs."""
    stub = cluster.folder / "stub.json"
    stub.write_text(json.dumps({"default": 600}))
    definition = cluster.folder / "project" / "images" / "other.yaml"
    definition.write_text(definition.read_text() + "summary: new\n")
    running = owner(cluster, "refresh", "other", "--executor", "slurm")
    wait_for("the job runs", lambda: bool(job_ids(cluster, "RUNNING")), DEADLINE)
    cluster.call("scancel", *job_ids(cluster, "RUNNING"))
    _, errors = running.communicate(timeout=DEADLINE)
    assert running.returncode == 4 and "other" in errors
    running = owner(cluster, "refresh", "other", "--executor", "slurm")
    wait_for("the job runs", lambda: bool(job_ids(cluster, "RUNNING")), DEADLINE)
    running.terminate()
    running.communicate(timeout=DEADLINE)
    assert running.returncode == 143
    assert job_ids(cluster, "RUNNING") == job_ids(cluster, "PENDING") == []
    assert list((cluster.folder / "exchange").iterdir()) == []


def job_ids(cluster: Cluster, state: str) -> list[str]:
    return [str(number) for number, _, its, _ in cluster.jobs() if its == state]
