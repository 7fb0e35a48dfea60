"""Progress in bytes: a line has the rate and the rest, and there are not more lines than a person reads."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.byte_progress import ByteProgress, describe_bytes
from pipeline.base.runs import NO_RUN
from pipeline.base.store import Store
from pipeline.cache.digests import CHUNK, chunk_digests
from pipeline.cache.layers import Layers
from pipeline.context import BuildContext
from pipeline.gallery import Gallery
from pipeline.publish.transfer import Follower

MIB = 1 << 20


@pytest.mark.parametrize(
    ("done", "total", "moved", "seconds", "text"),
    [
        (0, 8192 * MIB, 0, 0.0, "0 of 8192 MiB"),
        (512 * MIB, 8192 * MIB, 512 * MIB, 5.0, "512 of 8192 MiB, 102 MiB/s, 75 s left"),
        # a resumed download: what was there already was not sent at this rate
        (512 * MIB, 1024 * MIB, 10 * MIB, 10.0, "512 of 1024 MiB, 1.0 MiB/s, 512 s left"),
        (8192 * MIB, 8192 * MIB, 8192 * MIB, 80.0, "8192 of 8192 MiB, 102 MiB/s"),
        (3 * MIB, None, 3 * MIB, 2.0, "3 MiB, 1.5 MiB/s"),
        # nothing came: there is no rate, and nobody knows the rest
        (3 * MIB, 9 * MIB, 0, 60.0, "3 of 9 MiB"),
    ],
)
def test_a_line(done: int, total: int | None, moved: int, seconds: float, text: str) -> None:
    assert describe_bytes(done, total, moved, seconds) == text


def test_the_first_and_the_last_line_are_shown_and_few_between_them() -> None:
    lines: list[str] = []
    show = ByteProgress(lines.append, "disk.vhd")
    for done in range(0, 100 * MIB + 1, MIB):
        show(done, 100 * MIB)
    for _ in range(100):
        show(100 * MIB, 100 * MIB)
    assert lines[0] == "disk.vhd: 0 of 100 MiB" and lines[-1] == "disk.vhd: 100 of 100 MiB"
    assert len(lines) < 10


def test_digests_tell_how_much_they_have_read(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(64 * CHUNK)
        file.write(b"x" * 40 * CHUNK)
    seen: list[tuple[int, int]] = []
    lock = threading.Lock()

    def progress(done: int, total: int) -> None:
        with lock:
            seen.append((done, total))

    assert chunk_digests(disk, progress) == chunk_digests(disk)
    # a file in many pieces takes more than its data: ext4 has blocks of its own for the list of them
    taken = disk.stat().st_blocks * 512
    assert max(seen) == (taken, taken) and taken >= 40 * CHUNK and len(seen) == 3


def test_a_line_has_what_each_of_several_clones_does(tmp_path: Path) -> None:
    store = Store(tmp_path).ensure()
    lines: list[str] = []
    definition: Any = None
    context = BuildContext(definition, store, NO_RUN, Layers(store.layers), Gallery(store.gallery))
    context.progress = lines.append  # type: ignore[method-assign]
    context.progress_of("gen1", "booting")
    context.progress_of("gen2", "waiting for sshd")
    context.progress_of("gen1", "")
    context.progress_of("gen2", "")
    assert lines == ["gen1: booting", "gen1: booting; gen2: waiting for sshd", "gen2: waiting for sshd"]


def test_work_that_says_how_many_bytes_are_done_feeds_a_meter() -> None:
    seen: list[tuple[str, int, int]] = []
    follow = Follower(lambda what, done, total, _rate: seen.append((what, done, total)))
    follow("copying disk.vhd", 0, 8)
    for done in (2, 5, 8):
        follow("sha256 of disk.vhd", done, 8)
    assert seen[0] == ("copying disk.vhd", 0, 8)
    assert seen[-1] == ("sha256 of disk.vhd", 8, 8)
