"""The process that reads what nobody vouches for: `python -m pipeline.disk.sandbox_worker SOCKET ANSWER`.

It imports what its questions need, gives up every right, and only then reads a first byte of the disk. It opens no
file itself: `os.open`, `os.stat` and `open` in this process ask the parent, who opens what the question is about
and sends the descriptor. So the readers need not know where they run.
"""

from __future__ import annotations

import builtins
import codecs
import gc
import io
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from pipeline.base.errors import DiskError, GoldsmithError
from pipeline.disk import confinement, tools
from pipeline.disk.confinement import Applied, Limits
from pipeline.disk.questions import Asked, pack
from pipeline.disk.worker_messages import receive, send

_CODECS = (
    "utf-16-le",
    "utf-16-be",
    "utf-16",
    "latin-1",
    "ascii",
    "utf-8",
    "cp437",
    "cp1252",
    "idna",
    "hex",
    "utf-32",
)


#: Objects made since the last search for garbage that start another one. At some 200 bytes each, they are a twentieth
#: of the memory that a worker may have.
_GARBAGE_THRESHOLD = 50_000


class Granted:
    """Files by the parent's hand: each open gives a descriptor of its own."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._stat, self._io_open = os.stat, io.open

    def ask(self, message: Mapping[str, Any]) -> tuple[dict[str, Any], list[int]]:
        send(self._channel, message)
        return receive(self._channel)

    def open(self, path: Any, flags: int = os.O_RDONLY, mode: int = 0, *, dir_fd: int | None = None) -> int:
        del mode
        name = os.fsdecode(path)
        if dir_fd is not None or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise PermissionError(13, "a reader of disks writes nothing", name)
        answer, descriptors = self.ask({"do": "open", "path": os.path.normpath(name)})
        if not descriptors:
            number = int(answer.get("errno", 13))
            raise OSError(number, os.strerror(number), name)
        return descriptors[0]

    def file(self, file: Any, mode: str = "r", *arguments: Any, **named: Any) -> IO[Any]:
        if isinstance(file, int):
            return self._io_open(file, mode, *arguments, **named)
        return self._io_open(file, mode, *arguments, **(named | {"opener": self.open}))

    def stat(self, path: Any, *, dir_fd: int | None = None, **_: Any) -> os.stat_result:
        if isinstance(path, int):
            return self._stat(path)
        fd = self.open(path, dir_fd=dir_fd)
        try:
            return self._stat(fd)
        finally:
            os.close(fd)

    def lstat(self, path: Any, **_: Any) -> os.stat_result:
        # the parent has followed all links before it asked
        raise FileNotFoundError(2, "not shown to a reader of disks", os.fsdecode(path))

    def resolve(self, path: Any, *, strict: bool = False) -> str:
        del strict
        name = os.path.normpath(os.fsdecode(path))
        answer, _ = self.ask({"do": "resolve", "path": name})
        return str(answer.get("path", name))

    def take_over(self) -> None:
        """From here on every open of this process asks the parent."""
        replaced: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
            (os, "open", self.open),
            (os, "stat", self.stat),
            (os, "lstat", self.lstat),
            (os.path, "realpath", self.resolve),
            (io, "open", self.file),
            (builtins, "open", self.file),
        )
        for module, name, function in replaced:
            setattr(module, name, function)


class _ParentsTools:
    """Tools that the parent runs, confined; their output comes through a pipe."""

    def __init__(self, granted: Granted) -> None:
        self._granted = granted

    def start(self, tool: str, parameters: Mapping[str, Any]) -> tools.Running:
        answer, descriptors = self._granted.ask({"do": "tool", "tool": tool, "parameters": dict(parameters)})
        if not descriptors:
            raise _error(answer)
        return tools.Running(os.fdopen(descriptors[0], "rb"), str(answer.get("output", "")), self._finish)

    def _finish(self) -> None:
        answer, _ = self._granted.ask({"do": "tool-end"})
        if "error" in answer:
            raise _error(answer)


def _error(answer: dict[str, Any]) -> DiskError:
    error = answer.get("error") or {}
    return DiskError(str(error.get("message")), name=str(error.get("name")), hint=error.get("hint"))


def _warm(modules: list[str], prepare: list[str]) -> None:
    """Load what Python would load late, and what questions keep in files: afterwards these are out of reach."""
    for name in _CODECS:
        codecs.lookup(name)
    for name in ("pipeline.disk.disk", *modules):
        import_module(name)
    for where in prepare:
        _function(where)()


def _function(where: str) -> Callable[..., Any]:
    module, _, name = where.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function


def _begin_pid_namespace(applied: Applied) -> None:
    """The first process of the new namespace goes on; this one ends as that one does."""
    if "pid" not in applied.namespaces:
        return
    child = os.fork()
    if child == 0:
        confinement.die_with_parent()
        return
    os.closerange(3, 64)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        signal.signal(number, signal.SIG_DFL) if number not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def confine(limits: Limits, *, more_calls: Iterable[confinement.Rule] = ()) -> Applied:
    """Give up everything but descriptors that are open, and the system calls of a reader and `more_calls`.

    Raises OSError where the seccomp filter, the floor of it all, cannot be loaded.
    """
    applied = Applied()
    confinement.load_seccomp()
    confinement.leave_namespaces(applied)
    _begin_pid_namespace(applied)
    confinement.limit_resources(limits)
    confinement.change_root(applied)
    confinement.become_nobody()
    confinement.restrict_files(applied)
    confinement.filter_calls(applied, allowed=(*confinement.READER_CALLS, *more_calls))
    return applied


def _too_large(message: str) -> tuple[dict[str, Any], list[bytes]]:
    hint = "the disk is damaged or malicious: the answer about a valid disk is much shorter"
    return {"error": {"name": "reader-too-large", "message": message, "hint": hint}}, []


def answer(function: Callable[[Asked], Any], asked: Asked, memory: int) -> tuple[dict[str, Any], list[bytes]]:
    """What the question's function says, or the error that it raised."""
    try:
        return {"answer": function(asked)}, asked.blobs
    except GoldsmithError as error:
        return {"error": {"name": error.name, "message": error.message, "hint": error.hint}}, []
    except MemoryError:
        return _too_large(f"{asked.path.name}: reading it takes more than {memory >> 20} MiB of memory")
    except RecursionError:
        return _too_large(f"{asked.path.name}: it is nested deeper than any sound disk")
    except EOFError as error:
        if not error.args:
            # the parent is gone
            os._exit(1)
        return {"error": {"name": "reader-crashed", "message": f"the disk reader ended early: {error!r}"}}, []
    except Exception as error:  # a hostile disk may surprise any library; the parent gets one named error
        return {"error": {"name": "reader-crashed", "message": f"the disk reader ended early: {error!r}"[:500]}}, []


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    result = int(sys.argv[2])
    order, _ = receive(channel)
    _warm(order["modules"], order["prepare"])
    functions = {name: _function(where) for name, where in order["questions"].items()}
    # modules stay, and so does most of what is read of a disk: a search for garbage finds little and visits it all
    gc.freeze()
    gc.set_threshold(_GARBAGE_THRESHOLD)
    limits = Limits(**order["limits"])
    applied = confine(limits)
    granted = Granted(channel)
    granted.take_over()
    tools.RUNNER = _ParentsTools(granted)
    send(channel, {"do": "ready", "confinement": applied.to_json()})
    while True:
        try:
            question, _ = receive(channel)
        except EOFError:
            break
        within = question["within"]
        asked = Asked(
            Path(question["path"]), question["fmt"], None if within is None else Path(within), question["parameters"]
        )
        value, blobs = answer(functions[question["name"]], asked, limits.memory)
        os.lseek(result, 0, os.SEEK_SET)
        try:
            length = pack(result, value, blobs)
        except OSError:
            os.lseek(result, 0, os.SEEK_SET)
            length = pack(result, _too_large(f"{asked.path.name}: the answer about it is too long")[0], [])
        send(channel, {"do": "answer", "length": length})
    os._exit(0)


if __name__ == "__main__":
    main()
