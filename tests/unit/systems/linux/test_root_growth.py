"""How large the root of a clone must be on a larger disk."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.prove.result import CloneResult
from pipeline.systems.linux.assertions import ROOT_LINES, see_growth

GIB = 1 << 30


@pytest.mark.parametrize(
    ("seen", "good"),
    [
        ({"root": 8.8 * GIB, "others": 0.12 * GIB}, True),
        ({"root": 7.8 * GIB, "others": 0.12 * GIB}, False),  # as large as in the shipped file
        ({"root": 7.3 * GIB, "others": 1.5 * GIB}, True),  # a /boot and a /var of their own
        ({"root": 6.4 * GIB, "others": 1.5 * GIB}, False),
        ({"root": 3 * GIB, "root-on": "a logical volume"}, True),
        ({"root-on": "a logical volume"}, False),
        ({}, False),
    ],
)
def test_a_root_takes_what_other_partitions_leave(seen: dict[str, float | str], good: bool) -> None:
    result = CloneResult("gen1")
    values = {name: value if isinstance(value, str) else str(int(value)) for name, value in seen.items()}
    see_growth(result, values, size=9 * GIB, growth=GIB)
    assert (not result.failures) == good


def look(folder: Path, source: str) -> dict[str, str]:
    """What the lines print of a disk `sda` whose third partition is the root, and of a device of the mapper."""
    for name, size in {"sda1": 2048, "sda2": 253952, "sda3": 4000000}.items():
        part = folder / "devices/sda" / name
        part.mkdir(parents=True, exist_ok=True)
        (part / "partition").write_text(name[-1])
        (part / "size").write_text(str(size))
    (folder / "devices/virtual/dm-0/dm").mkdir(parents=True, exist_ok=True)
    (folder / "class/block").mkdir(parents=True, exist_ok=True)
    for place in ("sda/sda3", "virtual/dm-0"):
        link = folder / "class/block" / place.rpartition("/")[2]
        if not link.is_symlink():
            link.symlink_to(folder / "devices" / place)
    text = f"df() {{ printf 'Filesystem\\n{source}\\n'; }}\n" + ROOT_LINES.replace("/sys/", f"{folder}/")
    output = subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=True, timeout=30).stdout
    return dict(line.split("=", 1) for line in output.splitlines())


def test_the_other_partitions_of_the_root_s_disk_are_counted(tmp_path: Path) -> None:
    others = {"others": str((2048 + 253952) * 512)}
    assert look(tmp_path, "/dev/sda3") == others
    assert look(tmp_path, "/dev/sda3[/@]") == others
    assert look(tmp_path, "/dev/dm-0") == {"root-on": "a logical volume", "others": "0"}
