"""Several images at once: parents before children, as many as the processors and the memory allow.

`build` and `refresh` both run on it. Where an image's work runs is the executor's affair.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from pipeline.base.errors import CheckFailed, GoldsmithError, Interrupted
from pipeline.definition import Definition, MasterSource

#: Bytes that a build takes besides its guest: qemu, a bootstrap's tools, page cache worth having.
OVERHEAD = 512 << 20


@dataclass(frozen=True)
class Task:
    """One image: the images that it is built on, and what its guest takes (memory in bytes)."""

    name: str
    parents: tuple[str, ...]
    cpus: int
    memory: int

    @classmethod
    def of(cls, definition: Definition) -> Task:
        machine = definition.machine
        return cls(definition.name, parents_of(definition), machine.cpus, machine.memory)


def parents_of(definition: Definition) -> tuple[str, ...]:
    """The images that have to be built or refreshed before this one."""
    source = definition.source
    # a numbered version exists already, or never will
    return (source.image,) if isinstance(source, MasterSource) and source.is_channel else ()


@dataclass(frozen=True)
class Budget:
    """What all that run at once may take together. Memory in bytes."""

    jobs: int
    cpus: int
    memory: int

    @classmethod
    def of_host(cls, jobs: int) -> Budget:
        """This host's processors, and the memory that is available now."""
        memory = 0
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                memory = int(line.split()[1]) * 1024
        return cls(jobs, len(os.sched_getaffinity(0)), memory)

    def fits(self, running: Sequence[Task], task: Task) -> bool:
        """Whether there is room for one more. One alone always runs: a small host is slow, not useless."""
        if not running:
            return True
        together = [*running, task]
        return (
            len(together) <= self.jobs
            and sum(each.cpus for each in together) <= self.cpus
            and sum(each.memory + OVERHEAD for each in together) <= self.memory
        )


#: Called for a task that is skipped, with the name of the parent that failed.
OnSkip = Callable[[Task, str], None]
#: Does a task. Gets an event that is set when it is to stop; raises GoldsmithError where the task fails.
Execute = Callable[[Task, threading.Event], None]


def run_tasks(
    tasks: Sequence[Task], budget: Budget, execute: Execute, on_skip: OnSkip = lambda _task, _parent: None
) -> dict[str, GoldsmithError]:
    """Do all tasks; the errors of those that failed, or were skipped because a parent did.

    Parents stand before their children in `tasks`. A task does not wait for a parent that is not among the tasks.
    With a budget of one job all runs in this thread, so that a signal reaches the work itself.
    """
    if budget.jobs == 1:
        return _run_in_turn(tasks, execute, on_skip)
    waiting = list(tasks)
    running: dict[Future[None], Task] = {}
    failed: dict[str, GoldsmithError] = {}
    done: set[str] = set()
    stop = threading.Event()
    names = {task.name for task in tasks}
    with ThreadPoolExecutor(max_workers=max(1, budget.jobs)) as pool:
        try:
            while waiting or running:
                for task in list(waiting):
                    if skipped := _skip(task, failed, on_skip):
                        waiting.remove(task)
                        failed[task.name] = skipped
                    elif names.intersection(task.parents) <= done and budget.fits(list(running.values()), task):
                        waiting.remove(task)
                        running[pool.submit(execute, task, stop)] = task
                for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                    task = running.pop(future)
                    try:
                        future.result()
                        done.add(task.name)
                    except GoldsmithError as error:
                        failed[task.name] = error
        except BaseException:
            # an interrupt: the others end in order before we do
            stop.set()
            raise
    return failed


def _run_in_turn(tasks: Sequence[Task], execute: Execute, on_skip: OnSkip) -> dict[str, GoldsmithError]:
    failed: dict[str, GoldsmithError] = {}
    for task in tasks:
        if skipped := _skip(task, failed, on_skip):
            failed[task.name] = skipped
            continue
        try:
            execute(task, threading.Event())
        except Interrupted:
            raise
        except GoldsmithError as error:
            failed[task.name] = error
    return failed


def _skip(task: Task, failed: Mapping[str, GoldsmithError], on_skip: OnSkip) -> GoldsmithError | None:
    """The error of a task whose parent failed; None where all its parents are well."""
    parent = next((name for name in task.parents if name in failed), None)
    if parent is None:
        return None
    on_skip(task, parent)
    return CheckFailed(f"skipped: {parent} failed", name="parent-failed")
