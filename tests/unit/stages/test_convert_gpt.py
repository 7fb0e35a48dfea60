"""A disk that was grown while nothing in the guest could use the room ships with its second GPT at its end."""

from __future__ import annotations

import subprocess
from pathlib import Path

from pipeline.stages.convert import _with_backup_at_end
from pipeline.vhd.extents import Reader, file_extents

MIB = 1 << 20


def last_sector(disk: Path) -> bytes:
    moved = _with_backup_at_end(file_extents(disk))
    reader = Reader(moved)
    try:
        return reader.read(moved.size - 512, 512)
    finally:
        reader.close()


def test_the_second_gpt_follows_the_end(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(8 * MIB)
    subprocess.run(["sgdisk", "-n1:2048:+4M", disk], check=True, capture_output=True)
    before = disk.read_bytes()[-512:]
    assert last_sector(disk) == before and before.startswith(b"EFI PART")
    with disk.open("r+b") as file:
        file.truncate(16 * MIB)
    assert last_sector(disk).startswith(b"EFI PART")


def test_a_disk_without_a_gpt_is_as_it_was(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"x" * MIB)
    source = file_extents(disk)
    assert _with_backup_at_end(source) is source
