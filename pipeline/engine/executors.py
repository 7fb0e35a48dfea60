"""Where the work on one image runs: a class each.

An `ImageJob` can be done in two ways with the same effect: by a function of this process, and by a command line of
goldsmith. An executor takes the one that it needs. A queue of other hosts takes the command line too: the store is
shared, and the result comes back as a file.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from pipeline.base import process, scratch
from pipeline.base.errors import BuildError, GoldsmithError
from pipeline.base.store import Store
from pipeline.definition import Definition, PlaybookStep
from pipeline.engine.scheduler import Budget, Task, run_tasks

Result = TypeVar("Result")

#: Seconds for one image of several: a Windows guest with all its updates takes a good part of a day, emulated.
LONGEST = 24 * 3600.0
#: The command line of goldsmith itself, up to its verb.
GOLDSMITH = (sys.executable, "-m", "pipeline")


@dataclass(frozen=True)
class ImageJob(Generic[Result]):
    """What is to be done to one image.

    `run` does it in this process. `arguments` are the words of the command line that does the same; the process may
    leave its result in the file that it is given there, and `read_result` reads that file, which need not exist where
    the process failed. All of them raise GoldsmithError.
    """

    definition: Definition
    run: Callable[[], Result]
    arguments: Callable[[Path], Sequence[str]]
    read_result: Callable[[Path], Result]


class Executor(Protocol):
    """A place where jobs run."""

    def budget(self, jobs: int, /) -> Budget:
        """What may run there at once, where the user allows so many jobs."""
        ...

    def execute(self, job: ImageJob[Result], stop: threading.Event, /) -> Result:
        """Do a job to its end. Raises GoldsmithError where it fails, and BuildError (cancelled) soon after `stop`."""
        ...


class ThisProcess:
    """One job after the other, in the calling thread: a signal reaches the work itself."""

    def budget(self, _jobs: int, /) -> Budget:
        return Budget.of_host(1)

    def execute(self, job: ImageJob[Result], _stop: threading.Event, /) -> Result:
        return job.run()


THIS_PROCESS = ThisProcess()


class ChildProcess:
    """Each job in a process of its own; `on_line` gets the image's name and each line of its output as it comes."""

    def __init__(
        self, store: Store, on_line: Callable[[str, str], None], goldsmith: Sequence[str] = GOLDSMITH
    ) -> None:
        self._store = store
        self._on_line = on_line
        self._goldsmith = goldsmith

    def budget(self, jobs: int, /) -> Budget:
        return Budget.of_host(jobs)

    def execute(self, job: ImageJob[Result], stop: threading.Event, /) -> Result:
        def check_stop() -> None:
            if stop.is_set():
                raise BuildError(
                    f"{name} was stopped together with the other images",
                    name="cancelled",
                    hint="all finished layers are kept",
                )

        name = job.definition.name
        with scratch.folder(self._store.tmp, "result") as folder:
            result = folder / "result.json"
            project = ["--project", str(job.definition.project)]
            try:
                process.run(
                    [*self._goldsmith, *project, *job.arguments(result)],
                    deadline=LONGEST,
                    env=_variables(job.definition),
                    on_line=lambda line: self._on_line(name, line),
                    watch=check_stop,
                )
            except process.CommandFailed as error:
                if result.exists():
                    return job.read_result(result)  # the process has reported itself what failed
                failure = BuildError(f"{name} failed", name="image-failed", hint="read its error above")
                failure.exit_code = error.code
                raise failure from None
            return job.read_result(result)


def _variables(definition: Definition) -> dict[str, str]:
    """What another goldsmith needs to build the image: its own variables, and those that the definition names."""
    steps = (*definition.steps, *definition.refresh.steps)
    named: list[Mapping[str, str]] = [step.environment for step in steps if isinstance(step, PlaybookStep)]
    own = process.own_variables()
    return {**definition.variables, **{name: value for each in named for name, value in each.items()}, **own}


def run_jobs(
    jobs: Sequence[ImageJob[Result]],
    executor: Executor,
    at_once: int,
    on_result: Callable[[str, Result], None],
    on_skip: Callable[[str, str], None],
) -> dict[str, GoldsmithError]:
    """Do all jobs, parents first; the errors of the images that failed or were skipped, by name.

    `on_result` gets an image and its result, in the thread that did the job, and may raise GoldsmithError: then the
    image counts as failed, and its children are skipped. `on_skip` gets a skipped image and its failed parent.
    """
    by_name = {job.definition.name: job for job in jobs}

    def execute(task: Task, stop: threading.Event) -> None:
        on_result(task.name, executor.execute(by_name[task.name], stop))

    return run_tasks(
        [Task.of(job.definition) for job in jobs],
        executor.budget(at_once),
        execute,
        lambda task, parent: on_skip(task.name, parent),
    )
