"""Two refreshes and a build of the same image at once, round after round, each with something really to rebuild.

Nothing is built twice, nothing is damaged, nobody waits for ever. `GOLDSMITH_CROWD` is the number of rounds.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from tests.harness import Lab, Say

ROUNDS = int(os.environ.get("GOLDSMITH_CROWD", "20"))
#: Seconds for one round: one real build, and two that wait or look.
DEADLINE = 1500.0
CROWD = (("refresh", "--all"), ("refresh", "--all"), ("build", "small"))


def project(lab: Lab, version: str) -> None:
    lines = [
        "goldsmith: 1",
        "summary: built by three at once",
        "os: linux",
        f"source: {{master: debian-12@{version}}}",
    ]
    lines += ["steps:", "  - script: scripts/small.sh", "prove: [gen1-nocloud]", "keep: {versions: 3}"]
    lab.write("images/small.yaml", "\n".join(lines) + "\n")


def campaign(lab: Lab, master: Path, say: Say) -> list[dict[str, object]]:
    project(lab, master.parent.name)
    rows = []
    for number in range(1, ROUNDS + 1):
        lab.write("scripts/small.sh", f"#!/bin/sh\necho round {number} >/opt/small\n")
        rows.append(crowded(lab, number))
        say(rows[-1])
    return rows


def crowded(lab: Lab, number: int) -> dict[str, object]:
    before = lab.last_version("small")
    began = time.monotonic()
    crowd = [lab.start(*words) for words in CROWD]
    messages, codes = [], []
    try:
        for process in crowd:
            out, _ = process.communicate(timeout=max(1.0, began + DEADLINE - time.monotonic()))
            messages.append(out)
            codes.append(process.returncode)
    except subprocess.TimeoutExpired:
        return {"round": number, "wrong": f"no end after {DEADLINE:.0f} s", "ok": False}
    finally:
        for process in crowd:
            process.kill()
    seconds = time.monotonic() - began
    wrong = [f"{words}: exit code {code}" for words, code in zip(CROWD[2:], codes[2:], strict=True) if code]
    # a night that finds another under way ends at once and says so; whichever came later
    refused = [out for code, out in zip(codes[:2], messages[:2], strict=True) if code]
    wrong += [f"a refresh failed: {out[-300:]}" for out in refused if "another refresh is running" not in out]
    wrong += ["both refreshes were refused"] if len(refused) == 2 else []
    booted = sum(out.count("generalize   new") for out in messages)
    wrong += [f"{booted} builds ran"] if booted != 1 else []
    after = lab.last_version("small")
    wrong += [f"golden is still {before}"] if after == before else []
    verified = lab.run("gallery", "verify", "small")
    wrong += [verified.stdout] if verified.returncode else []
    wrong += lab.leftovers()
    return {
        "round": number,
        "golden": after,
        "s": round(seconds),
        "refused": len(refused),
        "wrong": "; ".join(wrong),
        "ok": not wrong,
    }
