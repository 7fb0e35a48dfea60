"""Small disks that are made to exhaust their reader: little memory, little time, a named error, nothing left behind.

All of them with every question: `make campaign-attacks`. Here the quick ones, and with each turn another slow one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes import hostile_disks
from tests.harness import tenth

#: Bytes of memory at most, of the parent and of its children, and seconds of a processor.
MEMORY, SECONDS = 300 << 20, 20.0
#: What may be the answer; anything else is an error with a name.
ANSWERED = "answered"

#: (disk, questions, whether some answer is right): what is refused must be refused.
QUICK: dict[str, tuple[tuple[str, ...], bool]] = {
    "qcow2_checkerboard": (("extents",), False),
    "qcow2_shared_packed": (("inspect", "extents"), False),
    "vhd_huge_table": (("inspect", "extents", "free"), False),
    "vhdx_huge": (("volumes",), False),
    "vmdk_huge": (("volumes",), False),
    "gpt_many_entries": (("volumes",), False),
    "gpt_huge_entries": (("volumes",), False),
    "mbr_loop": (("volumes", "free"), True),
    "fat_huge": (("volumes",), True),
    "ext4_huge_files": (("packages", "boot", "free"), True),
    "ext4_loops": (("tree",), True),
    "ext4_deep": (("tree",), True),
    "ext4_blocks": (("free", "tree"), True),
    "ext4_noise": (("tree",), True),
    "initramfs_zstd": (("boot",), False),
    "initramfs_window": (("boot",), False),
    "initramfs_xz": (("boot",), False),
    "initramfs_lz4": (("boot",), False),
    "initramfs_cpio": (("boot",), False),
}
SLOW: dict[str, tuple[tuple[str, ...], bool]] = {
    "vhd_checkerboard": (("extents",), False),
    "vmdk_shared_grains": (("volumes",), False),
    "qcow2_huge_l1": (("extents",), True),
    "ext4_huge_link": (("packages",), True),
    "fat_huge": (("free",), True),
    "initramfs_gzip": (("boot",), False),
    "initramfs_zstd": (("inspect",), True),
}
#: One of them with each turn; all under GOLDSMITH_WHOLE.
ROTATING = tenth(sorted(SLOW))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_disks.template(tmp_path_factory.mktemp("template"))


def attack(name: str, questions: tuple[str, ...], template: Path, folder: Path) -> dict[str, str]:
    """Make the disk, ask, judge the cost; what each question was answered."""
    disk, room = folder / "disk.img", folder / "room"
    room.mkdir()
    if name in hostile_disks.CONTAINERS:
        hostile_disks.CONTAINERS[name](disk)
    elif name in hostile_disks.FILE_SYSTEMS:
        hostile_disks.FILE_SYSTEMS[name](disk, template)
    else:
        hostile_disks.INITRAMFS[name]()(disk, template)
    done = subprocess.run(
        [sys.executable, "-m", "tests.fakes.ask_all", disk, *questions],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "TMPDIR": str(room), "PYTHONPATH": str(Path(__file__).parents[3])},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    cost = json.loads(done.stdout)
    assert max(cost["peaks"]) << 10 < MEMORY, cost
    assert max(seconds for _, seconds in cost["asked"].values()) < SECONDS, cost
    assert list(room.iterdir()) == []
    answers = {question: name for question, (name, _) in cost["asked"].items()}
    assert not [name for name in answers.values() if name.endswith("without a hint")]
    return answers


@pytest.mark.parametrize("name", [*QUICK, *(f"{name} (slow)" for name in ROTATING)])
def test_attack(name: str, template: Path, tmp_path: Path) -> None:
    questions, may_answer = SLOW[name.removesuffix(" (slow)")] if name.endswith("(slow)") else QUICK[name]
    answers = attack(name.removesuffix(" (slow)"), questions, template, tmp_path)
    assert may_answer or not [answer for answer in answers.values() if answer.startswith(ANSWERED)], answers


def test_every_attack_is_tried() -> None:
    assert {*QUICK, *SLOW} == {*hostile_disks.CONTAINERS, *hostile_disks.FILE_SYSTEMS, *hostile_disks.INITRAMFS}
