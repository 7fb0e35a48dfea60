"""Executor Slurm: a job per image on the hosts of a cluster. Slurm decides where and when; we own the gallery.

All jobs are submitted at once, children with `afterok` on their parents. What a job has delivered is known by its
folder in the exchange, not by Slurm: a controller that does not answer, or has forgotten a job, loses nothing.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.base import locks
from pipeline.base.errors import BuildError, CheckFailed, GoldsmithError, HostError
from pipeline.base.file_errors import describe_os_error
from pipeline.base.files import Shape, read_usable, remove_tree, write_json
from pipeline.base.store import Store
from pipeline.engine.executors.delivery import failure_of, take_delivery
from pipeline.engine.executors.exchange import OUTPUT, RESULT, Delivery, JobSpec, read_delivery
from pipeline.engine.executors.handover import Handover, batch_script
from pipeline.engine.executors.jobs import ImageJob, Result
from pipeline.engine.executors.slurm_affinity import LayerHosts, share_nodes
from pipeline.engine.executors.slurm_queue import JobRequest, JobState, Queue, QueueSilent
from pipeline.engine.executors.slurm_settings import SlurmSettings
from pipeline.engine.executors.slurm_waits import JobOutput, JobWatch, Timing
from pipeline.engine.scheduler import OVERHEAD, Budget, parents_of
from pipeline.gallery import Gallery
from pipeline.gallery.integrity import Judge

#: The jobs of the session that runs, or that died, in the store.
CATALOGUE = "slurm-jobs.json"
#: How many images may wait for their jobs at once: a thread each.
MOST_JOBS = 4096
#: How often a job that the controller has forgotten is submitted again.
RESUBMISSIONS = 3


class _Catalogue(Shape):
    """A session: `tag` begins the names of its jobs, `exchange` is its folder."""

    tag: str
    exchange: str
    jobs: dict[str, int]


@dataclass
class _Submitted:
    """A job of the session. `id` is None while Slurm has none for it; `name` is that of its last submission.

    A controller that has lost its state gives ids again: a job is known by both.
    """

    job: ImageJob[Any]
    folder: Path
    spec: JobSpec
    node: str | None
    id: int | None = None
    name: str = ""
    submissions: int = 0
    finished: bool = False


@dataclass
class _Session:
    tag: str
    folder: Path
    jobs: dict[str, _Submitted] = field(default_factory=dict)


class SlurmExecutor:
    """`judge_of` gives the judge of the versions of a node; `on_line` gets an image and each line of its output."""

    def __init__(
        self,
        store: Store,
        settings: SlurmSettings,
        queue: Queue,
        judge_of: Callable[[str], Judge],
        on_line: Callable[[str, str], None],
        own_judge: Judge,
        timing: Timing | None = None,
    ) -> None:
        self._store = store
        self._gallery = Gallery(store.gallery)
        self._settings = settings
        self._queue = queue
        self._judge_of = judge_of
        self._own_judge = own_judge
        self._on_line = on_line
        self._timing = timing or Timing()
        self._lock = threading.RLock()
        self._hosts = LayerHosts(store.root)
        self._session: _Session | None = None
        self._seen: Mapping[int, JobState] = {}
        self._asked = self._answered = 0.0

    def budget(self, _jobs: int, /) -> Budget:
        # Slurm knows the processors and the memory of its nodes
        return Budget(MOST_JOBS, 1 << 62, 1 << 62)

    # ---- the session -------------------------------------------------------------------------------------------

    @contextmanager
    def session(self, jobs: Sequence[ImageJob[Any]], /) -> Iterator[None]:
        """Submit all jobs that have something to do. Raises CheckFailed (slurm-locked), HostError, BuildError."""
        with self._only_session():
            self._end_former()
            tag = secrets.token_hex(4)
            session = self._session = _Session(tag, self._settings.exchange / f"goldsmith-{tag}")
            self._answered = time.monotonic()
            try:
                self._prepare(session, jobs)
                yield
            finally:
                self._cancel_rest(session)
                if session.folder.exists():
                    remove_tree(session.folder)
                (self._store.root / CATALOGUE).unlink(missing_ok=True)
                self._session = None

    @contextmanager
    def _only_session(self) -> Iterator[None]:
        path = self._store.tmp / "slurm.lock"
        lock = FileLock(path, timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            raise CheckFailed(
                f"another command runs jobs for this store: {locks.describe_holder(path, self._store.runs)}",
                name="slurm-locked",
                hint="wait until that command ends, or end it; then try again",
            ) from None
        try:
            yield
        finally:
            lock.release()

    def _end_former(self) -> None:
        """Cancel what the session of a killed command has left: its layers stay on the workers."""
        record = read_usable(self._store.root / CATALOGUE, _Catalogue)
        if record is None:
            return
        self._cancel_named(str(record["tag"]))
        former = Path(record["exchange"])
        if former.parent == self._settings.exchange:
            remove_tree(former)
        (self._store.root / CATALOGUE).unlink(missing_ok=True)

    def _prepare(self, session: _Session, jobs: Sequence[ImageJob[Any]]) -> None:
        changed = self._changed(jobs)
        if not changed:
            return
        handover = Handover(self._gallery, session.folder, self._own_judge)
        try:
            (session.folder / "jobs").mkdir(parents=True)
            self._write_catalogue(session)
            handover.take_project(changed[0].definition.project)
        except OSError as error:
            raise HostError(
                f"the exchange {self._settings.exchange} cannot be written to: {describe_os_error(error).message}",
                name="exchange-unusable",
                hint="create the folder, for the user of the jobs, on a file system that all hosts mount",
            ) from None
        preferred = share_nodes(
            [job.definition.name for job in changed], self._hosts.read(), self._queue.usable_nodes()
        )
        needed = {name for job in changed for name in parents_of(job.definition)}
        for job in changed:
            name = job.definition.name
            folder = session.folder / "jobs" / name
            folder.mkdir()
            beside = {each: entry.folder for each, entry in session.jobs.items()}
            spec = handover.write_spec(job, folder, beside, always=name in needed)
            entry = _Submitted(job, folder, spec, preferred.get(name))
            session.jobs[name] = entry
            self._submit(session, entry)

    @staticmethod
    def _changed(jobs: Sequence[ImageJob[Any]]) -> list[ImageJob[Any]]:
        """The jobs that have something to do: by themselves, or because a parent has."""
        changed: dict[str, ImageJob[Any]] = {}
        for job in jobs:
            if any(parent in changed for parent in parents_of(job.definition)) or not job.is_unchanged():
                changed[job.definition.name] = job
        return list(changed.values())

    def _submit(self, session: _Session, entry: _Submitted) -> None:
        """Hand a job to Slurm. A silent controller is asked again, until the deadline; no job is submitted twice."""
        job = entry.job
        after = [session.jobs[name] for name in parents_of(job.definition) if name in session.jobs]
        machine = job.definition.machine
        kvm = self._settings.kvm_options if job.definition.accelerator == "kvm" else ()
        entry.submissions += 1
        entry.name = f"{_prefix(session.tag)}{job.definition.name}-{entry.submissions}"
        request = JobRequest(
            name=entry.name,
            script=batch_script(self._settings.goldsmith, entry.spec),
            cpus=machine.cpus,
            memory=machine.memory + OVERHEAD,
            output=entry.folder / OUTPUT,
            after=tuple(parent.id for parent in after if parent.id is not None and not parent.finished),
            node=entry.node,
            minutes=self._settings.minutes,
            options=(*self._settings.options, *kvm),
        )
        entry.id = self._submitted_once(request)
        self._write_catalogue(session)

    def _submitted_once(self, request: JobRequest) -> int:
        until = time.monotonic() + self._timing.silent
        while True:
            try:
                return self._queue.submit(request)
            except QueueSilent:
                if time.monotonic() > until:
                    raise
            # the controller may have taken the job before it fell silent
            found = self._find_named(request.name, until)
            if found is not None:
                return found

    def _find_named(self, name: str, until: float) -> int | None:
        pause = threading.Event()
        while True:
            try:
                return next((number for number, job in self._queue.jobs().items() if job.name == name), None)
            except QueueSilent:
                if time.monotonic() > until:
                    raise
                pause.wait(self._timing.poll)

    def _write_catalogue(self, session: _Session) -> None:
        ids = {name: entry.id for name, entry in session.jobs.items() if entry.id is not None}
        write_json(self._store.root / CATALOGUE, {"tag": session.tag, "exchange": str(session.folder), "jobs": ids})

    def _cancel_rest(self, session: _Session) -> None:
        with self._lock:
            waiting = [entry for entry in session.jobs.values() if not entry.finished]
        if waiting:
            self._cancel_named(session.tag)

    def _cancel_named(self, tag: str) -> None:
        """Cancel all jobs of a session, and wait for their ends. A silent controller is left alone after a time."""
        until = time.monotonic() + self._timing.cancel
        pause = threading.Event()
        while time.monotonic() < until:
            try:
                mine = {n: job for n, job in self._queue.jobs().items() if job.name.startswith(_prefix(tag))}
                running = [number for number, job in mine.items() if not job.ended]
                if not running:
                    return
                self._queue.cancel(running)
            except QueueSilent:
                pass
            pause.wait(self._timing.poll)

    # ---- one job -----------------------------------------------------------------------------------------------

    def execute(self, job: ImageJob[Result], stop: threading.Event, /) -> Result:
        session = self._session
        assert session is not None, "run_jobs enters the session first"
        name = job.definition.name
        entry = session.jobs.get(name)
        if entry is None:
            return job.run()
        try:
            delivery = self._await(session, entry, stop)
        finally:
            entry.finished = True
        result = entry.folder / RESULT
        if delivery.exit_code != 0 and not result.exists():
            raise failure_of(name, delivery)
        if delivery.exit_code == 0:
            built = [parent for parent in parents_of(job.definition) if parent in session.jobs]
            judge = self._judge_of(delivery.node)
            take_delivery(self._gallery, job.definition, delivery, entry.folder, judge, built)
            with self._lock:
                self._hosts.remember(name, delivery.node)
        return job.complete(job.read_result(result), delivery.node)

    def _await(self, session: _Session, entry: _Submitted, stop: threading.Event) -> Delivery:
        """The job's delivery. Raises BuildError (cancelled, slurm-lost, ...), QueueSilent."""
        name = entry.job.definition.name
        output = JobOutput(entry.folder / OUTPUT, lambda line: self._on_line(name, line))
        watch = JobWatch(self._timing)
        if entry.id is None:
            self._submit(session, entry)
        while True:
            if stop.is_set():
                self._cancel_named(session.tag)
                raise BuildError(f"{name} was stopped together with the other images", name="cancelled")
            output.read()
            state = self._state(entry)
            delivery = read_delivery(entry.folder)
            held = state is not None and state.is_held
            if delivery is not None and delivery.job == entry.id and (state is None or state.node or held):
                if held:
                    self._drop(session, entry)
                self._check_node(name, delivery, state)
                output.read(whole=True)
                return delivery
            if state is None or held:
                if watch.is_missing(self._answered):
                    if held:
                        self._drop(session, entry)
                    self._submit_again(session, entry, "holds" if held else "does not know")
                    watch = JobWatch(self._timing)
            elif state.ended:
                if watch.is_overdue(state):
                    raise _ended_without_delivery(name, entry, state)
            else:
                watch.is_there()
                if reason := watch.new_wait(state):
                    self._on_line(name, f"job {entry.id} waits in Slurm's queue: {reason}")
                self._loosen(entry, state, watch)
            self._need_answer()
            stop.wait(self._timing.poll)

    def _state(self, entry: _Submitted) -> JobState | None:
        """What Slurm says of a job; None if it does not know it. While it is silent, what it said last."""
        with self._lock:
            if time.monotonic() - self._asked >= self._timing.poll:
                try:
                    self._seen = self._queue.jobs()
                    self._answered = time.monotonic()
                except QueueSilent:
                    pass
                self._asked = time.monotonic()
            state = self._seen.get(entry.id) if entry.id is not None else None
            return state if state is not None and state.name == entry.name else None

    def _need_answer(self) -> None:
        if time.monotonic() - self._answered > self._timing.silent:
            raise QueueSilent(f"for {self._timing.silent:.0f} s")

    def _check_node(self, name: str, delivery: Delivery, state: JobState | None) -> None:
        """Raise CheckFailed (delivery-wrong) for a delivery of a host on which the job did not run."""
        if delivery.node not in self._settings.workers or (state and state.node and state.node != delivery.node):
            where = state.node if state and state.node else "a worker of slurm.yaml"
            raise CheckFailed(
                f"{name} was delivered by {delivery.node}, not by {where}",
                name="delivery-wrong",
                hint="add the node and its key to `workers` of slurm.yaml, or keep its jobs away with `options`",
            )

    def _drop(self, session: _Session, entry: _Submitted) -> None:
        """End a job that Slurm holds: the controller had forgotten its start, and failed to start it once more."""
        with self._lock, contextlib.suppress(QueueSilent):
            if entry.id is not None:
                self._queue.cancel([entry.id])
            self._withdraw_children(session, entry.job.definition.name)

    def _submit_again(self, session: _Session, entry: _Submitted, why: str) -> None:
        """The controller has forgotten a job, as one without its saved state does, or holds it: `why`."""
        name = entry.job.definition.name
        if entry.submissions > RESUBMISSIONS:
            raise BuildError(
                f"Slurm has lost the job of {name} {entry.submissions} times",
                name="slurm-lost",
                hint="read the controller's log (SlurmctldLogFile of slurm.conf) and its StateSaveLocation",
            )
        self._on_line(name, f"Slurm {why} job {entry.id}; it is submitted again")
        with self._lock:
            self._submit(session, entry)
            self._asked = 0.0
            self._withdraw_children(session, name)

    def _withdraw_children(self, session: _Session, name: str) -> None:
        """Cancel all jobs behind a lost job, for which they would wait for ever; `execute` submits them again."""
        for child in session.jobs.values():
            if name in parents_of(child.job.definition) and not child.finished and child.id is not None:
                # a controller that falls silent now cancels it at the end of the session
                with contextlib.suppress(QueueSilent):
                    if self._state(child) is not None:
                        self._queue.cancel([child.id])
                child.id = None
                self._withdraw_children(session, child.job.definition.name)

    def _loosen(self, entry: _Submitted, state: JobState, watch: JobWatch) -> None:
        """A job that waits for the host with its layers may run anywhere after some time."""
        if entry.node is None or entry.id is None or state.state != "PENDING" or state.reason == "Dependency":
            return
        if watch.waits_for_node():
            try:
                self._queue.forget_node(entry.id)
                entry.node = None
            except GoldsmithError:
                pass  # it has just started, or the controller is silent: the next look shows it


def _prefix(tag: str) -> str:
    return f"goldsmith-{tag}-"


def _ended_without_delivery(name: str, entry: _Submitted, state: JobState) -> BuildError:
    if state.state == "CANCELLED":
        return BuildError(
            f"the job of {name} was cancelled in Slurm",
            name="slurm-cancelled",
            hint="run the command again; all finished layers are kept on the worker",
        )
    if state.state in ("TIMEOUT", "DEADLINE"):
        return BuildError(
            f"the job of {name} reached its time limit",
            name="slurm-timeout",
            hint="raise `minutes` in slurm.yaml, or the partition's limit",
        )
    return BuildError(
        f"the job of {name} ended as {state.state} on {state.node or 'no node'} and delivered nothing",
        name="slurm-lost",
        hint=f"scontrol show job {entry.id}, and the log of slurmd on that node, say why",
    )
