"""Several builds at once: parents before children, as many as the host's processors and memory carry."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from pipeline.base.errors import CheckFailed, GoldsmithError, Interrupted

#: Bytes that a build takes besides its guest: qemu, a bootstrap's tools, page cache worth having.
OVERHEAD = 512 << 20


@dataclass(frozen=True)
class Task:
    """One image: the images of this crew that it stands on, and what its guest takes (memory in bytes)."""

    name: str
    parents: tuple[str, ...]
    cpus: int
    memory: int


@dataclass(frozen=True)
class Budget:
    """What all that run at once may take together."""

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

    def carries(self, running: Sequence[Task], task: Task) -> bool:
        """Whether there is room for one more. One alone always runs: a small host is slow, not useless."""
        if not running:
            return True
        together = [*running, task]
        return (
            len(together) <= self.jobs
            and sum(one.cpus for one in together) <= self.cpus
            and sum(one.memory + OVERHEAD for one in together) <= self.memory
        )


def run(
    tasks: Sequence[Task],
    budget: Budget,
    do: Callable[[Task, threading.Event], None],
    told: Callable[[str], None] = lambda _text: None,
) -> dict[str, GoldsmithError]:
    """Do all tasks; the errors of those that failed, or were skipped because a parent did.

    `do` gets the task and an event that is set when the crew is to stop. Parents stand before their children.
    """
    if budget.jobs == 1:
        return _in_turn(tasks, do, told)
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
                    parents = [name for name in task.parents if name in names]
                    if skipped := _skipped(task, failed, told):
                        waiting.remove(task)
                        failed[task.name] = skipped
                    elif set(parents) <= done and budget.carries(list(running.values()), task):
                        waiting.remove(task)
                        running[pool.submit(do, task, stop)] = task
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


def _in_turn(
    tasks: Sequence[Task], do: Callable[[Task, threading.Event], None], told: Callable[[str], None]
) -> dict[str, GoldsmithError]:
    """One after the other, in this thread: a signal reaches the build itself."""
    failed: dict[str, GoldsmithError] = {}
    for task in tasks:
        if skipped := _skipped(task, failed, told):
            failed[task.name] = skipped
            continue
        try:
            do(task, threading.Event())
        except Interrupted:
            raise
        except GoldsmithError as error:
            failed[task.name] = error
    return failed


def _skipped(task: Task, failed: Mapping[str, GoldsmithError], told: Callable[[str], None]) -> GoldsmithError | None:
    bad = next((name for name in task.parents if name in failed), None)
    if bad is None:
        return None
    told(f"{task.name}: skipped, {bad} failed")
    return CheckFailed(f"skipped: {bad} failed", name="parent-failed")
