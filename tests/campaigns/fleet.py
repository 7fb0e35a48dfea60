"""Images on the two nodes of a real Slurm, whose parts are killed: `make campaign-fleet`, no guests.

A round changes all eight images, of which three are a chain, refreshes them, and does one thing meanwhile. Afterwards
each image has its new version once, or the outcome that docs/many-images.md states for that fault; nothing runs any
more, and nothing is left in the exchange. GOLDSMITH_PART selects rounds by parts of their names:
`04`, `drained`, `speed`.

The row `speed` compares eight builds, each with a proof of 20 s, on two nodes and on one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.base.store import Store
from pipeline.gallery import Gallery
from tests.campaigns.__main__ import Page, Row
from tests.fakes import fake_disk
from tests.fakes.slurm_cluster import Cluster, running_cluster
from tests.harness import ROOT, new_home, remove, wait_for, wanted

_DISK = "source: {disk: {path: base.raw, format: raw}}\ngeneralize: {agent: outside}\n"
CHAIN = {"a": _DISK, "b": "source: {master: a@golden}\n", "c": "source: {master: b@golden}\n"}
IMAGES = {**CHAIN, **dict.fromkeys("defgh", _DISK)}
NODES = ("kvm1", "kvm2")
#: MiB of each worker's store: a round needs some 30.
STORE_SIZE = 1500
#: Seconds of a proof in a round, and in the comparison.
PROOF, LONG_PROOF = 3.0, 20.0
DEADLINE = 600.0
#: What two nodes may take of the time of one.
LIMIT = 0.56
ROUNDS = 20


@dataclass
class Fleet:
    """The cluster, the owner and the project. `ids` are the jobs that were there before the round."""

    cluster: Cluster
    number: int = 0
    ids: set[int] = field(default_factory=set)

    @property
    def gallery(self) -> Gallery:
        return Gallery(Store(self.cluster.folder / "owner" / "store").gallery)

    def make_project(self) -> None:
        work, project, exchange = (self.cluster.folder / name for name in ("work", "project", "exchange"))
        for folder in (work, exchange, project / "images"):
            folder.mkdir(parents=True)
        fake_disk.build(work).rename(project / "base.raw")
        (project / "slurm.yaml").write_text(self.cluster.settings(exchange))

    def change(self, images: dict[str, str], seconds: float) -> None:
        """New definitions of all images, whose proofs take some seconds."""
        folder = self.cluster.folder / "project" / "images"
        for path in folder.glob("*.yaml"):
            path.unlink()
        for name, text in images.items():
            # each of its own: one proof of equal disks with equal expectations would serve all of them
            expect = f'expect: [{{command: "echo {self.number} {name}"}}]\n'
            (folder / f"{name}.yaml").write_text(
                f"goldsmith: 1\n{text}prove: [gen1]\n{expect}keep: {{versions: 3}}\n"
            )
        (self.cluster.folder / "stub.json").write_text(json.dumps({"default": seconds}))

    def refresh(self) -> subprocess.Popen[str]:
        place = self.cluster.folder / "owner"
        home, key = str(place / "store"), str(place / "keys" / "signing.key")
        environment = {**self.cluster.environment, "GOLDSMITH_HOME": home, "GOLDSMITH_KEY": key}
        project = ["--project", str(self.cluster.folder / "project")]
        argv = [sys.executable, "-m", "tests.fakes.stub_builder", *project, "refresh", "--all"]
        output = (self.cluster.folder / f"refresh-{self.number}.log").open("a")
        return subprocess.Popen(
            [*argv, "--executor", "slurm", "--json"], stdout=subprocess.PIPE, stderr=output, text=True, cwd=ROOT,
            env={**environment, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def end(self, running: subprocess.Popen[str]) -> dict[str, dict[str, Any]]:
        """The images of the report, by their names."""
        output, _ = running.communicate(timeout=DEADLINE)
        return {image["name"]: image for image in json.loads(output)["images"]}

    def running(self, node: str | None = None) -> list[tuple[int, str, str]]:
        """The id, image and node of each job of this round that runs."""
        rows = [(n, name, where) for n, name, state, where in self.cluster.jobs() if state == "RUNNING"]
        mine = [(n, name.split("-")[2], where) for n, name, where in rows if name.startswith("goldsmith-")]
        return [row for row in mine if node in (None, row[2])]

    def wait_running(self, node: str | None = None) -> tuple[int, str, str]:
        """As `running`, once goldsmith itself works there."""

        def at_work() -> list[tuple[int, str, str]]:
            claims = (self.cluster.folder / "exchange").glob("*/jobs/*/claim.json")
            busy = {path.parent.name for path in claims}
            return [row for row in self.running(node) if row[1] in busy]

        found: list[tuple[int, str, str]] = []
        wait_for(f"a job runs on {node or 'a node'}", lambda: bool(found.extend(at_work()) or found), DEADLINE)
        return found[0]


def nothing(_fleet: Fleet, _refresh: subprocess.Popen[str]) -> set[str]:
    return set()


def kill_slurmd(fleet: Fleet, _refresh: subprocess.Popen[str]) -> set[str]:
    """Its job runs on, and it comes back."""
    fleet.wait_running("kvm1")
    fleet.cluster.kill("kvm1")
    time.sleep(3)
    fleet.cluster.start_node("kvm1")
    return set()


def lose_node(fleet: Fleet, _refresh: subprocess.Popen[str]) -> set[str]:
    """slurmd and all that it started end; the node comes back much later."""
    fleet.wait_running("kvm1")
    fleet.cluster.kill("kvm1")
    fleet.cluster.kill_work("kvm1")
    wait_for("the node is lost", lambda: "kvm1" not in fleet.cluster.states(), DEADLINE)
    time.sleep(5)
    fleet.cluster.start_node("kvm1")
    return set()


def kill_controller(fleet: Fleet, _refresh: subprocess.Popen[str]) -> set[str]:
    fleet.wait_running()
    fleet.cluster.kill("slurmctld")
    time.sleep(6)
    fleet.cluster.start_controller()
    # one that had not saved the newest starts yet starts those jobs again, and drains the nodes that refuse
    for _ in range(20):
        time.sleep(1)
        resume_drained(fleet)
    return set()


def resume_drained(fleet: Fleet) -> None:
    """What an administrator does about nodes that Slurm has drained by itself."""
    for node in set(NODES) - fleet.cluster.states().keys():
        fleet.cluster.call("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)


def lose_state(fleet: Fleet, _refresh: subprocess.Popen[str]) -> set[str]:
    """The controller comes back without its saved state: it knows no job."""
    fleet.wait_running()
    fleet.cluster.kill("slurmctld")
    remove(fleet.cluster.folder / "state")
    (fleet.cluster.folder / "state").mkdir()
    fleet.cluster.start_controller()
    return set()


def cancel_job(fleet: Fleet, _refresh: subprocess.Popen[str]) -> set[str]:
    """The images that must fail: that of the job, and those that are built on it."""
    number, image, _ = fleet.wait_running()
    fleet.cluster.call("scancel", str(number))
    return {image, *("abc"["abc".index(image) :] if image in CHAIN else ())}


def fill_scratch(fleet: Fleet, _refresh: subprocess.Popen[str]) -> set[str]:
    """The worker's store is full until the end: what it builds fails. Which images that are, Slurm decides."""
    fleet.wait_running("kvm1")
    with contextlib.suppress(OSError), (fleet.cluster.folder / "kvm1" / "store" / "fill").open("wb") as file:
        while True:
            file.write(bytes(1 << 20))
    return {"on kvm1"}


def drain_node(fleet: Fleet, _refresh: subprocess.Popen[str]) -> set[str]:
    fleet.wait_running("kvm1")
    fleet.cluster.call("scontrol", "update", "NodeName=kvm1", "State=DRAIN", "Reason=test")
    return set()


def kill_owner(fleet: Fleet, refresh: subprocess.Popen[str]) -> set[str]:
    """The command is killed; the next one takes over."""
    fleet.wait_running()
    refresh.kill()
    return {"owner"}


FAULTS: dict[str, Callable[[Fleet, subprocess.Popen[str]], set[str]]] = {
    "none": nothing,
    "slurmd killed": kill_slurmd,
    "controller killed": kill_controller,
    "job cancelled": cancel_job,
    "scratch full": fill_scratch,
    "node drained": drain_node,
    "node lost": lose_node,
    "controller without its state": lose_state,
    "command killed": kill_owner,
}


def names() -> list[str]:
    kinds = list(FAULTS)
    return [f"{number + 1:02} {kinds[number % len(kinds)]}" for number in range(ROUNDS)]


def play(fleet: Fleet, name: str) -> Row:
    """One round, and what was wrong afterwards."""
    fleet.number += 1
    fleet.change(IMAGES, PROOF)
    before = {image: versions(fleet, image) for image in IMAGES}
    began = time.monotonic()
    running = fleet.refresh()
    wait_for("jobs are submitted", lambda: bool(fleet.running()) or running.poll() is not None, DEADLINE)
    bad = FAULTS[name[3:]](fleet, running)
    if "owner" in bad:
        running.communicate()
        running, bad = fleet.refresh(), set()
    images = fleet.end(running)
    seconds = time.monotonic() - began
    wrong = list(faults_of(fleet, images, before, bad))
    outcomes = [str(image["outcome"]) for image in images.values()]
    failed = [f"{n} ({i['why'].partition(':')[0]})" for n, i in images.items() if i["outcome"] == "failed"]
    tidy_up(fleet)
    return {
        "round": name,
        "promoted": outcomes.count("promoted"),
        "failed": ", ".join(failed),
        "skipped": outcomes.count("skipped"),
        "hosts": " ".join(f"{n}:{i['host'] or '-'}" for n, i in images.items()),
        "seconds": round(seconds, 1),
        "wrong": "; ".join(wrong),
        "ok": not wrong,
    }  # fmt: skip


def versions(fleet: Fleet, image: str) -> set[str]:
    return {version.version for version in fleet.gallery.versions(image)}


def faults_of(
    fleet: Fleet, images: dict[str, dict[str, Any]], before: dict[str, set[str]], bad: set[str]
) -> Iterator[str]:
    """What is not as docs/many-images.md has it."""
    full = "on kvm1" in bad
    for name, image in images.items():
        made = versions(fleet, name) - before[name]
        failed = image["outcome"] in ("failed", "skipped")
        if full:
            if failed and image["outcome"] == "failed" and image["host"] not in ("kvm1", None):
                yield f"{name} failed on {image['host']}, whose disk is not full"
        elif failed != (name in bad):
            yield f"{name} is {image['outcome']}: {image['why']}"
        if len(made) != (0 if failed else 1):
            yield f"{name} has {len(made)} new versions"
        golden = fleet.gallery.find(name)
        text = (fleet.cluster.folder / "project" / "images" / f"{name}.yaml").read_text()
        if not failed and (golden is None or golden.manifest["definition"] != text):
            yield f"golden of {name} was built from another definition"
    if full and not any(image["outcome"] == "failed" for image in images.values()):
        yield "no image failed although a disk was full"
    for child, parent in (("b", "a"), ("c", "b")):
        if images[child]["outcome"] == "promoted":
            used = fleet.gallery.get(child).manifest["inputs"][0]["inputs"]["version"]
            if used != fleet.gallery.get(parent).version:
                yield f"{child} stands on {parent} {used}, which is not golden"
    if left := list((fleet.cluster.folder / "exchange").iterdir()):
        yield f"{len(left)} entries are left in the exchange"
    wait_for("no job runs", lambda: not fleet.running(), DEADLINE)


def tidy_up(fleet: Fleet) -> None:
    """What a fault has left: a full disk, a drained node; and a refresh without a fault, if images are behind."""
    (fleet.cluster.folder / "kvm1" / "store" / "fill").unlink(missing_ok=True)

    def take_jobs() -> bool:
        resume_drained(fleet)
        return set(NODES) <= fleet.cluster.states().keys()

    wait_for("both nodes take jobs", take_jobs, DEADLINE)


def compare_speed(fleet: Fleet) -> Row:
    """Eight builds with proofs of 20 s, without a chain: on one node, then on two."""
    taken = []
    for nodes in (1, 2):
        fleet.number += 1
        fleet.change(dict.fromkeys("ijklmnop", _DISK), LONG_PROOF)
        if nodes == 1:
            fleet.cluster.call("scontrol", "update", "NodeName=kvm2", "State=DRAIN", "Reason=test")
        began = time.monotonic()
        images = fleet.end(fleet.refresh())
        taken.append(time.monotonic() - began)
        fleet.cluster.call("scontrol", "update", "NodeName=kvm2", "State=RESUME", check=False)
        fleet.cluster.wait_idle(*NODES)
        if {image["outcome"] for image in images.values()} != {"promoted"}:
            return {"round": "speed", "wrong": str({n: i["why"] for n, i in images.items()}), "ok": False}
    ratio = taken[1] / taken[0]
    text = f"one node {taken[0]:.1f} s, two nodes {taken[1]:.1f} s: {ratio:.2f} (limit {LIMIT})"
    return {"round": "speed", "promoted": 8, "seconds": round(sum(taken), 1), "hosts": text, "ok": ratio <= LIMIT}


@contextmanager
def small_stores(folder: Path) -> Iterator[None]:
    """The workers' stores are file systems of their own, that can be filled."""
    places = [folder / node / "store" for node in NODES]
    mounted: list[Path] = []
    try:
        for place in places:
            place.mkdir(parents=True)
            options = f"size={STORE_SIZE}m,mode=755"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(place)], check=True)
            mounted.append(place)
        yield
    finally:
        for place in mounted:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


def main() -> int:
    if os.geteuid() != 0:
        print("campaign-fleet needs root: it mounts file systems, and its daemons run as root", file=sys.stderr)
        return 3
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # its daemons end with it
    page, rows = Page("fleet"), []
    folder, began = new_home("fleet"), time.monotonic()
    try:
        with small_stores(folder), running_cluster(folder, NODES) as cluster:
            fleet = Fleet(cluster)
            fleet.make_project()
            for name in wanted([*names(), "speed"]):
                row = compare_speed(fleet) if name == "speed" else play(fleet, name)
                rows.append(row)
                page.say(row)
                if not row["ok"]:
                    keep_logs(folder, name)
    finally:
        remove(folder)
    page.write(rows, f"{time.monotonic() - began:.0f} s")
    return 0 if all(row["ok"] for row in rows) else 1


def keep_logs(folder: Path, name: str) -> None:
    """Copy the logs of a failed round to the place for temporary files."""
    place = Path("/tmp") / f"goldsmith-fleet-{name.replace(' ', '-')}"
    place.mkdir(exist_ok=True)
    for path in [*folder.glob("*.log"), *folder.glob("*.out")]:
        (place / path.name).write_bytes(path.read_bytes())
