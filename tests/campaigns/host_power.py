"""A build host loses its power: python -m tests.campaigns.host_power

The build host is the virtual machine of `make campaign-build-host`. While goldsmith captures, promotes, exports,
creates and deletes in it, its QEMU is killed: what its kernel had not written is lost. It is started again, and its
gallery, its VMs and its file system are looked at. The page is docs/reports/campaign-host-power.md.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

from pipeline.cli.environment import locate_store
from tests.campaigns.__main__ import Page, Row
from tests.campaigns.build_host import PROJECT, VM, Trial, opened_trial
from tests.harness import ROOT, Lab, wait_for

INSIDE = Path(__file__).with_name("host_power_inside.py")
PYTHON = f"/opt/goldsmith/bin/python /root/trial/{INSIDE.name}"
INSTALL = "/opt/goldsmith/bin/pip install --quiet --no-index --no-deps --force-reinstall /root/trial/goldsmith-*.whl"
#: Cuts, and the seconds after the work's begin between which each comes.
CUTS, EARLIEST, LATEST = int(os.environ.get("GOLDSMITH_CUTS", "6")), 15.0, 90.0
#: Seconds for the boot of an emulated host on a busy one.
BOOT = 1200.0


def cut(trial: Trial, after: float) -> None:
    """Begin the work in the machine, and kill its QEMU so many seconds later."""
    done = trial.shell(
        f"rm -f /root/trial/journal; systemd-run --quiet --unit=power-work {PYTHON} work", deadline=BOOT
    )
    assert done.returncode == 0, done.stderr
    wait_for("the work", lambda: trial.shell("test -s /root/trial/journal").returncode == 0, BOOT)
    time.sleep(after)
    stopped = trial.lab.run("vm", "stop", VM, "--force")
    assert stopped.returncode == 0, stopped.stderr


def judge(trial: Trial) -> tuple[bool, str]:
    """Start the machine again; whether it has lost nothing, and what was found."""
    started = trial.lab.run("vm", "start", VM)
    assert started.returncode == 0, started.stderr
    wait_for("its sshd", lambda: trial.shell("systemctl is-system-running --wait; true").returncode == 0, BOOT)
    done = trial.shell(f"{PYTHON} judge")
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return False, (done.stdout + done.stderr)[-600:]
    found = json.loads(lines[-1])
    return not found["wrong"], "; ".join([found["seen"], *found["wrong"]])


def prepare(trial: Trial) -> None:
    """Bring the program, and install the goldsmith of this checkout.

    The gallery must be whole, and without the versions of an earlier trial. The first version of
    `drum` is made here, so that there is always a golden one to lose.
    """
    for path in (INSIDE, ROOT / "tests/fakes/signed_master.py"):
        done = trial.shell(f"cat >/root/trial/{path.name}", path)
        assert done.returncode == 0, done.stderr
    done = trial.shell(f"{INSTALL} && rm -rf /var/lib/goldsmith/gallery/drum && {PYTHON} prepare && sync")
    assert done.returncode == 0, done.stdout + done.stderr


def main() -> int:
    page = Page("host_power")
    began, draw = time.monotonic(), random.Random(CUTS)
    rows: list[Row] = []
    with opened_trial(Lab(PROJECT, locate_store().root)) as trial:
        prepare(trial)
        for number in range(1, CUTS + 1):
            after, start = draw.uniform(EARLIEST, LATEST), time.monotonic()
            cut(trial, after)
            ok, seen = judge(trial)
            took = round(time.monotonic() - start)
            rows.append({"cut": number, "after s": round(after), "s": took, "found": seen, "ok": ok})
            page.say(rows[-1])
    page.write(rows, f"{time.monotonic() - began:.0f} s")
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
