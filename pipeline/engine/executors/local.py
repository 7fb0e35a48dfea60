"""Executors of this host: in this process, and in a child process."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from pipeline.base import process, scratch
from pipeline.base.errors import BuildError
from pipeline.base.store import Store
from pipeline.engine.executors.jobs import ImageJob, Result, variables_of
from pipeline.engine.scheduler import Budget

#: Seconds for one image of several: a Windows guest with all its updates takes a good part of a day, emulated.
LONGEST = 24 * 3600.0
#: The command line of goldsmith itself, up to its verb.
GOLDSMITH = (sys.executable, "-m", "pipeline")


class ThisProcess:
    """One job after the other, in the calling thread: a signal reaches the work itself."""

    def budget(self, _jobs: int, /) -> Budget:
        return Budget.of_host(1)

    def session(self, _jobs: Sequence[ImageJob[Any]], /) -> AbstractContextManager[object]:
        return nullcontext()

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

    def session(self, _jobs: Sequence[ImageJob[Any]], /) -> AbstractContextManager[object]:
        return nullcontext()

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
                    env={**variables_of(job.definition), **process.own_variables()},
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
