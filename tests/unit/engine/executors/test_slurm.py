"""Executor Slurm on a queue that this process plays: what the owner and the workers do, and each way to fail.

tests/vm/test_slurm.py runs it on the real Slurm.
"""

from __future__ import annotations

import io
import json
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from pipeline.base.errors import BuildError, CheckFailed, HostError, UsageError
from pipeline.base.files import write_json
from pipeline.base.store import Store
from pipeline.cli import worker as worker_verbs
from pipeline.definition import Definition, build_order, load_all
from pipeline.engine.executors import ImageJob, run_jobs
from pipeline.engine.executors import exchange as files
from pipeline.engine.executors.slurm import CATALOGUE, SlurmExecutor
from pipeline.engine.executors.slurm_queue import ENDED, JobRequest, JobState, QueueSilent
from pipeline.engine.executors.slurm_settings import SlurmSettings
from pipeline.engine.executors.slurm_waits import JobWatch, Timing
from pipeline.engine.executors.worker import Start, run_job
from pipeline.evidence import signing
from pipeline.evidence.checksum import judge
from pipeline.gallery import DISK, GOLDEN, Gallery, Version
from pipeline.gallery.integrity import Judge
from pipeline.gallery.retention import roll_back
from tests.fakes.signed_master import make_signed_version

IMAGES = {
    "base": "source: {debian: {suite: bookworm}}\n",
    "web": "source: {master: base@golden}\n",
    "shop": "source: {master: web@golden}\n",
    "other": "source: {debian: {suite: trixie}}\n",
}
NODES = ("kvm1", "kvm2")
QUICK = Timing(poll=0.01, affinity=0.0, silent=60.0, missing=0.0, delivery=0.0, cancel=60.0)


def make_version(gallery: Gallery, definition: Definition, key: signing.SigningKey | None, content: str) -> Version:
    """A golden version of an image as a build makes it, with a disk whose content is a text."""
    parent = IMAGES[definition.name].partition("master: ")[2].partition("@")[0]
    used = {"source": "master", "image": parent, "version": gallery.get(parent).version} if parent else {}
    return make_signed_version(gallery, definition.name, key, content, definition.path.read_text(), used)


@dataclass
class Worker:
    """A worker: its store and key, and what it does in place of goldsmith."""

    node: str
    store: Store
    key: signing.SigningKey | None
    judge: Judge
    lab: Lab

    def build(self, project: Path, words: Sequence[str], _variables: Mapping[str, str]) -> int:
        name, result = words[1], Path(words[2])
        self.lab.built.append((name, self.node))
        for action in self.lab.before.pop(name, []):
            action(self)
        if name in self.lab.bad:
            return 4
        definition = next(each for each in load_all(project) if each.name == name)
        if name not in self.lab.unchanged:
            make_version(Gallery(self.store.gallery), definition, self.key, f"{name} {len(self.lab.built)}")
        result.write_text(json.dumps({"name": name}))
        return 0


@dataclass
class LocalQueue:
    """Slurm as far as the executor sees it: jobs run in threads, behind their dependencies, on the named nodes."""

    workers: dict[str, Worker] = field(default_factory=dict)
    states: dict[int, JobState] = field(default_factory=dict)
    requests: dict[int, JobRequest] = field(default_factory=dict)
    #: How many more calls the controller leaves without an answer.
    silent: int = 0
    #: The states in which jobs of these images end without having run.
    ends_as: dict[str, str] = field(default_factory=dict)
    #: Jobs of these images wait; their ids when they were let run on any node.
    held: set[str] = field(default_factory=set)
    loosened: list[int] = field(default_factory=list)
    started: set[int] = field(default_factory=set)
    #: The first jobs of these images are held after a failed launch; whether they run all the same.
    launch_fails: dict[str, bool] = field(default_factory=dict)
    refuses: bool = False
    taken_silently: bool = False
    usable: frozenset[str] = frozenset(NODES)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _turn: int = 0

    def _answer(self) -> None:
        if self.silent > 0:
            self.silent -= 1
            raise QueueSilent("it is restarted")

    def submit(self, request: JobRequest, /) -> int:
        with self._lock:
            if self.refuses:
                raise BuildError("no node has so many processors", name="slurm-refused", hint="ask for fewer")
            if not self.taken_silently:
                self._answer()
            number = 1 + max(self.requests, default=0)
            self.requests[number] = request
            self.states[number] = JobState(request.name, "PENDING", "", "Dependency" if request.after else "None")
            if self.taken_silently:
                self.taken_silently = False
                raise QueueSilent("it took the job and fell silent")
            return number

    def jobs(self) -> Mapping[int, JobState]:
        with self._lock:
            self._answer()
            for number, state in list(self.states.items()):
                if state.state == "PENDING" and not state.is_held:
                    self._start(number, state)
            return dict(self.states)

    def _start(self, number: int, state: JobState) -> None:
        request = self.requests[number]
        image = image_of(request)
        before = [self.states[each].state for each in request.after if each in self.states]
        if any(each in ENDED and each != "COMPLETED" for each in before):
            self.states[number] = replace(state, state="CANCELLED", reason="DependencyNeverSatisfied")
        elif image in self.held or any(each != "COMPLETED" for each in before):
            reason = "Resources" if image in self.held else "Dependency"
            self.states[number] = replace(state, reason=reason)
        elif image in self.launch_fails:
            self.states[number] = replace(state, reason="launch failed requeued held")
            if self.launch_fails.pop(image):
                threading.Thread(target=self.run, args=(number, self.workers["kvm1"], 0, False), daemon=True).start()
        elif image in self.ends_as:
            self.states[number] = replace(state, state=self.ends_as[image], node="kvm1")
        else:
            node = request.node or NODES[self._turn % 2]
            self._turn += 1
            self.states[number] = replace(state, state="RUNNING", node=node, reason="None")
            self.started.add(number)
            threading.Thread(target=self.run, args=(number, self.workers[node]), daemon=True).start()

    def run(self, number: int, worker: Worker, restarts: int = 0, known: bool = True) -> None:
        spec = files.read_spec(self.requests[number].script.split("\n")[2])
        code = run_job(spec, worker.store, Start(worker.node, number, restarts), worker.judge, worker.build)
        with self._lock:
            if known and number in self.states:
                end = "COMPLETED" if code == 0 else "FAILED"
                self.states[number] = replace(self.states[number], state=end)

    def cancel(self, ids: Sequence[int], /) -> None:
        with self._lock:
            self._answer()
            for number in ids:
                if number in self.states and not self.states[number].ended:
                    self.states[number] = replace(self.states[number], state="CANCELLED")

    def forget_node(self, job: int, /) -> None:
        with self._lock:
            self.loosened.append(job)
            self.requests[job] = replace(self.requests[job], node=None)
            self.held.discard(image_of(self.requests[job]))

    def usable_nodes(self) -> frozenset[str]:
        return self.usable


def image_of(request: JobRequest) -> str:
    return request.name.split("-", 2)[2].rpartition("-")[0]


class Lab:
    """An owner, two workers, a project, and the queue between them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project = folder / "project"
        (self.project / "images").mkdir(parents=True)
        for name, source in IMAGES.items():
            (self.project / "images" / f"{name}.yaml").write_text(f"goldsmith: 1\n{source}")
        self.definitions = {each.name: each for each in build_order(load_all(self.project))}
        self.exchange = folder / "exchange"
        self.exchange.mkdir()
        self.built: list[tuple[str, str]] = []
        self.before: dict[str, list[Callable[[Worker], None]]] = {}
        self.bad: set[str] = set()
        self.unchanged: set[str] = set()
        self.keys = {name: signing.make(folder / name / "keys" / "signing.key") for name in ("owner", *NODES)}
        self.store = Store(folder / "owner" / "store").ensure()
        self.gallery = Gallery(self.store.gallery)
        self.queue = LocalQueue()
        trusting = partial(judge, keys=[key.public for key in self.keys.values()], demanded=True)
        for node in NODES:
            store = Store(folder / node / "store").ensure()
            self.queue.workers[node] = Worker(node, store, self.keys[node], trusting, self)
        workers = {node: folder / node / "keys" / "signing.pub" for node in NODES}
        self.settings = SlurmSettings(self.exchange, workers)
        self.lines: list[tuple[str, str]] = []
        self.timing = QUICK

    def executor(self) -> SlurmExecutor:
        def judge_of(node: str) -> Judge:
            return partial(judge, keys=[self.keys[node].public], demanded=True)

        own = partial(judge, keys=[key.public for key in self.keys.values()], demanded=True)
        on_line = lambda name, line: self.lines.append((name, line))  # noqa: E731
        return SlurmExecutor(self.store, self.settings, self.queue, judge_of, on_line, own, self.timing)

    def go(self, *names: str, unchanged: Sequence[str] = ()) -> dict[str, str]:
        """Do jobs of these images; what became of each: its host, 'here', or the error's name."""
        found: dict[str, str] = {}

        def job_of(name: str) -> ImageJob[str]:
            return ImageJob(
                self.definitions[name],
                run=lambda: "here",
                arguments=lambda result: ["refresh", name, str(result)],
                read_result=lambda path: str(json.loads(path.read_text())["name"]),
                is_unchanged=lambda: name in unchanged,
                complete=lambda _result, host: host,
            )

        chosen = [job_of(name) for name in IMAGES if name in (names or IMAGES)]
        failed = run_jobs(chosen, self.executor(), 1, found.__setitem__, lambda *_: None)
        self.errors = failed
        return {**found, **{name: error.name for name, error in failed.items()}}

    def golden(self, name: str) -> Version | None:
        return self.gallery.find(name)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_a_chain_is_built_on_workers_and_the_owner_has_each_version(lab: Lab) -> None:
    found = lab.go()
    assert set(found) == set(IMAGES) and set(found.values()) <= set(NODES)
    assert sorted(name for name, _ in lab.built) == sorted(IMAGES), "no image is built twice"
    for name in IMAGES:
        version = lab.golden(name)
        assert version is not None
        assert version.manifest["signed_by"] == lab.keys[found[name]].id
    assert lab.gallery.get("shop").manifest["inputs"][0]["inputs"]["version"] == lab.gallery.get("web").version
    numbers = {image_of(request): number for number, request in lab.queue.requests.items()}
    after = {image_of(request): request.after for request in lab.queue.requests.values()}
    assert after == {"base": (), "other": (), "web": (numbers["base"],), "shop": (numbers["web"],)}
    assert list(lab.exchange.iterdir()) == [], "the exchange is left empty"
    assert not (lab.store.root / CATALOGUE).exists()


def test_only_what_has_changed_is_submitted(lab: Lab) -> None:
    lab.go()
    lab.built.clear()
    assert lab.go(unchanged=list(IMAGES)) == dict.fromkeys(IMAGES, "here")
    assert lab.built == []
    # a parent that changes takes its children along, and only these
    found = lab.go(unchanged=["base", "shop", "other"])
    assert {name for name, _ in lab.built} == {"web", "shop"}
    assert (found["base"], found["other"]) == ("here", "here")


def test_a_worker_gets_the_parents_that_it_lacks(lab: Lab) -> None:
    """The owner's version, by its digest: a version of the same number that the worker made itself gives way."""
    lab.go("base")
    node = lab.built[0][1]
    other = next(each for each in NODES if each != node)
    stranger = Gallery(lab.queue.workers[other].store.gallery)
    make_version(stranger, lab.definitions["base"], lab.keys[other], "another disk")
    lab.queue.usable = frozenset([other])
    (lab.store.root / "slurm-hosts.json").write_text(json.dumps({"images": {"web": other}}))
    assert lab.go("web") == {"web": other}
    assert stranger.get("base").digest == lab.gallery.get("base").digest
    assert lab.gallery.get("web").manifest["inputs"][0]["inputs"]["version"] == lab.gallery.get("base").version


def test_numbers_of_versions_never_meet(lab: Lab) -> None:
    """Two workers build the same image on two nights: each number is the owner's next."""
    seen = []
    for node in (*NODES, *NODES):
        lab.queue.usable = frozenset([node])
        (lab.store.root / "slurm-hosts.json").write_text(json.dumps({"images": {"base": node}}))
        assert lab.go("base") == {"base": node}
        seen.append(lab.gallery.get("base").number[2])
    assert seen == [0, 1, 2, 3]


def test_an_image_goes_where_its_layers_are_unless_it_waits_too_long(lab: Lab) -> None:
    lab.go("base")
    node = lab.built[0][1]
    lab.go("base")
    assert lab.queue.requests[2].node == node
    lab.queue.held = {"base"}
    assert lab.go("base")["base"] in NODES
    assert lab.queue.loosened == [3]
    lab.queue.usable = frozenset(NODES) - {lab.built[-1][1]}
    lab.go("base")
    assert lab.queue.requests[4].node is None, "a drained node is not asked for"


def test_a_failed_parent_fails_its_children_alone(lab: Lab) -> None:
    lab.bad = {"web"}
    found = lab.go()
    assert (found["web"], found["shop"]) == ("image-failed", "parent-failed")
    assert found["base"] in NODES and found["other"] in NODES
    assert lab.errors["web"].exit_code == 4
    assert lab.golden("web") is None


@pytest.mark.parametrize(
    ("state", "name"),
    [
        ("CANCELLED", "slurm-cancelled"),
        ("TIMEOUT", "slurm-timeout"),
        ("NODE_FAIL", "slurm-lost"),
        ("OUT_OF_MEMORY", "slurm-lost"),
    ],
)
def test_a_job_that_delivers_nothing_fails_its_image(lab: Lab, state: str, name: str) -> None:
    lab.queue.ends_as = {"base": state}
    found = lab.go()
    assert found["base"] == name and found["other"] in NODES
    assert found["web"] == found["shop"] == "parent-failed"


def test_what_a_held_job_has_delivered_is_taken(lab: Lab) -> None:
    """A controller that had not saved a start starts the job twice, and holds it; the first start ends well."""
    lab.queue.launch_fails = {"base": True}
    lab.timing = replace(QUICK, missing=60)
    found = lab.go()
    assert set(found.values()) <= set(NODES) and found["base"] == "kvm1"
    assert sorted(name for name, _ in lab.built) == sorted(IMAGES), "no image is built twice"
    assert lab.queue.states[1].state == "CANCELLED"
    assert ("base", "job 1 waits in Slurm's queue: launch failed requeued held") not in lab.lines


def test_a_held_job_that_delivers_nothing_is_submitted_again(lab: Lab) -> None:
    lab.queue.launch_fails = {"base": False}
    assert set(lab.go().values()) <= set(NODES)
    assert ("base", "Slurm holds job 1; it is submitted again") in lab.lines


def test_a_wait_for_an_administrator_is_shown_once() -> None:
    watch = JobWatch(QUICK)
    drained = JobState("x", "PENDING", "", "Nodes required for job are DOWN, DRAINED or reserved")
    assert [watch.new_wait(drained), watch.new_wait(drained)] == [drained.reason, ""]
    assert watch.new_wait(replace(drained, reason="Priority")) == ""
    assert watch.new_wait(drained) == drained.reason


def test_a_silent_controller_loses_nothing(lab: Lab) -> None:
    lab.queue.silent = 5
    assert set(lab.go().values()) <= set(NODES)
    assert len(lab.built) == len(IMAGES)
    # it took a job and fell silent: the job is found by its name, not submitted again
    lab.built.clear()
    lab.queue.taken_silently, lab.queue.silent = True, 0
    assert lab.go("other")["other"] in NODES
    assert len(lab.built) == 1


def test_a_controller_that_stays_silent_is_named(lab: Lab) -> None:
    lab.timing = replace(QUICK, silent=0.2, cancel=0.1)
    lab.queue.silent = 10**9
    with pytest.raises(HostError) as caught:
        lab.go("base")
    assert caught.value.name == "slurm-silent"


@pytest.mark.parametrize("forgotten", [["web"], ["web", "shop"], ["base", "web", "shop", "other"]])
def test_a_forgotten_job_is_submitted_again(lab: Lab, forgotten: list[str]) -> None:
    """A controller that has lost its saved state, or a part of it, knows these jobs no more, and gives ids again."""
    lab.queue.held = {"web"}

    def forget(_worker: Worker) -> None:
        with lab.queue._lock:
            for number, request in list(lab.queue.requests.items()):
                if image_of(request) in forgotten and number not in lab.queue.started:
                    del lab.queue.states[number], lab.queue.requests[number]
            lab.queue.held.clear()

    lab.before["other"] = [forget]
    found = lab.go()
    assert set(found.values()) <= set(NODES)
    assert sorted(name for name, _ in lab.built) == sorted(IMAGES)
    assert any("submitted again" in line for _, line in lab.lines)


def test_a_job_that_is_lost_again_and_again_is_named(lab: Lab) -> None:
    class Forgets(LocalQueue):
        def jobs(self) -> Mapping[int, JobState]:
            return {}

    forgets = Forgets(lab.queue.workers)
    lab.queue = forgets
    assert lab.go("base") == {"base": "slurm-lost"}
    assert len(forgets.requests) == 4


def test_a_refused_job_ends_the_command(lab: Lab) -> None:
    lab.queue.refuses = True
    with pytest.raises(BuildError) as caught:
        lab.go("base")
    assert caught.value.name == "slurm-refused"
    assert list(lab.exchange.iterdir()) == []


def test_two_commands_do_not_collide(lab: Lab) -> None:
    with FileLock(lab.store.tmp / "slurm.lock"), pytest.raises(CheckFailed) as caught:
        lab.go("base")
    assert caught.value.name == "slurm-locked"


def test_the_jobs_of_a_killed_command_are_cancelled(lab: Lab) -> None:
    former = lab.exchange / "goldsmith-0000aaaa"
    former.mkdir()
    lab.queue.states[7] = JobState("goldsmith-0000aaaa-web-1", "RUNNING", "kvm1", "")
    lab.queue.states[8] = JobState("somebody-else", "RUNNING", "kvm1", "")
    lab.queue.requests[8] = JobRequest("x-y-z-1", "", 1, 1, Path("x"))
    write_json(lab.store.root / CATALOGUE, {"tag": "0000aaaa", "exchange": str(former), "jobs": {"web": 7}})
    lab.go("base")
    assert (lab.queue.states[7].state, lab.queue.states[8].state) == ("CANCELLED", "RUNNING")
    assert not former.exists()


def test_a_stopped_command_cancels_its_jobs(lab: Lab) -> None:
    stop = threading.Event()
    lab.queue.held = set(IMAGES)
    executor = lab.executor()
    job = ImageJob[None](
        lab.definitions["base"], lambda: None, lambda path: ["build", "base", str(path)], lambda _: None
    )
    with executor.session([job]):
        stop.set()
        with pytest.raises(BuildError) as caught:
            executor.execute(job, stop)
    assert caught.value.name == "cancelled"
    assert lab.queue.states[1].state == "CANCELLED"


def test_an_exchange_that_is_missing_is_named(lab: Lab) -> None:
    lab.settings = replace(lab.settings, exchange=lab.folder / "owner" / "keys" / "signing.pub")
    with pytest.raises(HostError) as caught:
        lab.go("base")
    assert caught.value.name == "exchange-unusable"


# ---- what the owner does not take --------------------------------------------------------------------------------


def test_a_version_without_its_workers_signature_is_refused(lab: Lab) -> None:
    lab.queue.workers["kvm1"].key = lab.queue.workers["kvm2"].key = None
    lab.queue.workers["kvm1"].judge = lab.queue.workers["kvm2"].judge = lambda _folder, _manifest: ""
    assert lab.go("base") == {"base": "master-damaged"}
    assert lab.golden("base") is None


def test_a_worker_cannot_speak_for_another_one(lab: Lab) -> None:
    for worker in lab.queue.workers.values():
        worker.key = lab.keys["kvm1"]
    lab.queue._turn = 1
    assert lab.go("base") == {"base": "master-damaged"}
    # and where it claims the other's name, Slurm knows where the job ran
    lab.queue.workers["kvm2"] = replace(lab.queue.workers["kvm1"])
    lab.queue._turn = 1
    assert lab.go("base") == {"base": "delivery-wrong"}
    assert lab.golden("base") is None


def change_parcel(lab: Lab, name: str, act: Callable[[Path], None]) -> None:
    """`act` on the parcel of an image before the owner reads it: as a host that may write to the exchange could."""
    original = lab.queue.run

    def run(number: int, worker: Worker, restarts: int = 0) -> None:
        spec = files.read_spec(lab.queue.requests[number].script.split("\n")[2])
        if spec.image == name:
            folder = Path(spec.folder)
            # the owner looks for the delivery: it comes to its place only when the parcel is changed
            hidden = spec.model_copy(update={"folder": str(folder / "hidden")})
            (folder / "hidden").mkdir()
            run_job(hidden, worker.store, Start(worker.node, number), worker.judge, worker.build)
            act(folder / "hidden" / files.PARCEL)
            for path in (folder / "hidden").iterdir():
                if path.name != files.DELIVERY:
                    path.rename(folder / path.name)
            (folder / "hidden" / files.DELIVERY).rename(folder / files.DELIVERY)
        else:
            original(number, worker, restarts)

    lab.queue.run = run  # type: ignore[method-assign]


def test_a_parcel_that_somebody_changed_is_refused(lab: Lab) -> None:
    def flip(parcel: Path) -> None:
        disk = parcel / DISK
        disk.chmod(0o600)
        data = bytearray(disk.read_bytes())
        data[5] ^= 0xFF
        disk.write_bytes(bytes(data))

    change_parcel(lab, "base", flip)
    assert lab.go("base") == {"base": "master-damaged"}
    assert lab.golden("base") is None


def test_a_version_of_another_image_or_definition_is_refused(lab: Lab) -> None:
    lab.go("other")
    exported = lab.folder / "exported"

    def swap(parcel: Path) -> None:
        shutil.rmtree(parcel)
        shutil.copytree(exported, parcel)

    worker = lab.queue.workers["kvm1"]
    stranger = make_version(Gallery(worker.store.gallery), lab.definitions["other"], worker.key, "x")
    shutil.copytree(stranger.path, exported)
    change_parcel(lab, "base", swap)
    lab.queue._turn = 0
    assert lab.go("base") == {"base": "master-damaged"}
    assert "not of base" in lab.errors["base"].message
    assert lab.golden("base") is None


def test_a_version_on_another_parent_is_refused(lab: Lab) -> None:
    """The owner's golden parent moved while the child was built."""
    lab.before["web"] = [lambda _worker: make_and_promote()]

    def make_and_promote() -> None:
        make_version(lab.gallery, lab.definitions["base"], lab.keys["owner"], "moved on")

    found = lab.go("base", "web")
    assert found["base"] in NODES and found["web"] == "master-damaged"
    assert "but golden is" in lab.errors["web"].message


def test_a_withdrawn_version_stays_withdrawn(lab: Lab) -> None:
    lab.go("base")
    lab.go("base")
    node = lab.built[-1][1]
    _, good = roll_back(lab.gallery, "base", GOLDEN, "it does not boot")
    lab.unchanged = {"base"}
    worker = Gallery(lab.queue.workers[node].store.gallery)
    newest = worker.versions("base")[-1]
    lab.before["base"] = [lambda _worker: worker.promote(newest)]
    (lab.store.root / "slurm-hosts.json").write_text(json.dumps({"images": {"base": node}}))
    assert lab.go("base") == {"base": node}
    assert lab.gallery.get("base").version == good.version


def test_a_delivery_that_only_claims_a_version_is_refused(lab: Lab) -> None:
    def claim(worker: Worker) -> None:
        lab.unchanged = {"base"}
        make_version(Gallery(worker.store.gallery), lab.definitions["base"], worker.key, "made")

    lab.before["base"] = [claim]
    change_delivery(lab, has_parcel=False)
    assert lab.go("base") == {"base": "delivery-wrong"}


def change_delivery(lab: Lab, **fields: object) -> None:
    original = lab.queue.run

    def run(number: int, worker: Worker, restarts: int = 0) -> None:
        spec = files.read_spec(lab.queue.requests[number].script.split("\n")[2])
        folder = Path(spec.folder)
        (folder / "hidden").mkdir()
        hidden = spec.model_copy(update={"folder": str(folder / "hidden")})
        run_job(hidden, worker.store, Start(worker.node, number), worker.judge, worker.build)
        (folder / "hidden" / files.RESULT).rename(folder / files.RESULT)
        delivery = json.loads((folder / "hidden" / files.DELIVERY).read_text())
        write_json(folder / files.DELIVERY, {**delivery, **fields})

    assert original is not None
    lab.queue.run = run  # type: ignore[method-assign]


# ---- what a worker does not do -----------------------------------------------------------------------------------


def spec_of(lab: Lab, name: str, **fields: object) -> files.JobSpec:
    folder = lab.exchange / name
    folder.mkdir(exist_ok=True)
    base: dict[str, Any] = {
        "image": name, "goldsmith": "0.1.0", "words": ["refresh", name, files.RESULT_WORD], "variables": {},
        "folder": str(folder), "project": str(lab.project), "project_digest": files.project_digest(lab.project),
        "parents": [], "golden": None, "numbers": [], "always": False,
    }  # fmt: skip
    return files.JobSpec.model_validate({**base, **fields})


def outcome(lab: Lab, spec: files.JobSpec, start: Start = Start("kvm1", 5)) -> files.Delivery | None:  # noqa: B008
    worker = lab.queue.workers["kvm1"]
    run_job(spec, worker.store, start, worker.judge, worker.build)
    return files.read_delivery(Path(spec.folder))


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"goldsmith": "0.0.1"}, "worker-version"),
        ({"project_digest": "0" * 64}, "project-changed"),
        ({"parents": [{"image": "base"}]}, "parent-missing"),
        ({"parents": [{"image": "base", "job": "/nonexistent"}]}, "parent-missing"),
        ({"parents": [{"image": "base", "golden": {"version": "2026.1.0", "digest": "0" * 64}}]}, "parent-missing"),
    ],
)
def test_a_job_that_cannot_be_done_says_why(lab: Lab, fields: dict[str, object], error: str) -> None:
    delivery = outcome(lab, spec_of(lab, "web", **fields))
    assert delivery is not None and delivery.failure is not None
    assert (delivery.failure.name, delivery.has_parcel) == (error, False)
    assert delivery.exit_code != 0
    assert lab.built == []


def test_a_parent_that_is_not_what_the_owner_named_is_refused(lab: Lab) -> None:
    made = make_version(lab.gallery, lab.definitions["base"], lab.keys["owner"], "x")
    named = {"version": made.version, "digest": "0" * 64, "export": str(made.path)}
    delivery = outcome(lab, spec_of(lab, "web", parents=[{"image": "base", "golden": named}]))
    assert delivery is not None and delivery.failure is not None and delivery.failure.name == "parcel-wrong"


def test_a_job_that_was_started_again_delivers_once(lab: Lab) -> None:
    """Its node was lost: the old start finds that it was replaced, a new one that all is done already."""
    spec = spec_of(lab, "base")

    def start_again(worker: Worker) -> None:
        write_json(Path(spec.folder) / files.CLAIM, {"node": "kvm2", "job": 5, "restarts": 1})

    lab.before["base"] = [start_again]
    assert outcome(lab, spec) is None
    first = outcome(lab, spec, Start("kvm1", 5, 1))
    assert first is not None and first.has_parcel
    assert len(lab.built) == 2
    assert outcome(lab, spec, Start("kvm1", 5, 2)) == first
    assert len(lab.built) == 2, "it was not built again"


def test_a_projects_digest_holds_all_that_a_build_reads(lab: Lab) -> None:
    folder = lab.folder / "copy"
    seen = {files.project_digest(lab.project)}
    (lab.project / ".git").mkdir()
    (lab.project / "playbooks").mkdir()
    (lab.project / "playbooks" / "run.sh").write_text("true\n")
    for change in (
        lambda: None,
        lambda: (lab.project / "playbooks" / "run.sh").chmod(0o755),
        lambda: (lab.project / "playbooks" / "run.sh").write_text("false\n"),
        lambda: (lab.project / "link").symlink_to("playbooks"),
    ):
        change()
        files.copy_project(lab.project, folder)
        digest = files.project_digest(folder)
        assert digest not in seen
        seen.add(digest)
        assert not (folder / ".git").exists()
        shutil.rmtree(folder)


def test_words_that_are_no_job_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hello"))
    with pytest.raises(UsageError) as caught:
        worker_verbs.run()
    assert caught.value.name == "job-unreadable"
