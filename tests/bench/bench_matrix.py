"""`python -m tests.bench.bench_matrix IMAGE`: the whole matrix of a golden master; docs/reports/prove-matrix.md.

The master is the golden version in the store that GOLDSMITH_HOME names. Each image has a part of its own in the page;
a run writes its image's part anew.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Mapping
from typing import Any

from pipeline.cli.environment import locate_store
from tests.harness import ROOT, Lab, commit_id, describe_load

PAGE = ROOT / "docs/reports/prove-matrix.md"
#: Seconds that the whole matrix of an image may take, emulated on two cores.
LIMIT = 900.0
#: What a target shows beyond what each clone shows.
OWN = ("Secure Boot", "extension", "certificate", "resource disk", "second card", "NVMe disks", "disk names")
FURTHER = ("second boot", "reimage")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image")
    args = parser.parse_args()
    lab, load = Lab(ROOT, locate_store().root), describe_load()
    began = time.monotonic()
    done = lab.run("prove", args.image, "--json", deadline=2 * LIMIT)
    seconds = time.monotonic() - began
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return 1
    version = str(lab.master(args.image)["version"])
    text = draw(f"{args.image} {version}", json.loads(done.stdout), seconds, load)
    PAGE.write_text(with_part(PAGE.read_text() if PAGE.exists() else "", args.image, text))
    print(text)
    return 0 if seconds <= LIMIT else 1


def draw(name: str, clones: Mapping[str, Any], seconds: float, load: str) -> str:
    """The page. `clones` are as `prove --json` prints them; the master is not among them."""
    runs = {target: clone for target, clone in clones.items() if "seconds" in clone}
    boots = sum(1 + sum(what in clone["seconds"] for what in FURTHER) for clone in runs.values())
    within = "within" if seconds <= LIMIT else "beyond"
    lines = [
        f"## {name.split()[0]}",
        "",
        f"`goldsmith prove` of {name}; emulated (TCG) on two cores, commit {commit_id()}, {load}. "
        f"All targets passed. The whole took {seconds:.0f} s, {within} the limit of {LIMIT:.0f} s: {boots} boots, "
        "several clones at once. The seconds below are each clone's own.",
        "",
        "| target | Ready after, s | login after, s | further boots, s | what it shows beside the rest |",
        "|---|---|---|---|---|",
    ]
    for target, clone in runs.items():
        took = clone["seconds"]
        further = ", ".join(f"{what} {took[what]}" for what in FURTHER if what in took)
        shown = "; ".join(f"{what}: {clone['checks'][what]}" for what in OWN if what in clone["checks"])
        lines.append(f"| {target} | {took.get('ready', '')} | {took.get('ssh', '')} | {further} | {shown} |")
    return "\n".join(lines) + "\n"


def with_part(page: str, image: str, part: str) -> str:
    """The page with this part of an image in the place of its former one."""
    _, *parts = re.split(r"^(?=## )", page, flags=re.M)
    kept = [each for each in parts if not each.startswith(f"## {image}\n")]
    ordered = sorted([*(each.strip() for each in kept), part.strip()])
    return "\n\n".join(["# The whole matrix of an image", *ordered]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
