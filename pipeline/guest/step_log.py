"""What the steps of every operating system share: their logs, their inputs, and the names of their failures."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TextIO, TypeVar

from pipeline.base import process
from pipeline.base.errors import GoldsmithError, GuestError, UsageError
from pipeline.base.printable import shorten
from pipeline.base.secret_forms import Mask
from pipeline.definition import CopyStep, Step
from pipeline.guest.build import Build

_Error = TypeVar("_Error", bound=GoldsmithError)

#: Characters of a step's log: a guest may print for ever.
LARGEST_LOG = 64 << 20


def step_log(build: Build, number: int, step: Step) -> Path:
    """The file for the output of a definition's step; the first has number 1."""
    return build.log_file(f"steps/{number:02}-{re.sub(r'[^A-Za-z0-9._-]+', '_', step.title)[:60]}.log")


def line_writer(build: Build, file: TextIO) -> Callable[[str], None]:
    """A function that writes a line of a step's output to its log, and shows it to anyone who follows the build."""
    left = LARGEST_LOG

    def write(line: str) -> None:
        nonlocal left
        line = build.secrets.mask.text(line)
        if left > 0:
            left -= len(line) + 1
            file.write(line + "\n" if left > 0 else f"the log is full at {LARGEST_LOG >> 20} MiB\n")
            file.flush()
        build.line(line)

    return write


def require_content(step: Step) -> None:
    """Raises UsageError, before anything boots: step-empty of a copy without a file, copy-special-file."""
    if not isinstance(step, CopyStep):
        return
    from pipeline.guest.copy_stream import need_plain_files

    need_plain_files(step.file)
    if not step.file.is_dir():
        return
    if not any(path.is_symlink() or not path.is_dir() for path in step.file.rglob("*")):
        raise UsageError(
            f"{step.title}: the folder {step.file} contains no file",
            name="step-empty",
            hint="add a file (git does not store empty folders), or create the folder in a script",
        )


def named_failure(error: Exception, step: Step, log: Path) -> GuestError | None:
    """The failure where the error itself has a name for it."""
    if isinstance(error, GuestError) and error.name != "step-failed":
        hint = f"{error.hint}; the step's log is {log}" if error.hint else f"the step's log is {log}"
        return GuestError(f"{step.title}: {error.message}", name=error.name, hint=hint)
    if isinstance(error, process.CommandTimeout):
        return GuestError(
            f"{step.title}: the step did not finish within its timeout of {step.timeout:.0f} s",
            name="step-timeout",
            hint=f"raise the step's `timeout`, or read its log: {log}",
        )
    return None


def masked(error: _Error, mask: Mask) -> _Error:
    """The error without the build's secrets in its words."""
    error.message = mask.text(error.message)
    error.args = (error.message,)
    error.hint = mask.text(error.hint) if error.hint else error.hint
    return error


def describe_failure(error: Exception) -> str:
    """The error's message; of a script its exit code and the last line of its stderr, or else of its stdout."""
    if not isinstance(error, process.CommandFailed):
        return str(error)
    lines = (error.stderr.strip() or error.stdout.strip()).splitlines()
    return f"exit code {error.code}: {shorten(lines[-1].strip())}" if lines else f"exit code {error.code}, no output"
