"""20,000 damaged XFS, btrfs and LVM disks: `make campaign-roots`, or python -m tests.campaigns roots.

Each is read whole in a process with limits, by the function that turns what a reader raises into the sandbox's
answer; every 200th is also given to the sandbox itself, whose process has given up its rights.
"""

from __future__ import annotations

import os
import pickle
import random
import sys
import tempfile
import time
from pathlib import Path

from pipeline.base.errors import DiskError
from pipeline.systems.questions import list_disk
from tests.campaigns.other_roots import merged
from tests.fakes import fuzz, fuzz_roots
from tests.harness import ROOT, commit_id, wanted

PAGE = ROOT / "docs/reports/campaign-roots.md"
COUNT, SANDBOXED = 20_000, 200


def ask_sandbox(kind: fuzz.Kind, number: int) -> str:
    """The sandbox's answer about one damaged disk: `read`, or the error's name. The disk is as it was afterwards."""
    assert kind.disk is not None
    dice = random.Random(f"sandbox {number}")
    index = dice.randrange(len(kind.seeds))
    edits = fuzz.draw_edits(dice)
    return ask_about(kind, index, kind.seal(index, fuzz.mutated(kind.seeds[index], edits)))


def ask_about(kind: fuzz.Kind, index: int, data: bytes) -> str:
    assert kind.disk is not None
    try:
        _write(kind, index, data)
        list_disk(kind.disk, "raw", what="tree")
    except DiskError as error:
        return error.name
    finally:
        _write(kind, index, kind.seeds[index])
    return "read"


def _write(kind: fuzz.Kind, index: int, data: bytes) -> None:
    assert kind.disk is not None
    with kind.disk.open("r+b") as file:
        file.seek(kind.places[index])
        file.write(data)


def main() -> int:
    began = time.monotonic()
    os.nice(10)
    lines, whole, total = [], True, 0
    with tempfile.TemporaryDirectory(prefix="goldsmith-roots-") as name:
        kinds = fuzz_roots.kinds(Path(name))
        for kind_name in wanted(kinds):
            kind = kinds[kind_name]
            here = Path(name) / f"inputs-{len(lines)}"
            here.mkdir()
            tally = fuzz.try_kind(kind, -(-COUNT // 3), here)
            crashes = [ask_about(kind, *pickle.loads(path.read_bytes())) for path in tally.crashes]
            asked = [ask_sandbox(kind, number) for number in range(tally.tried // SANDBOXED)]
            good = not tally.failures and not {"reader-crashed", "reader-too-slow"} & {*crashes, *asked}
            whole &= good
            total += tally.tried
            lines.append(
                f"| {kind_name} | {tally.tried} | {tally.accepted} | {sum(tally.errors.values())} "
                f"({', '.join(sorted(tally.errors))}) | {len(crashes)} | {len(asked)} | {tally.slowest:.2f} | "
                f"{tally.memory} | {'held' if good else 'MISSED'} |"
            )
            print(lines[-1], tally.failures[:5], flush=True)
    text = (
        f"# Campaign: roots\n\nCommit {commit_id()}, {COUNT} damaged disks; the last {total} took "
        f"{time.monotonic() - began:.0f} s. "
        f"Each may take {fuzz.SECONDS} s, each process {fuzz.MEMORY >> 20} MiB. Half of them have right checksums "
        "again. A disk that is read all the same was damaged where nothing depends on it, or only differs.\n\n"
        "| disk | inputs | read all the same | named errors | crashed or too slow | asked of the sandbox too | "
        "slowest, s | memory, MiB | |\n|---|---|---|---|---|---|---|---|---|\n"
        + "\n".join(merged(PAGE, lines))
        + "\n"
    )
    PAGE.write_text(text)
    print(text)
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
