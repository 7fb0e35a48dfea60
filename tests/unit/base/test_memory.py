"""Memory that a process has freed goes back to the kernel, also what threads have used."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: Prints by how many KiB a process has grown when it has read much, in threads, and freed all of it.
_SCRIPT = """
import gc, sys, threading
from pathlib import Path
from pipeline.base import memory

def own():
    gc.collect()
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))

def read():
    together.wait()
    for _ in range(8):
        b"x" * (2 << 20)

if sys.argv[1] == "returned":
    memory.return_large_blocks()
before = own()
b"x" * (12 << 20)
together = threading.Barrier(4)
threads = [threading.Thread(target=read) for _ in range(4)]
for each in threads:
    each.start()
for each in threads:
    each.join()
print(own() - before)
"""


@pytest.mark.parametrize(("how", "least", "most"), [("returned", -4096, 2048), ("as glibc does", 4096, 1 << 20)])
def test_large_blocks_go_back(how: str, least: int, most: int) -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT, how], capture_output=True, text=True, check=True)
    assert least <= int(done.stdout) <= most, done.stdout
