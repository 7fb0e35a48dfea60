"""What a run costs: wall time, CPU time, bytes written, memory."""

from __future__ import annotations

import os
import resource
import statistics
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Cost:
    """One run: wall seconds, CPU seconds of qemu and of the rest that the tool started, MiB written, peak MiB."""

    wall: float = 0.0
    qemu_cpu: float = 0.0
    tool_cpu: float = 0.0
    written: float = 0.0
    memory: float = 0.0


@dataclass
class Series:
    name: str
    costs: list[Cost] = field(default_factory=list)

    def median(self, what: str) -> float:
        return statistics.median(getattr(cost, what) for cost in self.costs)


class Meter:
    """Looks at every qemu of the host four times a second; nothing else may run guests meanwhile."""

    def __init__(self) -> None:
        self.cost = Cost()
        self._cpu: dict[int, float] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Meter:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
        self._sectors, self._children = _sectors(), _children()
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.sync()
        self.cost.wall = time.monotonic() - self._began
        self._end.set()
        self._thread.join()
        self.cost.qemu_cpu = sum(self._cpu.values())
        self.cost.written = (_sectors() - self._sectors) / 2048
        self.cost.tool_cpu = _children() - self._children

    def _watch(self) -> None:
        tick = os.sysconf("SC_CLK_TCK")
        while not self._end.wait(0.25):
            memory = 0.0
            for folder in Path("/proc").iterdir():
                try:
                    if not folder.name.isdigit() or not (folder / "comm").read_text().startswith("qemu-system"):
                        continue
                    words = (folder / "stat").read_text().rpartition(")")[2].split()
                    self._cpu[int(folder.name)] = (int(words[11]) + int(words[12])) / tick
                    memory += int(words[21]) * 4096 / (1 << 20)
                except OSError:
                    continue
            self.cost.memory = max(self.cost.memory, memory)


def _sectors() -> int:
    return sum(int((disk / "stat").read_text().split()[6]) for disk in Path("/sys/block").glob("[vsn]*"))


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
