"""What confines the reader of a disk on this host: a worker is started, confined as for a disk, and asked once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.disk import sandbox
from pipeline.disk.questions import Asked, Question

PROBE = Question("probe", "pipeline.disk.probe:answer_size")


def answer_size(asked: Asked) -> int:
    """The bytes of the file that is asked about."""
    return asked.path.stat().st_size


def probe_confinement() -> dict[str, Any]:
    """`Applied.to_json` of a worker that has looked at a file of goldsmith's own.

    Raises HostError (sandbox-unavailable), and DiskError as `sandbox.ask`.
    """
    return sandbox.ask(PROBE, Path(__file__)).confinement
