"""Does a guest that boots get on? Told from outside, by its processors' time, its disk and its console.

Seconds of the guest's own processors count, not those of a clock: on a host that is busy a guest gets less of them,
and a slow guest must not be taken for one that hangs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Seconds between two looks.
EVERY = 2.0
#: Seconds of processor time that every processor of a guest has burnt without a line on the console, a request to the
#: disk or an answer of its agent. A whole boot under TCG takes each processor 20 to 40 s, and its longest pause
#: without any of these (an initramfs is unpacked) less than 10.
BUSY = 90.0
#: The same for a guest whose kernel has said on the console that it is stuck; and seconds by the clock for one whose
#: processors are idle after that.
BUSY_AFTER_WORDS, IDLE_AFTER_WORDS = 30.0, 150.0
#: Seconds of the busiest processor, and by the clock, after which a disk of which no more than FIRST_SECTORS bytes
#: were read is one that does not boot. Firmware takes 3 s of processor time to its boot sector, emulated.
NO_BOOT_BUSY, NO_BOOT_IDLE = 20.0, 90.0
FIRST_SECTORS = 4096

#: A kernel's words for being stuck.
STUCK = re.compile(
    rb"(?:watchdog: )?BUG: soft lockup[^\r\n]*|rcu[^\r\n]{0,40} (?:self-)?detected (?:expedited )?stalls?[^\r\n]*|"
    rb"task [^\r\n]{1,60} blocked for more than [0-9]+ seconds|Watchdog detected hard LOCKUP[^\r\n]*|"
    rb"rcu[^\r\n]{0,40}kthread starved for [^\r\n]*|workqueue lockup[^\r\n]*"
)
#: Lines that belong to such a report: they are repeated, and do not show progress.
_REPORT = re.compile(
    rb"soft lockup|stall|blocked for more than|hard LOCKUP|starved for|workqueue lockup|NMI backtrace|Sending NMI|"
    rb"Call Trace|</?(?:TASK|IRQ|NMI)>|\+0x[0-9a-f]+/0x[0-9a-f]+|Modules linked in|CPU: ?[0-9]|Hardware name|Code:|"
    rb"R[0-9A-D][0-9XIP]?:|RSP:|RIP:|CR[0-9]:|FS:|EFLAGS|hung_task_timeout_secs|Not tainted|task:|Workqueue:|"
    rb"(?:detected by|t=[0-9]+ jiffies)|Possible timer handling|timer-expired|pool [0-9]+:|in-flight:|pending:"
)


@dataclass(frozen=True)
class Sample:
    """A guest at one moment: `at` by the clock, the processor seconds of each processor since its start, the requests
    to its disks, the bytes read of its first disk, and all of its console."""

    at: float
    processors: tuple[float, ...]
    requests: int
    read: int
    console: bytes


def read_stats(stats: Mapping[str, Any], at: float, console: bytes) -> Sample:
    """libvirt's statistics of a domain (vcpu and block) as a Sample."""
    counted = (int(stats.get(f"vcpu.{n}.time", 0)) / 1e9 for n in range(int(stats.get("vcpu.maximum", 0))))
    disks = range(int(stats.get("block.count", 0)))
    requests = sum(int(stats.get(f"block.{n}.{kind}.reqs", 0)) for n in disks for kind in ("rd", "wr", "fl"))
    return Sample(at, tuple(counted), requests, int(stats.get("block.0.rd.bytes", 0)), console)


class Progress:
    """What samples in a row say of a guest that boots. `firmware`: its disk's own boot loader is to start it."""

    def __init__(self, *, firmware: bool, kernel: bool = True, busy: float = BUSY, slowness: float = 1.0) -> None:
        """`kernel`: what runs in it is a Linux, whose words are known, and which is not silent for `busy` seconds.

        All seconds are multiplied by `slowness`: on a host that is itself emulated, processor time does less.
        """
        self._busy = busy * slowness
        self._slowness = slowness
        self._firmware = firmware
        self._kernel = kernel
        self._last: Sample | None = None
        self._moved: Sample | None = None
        self._words = b""

    def judge(self, sample: Sample) -> tuple[str, str] | None:
        """The name and message of a boot that does not get on, or None: it does, or it is too early to say."""
        last, self._last = self._last, sample
        if last is None or self._moved is None or self._restarted(last, sample):
            self._moved = sample
            return None
        new = sample.console[len(last.console) :] if sample.console.startswith(last.console) else sample.console
        if found := STUCK.findall(new):
            self._words = found[-1].strip()
        if sample.requests != last.requests or _says_more(new):
            self._moved = sample
            return None
        busy = [now - then for now, then in zip(sample.processors, self._moved.processors, strict=True)]
        since = sample.at - self._moved.at
        if self._firmware and sample.read <= FIRST_SECTORS:
            return _no_boot(sample.read, busy, since, self._slowness)
        return self._hung(busy, since) if self._kernel else None

    def _restarted(self, last: Sample, sample: Sample) -> bool:
        """Whether it is another start of the guest: its counters begin again."""
        if len(sample.processors) == len(last.processors) and sum(sample.processors) >= sum(last.processors):
            return False
        self._words = b""
        return True

    def _hung(self, busy: list[float], since: float) -> tuple[str, str] | None:
        least = min(busy, default=0.0)
        words = self._words.decode(errors="replace")
        if words and (least >= BUSY_AFTER_WORDS * self._slowness or since >= IDLE_AFTER_WORDS * self._slowness):
            state = f"no progress for {since:.0f} s since"
            return "guest-kernel-hung", f"the guest's kernel hangs: its console says {words!r}, and {state}"
        if least < self._busy:
            return None
        many = "all its processors have" if len(busy) > 1 else "its processor has"
        return "guest-kernel-hung", (
            f"the guest's kernel hangs: {many} been busy for {least:.0f} s ({since:.0f} s by the clock) without "
            "a line on the console, a request to the disk or an answer of the agent"
        )


def _no_boot(read: int, busy: list[float], since: float, slowness: float) -> tuple[str, str] | None:
    if max(busy, default=0.0) < NO_BOOT_BUSY * slowness and since < NO_BOOT_IDLE * slowness:
        return None
    what = f"only {read} bytes of the disk" if read else "nothing of the disk"
    verb = "were" if read else "was"
    return "guest-no-boot", f"nothing bootable: {what} {verb} read in {since:.0f} s, so there is no boot loader"


def _says_more(new: bytes) -> bool:
    """Whether new lines of the console are more than a report of a stuck kernel."""
    return any(line.strip() and not _REPORT.search(line) for line in re.split(rb"[\r\n]+", new))
