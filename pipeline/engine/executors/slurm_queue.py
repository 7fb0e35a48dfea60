"""Slurm's own programs: sbatch, squeue, scancel, scontrol, sinfo, srun. Nothing else of goldsmith calls them.

Written for the output of Slurm 22.05 and later; every format is given on the command line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.base import process
from pipeline.base.errors import BuildError, HostError
from pipeline.base.process import CommandFailed, CommandTimeout
from pipeline.base.surroundings import variables

#: Seconds for one of Slurm's programs: they try again by themselves while the controller does not answer.
DEADLINE = 120.0
#: States in which a job has ended (squeue(1), JOB STATE CODES).
ENDED = frozenset(
    {
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
        *("PREEMPTED", "REVOKED", "TIMEOUT"),
    }
)
#: What the programs write on stderr while the controller cannot be asked.
_SILENT = re.compile(
    r"unable to contact|connect(ion)? (failure|refused|timed out)|timed out|not responding|socket|backup controller",
    re.IGNORECASE,
)
#: squeue's reasons of jobs for which nobody has to do anything.
_USUAL_WAITS = ("", "None", "Priority", "Resources", "Dependency", "BeginTime", "Cleaning")
#: sinfo's states in which a node takes jobs; it appends marks such as `*` (does not answer).
_TAKES_JOBS = re.compile(r"(idle|mixed|allocated)[~#!%$@^+-]?", re.IGNORECASE)


class QueueSilent(HostError):
    """Slurm's controller cannot be asked at the moment."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"Slurm's controller does not answer: {why}",
            name="slurm-silent",
            hint="scontrol ping shows whether it runs; its log is SlurmctldLogFile of slurm.conf",
        )


@dataclass(frozen=True)
class JobRequest:
    """A job to submit. `memory` is in bytes; `after` are jobs that must end well first; `node` is a preference."""

    name: str
    script: str
    cpus: int
    memory: int
    output: Path
    after: tuple[int, ...] = ()
    node: str | None = None
    minutes: int | None = None
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class JobState:
    """A job as squeue shows it: `node` is empty until it has one, `reason` is why it waits."""

    name: str
    state: str
    node: str
    reason: str

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def is_held(self) -> bool:
        """Whether a start of the job has failed, and Slurm never starts it again by itself."""
        return self.state == "PENDING" and "launch failed" in self.reason.lower()

    @property
    def unusual_wait(self) -> str:
        """Why a job waits, if it is neither its turn nor its parents; empty otherwise."""
        return "" if self.state != "PENDING" or self.reason in _USUAL_WAITS else self.reason


class Queue(Protocol):
    """What the executor asks of a queue of jobs. Each method raises QueueSilent while the queue cannot be asked."""

    def submit(self, request: JobRequest, /) -> int:
        """The id of the new job. Raises BuildError (slurm-refused)."""
        ...

    def jobs(self) -> Mapping[int, JobState]:
        """This user's jobs by their ids, and those that have ended as long as Slurm remembers them."""
        ...

    def cancel(self, ids: Sequence[int], /) -> None:
        """End jobs; those that have ended, or never were, are passed over."""
        ...

    def forget_node(self, job: int, /) -> None:
        """Let a job that waits run on any node."""
        ...

    def usable_nodes(self) -> frozenset[str]:
        """The nodes that take jobs: neither down, nor drained, nor silent."""
        ...


def submit_argv(request: JobRequest) -> list[str]:
    """sbatch's argument list; the script comes on stdin."""
    preferred = [f"--nodelist={request.node}"] if request.node else []
    limit = [f"--time={request.minutes}"] if request.minutes else []
    after = [f"--dependency=afterok:{':'.join(map(str, request.after))}"] if request.after else []
    return [
        "sbatch",
        "--parsable",
        f"--job-name={request.name}",
        "--nodes=1",
        "--ntasks=1",
        f"--cpus-per-task={request.cpus}",
        f"--mem={-(-request.memory >> 20)}M",
        *limit,
        # a lost node's job starts again on another one; its output is kept
        "--requeue",
        "--open-mode=append",
        f"--output={request.output}",
        "--chdir=/",
        # nothing of the submitter's environment: the worker has its own
        "--export=NIL",
        "--kill-on-invalid-dep=yes",
        *after,
        *preferred,
        *request.options,
    ]


def parse_jobs(text: str) -> dict[int, JobState]:
    """The lines of squeue's format '%A|%T|%N|%r|%j'."""
    found = {}
    for line in text.splitlines():
        number, state, node, reason, name = line.split("|", 4)
        found[int(number)] = JobState(name, state, node, reason)
    return found


class Slurm:
    """The cluster that slurm.conf names, for this user."""

    def submit(self, request: JobRequest, /) -> int:
        try:
            output = _run(submit_argv(request), stdin=request.script)
        except CommandFailed as error:
            raise BuildError(
                f"Slurm refused the job {request.name}: {error.message}",
                name="slurm-refused",
                hint="compare what the image needs (goldsmith plan --all --json) with the nodes (sinfo -Nel)",
            ) from None
        return int(output.strip().partition(";")[0])

    def jobs(self) -> Mapping[int, JobState]:
        return parse_jobs(_run(["squeue", "--noheader", "--me", "--states=all", "--format=%A|%T|%N|%r|%j"]))

    def cancel(self, ids: Sequence[int], /) -> None:
        known = self.jobs()
        if running := [str(each) for each in ids if each in known and not known[each].ended]:
            _run(["scancel", *running])

    def forget_node(self, job: int, /) -> None:
        _run(["scontrol", "update", f"JobId={job}", "ReqNodeList="])

    def usable_nodes(self) -> frozenset[str]:
        lines = _run(["sinfo", "--noheader", "--Node", "--format=%N|%T"]).splitlines()
        pairs = (line.partition("|") for line in lines)
        return frozenset(node for node, _, state in pairs if _TAKES_JOBS.fullmatch(state))

    def run_on(self, node: str, words: Sequence[str], options: Sequence[str]) -> str:
        """What a short program prints on a node. Raises CommandFailed, CommandTimeout, QueueSilent."""
        where = ["--nodes=1", "--ntasks=1", f"--nodelist={node}", "--time=2", "--immediate=30", "--chdir=/"]
        return _run(["srun", "--quiet", "--export=NIL", "--input=none", *where, *options, *words])


def _run(argv: list[str], stdin: str | None = None) -> str:
    """Its stdout. Raises QueueSilent, CommandFailed, HostError (tool-missing)."""
    own = {name: value for name, value in variables().items() if name == "SLURM_CONF"}
    try:
        return process.run(
            argv, deadline=DEADLINE, stdin=stdin, env=own, hint="see its message, and slurm.conf"
        ).stdout
    except CommandTimeout as error:
        raise QueueSilent(error.message) from None
    except CommandFailed as error:
        if _SILENT.search(error.stderr):
            raise QueueSilent(error.message) from None
        raise
