"""Programs of the host that read a disk which nobody vouches for, each confined; only their output is seen.

In the sandbox's worker `RUNNER` is the parent, who starts them; elsewhere they are started here.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import pipeline
from pipeline.base import process, qemu_img
from pipeline.base.disk_format import find_format, formats
from pipeline.base.errors import DiskError, HostError
from pipeline.disk.confined_exec import UNFIT

#: Bytes of memory that a tool may take, and of one line of its output.
MEMORY, LINE_LIMIT = 224 << 20, 1 << 20
#: Seconds of processor for a small disk, and for each GiB that its file takes.
SECONDS, SECONDS_PER_GIB = 8.0, 240.0
#: Bytes that stay free where a disk is unpacked.
RESERVE = 1 << 30
#: How much larger than its file a packed disk may become: a cluster of 64 KiB, packed by zlib, has 100 bytes at
#: least, but a disk has other clusters too. Many entries that share one packed cluster are an attack on its room.
UNPACK_RATIO, UNPACK_FREE = 100, 64 << 20


class Running:
    """A tool at work: `stream` is its output, `output` the file that it writes; `finish` raises when it failed.

    `abandon` ends it, `release` removes what it has written.
    """

    def __init__(
        self,
        stream: IO[bytes],
        output: str,
        finish: Callable[[], None],
        abandon: Callable[[], None] = lambda: None,
        release: Callable[[], None] = lambda: None,
        seconds: float = SECONDS,
    ) -> None:
        self.stream, self.output, self.seconds = stream, output, seconds
        self._finish, self.abandon, self.release = finish, abandon, release

    def lines(self) -> Iterator[bytes]:
        """Its output by lines. Raises DiskError (disk-map) for a line without end."""
        while line := self.stream.readline(LINE_LIMIT):
            if len(line) == LINE_LIMIT:
                raise DiskError(
                    "the tool's output is not a list of lines",
                    name="disk-map",
                    hint="the disk is damaged: do not use it",
                )
            yield line

    def finish(self) -> None:
        """Wait for its end. Raises DiskError."""
        self.stream.close()
        self._finish()


class Runner(Protocol):
    def start(self, tool: str, parameters: Mapping[str, Any]) -> Running: ...


@dataclass(frozen=True)
class Plan:
    """What a tool runs as; `budget` are the bytes that it may write in all."""

    argv: Sequence[str]
    visible: Sequence[Path]
    writable: Sequence[Path] = ()
    error: str = "disk-map"
    file_size: int = 0
    budget: int = 0
    seconds: float = SECONDS
    codes: tuple[int, ...] = (0,)


def _files(parameters: Mapping[str, Any]) -> list[Path]:
    files = [Path(str(each)) for each in parameters["files"]]
    if not 1 <= len(files) <= 64:
        raise DiskError("a backing chain that is too long", name="backing-cycle", hint="flatten the disk")
    return files


def allocated(path: Path) -> int:
    """Bytes that a file takes on its host; of a block device all that it has."""
    status = path.stat()
    if status.st_blocks:
        return min(status.st_blocks * 512, max(status.st_size, 1))
    with path.open("rb") as file:
        return 0 if status.st_size else file.seek(0, os.SEEK_END)


def _seconds(files: Sequence[Path]) -> float:
    return SECONDS + SECONDS_PER_GIB * sum(map(allocated, files)) / (1 << 30)


def _map(parameters: Mapping[str, Any], _: Path | None) -> Plan:
    files = _files(parameters)
    argv = qemu_img.map_argv(files[0], _format(parameters))
    return Plan(argv, files, seconds=_seconds(files))


def _unpack(parameters: Mapping[str, Any], output: Path | None) -> Plan:
    files = _files(parameters)
    assert output is not None
    size = int(parameters["size"])
    budget = min(size, unpack_budget(files), shutil.disk_usage(output.parent).free - RESERVE)
    argv = qemu_img.unpack_argv(files[0], _format(parameters), output)
    return Plan(argv, files, [output], file_size=size, budget=budget, seconds=_seconds(files))


def unpack_budget(files: Sequence[Path]) -> int:
    """Bytes that a packed disk may become at most, by the size of its files."""
    return UNPACK_FREE + UNPACK_RATIO * sum(map(allocated, files))


def _free_blocks(parameters: Mapping[str, Any], _: Path | None) -> Plan:
    files = _files(parameters)
    offset = int(parameters["offset"])
    return Plan(["dumpe2fs", f"{files[0]}?offset={offset}"], files, error="fs-damaged", seconds=_seconds(files))


def _journal(parameters: Mapping[str, Any], _: Path | None) -> Plan:
    files = _files(parameters)
    argv = ["journalctl", "--no-pager", "-D", str(files[0]), "-n", "4000"]
    return Plan(argv, files, error="journal-damaged", codes=(0, 1))


def _format(parameters: Mapping[str, Any]) -> qemu_img.Format:
    name = str(parameters["fmt"])
    row = find_format(name)
    if row is None:
        known = ", ".join(each.name for each in formats())
        raise DiskError(f"{name[:20]!r} is not a disk format", name="disk-format", hint=f"one of {known}")
    return row.driver


_TOOLS: dict[str, Callable[[Mapping[str, Any], Path | None], Plan]] = {
    "map": _map,
    "unpack": _unpack,
    "free-blocks": _free_blocks,
    "journal": _journal,
}


@dataclass
class Local:
    """Starts tools as children of this process. `scratch` takes what they write (default: TMPDIR)."""

    scratch: Path | None = None

    def start(self, tool: str, parameters: Mapping[str, Any]) -> Running:
        """Raises DiskError where the order makes no sense, HostError where the tool is missing."""
        with ExitStack() as cleanup:
            output = self._room(cleanup, int(parameters["size"])) if tool == "unpack" else None
            plan = _TOOLS[tool](parameters, output)
            child = start_confined(plan)
            guard = _Guard(child, plan)
            assert child.stdout is not None
            release = cleanup.pop_all().close
        name = "" if output is None else str(output)
        return Running(child.stdout, name, guard.finish, guard.abandon, release, plan.seconds)

    def _room(self, cleanup: ExitStack, size: int) -> Path:
        try:
            return self._output(cleanup, size)
        except OSError as error:
            raise DiskError(
                f"there is no space to unpack a disk of {size >> 30} GiB: {error.strerror}",
                name="disk-unpacks-too-large",
                hint="set TMPDIR to a larger file system, or unpack the disk on its original host: qemu-img "
                "convert -O raw",
            ) from None

    def _output(self, cleanup: ExitStack, size: int) -> Path:
        # the parent's own: each worker imports this module, and what reads records takes most of a worker's start
        from pipeline.base import scratch

        folder = cleanup.enter_context(scratch.folder(self.scratch, "unpacked"))
        path = folder / "disk.raw"
        with path.open("xb") as file:
            file.truncate(size)
            # the tool runs as nobody; nobody else gets into the folder
            os.fchmod(file.fileno(), 0o666)
        return path


def start_confined(plan: Plan) -> process.Child:
    """Start a plan's program; stdout and stderr are pipes. What its stderr has no room for makes it wait."""
    program = process.find(plan.argv[0])
    if program is None:
        raise HostError(f"{plan.argv[0]} is not installed", name="tool-missing", hint="make setup installs it")
    order = {
        "argv": [os.path.realpath(program), *plan.argv[1:]],
        "visible": [str(path) for path in plan.visible],
        "writable": [str(path) for path in plan.writable],
        "limits": {
            "memory": MEMORY,
            "cpu_seconds": int(plan.seconds) + 1,
            # what goes through a pipe has no length; messages on stderr have
            "file_size": max(plan.file_size, 1 << 20),
        },
    }
    return process.open_child(
        [sys.executable, "-S", "-P", "-m", "pipeline.disk.confined_exec", json.dumps(order)],
        env={"PYTHONPATH": str(Path(pipeline.__file__).parents[1]), "PYTHONDONTWRITEBYTECODE": "1"},
    )


class _Guard(threading.Thread):
    """Ends a tool at its deadline, or when it has written more than it may."""

    def __init__(self, child: process.Child, plan: Plan) -> None:
        super().__init__(daemon=True)
        self._child, self._plan = child, plan
        # the processor's time is limited by the kernel; this is for a tool that sleeps, on a host that is busy
        self._until = time.monotonic() + 1.5 * plan.seconds
        self._done = threading.Event()
        self.stopped: DiskError | None = None
        self.start()

    def run(self) -> None:
        while not self._done.wait(0.05):
            if time.monotonic() > self._until:
                self.stopped = too_slow(self._plan.visible[0], self._plan.seconds)
            elif self._written() > self._plan.budget:
                self.stopped = too_large(self._plan.visible[0], self._plan.budget)
            if self.stopped is not None:
                process.kill(self._child)
                return

    def _written(self) -> int:
        total = 0
        for path in self._plan.writable:
            with contextlib.suppress(OSError):
                total += path.stat().st_blocks * 512
        return total

    def abandon(self) -> None:
        """End it: nobody wants its output any more."""
        self._done.set()
        process.kill(self._child)
        for stream in (self._child.stdout, self._child.stderr):
            if stream is not None:
                stream.close()

    def finish(self) -> None:
        code = self._wait()
        self._done.set()
        self.join()
        assert self._child.stderr is not None
        with self._child.stderr as stderr:
            os.set_blocking(stderr.fileno(), False)
            output = (stderr.read(64 << 10) or b"").decode("utf-8", "replace").strip().splitlines()
        if self.stopped is not None:
            raise self.stopped
        if self._written() > self._plan.budget:
            raise too_large(self._plan.visible[0], self._plan.budget)
        if code == UNFIT:
            raise HostError(
                f"this host cannot confine the disk reader: {' '.join(output[-1:])[:300]}",
                name="sandbox-unavailable",
                hint="goldsmith doctor shows the missing requirement",
            )
        if code not in self._plan.codes:
            raise self._failed(code, output)

    def _wait(self) -> int:
        try:
            return self._child.wait(timeout=max(0.1, self._until + 5 - time.monotonic()))
        finally:
            process.kill(self._child)

    def _failed(self, code: int, output: list[str]) -> DiskError:
        tool, path = Path(self._plan.argv[0]).name, self._plan.visible[0]
        if code in (-9, -24):
            return too_slow(path, self._plan.seconds)
        text = "".join(char if char.isprintable() else "?" for char in (output or [f"it ended with {code}"])[-1])
        return DiskError(
            f"{tool} cannot read the disk: {text[:300]}",
            name=self._plan.error,
            hint="the disk is damaged, or has features that this host's tools do not support: convert it on its "
            "original host",
            evidence=path,
        )


def too_slow(path: Path, seconds: float) -> DiskError:
    return DiskError(
        f"{path.name}: the disk reader did not finish within {seconds:.0f} s of processor time",
        name="reader-too-slow",
        hint="a valid disk of this size takes much less time, so it is damaged or malicious; if other programs "
        "slowed this host down, try again without them",
        evidence=path,
    )


def too_large(path: Path, budget: int) -> DiskError:
    return DiskError(
        f"{path.name}: unpacked it has more than the {max(budget, 0) >> 20} MiB that its file and this host allow",
        name="disk-unpacks-too-large",
        hint="unpack the disk on its original host with qemu-img convert -O raw, or set TMPDIR to a larger file "
        "system",
        evidence=path,
    )


RUNNER: Runner = Local()
