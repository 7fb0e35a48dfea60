"""The search for secrets on disks made against it: bounds are kept and named, files in pieces are read whole."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from pipeline.disk import open_disk, secret_search
from tests.fakes import fake_disk
from tests.fakes.secret_forms import github
from tests.unit.disk.test_secret_search import findings, write

MIB = 1 << 20
#: Bytes of memory at most, of the worker and of who asked; each bomb holds more than that.
MEMORY = 300 * MIB
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


def bomb(kind: str, size: int) -> bytes:
    """A stream of so many zeros, made without them."""
    zeros, times = bytes(16 * MIB), size // (16 * MIB)
    if kind == "gzip":
        # each block stands alone, so that one is made and repeated; the end is never reached
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        first = packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)
        return first + (packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)) * (times - 1)
    if kind == "xz":
        stream = lzma.LZMACompressor(filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "nice_len": 273}])
        return b"".join(stream.compress(zeros) for _ in range(times)) + stream.flush()
    frame = zstandard.ZstdCompressor(level=1).compressobj()
    return b"".join(frame.compress(zeros) for _ in range(times)) + frame.flush()


def secret_text() -> bytes:
    """Text in which a token is, so that no packer leaves it as it stands: the token in the midst of its like."""
    numbers = random.Random(3)
    lines = [b"%06d the line says %d\n" % (numbers.randrange(10**6), numbers.randrange(10**9)) for _ in range(20_000)]
    return b"".join(lines[:9_000]) + f"t = '{github()}'\n".encode() + b"".join(lines[9_000:])


def test_a_bomb_ends_the_search_in_little_memory(tmp_path: Path) -> None:
    disk = write(tmp_path, {"srv/bomb": bomb("zstd", 1200 * MIB)})
    done = subprocess.run(
        [sys.executable, "-m", "tests.fakes.ask_all", disk, "secrets"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    cost = json.loads(done.stdout)
    assert "more compressed data than is unpacked" in cost["asked"]["secrets"][0], cost
    assert max(cost["peaks"]) << 10 < MEMORY, cost


@pytest.mark.parametrize("kind", ["gzip", "xz", "zstd"])
def test_a_bomb_of_each_kind_is_named(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret_search, "UNPACKED", 64 * MIB)
    monkeypatch.setattr(secret_search, "UNPACKED_TIMES", 0)
    found = findings(write(tmp_path, {"srv/bomb": bomb(kind, 96 * MIB)}))
    assert len(found["secrets-searched"]) == 1
    assert found["secrets-searched"][0].startswith("more compressed data than is unpacked: the search ")


def test_a_disk_full_of_needles_ends_the_search(tmp_path: Path) -> None:
    found = findings(write(tmp_path, {"srv/needles": b"".join(f"t = '{github()}'\n".encode() for _ in range(3_000))}))
    assert len(found["access-tokens"]) == secret_search.FINDINGS
    assert found["secrets-searched"][0].startswith("more than 2000 secrets and test keys: the search ended at byte ")


def test_a_disk_full_of_what_looks_like_needles_ends_the_search(tmp_path: Path) -> None:
    found = findings(write(tmp_path, {"srv/needles": bz2.compress(b"") + b"\x28\xb5\x2f\xfd" * 4 * MIB}))
    assert found["secrets-searched"] and "candidates" in found["secrets-searched"][0]


def scattered(folder: Path, data: bytes, step: int) -> tuple[Path, int]:
    """A disk on which /packed lies in pieces of `step` bytes, and the number of its extents."""
    # twice as many as the pieces: every second one is removed, and its place is the first that is free
    count = 2 * (len(data) // step + 1)
    disk = write(folder, {f"fill/{number:04d}": b"x" * step for number in range(count)}, "16M")
    source = folder / "packed"
    source.write_bytes(data)
    removed = "".join(f"rm /fill/{number:04d}\n" for number in range(0, count, 2))
    fake_disk.tool("debugfs", "-w", "-f", "-", disk, stdin=f"{removed}write {source} /packed\n".encode())
    with open_disk(disk, "raw") as opened:
        return disk, len(opened.root.runs("/packed"))


@pytest.mark.parametrize("kind", sorted(PACK))
def test_a_packed_file_in_several_extents_is_read_whole(kind: str, tmp_path: Path) -> None:
    disk, extents = scattered(tmp_path, PACK[kind](secret_text()), 8192)
    assert extents > 5
    assert findings(disk)["access-tokens"] == [f"github pat in /packed (inside {kind})"]


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "zstd"])
def test_a_second_stream_is_unpacked_too(kind: str, tmp_path: Path) -> None:
    packed = PACK[kind](b"nothing is in here\n" * 500) + PACK[kind](secret_text())
    assert findings(write(tmp_path, {"srv/packed": packed}))["access-tokens"] == [
        f"github pat in /srv/packed (inside {kind})"
    ]


def test_the_highest_preset_of_xz_is_unpacked(tmp_path: Path) -> None:
    disk = write(tmp_path, {"srv/packed": lzma.compress(secret_text(), preset=9)})
    assert findings(disk)["access-tokens"] == ["github pat in /srv/packed (inside xz)"]


def long_window() -> bytes:
    """What `zstd --long=27` writes to a pipe."""
    wanted = zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
    packer = zstandard.ZstdCompressor(compression_params=wanted).compressobj()
    return packer.compress(secret_text()) + packer.flush()


def large_dictionary() -> bytes:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 256 * MIB}]
    return lzma.compress(secret_text(), filters=filters)


@pytest.mark.parametrize(("kind", "make"), [("zstd", long_window), ("xz", large_dictionary)])
def test_what_needs_too_much_memory_is_named(kind: str, make: Callable[[], bytes], tmp_path: Path) -> None:
    gaps = findings(write(tmp_path, {"srv/packed": make()}))["secrets-searched"]
    assert len(gaps) == 1 and gaps[0].startswith(f"{kind} at byte ")
    assert gaps[0].endswith("needs more than 72 MiB of memory: not unpacked")
