"""Seeded defects on XFS, on btrfs and in a striped logical volume: `make campaign-other-roots`.

Each defect of the fake disk that changes its root's files is seeded there (ext4), and the root is moved with it.
The same check must name it, and no other one anything; the good disk has no finding. After freed blocks became holes
each file system is still without fault by its own program. Needs root and loop devices.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline.checks import run_checks
from pipeline.disk import open_disk
from pipeline.disk.punch_holes import punch_free
from tests.fakes import fake_disk, other_roots
from tests.fakes.seeded_defects import DEFECTS
from tests.harness import ROOT, commit_id, wanted

PAGE = ROOT / "docs/reports/campaign-other-roots.md"
#: Defects that are tried on each kind of root; the issue asks for 40.
COUNT = 45
CHECKERS = {
    "xfs": ["xfs_repair", "-n"],
    "btrfs": ["btrfs", "check", "--readonly", "--check-data-csum"],
    "ext4": ["e2fsck", "-fn"],
}


def findings(disk: Path) -> list[str]:
    with open_disk(disk) as opened:
        return [result.id for result in run_checks(opened) if result.status in ("fail", "warn", "waived")]


def not_passed(disk: Path) -> list[str]:
    with open_disk(disk) as opened:
        return [f"{result.id} {result.status}" for result in run_checks(opened) if result.status != "pass"]


def tree_digest(disk: Path) -> str:
    """A digest of all files of a root; what cannot be read gives the error."""
    digest = hashlib.sha256()
    with open_disk(disk) as opened:
        for path, kind in opened.root.walk():
            stat = opened.root.stat(path, follow=False)
            content = opened.root.read(path) if kind == "file" else opened.root.read_link(path)
            digest.update(repr((path, kind, stat and (stat.mode, stat.uid, stat.gid), content)).encode())
    return digest.hexdigest()


def seeded(good: Path, folder: Path) -> list[tuple[str, str, Path]]:
    """(name, check, disk) of defects that change the root's files, and nothing that a move would lose."""
    unchanged, found = tree_digest(good), []
    for number, (name, (want, change)) in enumerate(DEFECTS.items()):
        disk = fake_disk.copy(good, folder / f"defect-{number}.vhd")
        change(disk, folder)
        # what stands in freed blocks is not moved
        elsewhere = want.startswith(("fs-", "gpt-", "partition-", "vhd-", "free-space")) or "freed block" in name
        if elsewhere or tree_digest(disk) == unchanged:
            disk.unlink()
            continue
        found.append((name, want, disk))
    step = max(1, len(found) // COUNT)
    return found[::step]


def fault_of_root(disk: Path, folder: Path) -> str:
    """What its own program says of a root after freed blocks became holes; '' is nothing."""
    punch_free(disk)
    with open_disk(disk) as opened:
        volume = opened.root_volume
        copy = folder / "volume"
        with copy.open("wb") as file:
            for at in range(0, volume.size, 1 << 20):
                file.write(opened.read_volume(volume, at, 1 << 20))
    done = subprocess.run([*CHECKERS[volume.kind], copy], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"{volume.kind}: {(done.stdout + done.stderr)[-300:]}"


def merged(page: Path, lines: list[str]) -> list[str]:
    """The rows of a page; those that were run again (GOLDSMITH_PART names which) in place of the old ones."""
    old = page.read_text().splitlines() if page.exists() else []
    rows = {line.split("|")[1].strip(): line for line in [*old, *lines] if line.startswith("| ")}
    return [line for name, line in rows.items() if name not in ("disk", "root")]


def main() -> int:
    began = time.monotonic()
    os.nice(10)
    lines, whole = [], True
    with tempfile.TemporaryDirectory(prefix="goldsmith-other-roots-", dir="/var/tmp") as name:
        folder = Path(name)
        good = fake_disk.as_vhd(fake_disk.build(folder), folder / "good.vhd")
        defects = seeded(good, folder)
        for kind in wanted(other_roots.KINDS):
            moved = other_roots.move(good, kind, folder)
            faults = not_passed(moved)
            faults += [fault] if (fault := fault_of_root(moved, folder)) else []
            faults += [f"after punching: {each}" for each in not_passed(moved)]
            missed = []
            for title, want, disk in defects:
                got = findings(other_roots.move(disk, kind, folder))
                if got != [want]:
                    missed.append(f"{title}: {got}, not {want}")
            held = not faults and not missed and len(defects) >= 40
            whole &= held
            lines.append(
                f"| {kind} | {'; '.join(faults) or 'no finding, before and after'} | "
                f"{len(defects) - len(missed)} of {len(defects)} | {'; '.join(missed)} | "
                f"{'held' if held else 'MISSED'} |"
            )
            print(lines[-1], flush=True)
    text = (
        f"# Campaign: other roots\n\nCommit {commit_id()}, {time.monotonic() - began:.0f} s for the last part. The "
        "fake disk's root is moved to XFS and btrfs (by a Linux kernel) and into a logical volume of two stripes (by "
        "lvm2). Freed blocks of the good disk become holes; then its own program checks it, and all checks run "
        "again.\n\n"
        "| root | the good disk | seeded defects found by their check alone | missed | |\n|---|---|---|---|---|\n"
        + "\n".join(merged(PAGE, lines))
        + "\n"
    )
    PAGE.write_text(text)
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
