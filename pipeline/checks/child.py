"""The process that reads a hostile disk: `python -m pipeline.checks.child RESULT`, its order as JSON on stdin.

Everything is imported and opened first; then the rights go; then the disk is read.
"""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import json
import os
import resource
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline.checks.listing import listing
from pipeline.checks.sandbox import RESULT_LIMIT
from pipeline.errors import GoldsmithError
from pipeline.offline.disk import Disk
from pipeline.vhd.extents import Extent, ExtentSource

#: Bytes of memory of the process's own, and of addresses; the libraries alone take about 300 MiB of the latter.
MEMORY, ADDRESSES = 768 << 20, 2 << 30
#: The user of nobody, whom no file belongs to.
NOBODY = 65534
#: linux/prctl.h and linux/sched.h
_NO_NEW_PRIVILEGES, _NEW_USER, _NEW_NETWORK, _NEW_IPC = 38, 0x10000000, 0x40000000, 0x08000000


def warm(order: dict[str, Any]) -> None:
    """Load what Python would load late: afterwards its own files may be out of reach (a home folder of root's)."""
    for name in ("utf-16-le", "utf-16-be", "latin-1", "ascii", "utf-8"):
        codecs.lookup(name)
    if "list" not in order:
        import_module("pipeline.checks.run")


def give_up_rights() -> None:
    """No network, no new files, no new processes, no user: as far as the kernel lets us."""
    libc = ctypes.CDLL(None, use_errno=True)
    root = os.geteuid() == 0
    libc.unshare(_NEW_NETWORK | _NEW_IPC | (0 if root else _NEW_USER))
    if root:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    for what, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_DATA, MEMORY),
        (resource.RLIMIT_AS, ADDRESSES),
        (resource.RLIMIT_FSIZE, RESULT_LIMIT),
        # what is counted is the user's processes: nobody may have others, but no further one is made here
        (resource.RLIMIT_NPROC, 0),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (limit, limit))


def answer(order: dict[str, Any], held: dict[Path, int]) -> dict[str, Any]:
    paths = [Path(each) for each in order["paths"]]
    extents = tuple(Extent(start, length, paths[index], at) for start, length, index, at in order["extents"])
    try:
        with Disk(
            Path(order["path"]),
            order["fmt"],
            ExtentSource(order["size"], extents),
            file_size=order["file_size"],
            tail=bytes.fromhex(order["tail"]),
            held=held,
        ) as disk:
            if "list" in order:
                return {"rows": listing(disk, order["list"], order["key"])}
            from pipeline.checks.run import run_checks

            ports = order["ports"]
            results = run_checks(
                disk,
                profile=order["profile"],
                accounts=order["accounts"],
                generations=order["generations"],
                ports=None if ports is None else [(str(protocol), int(port)) for protocol, port in ports],
            )
    except GoldsmithError as error:
        return {"error": {"name": error.name, "message": error.message, "hint": error.hint}}
    except MemoryError:
        return {"error": {"name": "reader-too-large", "message": f"reading it takes more than {MEMORY >> 20} MiB"}}
    except Exception as error:
        return {"error": {"name": "reader-crashed", "message": f"its reader ended early: {error!r}"}}
    return {"results": [{"id": each.id, "status": each.status, "evidence": each.evidence} for each in results]}


def main() -> None:
    order = json.load(sys.stdin)
    result = os.open(sys.argv[1], os.O_WRONLY | os.O_CLOEXEC)
    held = {Path(each): os.open(each, os.O_RDONLY | os.O_CLOEXEC) for each in order["paths"]}
    silence = os.open(os.devnull, os.O_WRONLY)
    warm(order)
    give_up_rights()
    # the answer goes into the file, whose length is limited; a taken-over reader has nobody to shout at
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    os.write(result, json.dumps(answer(order, held)).encode()[:RESULT_LIMIT])


if __name__ == "__main__":
    main()
