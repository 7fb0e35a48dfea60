"""qemu-img and qemu-io, on the package `sh`: the only module that names either program.

Every call states the format of each file, because a format that qemu-img probes is chosen by the author of the disk.
The contract is that of `command.run` (deadline, whole output, one kind of error, no orphan), and the part that keeps
it is the same code, `command.follow`. `sh` only starts the child:

- In the background and without its exception hook, so that an exit code is judged here, once.
- With pipes of ours as `_out` and `_err`: `sh` then neither decodes nor drops output, and starts no thread for it.
- Behind `setpriv --pdeathsig`, in a session of its own: no orphan after SIGKILL; the deadline ends the whole group.
- With a waiter thread and an Event in place of `wait(timeout=)`, which polls ten times a second.

`sh` forks in Python, which costs more the more memory the process has (docs/decisions.md has figures). It is imported
at the first call.

What reads a disk that nobody vouches for does not run here but in a confined child (`offline.tools`); that takes its
argument list from `map_argv` and `unpack_argv`.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from pipeline.base import process

#: QEMU's driver of a format, as `disk_format.DiskFormat.driver` has it.
Format = str
#: Seconds that a call may take whose cost does not follow the disk's data.
SHORT = 60.0
#: Seconds that a conversion may take: two hours are 38 MB/s for 256 GiB of data.
CONVERT = 2 * 3600.0
#: Exit codes of `qemu-img check` that are an answer: clean, corruptions, leaked clusters (its manual page).
CHECK_CODES = (0, 2, 3)
#: `sh` is to raise for no exit code and for no signal.
_EVERY_CODE = tuple(range(-64, 256))
_PERCENT = re.compile(r"\((\d+\.\d+)/100%\)")


def version(program: str = "qemu-img") -> str:
    """The first line of `--version`. Raises HostError (tool-missing)."""
    return _run([program, "--version"]).stdout.splitlines()[0].strip()


def create(path: Path, fmt: Format, size: int) -> None:
    """A new image of `size` bytes, all of it a hole."""
    _run(["qemu-img", "create", "-q", "-f", fmt, path, str(size)])


def create_overlay(path: Path, below: Path, below_format: Format, size: int | None = None) -> None:
    """A new qcow2 on top of `below`; `size` in bytes, where it is to be larger than what is below."""
    words: list[str | Path] = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", below_format, "-b", below, path]
    _run([*words, *([str(size)] if size is not None else [])])


def info(path: Path, fmt: Format) -> dict[str, Any]:
    """What `qemu-img info --output=json` says of an image that goldsmith has made."""
    return _object(_run(["qemu-img", "info", "-f", fmt, "--output=json", path]).stdout)


def resize(path: Path, fmt: Format, size: int) -> None:
    """Grow an image to `size` bytes. qemu-img refuses to make one smaller."""
    _run(["qemu-img", "resize", "-q", "-f", fmt, path, str(size)])


def check(path: Path, fmt: Format) -> dict[str, Any]:
    """What `qemu-img check` says: `check-errors`, and `corruptions` and `leaks` where there are any.

    Raises CommandFailed where the image cannot be checked at all, as all raw images cannot.
    """
    return _object(_run(["qemu-img", "check", "-f", fmt, "--output=json", path], ok_codes=CHECK_CODES).stdout)


def convert(
    source: Path,
    source_format: Format,
    target: Path,
    target_format: Format,
    *,
    on_percent: Callable[[float], None] | None = None,
    deadline: float = CONVERT,
) -> None:
    """Write `source` as a new image. `on_percent` gets 0.0 to 100.0 as the work goes on."""
    words: list[str | Path] = ["qemu-img", "convert", "-f", source_format, "-O", target_format, "-t", "writeback"]
    on_line = None
    if on_percent is not None:
        words.append("-p")
        on_line = _percents(on_percent)
    _run([*words, source, target], deadline=deadline, on_line=on_line)


def patch(path: Path, fmt: Format, changes: Sequence[tuple[int, int]]) -> None:
    """Write single bytes, each an (offset, value), into an image, by qemu-io."""
    writes = [word for offset, value in changes for word in ("-c", f"write -P {value:#04x} {offset} 1")]
    _run(["qemu-io", "-f", fmt, *writes, path])


def map_argv(path: Path, fmt: Format) -> list[str]:
    """The argument list that lists an image's extents as JSON, one a line."""
    return ["qemu-img", "map", "-f", fmt, "--output=json", str(path)]


def unpack_argv(path: Path, fmt: Format, target: Path) -> list[str]:
    """The argument list that writes an image's content into `target`, an empty raw file of the disk's size."""
    return ["qemu-img", "convert", "-f", fmt, "-O", "raw", "-n", "--target-is-zero", str(path), str(target)]


def _object(text: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(text)
    return answer


def _percents(on_percent: Callable[[float], None]) -> Callable[[str], None]:
    def on_line(line: str) -> None:
        if found := _PERCENT.search(line):
            on_percent(float(found[1]))

    return on_line


class _Child:
    """A program that `sh` has started, as `command.follow` wants it."""

    def __init__(self, running: Any, argv: Sequence[str]) -> None:
        self.pid: int = running.pid
        self._running = running
        self._argv = argv
        self._ended = threading.Event()
        threading.Thread(target=self._await, daemon=True).start()

    def _await(self) -> None:
        try:
            self._running.wait()
        finally:
            self._ended.set()

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, below zero after a signal. Raises StillRunning after `timeout` seconds."""
        if not self._ended.wait(timeout):
            raise process.StillRunning(list(self._argv), timeout or 0.0)
        code: int = self._running.process.exit_code
        return code


def _run(
    argv: Sequence[str | Path],
    *,
    deadline: float = SHORT,
    on_line: Callable[[str], None] | None = None,
    ok_codes: Sequence[int] = (0,),
) -> process.Result:
    """Run a program to its end. Errors as `command.run`."""
    words = [str(word) for word in argv]

    def start() -> tuple[_Child, IO[bytes], IO[bytes]]:
        return _start(process.tied_argv(words), words)

    return process.follow(start, words, deadline=deadline, on_line=on_line, ok_codes=ok_codes)


def _start(tied: Sequence[str], words: Sequence[str]) -> tuple[_Child, IO[bytes], IO[bytes]]:
    import sh

    (out, out_end), (err, err_end) = os.pipe(), os.pipe()
    try:
        with Path(os.devnull).open("rb") as nothing:
            running = sh.Command(tied[0])(
                *tied[1:],
                _in=nothing,
                _out=out_end,
                _err=err_end,
                _env=process.environment(),
                _bg=True,
                _bg_exc=False,
                _new_session=True,
                _ok_code=_EVERY_CODE,
            )
    except BaseException:
        os.close(out)
        os.close(err)
        raise
    finally:
        os.close(out_end)
        os.close(err_end)
    return _Child(running, words), os.fdopen(out, "rb", buffering=0), os.fdopen(err, "rb", buffering=0)
