"""Runs ansible-playbook several times in one process: Ansible is imported once, and each run is a fork.

Started as a program of its own. On stdin is {"processes": N, "runs": [[argument, ...], ...]}; on stdout comes
[{"code", "stdout", "stderr"}, ...], in the order of the runs. Importing Ansible takes as long as checking a playbook.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from ansible.cli.playbook import PlaybookCLI


def main() -> None:
    order = json.load(sys.stdin)
    runs: list[list[str]] = order["runs"]
    results: list[dict[str, Any]] = [{} for _ in runs]
    running: dict[int, tuple[int, int, int]] = {}
    waiting = list(range(len(runs)))
    while waiting or running:
        while waiting and len(running) < order["processes"]:
            index = waiting.pop(0)
            out, err = os.memfd_create("stdout"), os.memfd_create("stderr")
            pid = os.fork()
            if pid == 0:
                _run(runs[index], out, err)
            running[pid] = (index, out, err)
        pid, status = os.wait()
        index, out, err = running.pop(pid)
        code = os.waitstatus_to_exitcode(status)
        results[index] = {"code": code, "stdout": _text(out), "stderr": _text(err)}
    json.dump(results, sys.stdout)


def _run(arguments: list[str], out: int, err: int) -> None:
    """Be ansible-playbook; does not return."""
    os.dup2(out, 1)
    os.dup2(err, 2)
    code = 1
    try:
        PlaybookCLI.cli_executor(["ansible-playbook", *arguments])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _text(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with os.fdopen(descriptor, "rb") as file:
        return file.read().decode("utf-8", "replace")


if __name__ == "__main__":
    main()
