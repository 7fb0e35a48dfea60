"""The one door to disks that nobody vouches for: a question is asked, a process without rights reads and answers.

This side opens the files that a question is about, hands over their descriptors, starts the tools that the reader
asks for (each confined), and believes nothing that comes back. It parses no byte of a disk. How to add a question
stands in `questions`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.base import process
from pipeline.base.disk_format import modules
from pipeline.base.errors import DiskError, GoldsmithError, HostError
from pipeline.base.file_errors import describe_os_error, is_limit
from pipeline.disk import tools
from pipeline.disk.confinement import Limits
from pipeline.disk.questions import Answer, Question, clean_name, clean_text, lies, unpack
from pipeline.disk.worker_messages import receive, send

#: How often a worker may open a file: a chain has 64 files, readers open each a few times.
MAX_OPENS = 20_000
#: A disk of this many bytes or less is given the base time only.
_GIB = 1 << 30
_READY_SECONDS = 30.0


@dataclass(frozen=True)
class Grants:
    """What a worker may open: `files` by name; and in `folders` what ends in one of `suffixes` ('' is anything)."""

    files: frozenset[Path]
    folders: tuple[Path, ...] = ()
    suffixes: tuple[str, ...] = ("",)

    def allow(self, path: Path) -> bool:
        if path in self.files:
            return True
        real = Path(os.path.realpath(path))
        return any(real.is_relative_to(folder) for folder in self.folders) and real.name.lower().endswith(
            self.suffixes
        )


def whole_path(path: Path) -> Path:
    """The path by which both sides know a file: absolute, links of its folder followed, its own name kept."""
    absolute = path.absolute()
    return Path(os.path.realpath(absolute.parent)) / absolute.name


def open_foreign(path: Path) -> int:
    """A descriptor of a file or block device that a user has named. Raises DiskError: disk-missing, disk-unreadable,
    disk-not-a-file; HostError where a limit of this host was reached (too-many-files, out-of-memory)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise DiskError(f"{path} does not exist", name="disk-missing", hint="name a disk image that exists") from None
    except OSError as error:
        if is_limit(error):
            raise describe_os_error(error) from None
        refused = error.errno in (errno.EACCES, errno.EPERM)
        raise DiskError(
            f"cannot read {path}: {error.strerror}",
            name="disk-unreadable",
            hint="give this user the right to read it" if refused else "check the host's disk with dmesg",
            evidence=path,
        ) from error
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        os.close(fd)
        raise DiskError(
            f"{path} is neither a file nor a block device", name="disk-not-a-file", hint="name a disk image"
        )
    return fd


def _error_number(error: DiskError) -> int:
    """The number by which the reader learns why `open_foreign` refused a file."""
    if isinstance(error.__cause__, OSError) and error.__cause__.errno:
        return error.__cause__.errno
    return errno.ENOENT if error.name == "disk-missing" else errno.ENXIO


class Worker:
    """A process that answers questions about one disk; several, one after the other, cost one start."""

    def __init__(
        self,
        questions: Iterable[Question],
        path: Path,
        fmt: str | None = None,
        *,
        within: Path | None = None,
        files: Sequence[Path] = (),
        folders: Sequence[Path] = (),
        suffixes: tuple[str, ...] = ("",),
        scratch: Path | None = None,
    ) -> None:
        self.path, self._fmt = path, fmt
        self._questions = {question.name: question for question in questions}
        self._whole = whole_path(path)
        self._within = None if within is None else Path(os.path.realpath(within))
        beside = [*([self._within] if self._within else []), *(Path(os.path.realpath(each)) for each in folders)]
        self._grants = Grants(frozenset([self._whole, *map(whole_path, files)]), tuple(beside), suffixes)
        self._opened: dict[Path, None] = {}
        self._opens = 0
        self._local = tools.Local(scratch)
        self._tool: tools.Running | None = None
        self._scratch = ExitStack()
        self._stack = ExitStack()
        self.confinement: dict[str, Any] = {}

    def __enter__(self) -> Worker:
        os.close(open_foreign(self.path))
        with ExitStack() as stack:
            stack.callback(self._remove_scratch)
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def files(self) -> tuple[Path, ...]:
        """What the worker has opened, in order: an answer names a file by its place here."""
        return tuple(self._opened)

    def _remove_scratch(self) -> None:
        self._scratch.close()

    def keep_scratch(self) -> Callable[[], None]:
        """What tools have unpacked outlives the worker; the caller calls the result to remove it."""
        kept = self._scratch.pop_all()
        self._scratch = ExitStack()
        return kept.close

    def ask(self, question: Question, parameters: Mapping[str, Any] | None = None) -> Answer:
        """The answer of one question. Raises DiskError: what the reader raises, reader-crashed, reader-too-slow,
        reader-too-large, reader-lies; HostError (sandbox-unavailable)."""
        self._until = time.monotonic() + 1.5 * self._seconds
        self._send(
            {
                "name": question.name,
                "path": str(self._whole),
                "fmt": self._fmt,
                "within": None if self._within is None else str(self._within),
                "parameters": dict(parameters or {}),
            }
        )
        length = self._serve("answer")["length"]
        if not isinstance(length, int) or not 0 <= length <= question.limit + (1 << 16):
            raise lies(self.path)
        try:
            value, blobs = unpack(self._result, length)
        except ValueError:
            raise lies(self.path) from None
        if not isinstance(value, dict):
            raise lies(self.path)
        if "error" in value:
            raise self._error(value["error"])
        return Answer(value.get("answer"), blobs, self.confinement)

    def _start(self, stack: ExitStack) -> None:
        most = max(self._questions.values(), key=lambda each: each.seconds)
        size = tools.allocated(self._whole)
        self._seconds = most.seconds + max(each.seconds_per_gib for each in self._questions.values()) * size / _GIB
        self._started = time.monotonic()
        self._until = self._started + _READY_SECONDS
        self._result = os.memfd_create("answer", os.MFD_CLOEXEC)
        stack.callback(os.close, self._result)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        stack.callback(ours.close)
        self._channel = ours
        with theirs:
            self._child = process.open_child(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "pipeline.disk.sandbox_worker",
                    str(theirs.fileno()),
                    str(self._result),
                ],
                # it keeps bytecode, as any Python: modules are read before the first byte of the disk
                env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                pass_fds=(theirs.fileno(), self._result),
                stdout=subprocess.DEVNULL,
            )
        stack.callback(self._reap)
        limits = Limits(
            memory=max(each.memory for each in self._questions.values()),
            cpu_seconds=int(self._seconds) + 1,
            file_size=max(each.limit for each in self._questions.values()),
        )
        self._send(
            {
                "questions": {name: each.where for name, each in self._questions.items()},
                "modules": sorted(
                    {module for each in self._questions.values() for module in each.modules} | {*modules()}
                ),
                "prepare": sorted({where for each in self._questions.values() for where in each.prepare}),
                "limits": asdict(limits),
            }
        )
        self.confinement = dict(self._serve("ready").get("confinement") or {})

    def _send(self, message: Mapping[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        try:
            send(self._channel, message, descriptors)
        except OSError:
            raise self._ended() from None

    def _serve(self, wanted: str) -> dict[str, Any]:
        """Do what the worker asks for until it says `wanted`."""
        while True:
            message = self._receive()
            kind = message.get("do")
            if kind == wanted:
                return message
            try:
                step = {
                    "open": self._open,
                    "tool": self._start_tool,
                    "tool-end": self._end_tool,
                    "resolve": self._resolve,
                }[str(kind)]
                step(message)
            except (KeyError, TypeError, ValueError):
                raise lies(self.path) from None

    def _receive(self) -> dict[str, Any]:
        left = self._until - time.monotonic()
        ready, _, _ = select.select([self._channel], [], [], max(0.0, left))
        if not ready:
            process.kill(self._child)
            raise tools.too_slow(self.path, self._seconds)
        # a worker that begins a message and stops is too slow too
        self._channel.settimeout(max(0.1, left))
        try:
            message, descriptors = receive(self._channel)
        except (EOFError, ConnectionError):
            raise self._ended() from None
        except TimeoutError:
            raise tools.too_slow(self.path, self._seconds) from None
        except (ValueError, RecursionError):
            raise lies(self.path) from None
        for fd in descriptors:
            os.close(fd)
        return message

    def _open(self, message: dict[str, Any]) -> None:
        path = Path(clean_path(message.get("path")))
        self._opens += 1
        if self._opens > MAX_OPENS or not self._grants.allow(path):
            # for the reader there is nothing but what it may open
            self._send({"errno": errno.ENOENT})
            return
        try:
            fd = open_foreign(path)
        except DiskError as error:
            self._send({"errno": _error_number(error)})
            return
        try:
            self._opened[path] = None
            self._send({}, (fd,))
        finally:
            os.close(fd)

    def _resolve(self, message: dict[str, Any]) -> None:
        """Where a name leads by links, of names that the reader may ask about; others lead nowhere."""
        path = Path(clean_path(message.get("path")))
        self._opens += 1
        near = path in self._grants.files or any(path.is_relative_to(each) for each in self._grants.folders)
        self._send({"path": os.path.realpath(path) if near and self._opens <= MAX_OPENS else str(path)})

    def _start_tool(self, message: dict[str, Any]) -> None:
        parameters = dict(message["parameters"])
        files = [Path(clean_path(each)) for each in parameters["files"]]
        if self._tool is not None or not all(self._grants.allow(each) for each in files):
            raise lies(self.path)
        try:
            self._tool = self._local.start(str(message["tool"]), parameters)
        except HostError:
            raise
        except GoldsmithError as error:
            self._send({"error": {"name": error.name, "message": error.message, "hint": error.hint}})
            return
        self._until = max(self._until, time.monotonic() + 1.5 * self._tool.seconds)
        self._scratch.callback(self._tool.release)
        if self._tool.output:
            self._grants = Grants(
                self._grants.files | {whole_path(Path(self._tool.output))},
                self._grants.folders,
                self._grants.suffixes,
            )
        self._send({"output": self._tool.output}, (self._tool.stream.fileno(),))
        # the reader has it now: our copy would keep the tool from seeing that nobody reads any more
        self._tool.stream.close()

    def _end_tool(self, _: dict[str, Any]) -> None:
        running, self._tool = self._tool, None
        if running is None:
            raise lies(self.path)
        try:
            running.finish()
        except HostError:
            raise
        except GoldsmithError as error:
            self._send({"error": {"name": error.name, "message": error.message, "hint": error.hint}})
            return
        self._send({})

    def _error(self, error: object) -> DiskError:
        if not isinstance(error, dict):
            return lies(self.path)
        hint = (
            clean_text(error["hint"])
            if error.get("hint")
            else "copy the disk again from its source, or repair it there"
        )
        return DiskError(
            clean_text(error.get("message")), name=clean_name(error.get("name")), hint=hint, evidence=self.path
        )

    def _ended(self) -> GoldsmithError:
        """Why the worker is gone, by how it ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout=5)
        status = process.kill(self._child)
        # the kernel ends it by this signal when its seconds of processor are used up
        if status == -9 and time.monotonic() - self._started >= self._seconds:
            return tools.too_slow(self.path, self._seconds)
        last = self._last_words() or f"code {status}"
        if not self.confinement and status == 1:
            return HostError(
                f"this host cannot confine the disk reader: {last}",
                name="sandbox-unavailable",
                hint="install libseccomp2 (make setup does); goldsmith doctor shows other problems",
            )
        if status == -9:
            # no limit of its own ends it so: it is the host, mostly for want of memory
            hint = (
                "the host killed the reader, which says nothing about the disk: look for 'Out of memory' in dmesg, "
            )
            hint += "free memory, then try again"
        else:
            hint = "the disk is damaged or malicious: do not use it"
        return DiskError(
            f"{self.path.name}: the disk reader ended early: {last}",
            name="reader-crashed",
            hint=hint,
            evidence=self.path,
        )

    def _last_words(self) -> str:
        assert self._child.stderr is not None
        os.set_blocking(self._child.stderr.fileno(), False)
        output = (self._child.stderr.read(64 << 10) or b"").decode("utf-8", "replace").strip().splitlines()
        return clean_text(output[-1], 300) if output else ""

    def _reap(self) -> None:
        # it ends by itself when nobody is there any more to ask it
        self._channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout=0.5)
        process.kill(self._child)
        if self._child.stderr is not None:
            self._child.stderr.close()
        if self._tool is not None:
            with contextlib.suppress(GoldsmithError):
                self._tool.abandon()


def clean_path(value: object) -> str:
    """A path by which the worker asks for a file. Raises ValueError."""
    if not isinstance(value, str) or not value.startswith("/") or len(value) > 4096 or "\0" in value:
        raise ValueError("no path")
    return value


def ask(
    question: Question,
    path: Path,
    fmt: str | None = None,
    *,
    parameters: Mapping[str, Any] | None = None,
    within: Path | None = None,
    files: Sequence[Path] = (),
) -> Answer:
    """One question about one disk, in a process of its own; `within` may hold backing files. Errors: `Worker.ask`."""
    with Worker([question], path, fmt, within=within, files=files) as worker:
        return worker.ask(question, parameters)
