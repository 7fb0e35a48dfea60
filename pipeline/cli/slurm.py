"""`--executor`: where `build` and `refresh` run the work on several images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import typer

from pipeline.base.errors import UsageError
from pipeline.cli import context

if TYPE_CHECKING:
    from pipeline.base.store import Store
    from pipeline.engine.executors.slurm import SlurmExecutor
    from pipeline.gallery.integrity import Judge

LOCAL, SLURM = "local", "slurm"


def executor_option() -> Any:
    """The option of `build` and `refresh`."""
    return typer.Option(
        "--executor",
        metavar="NAME",
        callback=_check_name,
        help="Where images are built: local, or slurm for the hosts of a Slurm cluster, as slurm.yaml says.",
    )


def _check_name(name: str) -> str:
    if name not in (LOCAL, SLURM):
        raise UsageError(
            f"--executor must be {LOCAL} or {SLURM}, not {name}", name="usage", hint="goldsmith refresh --help"
        )
    return name


def refuse_options(options: Sequence[str]) -> None:
    """Raise UsageError for options that the jobs of Slurm cannot have."""
    if options:
        raise UsageError(
            f"{', '.join(options)} cannot be combined with --executor slurm",
            name="usage",
            hint="a job delivers a whole version; build on one host with --executor local",
        )


def slurm_executor(store: Store, on_line: Callable[[str, str], None]) -> SlurmExecutor:
    """The executor of the project's slurm.yaml. Raises UsageError (slurm-undefined, key-unreadable),
    DefinitionError.
    """
    from functools import partial

    from pipeline.base.errors import CheckFailed
    from pipeline.cli.gallery.options import evidence_judge
    from pipeline.engine.executors.slurm import SlurmExecutor
    from pipeline.engine.executors.slurm_queue import Slurm
    from pipeline.engine.executors.slurm_settings import read_settings
    from pipeline.evidence import signing
    from pipeline.evidence.verification import judge

    settings = read_settings(context.project())
    keys = {node: signing.load_public(path) for node, path in settings.workers.items()}

    def judge_of(node: str) -> Judge:
        if node not in keys:
            raise CheckFailed(f"{node} has no key", name="delivery-wrong", hint="add its key to slurm.yaml")
        return partial(judge, keys=[keys[node]], demanded=True)

    return SlurmExecutor(store.ensure(), settings, Slurm(), judge_of, on_line, evidence_judge([]))
