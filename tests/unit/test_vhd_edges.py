"""Data at the edges of small and very large disks, read back whole by qemu-img."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.offline import transfer
from pipeline.vhd.footer import MAX_SIZE, MIB

GIB = 1 << 30
SIZES = {"1 MiB": MIB, "2 GiB + 1 MiB": 2 * GIB + MIB, "127 GiB + 2 MiB": 127 * GIB + 2 * MIB, "2040 GiB": MAX_SIZE}


@pytest.mark.parametrize("kind", ["fixed", "dynamic"])
@pytest.mark.parametrize("size", SIZES)
def test_bit_exact(tmp_path: Path, size: str, kind: str) -> None:
    whole = SIZES[size]
    raw, disk, back = tmp_path / "disk.raw", tmp_path / "disk.vhd", tmp_path / "back.raw"
    places = {0, 512, whole - 512, whole - 1, 2 * MIB - 1, 2 * GIB - 1, 2 * GIB, 127 * GIB - 1, 127 * GIB}
    with raw.open("wb") as file:
        file.truncate(whole)
        for at in sorted(place for place in places if place < whole):
            file.seek(at)
            file.write(b"x" * min(777, whole - at))
    with transfer.open_source(raw, "raw") as source:
        made = transfer.convert(source, disk, kind, timestamp=1_700_000_000)
    # a fixed disk takes its data, a dynamic one its blocks' places too, and 4 bytes of table a block
    assert made.size == whole and made.allocated < MIB + whole // (2 * MIB) * 4
    subprocess.run(["qemu-img", "compare", "-f", "vpc", "-F", "raw", str(disk), str(raw)], check=True, timeout=60)
    with transfer.open_source(disk) as source:
        transfer.convert(source, back, "raw", timestamp=0)
    with transfer.open_source(back, "raw") as one, transfer.open_source(raw, "raw") as two:
        assert transfer.compare(one, two).same
