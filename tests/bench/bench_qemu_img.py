"""What a call of qemu-img through `sh` costs more than one through the standard library.

`python -m tests.bench.bench_qemu_img` starts one process for each size of resident memory, in which both ways take
turns; the median of the pairs' differences goes to docs/reports/qemu-img-calls.md.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.base import process, qemu_img
from tests.harness import ROOT, commit_id, describe_load

PAGE = ROOT / "docs/reports/qemu-img-calls.md"
PAIRS = 100
#: MiB of memory that a process holds beside what Python needs.
BALLAST = (0, 130, 280)


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measure(ballast: int) -> str:
    """One row: resident MiB, median milliseconds of either way, median of the differences."""
    held = bytearray(ballast << 20)
    held[::4096] = bytes(len(held[::4096])).replace(b"\0", b"\1")
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk.qcow2"
        argv = ["qemu-img", "create", "-q", "-f", "qcow2", str(disk), str(1 << 30)]
        pairs = []
        for _ in range(PAIRS + 1):
            by_sh = seconds(lambda: qemu_img.create(disk, "qcow2", 1 << 30))
            pairs.append((by_sh, seconds(lambda: process.run(argv, deadline=60))))
    # the first pair imports
    by_sh, by_subprocess = (1000 * statistics.median(each) for each in zip(*pairs[1:], strict=True))
    more = 1000 * statistics.median(item - two for item, two in pairs[1:])
    return f"| {resident} | {by_sh:.1f} | {by_subprocess:.1f} | {more:.1f} |"


def main() -> None:
    if len(sys.argv) == 2:
        print(measure(int(sys.argv[1])))
        return
    load = describe_load()
    rows = [
        subprocess.run(
            [sys.executable, "-m", "tests.bench.bench_qemu_img", str(size)], cwd=ROOT, capture_output=True, text=True
        ).stdout.strip()
        for size in BALLAST
    ]
    head = "| resident, MiB | through sh, ms | through subprocess, ms | more, ms |\n|---|---|---|---|"
    text = f"Commit {commit_id()}, `qemu-img create`, the median of {PAIRS} pairs in one process; {load}."
    PAGE.write_text("\n".join(["# A call of qemu-img through `sh`", "", text, "", head, *rows]) + "\n")
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
