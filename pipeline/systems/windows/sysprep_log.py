"""Sysprep's logs on a disk at rest; read in the sandbox's worker."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pipeline.disk.questions import Asked
from pipeline.disk.root import Root
from pipeline.disk.windows import decoded

FOLDER = "/Windows/System32/Sysprep"
#: What sysprep did, and what of it failed.
SETUPACT, SETUPERR = f"{FOLDER}/Panther/setupact.log", f"{FOLDER}/Panther/setuperr.log"


def log_lines(root: Root, path: str, limit: int = 4 << 20) -> list[str]:
    """The lines of a log that are not blank, of its first `limit` bytes; none where there is no such file."""
    text = decoded(root.read(path, limit) or b"")
    return [line.strip() for line in text.splitlines() if line.strip()]


def error_lines(lines: Iterable[str]) -> list[str]:
    """The lines that report an error."""
    return [line for line in lines if re.search(r"\berror\b", line, re.IGNORECASE)]


def answer_errors(asked: Asked) -> list[str]:
    """The errors in sysprep's log. Raises DiskError (no-windows-root)."""
    with asked.disk() as disk:
        return error_lines(log_lines(disk.windows, SETUPERR))
