"""Runs a program that reads what nobody vouches for: `python -S -m pipeline.disk.confined_exec ORDER`.

The program sees the system's own libraries, the files of its order, and nothing else; no network, no other process,
limits on memory, time and what it writes. The order is JSON: argv, visible, writable, limits.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path

from pipeline.disk import confinement
from pipeline.disk.confinement import Applied, Limits

#: What a program of the host needs to start.
SYSTEM = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/urandom")
#: Bytes of stack of each thread: with the usual 8 MiB a pool of threads takes all the memory that is allowed.
STACK = 1 << 20
#: The exit code where confinement failed: nothing was run.
UNFIT = 125


def main() -> None:
    order = json.loads(sys.argv[1])
    visible = [*map(Path, SYSTEM), *map(Path, order["visible"])]
    writable = [Path(each) for each in order["writable"]]
    try:
        _confine(Limits(**order["limits"]), visible, writable)
    except OSError as error:
        print(f"confinement: {error.strerror or error}", file=sys.stderr)
        os._exit(UNFIT)
    environment = {"LC_ALL": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    os.execve(order["argv"][0], order["argv"], environment)  # noqa: S606


def _confine(limits: Limits, visible: list[Path], writable: list[Path]) -> None:
    applied = Applied()
    confinement.load_seccomp()
    confinement.leave_namespaces(applied)
    if "pid" in applied.namespaces:
        _begin_pid_namespace()
    confinement.limit_resources(limits, processes=None)
    resource.setrlimit(resource.RLIMIT_STACK, (STACK, STACK))
    confinement.change_root(applied, visible=visible, writable=writable)
    confinement.become_nobody(keep_reading=True)
    confinement.restrict_files(applied, visible=visible, writable=writable)
    if not applied.landlock and "root" not in applied.namespaces:
        raise OSError(1, "neither landlock nor a mount namespace is available here")
    confinement.filter_calls(applied, refused=confinement.TOOL_REFUSALS)


def _begin_pid_namespace() -> None:
    child = os.fork()
    if child == 0:
        confinement.die_with_parent()
        return
    for fd in (0, 1):
        # the pipes are the program's: their end must be seen when it ends
        os.close(fd)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


if __name__ == "__main__":
    main()
