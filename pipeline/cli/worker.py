"""`goldsmith worker`: what the jobs of --executor slurm run on a worker. No list of verbs shows it."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.base.errors import GoldsmithError, UsageError
from pipeline.cli.environment import locate_store, signing_key
from pipeline.cli.usage import VerbGroup

#: Bytes of a job's spec: Slurm takes scripts of 4 MiB (max_script_size of slurm.conf).
LARGEST_SPEC = 4 << 20


def register(app: typer.Typer) -> None:
    noun = typer.Typer(
        help="Jobs of --executor slurm, on a worker.", no_args_is_help=True, rich_markup_mode=None, cls=VerbGroup
    )
    noun.command("run")(run)
    noun.command("check")(check)
    app.add_typer(noun, name="worker", hidden=True)


def run() -> None:
    """Do the job whose spec comes on stdin; the batch script of --executor slurm calls it.

    Example:
      goldsmith worker run < job.json
    """
    from pipeline.cli.gallery.options import evidence_judge
    from pipeline.engine.executors.exchange import read_spec
    from pipeline.engine.executors.worker import Start, run_job

    try:
        spec = read_spec(sys.stdin.read(LARGEST_SPEC))
    except ValueError as error:
        raise UsageError(
            f"stdin holds no job: {error}", name="job-unreadable", hint="the script of --executor slurm calls it"
        ) from None
    start = Start(
        os.environ.get("SLURMD_NODENAME", ""),
        int(os.environ.get("SLURM_JOB_ID", "0")),
        int(os.environ.get("SLURM_RESTART_COUNT", "0")),
    )
    code = run_job(spec, locate_store(), start, evidence_judge([], arriving=True), _run_words)
    raise typer.Exit(code)


def _run_words(project: Path, words: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run goldsmith in a child process, whose lines are this process's."""
    from pipeline.base import process
    from pipeline.engine.executors.local import GOLDSMITH, LONGEST

    try:
        process.run(
            [*GOLDSMITH, "--project", project, *words],
            deadline=LONGEST,
            env={**variables, **process.own_variables()},
            on_line=lambda line: print(line, flush=True),
        )
    except process.CommandFailed as error:
        return error.code
    return 0


def check(
    exchange: Annotated[Path, typer.Argument(metavar="FOLDER", help="The exchange of slurm.yaml.")],
) -> None:
    """Print as JSON what goldsmith doctor --fleet shows of this worker.

    Example:
      goldsmith worker check /srv/goldsmith
    """
    from dataclasses import asdict

    import pipeline
    from pipeline.base import scratch
    from pipeline.cli.doctor import examine_host
    from pipeline.evidence import signing

    document: dict[str, Any] = {
        "node": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        "goldsmith": pipeline.__version__,
        "key": None,
        "trusted": [],
        "problems": [],
        "findings": [asdict(finding) for finding in examine_host()],
    }
    try:
        store = locate_store()
        key = signing.load(signing_key(), store.root)
        document["key"] = key.id if key else None
        document["trusted"] = [str(signing.load_public(path).keyid) for path in signing.trusted(signing_key())]
        with scratch.folder(exchange, "check"):
            pass
    except (GoldsmithError, OSError) as error:
        document["problems"].append(str(error))
    print(json.dumps(document))
