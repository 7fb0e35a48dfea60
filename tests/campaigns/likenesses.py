"""Disks laid out as other distributions' images are, the whole way: built, generalized, proven in both generations.

The disks are made of Debian's packages (tests/fakes/likeness_files.py). Of each shipped file all checks are run again
and its file systems are checked by their own programs: generalize and punched holes must leave them whole.
GOLDSMITH_PART selects likenesses. Needs root, loop devices, lvm2, xfsprogs and btrfs-progs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from pipeline.disk import open_disk
from tests.campaigns.other_roots import CHECKERS
from tests.fakes.likeness_disks import make_disk
from tests.fakes.likeness_files import LIKENESSES, REMOVE_SWAP
from tests.harness import ROOT, Lab, Say, wanted

DEADLINE = 3600.0


def campaign(lab: Lab, _master: Path, say: Say) -> list[dict[str, object]]:
    write_project(lab)
    rows: list[dict[str, object]] = []
    for name in wanted(LIKENESSES):
        make_disk(name, lab.folder)
        rows.append(built(lab, name))
        (lab.folder / f"{name}.raw").unlink()
        say(rows[-1])
    return rows


def write_project(lab: Lab) -> None:
    """A definition for each likeness, as a user would write it; the disks are made later."""
    shutil.copytree(ROOT / "playbooks", lab.folder / "playbooks")
    lab.write("scripts/remove-swap.sh", REMOVE_SWAP)
    for name, likeness in LIKENESSES.items():
        # what the check `swap` asks of the owner of a disk with a swap partition
        swap = "steps:\n  - script: remove-swap.sh\n" if likeness.has_swap else "steps:\n"
        lab.write(
            f"images/{name}.yaml",
            f"goldsmith: 1\nsummary: {likeness.title}\nsource: {{disk: {{path: {name}.raw, format: raw}}}}\n"
            f"disk: 8 GiB\n{swap}  - playbook: azure-linux.yml\n"
            "generalize: {agent: waagent}\nprove: [gen1, gen2]\n",
        )


def built(lab: Lab, name: str) -> dict[str, object]:
    done = lab.run("build", name, deadline=DEADLINE)
    row: dict[str, object] = {"likeness": name, "what": LIKENESSES[name].title, "exit": done.returncode}
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("goldsmith: ")]
        return {**row, "wrong": " ".join(lines)[:300], "ok": False}
    manifest = lab.manifest(name)
    checks = manifest["checks"]
    row["checks"] = ", ".join(
        f"{sum(each['status'] == status for each in checks)} {status}"
        for status in ("pass", "warn", "waived")
        if any(each["status"] == status for each in checks)
    )
    row["warnings"] = " ".join(each["id"] for each in checks if each["status"] == "warn")
    row["proven, s to ssh"] = json.dumps({cell: seen["seconds"]["ssh"] for cell, seen in manifest["prove"].items()})
    faults = list(faults_of_file_systems(Path(lab.master(name)["path"]), lab.folder / "volume"))
    return {**row, "file systems": "; ".join(faults) or "whole", "wrong": "", "ok": not faults}


def faults_of_file_systems(disk: Path, copy: Path) -> Iterator[str]:
    """What its own program says of each file system of the shipped file."""
    with open_disk(disk) as opened:
        for volume in opened.filesystems:
            if volume.kind in CHECKERS:
                with copy.open("wb") as file:
                    file.truncate(volume.size)
                    for at in range(0, volume.size, 1 << 20):
                        data = opened.read_volume(volume, at, min(1 << 20, volume.size - at))
                        if data.count(0) != len(data):
                            file.seek(at)
                            file.write(data)
                done = subprocess.run([*CHECKERS[volume.kind], copy], capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    yield f"{volume.kind}: {(done.stdout + done.stderr)[-200:]}"
                copy.unlink()
