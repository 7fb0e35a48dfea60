"""A build host loses its power: python -m tests.campaigns.host_power

The build host is the virtual machine of `make campaign-build-host`. While goldsmith captures, promotes, exports,
removes, creates and deletes in it, its QEMU is killed: what its kernel had not written is lost. The work's lines come
over SSH, so that nothing of the trial writes to the machine's disk. A cut comes at a random moment, or as soon as a
line says what a command has done, which must be there afterwards. The machine is started again, and its gallery, its
VMs and its file system are looked at. With GOLDSMITH_SEED=fsync its goldsmith waits for no write to be finished, and
the trial must find that. The page is docs/reports/campaign-host-power.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from queue import Empty, Queue
from typing import IO

from pipeline.cli.environment import locate_store
from tests.campaigns.__main__ import Page, Row
from tests.campaigns.build_host import KEEP, PROJECT, VM, Trial, opened_trial
from tests.harness import ROOT, Lab, wait_for

#: The machine, as libvirt has it.
DOMAIN = f"goldsmith-vms-{VM}"
INSIDE = Path(__file__).with_name("host_power_inside.py")
PYTHON = f"/opt/goldsmith/bin/python /root/trial/{INSIDE.name}"
INSTALL = "/opt/goldsmith/bin/pip install --quiet --no-index --no-deps --force-reinstall /root/trial/goldsmith-*.whl"
#: Python runs its line as it starts: none, or one that makes fsync do nothing. Debian has its own sitecustomize.
HOOK = "/opt/goldsmith/lib/python3*/site-packages/power_trial.pth"
SEED = os.environ.get("GOLDSMITH_SEED", "")
SEEDS = {"": "", "fsync": "import os; os.fsync = os.fdatasync = lambda _file: None"}
#: The first word of the line that a cut waits for, in turns; "" is any moment.
LINES = tuple(os.environ.get("GOLDSMITH_LINES", ",golden,created,exported,deleted,removed").split(","))
#: Cuts, and the seconds after the work's begin between which each comes, or begins to wait for its line.
CUTS, EARLIEST, LATEST = int(os.environ.get("GOLDSMITH_CUTS", "12")), 15.0, 90.0
#: Seconds for the boot of an emulated host on a busy one.
BOOT = 1200.0


def cut(trial: Trial, after: float, line: str) -> list[str]:
    """Begin the work in the machine, and kill its QEMU so many seconds later, or behind the next such line.
    The lines that the work had written."""
    process_id = int(Path(f"/run/libvirt/qemu/{DOMAIN}.pid").read_text())
    with trial.started(f"{PYTHON} work") as work:
        lines = Lines(work)
        written = [lines.next(BOOT)]
        deadline = time.monotonic() + after
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(Empty):
                written.append(lines.next(left))
        while line and not (written[-1].startswith(line) and lines.waiting.empty()):
            written.append(lines.next(BOOT))
        os.kill(process_id, signal.SIGKILL)
        while not lines.waiting.empty():
            written.append(lines.next(0))
    wait_for("the end of QEMU", lambda: not Path(f"/proc/{process_id}").exists(), 60)
    return written


class Lines:
    """The lines of a process, as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.waiting: Queue[str | None] = Queue()
        threading.Thread(target=self._read, args=(process.stdout,), daemon=True).start()

    def _read(self, output: IO[str]) -> None:
        for line in output:
            self.waiting.put(line.strip())
        self.waiting.put(None)

    def next(self, deadline: float) -> str:
        """Raises Empty where none has come within so many seconds, AssertionError where the process has ended."""
        line = self.waiting.get(timeout=deadline)
        assert line is not None, "the work in the machine has ended"
        return line


def judge(trial: Trial, written: list[str]) -> tuple[bool, str]:
    """Start the machine again; whether it has lost nothing of what the work had written, and what was found."""
    trial.lab.run("vm", "stop", VM, "--force")
    started = trial.lab.run("vm", "start", VM)
    assert started.returncode == 0, started.stderr
    wait_for("its sshd", lambda: trial.shell("systemctl is-system-running --wait; true").returncode == 0, BOOT)
    with tempfile.NamedTemporaryFile("w", suffix=".written") as file:
        file.write("\n".join(written))
        file.flush()
        done = trial.shell(f"{PYTHON} judge", Path(file.name))
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return False, (done.stdout + done.stderr)[-600:]
    found = json.loads(lines[-1])
    return not found["wrong"], "; ".join([found["seen"], *found["wrong"]])


def prepare(trial: Trial) -> None:
    """Bring the program, and install the goldsmith of this checkout.

    The gallery must be whole, and without the versions of an earlier trial. The first version of `drum` is made here,
    so that there is always a golden one to lose.
    """
    for path in (INSIDE, ROOT / "tests/fakes/signed_master.py"):
        done = trial.shell(f"cat >/root/trial/{path.name}", path)
        assert done.returncode == 0, done.stderr
    fresh = (
        f"rm -f {HOOK} && {INSTALL} && (goldsmith vm delete short --yes; true) && "
        f"rm -rf /var/lib/goldsmith/gallery/drum && {PYTHON} prepare"
    )
    # the folder is named by a pattern, and the file in it may not be there
    seed = f'for each in $(dirname {HOOK}); do echo "{SEEDS[SEED]}" >$each/power_trial.pth; done'
    done = trial.shell(f"{fresh} && {seed} && sync")
    assert done.returncode == 0, done.stdout + done.stderr


def main() -> int:
    page = Page("host_power")
    began, draw = time.monotonic(), random.Random(CUTS)
    rows: list[Row] = []
    # a trial with a seeded fault writes no page
    say = print if SEED else page.say
    with opened_trial(Lab(PROJECT, locate_store().root)) as trial:
        prepare(trial)
        for number in range(1, CUTS + 1):
            after, start, line = draw.uniform(EARLIEST, LATEST), time.monotonic(), LINES[(number - 1) % len(LINES)]
            written = cut(trial, after, line)
            ok, seen = judge(trial, written)
            took, moment = round(time.monotonic() - start), line or "any moment"
            rows.append({"cut": number, "at": moment, "after s": round(after), "s": took, "found": seen, "ok": ok})
            say(rows[-1])
            if not ok and KEEP:
                break  # the machine is left as it was found
    if not SEED:
        page.write(rows, f"{time.monotonic() - began:.0f} s")
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
