"""Long operations: each has a file, so that it can be polled, and goes on, after the facade was started again.

A task names a verb and its arguments, and no secret. A verb must be one that can be done again: what it wants to
reach may have been reached already, by the process that was interrupted.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.base.errors import GoldsmithError
from pipeline.base.file_errors import describe_os_error
from pipeline.base.files import Shape, is_older, read_json, read_usable, write_json
from pipeline.base.runs import now
from pipeline.facade.errors import ArmError, arm_error

log = logging.getLogger("goldsmith.facade")

#: Days that a finished operation can be asked for.
KEPT = 7
#: Operations in progress at once; Azure's own limits are of this order.
MOST = 64


@dataclass(frozen=True)
class Task:
    """One long operation. `target`: the id of its resource. `output`: what it returned; `error`: an ARM error.

    `again`: a process that did it was interrupted, and another one goes on with it.
    """

    id: str
    verb: str
    target: str
    arguments: Mapping[str, Any]
    started: str
    status: str = "InProgress"
    ended: str | None = None
    output: Any = None
    error: Mapping[str, Any] | None = None
    again: bool = False

    @property
    def is_over(self) -> bool:
        return self.status != "InProgress"


class TaskShape(Shape):
    """`Task` as a file."""

    id: str
    verb: str
    target: str
    arguments: dict[str, Any]
    started: str
    status: Literal["InProgress", "Succeeded", "Failed"]
    ended: str | None
    output: Any
    error: dict[str, Any] | None
    again: bool = False


#: Does a task and returns its output.
Runner = Callable[[Task], Any]


class Tasks:
    """The folder of tasks. `run` does each in a thread of its own."""

    def __init__(self, root: Path, run: Runner) -> None:
        self._root = root
        self._run = run
        self._changed = threading.Condition()
        self._active = 0

    def refuse_excess(self) -> None:
        """Raise ArmError (429) where too many tasks are in progress, before anything is made."""
        with self._changed:
            if self._active >= MOST:
                raise ArmError(429, "TooManyRequests", f"{MOST} operations are in progress")

    def begin(self, verb: str, target: str, arguments: Mapping[str, Any] | None = None) -> Task:
        """Write a task down and start it. Raises ArmError (429) where too many are in progress."""
        self.refuse_excess()
        task = Task(secrets.token_hex(16), verb, target, dict(arguments or {}), now())
        self._save(task)
        self._start(task)
        return task

    def find(self, number: str) -> Task | None:
        if not (number.isascii() and number.isalnum()):
            return None
        data = read_json(self._root / f"{number}.json", TaskShape)
        return _read(data) if data is not None else None

    def resume(self) -> int:
        """Go on with what an earlier process left, and forget what ended days ago; the number of tasks resumed."""
        resumed = 0
        for path in sorted(self._root.glob("*.json")):
            data = read_usable(path, TaskShape)
            if data is None:
                continue
            if data["status"] == "InProgress":
                self._start(replace(_read(data), again=True))
                resumed += 1
            elif is_older(path, time.time() - KEPT * 86400):
                path.unlink(missing_ok=True)
        return resumed

    def wait_idle(self, seconds: float) -> bool:
        """Whether no task is in progress any more, after at most so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._active == 0, seconds)

    def _start(self, task: Task) -> None:
        with self._changed:
            self._active += 1
        threading.Thread(target=self._do, args=(task,), name=f"task {task.verb}", daemon=True).start()

    def _do(self, task: Task) -> None:
        try:
            done = replace(task, status="Succeeded", output=self._run(task))
        except ArmError as error:
            done = replace(task, status="Failed", error=error.body)
        except GoldsmithError as error:
            done = replace(task, status="Failed", error=arm_error(error).body)
        except OSError as error:
            done = replace(task, status="Failed", error=arm_error(describe_os_error(error)).body)
        except Exception:
            log.exception("the operation %s of %s failed", task.verb, task.target)
            error_body = ArmError(500, "InternalServerError", "goldsmith failed; its log has the reason").body
            done = replace(task, status="Failed", error=error_body)
        try:
            self._save(replace(done, ended=now()))
        except OSError:
            log.exception("the end of %s of %s cannot be written", task.verb, task.target)
        finally:
            with self._changed:
                self._active -= 1
                self._changed.notify_all()

    def _save(self, task: Task) -> None:
        write_json(self._root / f"{task.id}.json", asdict(task))


def _read(data: Mapping[str, Any]) -> Task:
    return Task(**{each.name: data[each.name] for each in fields(Task) if each.name in data})
