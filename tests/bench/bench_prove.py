"""A build's own proof beside the one of an earlier commit: python -m tests.bench.bench_prove IMAGE CHECKOUT

CHECKOUT is a clone of this repository at the earlier commit. Both prove the same golden master, which the store that
GOLDSMITH_HOME names has, in the targets that IMAGE's definition names in both, each in a store of its own; they take
turns, and the rounds begin with one and the other in turn. Writes docs/reports/bench-prove.md.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline.cli.environment import locate_store
from pipeline.gallery import Gallery
from tests.harness import ROOT, commit_id

PAGE = ROOT / "docs/reports/bench-prove.md"
ROUNDS = 3
#: What is wanted at most: this commit's time to the earlier one's.
RATIO = 1.05
#: Seconds for one proof on a busy host.
DEADLINE = 1800.0


def time_proof(checkout: Path, image: str, disk: Path, home: Path) -> float:
    """Seconds of the stage, from the command's start to its end."""
    argv = [sys.executable, str(ROOT / "tests/bench/prove_once.py"), str(checkout), image, str(disk), str(home)]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "GOLDSMITH_HOME": str(home)}
    done = subprocess.run(argv, env=environment, cwd=checkout, capture_output=True, text=True, timeout=DEADLINE)
    if done.returncode != 0:
        raise SystemExit(f"{checkout}: {done.stdout}{done.stderr}")
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    image, checkout = sys.argv[1], Path(sys.argv[2]).resolve()
    version = Gallery(locate_store().gallery).get(image)
    load, before, after = os.getloadavg()[0], [], []
    with tempfile.TemporaryDirectory(prefix="goldsmith-bench-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        sides = [(checkout, before), (ROOT, after)]
        for number in range(ROUNDS):
            for tree, took in sides if number % 2 == 0 else reversed(sides):
                home = Path(folder) / ("before" if tree == checkout else "after")
                took.append(time_proof(tree, image, version.image.path, home))
                print(tree, f"{took[-1]:.1f}", flush=True)
    ratio = statistics.median(after) / statistics.median(before)
    old = commit_of(checkout)
    lines = [
        "# A build's own proof, before and after",
        "",
        f"Measured by tests/bench/bench_prove.py: {image} {version.image.path.resolve().parent.name}, "
        f"{os.cpu_count()} processors, load {load:.1f} when it began. Commit {old} is the last before the matrix got "
        "its targets of Azure as it is today.",
        "",
        f"| round | {old}, s | {commit_id()}, s |",
        "|---|---|---|",
        *(f"| {n} | {b:.1f} | {a:.1f} |" for n, (b, a) in enumerate(zip(before, after, strict=True), 1)),
        f"| median | {statistics.median(before):.1f} | {statistics.median(after):.1f} |",
        "",
        f"Ratio: {ratio:.2f}; wanted: {RATIO} at most.",
    ]
    PAGE.write_text("\n".join(lines) + "\n")
    print(lines[-1])
    return 0


def commit_of(checkout: Path) -> str:
    argv = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
