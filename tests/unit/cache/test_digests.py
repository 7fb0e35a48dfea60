"""Digests of blocks in a file of their own: where two disks differ, without reading either."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import pytest

from pipeline.cache.digests import (
    BLOCK,
    CHUNK,
    FlatDigest,
    blocks_size,
    chunk_digests,
    compare_block_digests,
    flat_digest,
    tree_of,
    unequal_blocks,
    write_block_digests,
)
from tests.unit.gallery.test_gallery import sparse

SIZE = 5 * CHUNK + 3 * BLOCK + 512
NOISE = random.Random(2).randbytes(2 * BLOCK)
PIECES = {0: b"a" * 10, CHUNK - 1: b"bc", 3 * CHUNK + BLOCK: NOISE, SIZE - 512: b"f" * 512}


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return sparse(tmp_path / "disk", SIZE, PIECES)


def plainly(disk: Path) -> bytes:
    """The file of digests, by its description."""
    data = disk.read_bytes()
    blocks = (data[at : at + BLOCK] for at in range(0, len(data), BLOCK))
    return b"".join(hashlib.sha256(block).digest() if any(block) else bytes(32) for block in blocks)


def test_the_file_is_what_it_is_said_to_be(disk: Path, tmp_path: Path) -> None:
    target = tmp_path / "digests"
    digests = write_block_digests(disk, target)
    assert target.read_bytes() == plainly(disk)
    assert target.stat().st_size == blocks_size(SIZE)
    assert digests == chunk_digests(disk)


def test_holes_are_free(tmp_path: Path) -> None:
    target = tmp_path / "digests"
    write_block_digests(sparse(tmp_path / "disk", 1 << 40, {(1 << 40) - 512: b"f" * 512}), target)
    assert target.stat().st_size == 32 << 24
    assert target.stat().st_blocks * 512 <= 64 << 10


@pytest.mark.parametrize("at", [5, CHUNK, 2 * CHUNK + 7, 3 * CHUNK + BLOCK, SIZE - 1])
def test_what_was_changed_is_found(disk: Path, tmp_path: Path, at: int) -> None:
    """Also what was written into a hole, and data that became zeros."""
    blocks = tmp_path / "digests"
    write_block_digests(disk, blocks)
    assert compare_block_digests(disk, blocks).changed == 0
    with disk.open("r+b") as file:
        file.seek(at)
        file.write(b"\0" if at == 5 else b"x")
    found = compare_block_digests(disk, blocks)
    assert (found.changed, found.first_changed) == (1, at // BLOCK)
    other = tmp_path / "others"
    write_block_digests(disk, other)
    assert list(unequal_blocks(blocks, other)) == [at // BLOCK]


def test_digests_that_lie_of_a_hole_are_found(disk: Path, tmp_path: Path) -> None:
    blocks = tmp_path / "digests"
    write_block_digests(disk, blocks)
    with blocks.open("r+b") as file:
        file.seek(2 * CHUNK // BLOCK * 32)
        file.write(b"lie")
    assert compare_block_digests(disk, blocks).first_changed == 2 * CHUNK // BLOCK


def test_a_file_of_another_size_is_refused(disk: Path, tmp_path: Path) -> None:
    blocks = tmp_path / "digests"
    write_block_digests(disk, blocks)
    os.truncate(blocks, blocks_size(SIZE) - 32)
    with pytest.raises(ValueError, match="are not those of"):
        compare_block_digests(disk, blocks)


def test_a_longer_disk_differs_in_what_it_has_more(disk: Path, tmp_path: Path) -> None:
    first, other = tmp_path / "one", tmp_path / "other"
    write_block_digests(disk, first)
    os.truncate(disk, 9 * CHUNK)
    with disk.open("r+b") as file:
        file.seek(8 * CHUNK)
        file.write(b"more")
    write_block_digests(disk, other)
    # the last block was not a whole one
    assert list(unequal_blocks(first, other)) == [SIZE // BLOCK, 8 * CHUNK // BLOCK]


def test_a_flat_digest_is_taken_beside_other_work(disk: Path) -> None:
    begun = FlatDigest(disk)
    assert begun.of(chunk_digests(disk).tree) == hashlib.sha256(disk.read_bytes()).hexdigest() == flat_digest(disk)
    assert begun.of("0" * 64) is None


def test_a_file_that_changed_meanwhile_has_no_flat_digest(disk: Path) -> None:
    begun = FlatDigest(disk)
    begun.join()
    with disk.open("r+b") as file:
        file.write(b"changed")
    assert begun.of(chunk_digests(disk).tree) is None


def test_a_flat_digest_can_be_stopped(tmp_path: Path) -> None:
    large = sparse(tmp_path / "large", 1 << 40, {})
    begun = FlatDigest(large)
    begun.stop()
    assert not begun.is_alive() and begun.of(tree_of([])) is None
    assert FlatDigest(tmp_path / "none").of("") is None
