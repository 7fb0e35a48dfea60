"""What is to be done to each of several images, and the protocol of a place where that runs.

An `ImageJob` can be done in two ways with the same effect: by a function of this process, and by a command line of
goldsmith. An executor takes the one that it needs. An executor of other hosts takes the command line, and brings the
version that was made there into this store.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pipeline.base.errors import GoldsmithError
from pipeline.definition import Definition, PlaybookStep
from pipeline.engine.scheduler import Budget, Task, run_tasks

Result = TypeVar("Result")


@dataclass(frozen=True)
class ImageJob(Generic[Result]):
    """What is to be done to one image.

    `run` does it in this process. `arguments` are the words of the command line that does the same; the process may
    leave its result in the file that it is given there, and `read_result` reads that file, which need not exist where
    the process failed. All of them raise GoldsmithError.

    The others are for executors of other hosts. `is_unchanged` says, by the versions in this store, that there is
    nothing to do: then `run` does the rest here. `wants_golden` says that the work begins with the golden version.
    `complete` gets the result of another host, and the host's name, when the version is in this store.
    """

    definition: Definition
    run: Callable[[], Result]
    arguments: Callable[[Path], Sequence[str]]
    read_result: Callable[[Path], Result]
    is_unchanged: Callable[[], bool] = lambda: False
    wants_golden: bool = False
    complete: Callable[[Result, str], Result] = lambda result, _host: result


class Executor(Protocol):
    """A place where jobs run."""

    def budget(self, jobs: int, /) -> Budget:
        """What may run there at once, where the user allows so many jobs."""
        ...

    def session(self, jobs: Sequence[ImageJob[Any]], /) -> AbstractContextManager[object]:
        """Entered before the first job of `jobs` and left behind the last, whatever happens."""
        ...

    def execute(self, job: ImageJob[Result], stop: threading.Event, /) -> Result:
        """Do a job to its end. Raises GoldsmithError where it fails, and BuildError (cancelled) soon after `stop`."""
        ...


def variables_of(definition: Definition) -> dict[str, str]:
    """The variables of the environment that the definition and its steps name, with their values here."""
    steps = (*definition.steps, *definition.refresh.steps)
    named: list[Mapping[str, str]] = [step.environment for step in steps if isinstance(step, PlaybookStep)]
    return {**definition.variables, **{name: value for each in named for name, value in each.items()}}


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

    with executor.session(jobs):
        return run_tasks(
            [Task.of(job.definition) for job in jobs],
            executor.budget(at_once),
            execute,
            lambda task, parent: on_skip(task.name, parent),
        )
