"""The fake disk has the same bytes in every run: what a test damages does not depend on chance."""

from __future__ import annotations

import os
from pathlib import Path

from tests.fakes import fake_disk


def test_two_fake_disks_are_equal(tmp_path: Path) -> None:
    """Identifiers, hash seeds and times do not come from chance, the clock, or the files on this host."""
    for name, mtime in (("first", 1), ("second", 86400)):
        folder = tmp_path / name
        folder.mkdir()
        tree = fake_disk.plant(folder)
        os.utime(tree / "etc/passwd", (mtime, mtime))
        fake_disk.pack(folder)
    assert (tmp_path / "first/disk.raw").read_bytes() == (tmp_path / "second/disk.raw").read_bytes()


def test_flipped_bits_always_differ(tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    before = bytes(range(256))
    path.write_bytes(before)
    fake_disk.flip_bits(path, *range(256))
    assert not any(old == new for old, new in zip(before, path.read_bytes(), strict=True))
