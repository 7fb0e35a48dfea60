"""`kill -9` at random moments of provision and generalize: the next build goes on from the last committed layer.

What it ships then is the tree of an undisturbed build, but for what two builds may differ in.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.truth import Tree, differences, tree
from tests.campaigns.kill import stray_processes
from tests.campaigns.lab import Lab, wait_for

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


def live_seconds(lab: Lab) -> float:
    """How long provision and generalize of the last run took together."""
    record = lab.last_run("moments")
    return sum(stage["seconds"] for stage in record["stages"] if stage["stage"] in LIVE)


def killed(lab: Lab, moment: float) -> bool:
    """Begin a build and kill it so many seconds after its run has begun; False where it had ended by then."""
    before = lab.last_run("moments")["id"]
    builder = lab.start("build", "moments", "--from", "provision", "--until", "convert")
    try:
        wait_for("the run", lambda: lab.last_run("moments")["id"] != before, 60)
        time.sleep(moment)
        ended = builder.poll() is not None
        builder.send_signal(signal.SIGKILL)
    finally:
        builder.kill()
        builder.communicate()
    return not ended


def run(number: int, span: float, reference: Tree, lab: Lab) -> dict[str, object]:
    """Kill a build at a moment drawn from `span` seconds, build again. Raises AssertionError."""
    dice = random.Random(number)
    # a build may be quicker than the one that the span was taken from: then another moment is drawn
    moment = next((at for at in (dice.uniform(0, span) for _ in range(4)) if killed(lab, at)), None)
    assert moment is not None, "the build had ended before, four times"
    there = committed(lab)
    done = lab.run("build", "moments", "--until", "convert")
    assert done.returncode == 0, done.stdout + done.stderr
    states = [stage["state"] for stage in lab.last_run("moments")["stages"] if stage["stage"] in LIVE]
    new = states.count("new")
    assert new == STEPS + 1 - there, f"{there} layers were committed, {new} were made anew"
    assert lab.leftovers() == [], lab.leftovers()
    assert not stray_processes(lab), stray_processes(lab)
    wrong = differences(reference, tree(shipped(lab)))
    assert not wrong, wrong
    return {"moment, s": round(moment, 1), "layers kept": there, "layers made": new}


def campaign(lab: Lab, _master: Path, say: Callable[[str], None]) -> list[dict[str, object]]:
    project(lab)
    done = lab.run("build", "moments", "--until", "convert")
    assert done.returncode == 0, done.stdout + done.stderr
    reference, span = tree(shipped(lab)), live_seconds(lab)
    found = []
    for number in range(COUNT):
        try:
            row: dict[str, object] = {"case": number, **run(number, span, reference, lab), "message": "", "ok": True}
        except AssertionError as error:
            row = {"case": number, "message": str(error)[:300], "ok": False}
        found.append(row)
        say(str(row))
    return found
