"""How a fault gets into a running command: at the call of the kernel that a row of the table names.

strace counts the calls of the command from its start and, at the one that is wanted, makes it fail, sends a signal,
or stops the process, so that something can be done to its file system before it goes on.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.campaigns.fault_bench import Bench, Command, Ended, Verb
from tests.processes import kill_tree

#: Calls that change a file system, by the names that a row may use for several.
GROUPS = {
    "rename": ("rename", "renameat", "renameat2"),
    "unlink": ("unlink", "unlinkat", "rmdir"),
    "link": ("link", "linkat", "symlink", "symlinkat"),
    "sync": ("fsync", "fdatasync"),
    "write": ("write", "pwrite64", "copy_file_range", "sendfile"),
    "read": ("read", "pread64"),
    "create": ("openat",),
    "open": ("openat",),
    "mkdir": ("mkdir", "mkdirat"),
    "list": ("getdents64",),
    "mode": ("chmod", "fchmod", "fchmodat", "chown", "fchown", "fchownat"),
    "size": ("ftruncate", "fallocate"),
    "helper": ("execve",),
}
SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT, "HUP": signal.SIGHUP}
_LINE = re.compile(r"^(\d+) +(\w+)\((.*)")


@dataclass(frozen=True)
class Moment:
    """A call of the kernel, the so-many-th of its name, and what it is about, in words."""

    call: str
    number: int
    what: str = ""


def find_moments(bench: Bench, verb: Verb, group: str, count: int) -> list[Moment]:
    """At most `count` moments of an undisturbed run, spread evenly: calls of this group on files of the bench.

    Of helpers, which are processes that the command starts, there is one moment: their start.
    """
    bench.reset()
    return choose(bench, verb, group, count)


def choose(bench: Bench, verb: Verb, group: str, count: int) -> list[Moment]:
    """As `find_moments`, on the bench as it stands."""
    if group == "helper":
        return [Moment("execve", 1, "the start of each helper")]
    found = [each for each in _trace(bench, verb, GROUPS[group]) if group != "create" or "O_CREAT" in each.what]
    if not found:
        return []
    count = min(count, len(found))
    return [found[(2 * index + 1) * len(found) // (2 * count)] for index in range(count)]


def _trace(bench: Bench, verb: Verb, calls: tuple[str, ...]) -> list[Moment]:
    log = bench.beside / "trace"
    command = bench.command(verb.words)
    with _tracer(command, "-y", "-s", "200", "-o", str(log), "-e", f"trace={','.join(calls)}"):
        command.start()
        command.end()
    seen: defaultdict[str, int] = defaultdict(int)
    found = []
    for line in log.read_text(errors="replace").splitlines():
        match = _LINE.match(line)
        if match is None or int(match[1]) != command.pid:
            continue
        seen[match[2]] += 1
        if str(bench.root) in match[3]:
            found.append(Moment(match[2], seen[match[2]], match[3]))
    return found


@contextmanager
def _tracer(command: Command, *options: str) -> Iterator[None]:
    argv = ["strace", "-f", "-qq", *options, "-p", str(command.pid)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as tracer:
        try:
            _wait("strace", lambda: _tracer_of(command.pid) == tracer.pid)
            yield
        finally:
            if tracer.poll() is None:
                tracer.terminate()
            tracer.wait()


def _tracer_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("TracerPid:")[1].split()[0])


def _wait(what: str, probe: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not probe():
        assert time.monotonic() < until, f"{what}: not within a minute"
        time.sleep(0.002)


# ---- the kinds of faults -----------------------------------------------------------------------------------------


def send(bench: Bench, verb: Verb, moment: Moment, name: str) -> Ended:
    """Send a signal at a moment; of a helper's start, to the helper."""
    return _inject(bench, verb, moment, f"signal={name}")


def fail(bench: Bench, verb: Verb, moment: Moment, name: str) -> Ended:
    """Make the call of a moment fail with an error number; with a plus behind its name, all later ones too."""
    return _inject(bench, verb, moment, f"error={name.rstrip('+')}", "+" if name.endswith("+") else "")


def _inject(bench: Bench, verb: Verb, moment: Moment, what: str, more: str = "") -> Ended:
    command = bench.command(verb.words)
    rule = f"inject={moment.call}:{what}:when={moment.number}{more}"
    with _tracer(command, "-o", "/dev/null", "-e", f"trace={moment.call}", "-e", rule):
        command.start()
        return command.end()


def pause(bench: Bench, verb: Verb, moment: Moment, action: Callable[[Command], None]) -> Ended:
    """Stop the command at a moment, do something, and let it go on, if it still is there.

    strace counts the calls of each process by itself. A helper that comes to as many calls is stopped too, so the
    tracer goes first, and then everything that it stopped goes on.
    """
    command = bench.command(verb.words)
    rule = f"inject={moment.call}:signal=STOP:when={moment.number}"
    log = bench.beside / "pause"
    log.unlink(missing_ok=True)
    try:
        with _tracer(command, "-o", str(log), "-e", f"trace={moment.call}", "-e", rule):
            command.start()
            _wait("the moment", lambda: _stopped(log) != [] or command.has_ended())
            if command.has_ended():
                raise AssertionError(f"it ended before its moment: {command.end().how}")
            action(command)
        for pid in _stopped(log):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    except BaseException:
        with contextlib.suppress(OSError):
            command.kill()
        raise
    return command.end()


def _stopped(log: Path) -> list[int]:
    """The processes that strace has stopped."""
    return [int(pid) for pid in re.findall(r"^(\d+) +--- stopped by SIGSTOP", log.read_text(), re.MULTILINE)]


def cut_power(bench: Bench, command: Command) -> None:
    """End everything with what the disk has at this moment: what only memory had is lost."""
    cut = bench.beside / "cut.img"
    subprocess.run(["cp", "--sparse=always", bench.image, cut], check=True)
    kill_tree(command.pid)


def boot_after_cut(bench: Bench) -> None:
    """Mount what the power cut left, as a host's next boot does: its journal is replayed."""
    bench.unmount()
    (bench.beside / "cut.img").replace(bench.image)
    bench.mount()


def fill(folder: Path, left: int) -> None:
    """Fill the file system of a folder, by its `filler`, until so many bytes are free; 0: nothing can be written."""
    with (folder / "filler").open("wb", buffering=0) as file:
        end = 0
        for piece in (1 << 30, 1 << 24, 1 << 18, 1 << 12):
            with contextlib.suppress(OSError):
                while (free := os.statvfs(folder)).f_bavail * free.f_frsize >= left + piece:
                    os.posix_fallocate(file.fileno(), end, piece)
                    end += piece
        if left == 0:
            # the last blocks are those that only a write gets
            file.seek(end)
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(1024))
                    os.fsync(file.fileno())


def shut_down(bench: Bench) -> None:
    """The file system stops in the middle, as after an error of its disk: XFS by itself, ext4 turns read-only."""
    if bench.kind == "xfs":
        subprocess.run(["xfs_io", "-x", "-c", "shutdown", bench.root], check=True, capture_output=True)
        return
    device = subprocess.run(
        ["findmnt", "-n", "-o", "SOURCE", bench.root], check=True, capture_output=True, text=True
    ).stdout.strip()
    Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("1")
