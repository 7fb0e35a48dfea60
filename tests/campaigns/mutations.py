"""100,000 damaged inputs: `make campaign-mutations`, or python tests/campaigns/mutations.py [COUNT].

A C reader that crashes or does not end is not a failure if the child process that inspects
disks turns it into an error of its own: each such input is given to `goldsmith inspect`'s own door to see that.
"""

from __future__ import annotations

import os
import pickle
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from pipeline.base.errors import DiskError  # noqa: E402
from pipeline.checks import inspect_disk  # noqa: E402
from tests.fakes import fuzz  # noqa: E402
from tests.harness import commit_id  # noqa: E402

PAGE = ROOT / "docs/reports/campaign-mutations.md"
#: Of each hundred inputs: what the issue names has nine tenths.
SHARES = {
    "fixed VHD: footer": 10,
    "dynamic VHD: footers, header, table, bitmaps": 15,
    "differencing VHD: header, locators, parent": 10,
    "GPT and MBR": 15,
    "ext4: superblock, groups, inodes": 20,
    "FAT: boot sector, tables, directories": 5,
    "registry hive": 15,
    "qcow2, VMDK and VHDX headers": 4,
    "initramfs": 2,
    "rpm database": 2,
    "marks of volumes": 2,
}


def typed(kept: Path, kind: fuzz.Kind, folder: Path) -> str | None:
    """The reading process's result for an input that ended its reader; None if that is not an error of its own."""
    if kind.disk is None:
        return None
    index, data = pickle.loads(kept.read_bytes())
    disk = folder / "again.raw"
    shutil.copy(kind.disk, disk)
    with disk.open("r+b") as file:
        file.seek(kind.places[index])
        file.write(data)
    try:
        inspect_disk(disk, "raw", profile="any")
    except DiskError as error:
        return error.name
    return "read"


def main() -> int:
    count = int(next((word for word in sys.argv[1:] if word.isdigit()), "100000"))
    began = time.monotonic()
    os.nice(10)
    lines, whole, total = [], True, 0
    with tempfile.TemporaryDirectory(prefix="goldsmith-mutations-") as name:
        folder = Path(name)
        kinds = fuzz.kinds(folder)
        assert set(kinds) == set(SHARES) and sum(SHARES.values()) == 100
        for kind_name, kind in kinds.items():
            here = folder / str(len(lines))
            here.mkdir()
            tally = fuzz.try_kind(kind, count * SHARES[kind_name] // 100, here)
            crashes = [typed(path, kind, folder) for path in tally.crashes]
            good = not tally.failures and None not in crashes
            whole &= good
            total += tally.tried
            named = sum(tally.errors.values())
            lines.append(
                f"| {kind_name} | {tally.tried} | {tally.accepted} | {named} ({len(tally.errors)} names) | "
                f"{len(crashes)} | {tally.slowest:.2f} | {tally.memory} | {'held' if good else 'MISSED'} |"
            )
            print(lines[-1], flush=True)
            if not good:
                kept = Path(tempfile.mkdtemp(prefix="goldsmith-mutations-kept-"))
                shutil.copytree(here, kept / "inputs")
                print(f"  {tally.failures[:5]} {crashes[:5]}, kept in {kept}", flush=True)
    text = (
        f"# Campaign: mutations\n\nCommit {commit_id()}, {total} damaged inputs made by hypothesis, "
        f"{time.monotonic() - began:.0f} s in all. Each may take {fuzz.SECONDS} s, each process "
        f"{fuzz.MEMORY >> 20} MiB. What a C reader crashed on, or did not finish, was tried again through "
        "the process that inspects disks, and came out as an error of its own.\n\n"
        "| kind | inputs | read all the same | named errors | crashed or too slow | slowest, s | memory, MiB | |\n"
        "|---|---|---|---|---|---|---|---|\n" + "\n".join(lines) + "\n"
    )
    if count >= 100_000:
        PAGE.write_text(text)
    print(text)
    return 0 if whole and total >= count else 1


if __name__ == "__main__":
    sys.exit(main())
