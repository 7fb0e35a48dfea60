"""`kill -9` at random moments of provision and generalize: the next build goes on from the last committed layer.

What it ships then is the tree of an undisturbed build, but for what two builds may differ in.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

from pipeline.base.disk_format import DEFAULT_OUTPUT
from pipeline.nightly.rebuild_check import Tree, differences, tree
from pipeline.systems import registry
from tests.campaigns.kill_builder import stray_processes
from tests.harness import Lab, Say, wait_for

COUNT = int(os.environ.get("GOLDSMITH_MOMENTS", "30"))
STEPS = 5
LIVE = ("provision", "generalize")


def project(lab: Lab) -> None:
    lines = ["goldsmith: 1", "summary: killed at any moment", "os: linux", "source: {master: debian-12@golden}"]
    lines += ["disk: 9 GiB", "steps:"]
    for number in range(1, STEPS + 1):
        text = f"mkdir -p /opt/steps\nseq {number}00000 | sha256sum >/opt/steps/{number}\nsleep 1"
        lab.write(f"scripts/{number}.sh", f"#!/bin/sh\nset -e\n{text}\n")
        lines.append(f"  - script: scripts/{number}.sh")
    lab.write("images/moments.yaml", "\n".join([*lines, "prove: [gen1]"]) + "\n")


def rows(lab: Lab) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(lab.run("plan", "moments", "--json").stdout)
    return found


def shipped(lab: Lab) -> Path:
    key = next(row["key"] for row in rows(lab) if row["stage"] == "convert")
    return lab.home / "layers" / key / "disk.vhd"


def committed(lab: Lab) -> int:
    """Layers of the live stages that are there, in an unbroken line."""
    count = 0
    for row in rows(lab):
        if row["stage"] in LIVE:
            if not (lab.home / "layers" / row["key"] / "record.json").exists():
                break
            count += 1
    return count


def unit_seconds(lab: Lab) -> list[float]:
    """How long each unit of provision and generalize of the last run took."""
    return [s["seconds"] for s in lab.last_run("moments")["stages"] if s["stage"] in LIVE]


def killed(lab: Lab, keys: list[str], after: int, delay: float) -> bool:
    """Begin a build and kill it so many seconds after so many layers are there; False where it had ended by then."""

    def there() -> int:
        return sum((lab.home / "layers" / key / "record.json").exists() for key in keys)

    builder = lab.start("build", "moments", "--from", "provision", "--until", "convert")
    try:
        wait_for("the old layers to go", lambda: not there(), 60)
        wait_for(f"{after} layers", lambda: there() >= after or builder.poll() is not None, 600)
        time.sleep(delay)
        ended = builder.poll() is not None
        builder.send_signal(signal.SIGKILL)
    finally:
        builder.kill()
        builder.communicate()
    return not ended


def run(number: int, seconds: list[float], reference: Tree, lab: Lab) -> dict[str, object]:
    """Kill a build at a moment, build again. Raises AssertionError.

    Each unit is as likely as any other, and each moment of it: drawn over the whole time, most would be the boot's.
    """
    dice = random.Random(number)
    keys = [row["key"] for row in rows(lab) if row["stage"] in LIVE]
    moment = (0, 0.0)
    for _ in range(4):
        # a build may be quicker than the one that the seconds were taken from: then another moment is drawn
        after = dice.randrange(len(seconds))
        moment = (after, dice.uniform(0, seconds[after]))
        if killed(lab, keys, *moment):
            break
    else:
        raise AssertionError("the build had ended before, four times")
    there = committed(lab)
    done = lab.run("build", "moments", "--until", "convert")
    assert done.returncode == 0, done.stdout + done.stderr
    states = [stage["state"] for stage in lab.last_run("moments")["stages"] if stage["stage"] in LIVE]
    new = states.count("new")
    assert new == STEPS + 1 - there, f"{there} layers were committed, {new} were made again"
    assert lab.leftovers() == [], lab.leftovers()
    assert not stray_processes(lab), stray_processes(lab)
    wrong = differences(reference, tree(shipped(lab), DEFAULT_OUTPUT.key), registry.get("linux").may_differ)
    assert not wrong, wrong
    return {
        "killed after layer": moment[0],
        "and s": round(moment[1], 1),
        "layers kept": there,
        "layers made": new,
    }


def campaign(lab: Lab, _master: Path, say: Say) -> list[dict[str, object]]:
    project(lab)
    done = lab.run("build", "moments", "--until", "convert")
    assert done.returncode == 0, done.stdout + done.stderr
    reference, seconds = tree(shipped(lab), DEFAULT_OUTPUT.key), unit_seconds(lab)
    found = []
    for number in range(COUNT):
        try:
            row: dict[str, object] = {
                "case": number,
                **run(number, seconds, reference, lab),
                "message": "",
                "ok": True,
            }
        except AssertionError as error:
            row = {"case": number, "message": str(error)[:300], "ok": False}
        found.append(row)
        say(row)
    return found
