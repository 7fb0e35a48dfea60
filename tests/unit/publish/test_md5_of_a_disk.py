"""The MD5 of a disk, taken beside its upload."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pipeline.publish.source import Md5


def test_it_is_the_files_own_with_its_holes(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhd"
    with path.open("wb") as file:
        file.write(b"front")
        file.truncate(5 << 20)
        file.seek(0, 2)
        file.write(b"back")
    size = path.stat().st_size
    assert Md5(path, size).result() == hashlib.md5(path.read_bytes(), usedforsecurity=False).digest()


def test_a_file_that_cannot_be_read_is_an_error_and_no_missing_digest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Md5(tmp_path / "gone.vhd", 512).result()
