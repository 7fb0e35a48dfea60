"""Mutated headers: no hang, no traceback, no read outside the file, no memory eaten. Forked, with limits.

GOLDSMITH_MUTATIONS sets how many are tried of each kind (100,000 in a campaign).
"""

from __future__ import annotations

import os
import random
import resource
import signal
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path

import phony
import pytest

from pipeline.errors import DiskError
from pipeline.offline import initramfs, qcow2, vhdx, vmdk
from pipeline.offline.disk import Disk
from pipeline.vhd.chain import overlay, vhd_extents
from pipeline.vhd.extents import Extent, ExtentSource, file_extents
from pipeline.vhd.footer import EPOCH, Footer, checksum
from pipeline.vhd.write import write_dynamic

COUNT = int(os.environ.get("GOLDSMITH_MUTATIONS", "400"))
BATCH = 200
#: Beyond what the process has already, and seconds of a batch.
MEMORY, SECONDS = 200 << 20, 60


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return phony.build(tmp_path_factory.mktemp("good"))


def mutate(data: bytes, dice: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 8, 40))):
        at = dice.randrange(len(out))
        kind = dice.randrange(4)
        if kind == 0:
            out[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            out[at : at + 8] = dice.choice((b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7, b"\0\0\0\1\0\0\0\1"))
        elif kind == 2:
            out[at] = dice.randrange(256)
        else:
            size = dice.randrange(1, 64)
            there = dice.randrange(len(out))
            out[at : at + size] = out[there : there + size]
    return bytes(out[: len(data)])


def batches(trial: Callable[[random.Random], None]) -> None:
    """Run the trials in forked children; a DiskError is an answer, anything else is a failure."""
    for seed in range(0, COUNT, BATCH):
        child = os.fork()
        if child == 0:
            os._exit(_batch(trial, seed))
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0, f"batch {seed}"


def _batch(trial: Callable[[random.Random], None], seed: int) -> int:
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        signal.alarm(SECONDS)
        for number in range(BATCH):
            try:
                trial(random.Random(seed + number))
            except DiskError as error:
                assert error.name and error.message
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def test_tables_and_superblocks(good: Path, tmp_path: Path) -> None:
    base = file_extents(good)
    whole = good.read_bytes()
    places = [
        (0, 512),
        (512, 512),
        (1024, 1024),
        (phony.SIZE - 512, 512),
        (phony.ESP_AT, 512),
        (phony.ROOT_AT + 1024, 1024),
        (phony.ROOT_AT + 2048, 1024),
        (phony.ROOT_AT + 4096, 262144),
    ]

    def trial(dice: random.Random) -> None:
        at, length = dice.choice(places)
        patch = tmp_path / f"patch-{os.getpid()}"
        patch.write_bytes(mutate(whole[at : at + length], dice))
        extents = overlay(list(base.extents), [Extent(at, length, patch, 0)])
        with Disk(good, "raw", ExtentSource(base.size, tuple(extents)), file_size=base.size, tail=b"") as disk:
            for volume in disk.filesystems:
                if volume.readable:
                    disk.filesystem(volume)
            root = disk.root
            root.text("/etc/passwd")
            root.listdir("/usr/lib/systemd/system")
            sum(1 for _ in root.walk("/etc", limit=10_000))

    batches(trial)


def test_dynamic_headers(tmp_path: Path) -> None:
    raw = tmp_path / "disk.raw"
    with raw.open("wb") as file:
        file.truncate(8 << 20)
        file.seek(3 << 20)
        file.write(b"x" * 5000)
    path = tmp_path / "disk.vhd"
    write_dynamic(file_extents(raw), path, unique_id=uuid.UUID(int=1), timestamp=EPOCH)
    whole = path.read_bytes()

    def trial(dice: random.Random) -> None:
        data = bytearray(whole[:2048])
        if dice.random() < 0.5:
            data[512:1536] = mutate(bytes(data[512:1536]), dice)
            data[548:552] = checksum(bytes(data[512:1536]), 36).to_bytes(4, "big")
        else:
            data[:] = mutate(bytes(data), dice)
        here = tmp_path / f"disk-{os.getpid()}.vhd"
        here.write_bytes(bytes(data) + whole[2048:])
        with vhd_extents(here) as source:
            assert all(e.offset + e.length <= len(whole) for e in source.extents)

    batches(trial)


def test_foreign_headers_and_footers() -> None:
    good_footer = Footer.build(8 << 20, disk_type=2, unique_id=uuid.UUID(int=1), timestamp=EPOCH).pack()  # type: ignore[arg-type]
    seeds = {
        "qcow2": b"QFI\xfb\0\0\0\3" + bytes(12) + b"\0\0\0\x10" + bytes(76) + b"\0\0\0\x68" + bytes(400),
        "vmdk": b"KDMV\1\0\0\0\3\0\0\0\0\x40"
        + bytes(14)
        + b"\1"
        + bytes(7)
        + b"\x14"
        + bytes(471)
        + b'# Disk DescriptorFile\nversion=1\nparentCID=ffffffff\nRW 16384 SPARSE "disk.vmdk"\n' * 20,
        "vhdx": b"vhdxfile".ljust(192 << 10, b"\0") + b"regi" + bytes(60) + b"metadata" + bytes(400),
    }

    def trial(dice: random.Random) -> None:
        data = {name: mutate(value, dice) for name, value in seeds.items()}

        def reader(name: str) -> Callable[[int, int], bytes]:
            return lambda at, length: data[name][at : at + length]

        path = Path("disk")
        for judge in (
            lambda: qcow2.judge(reader("qcow2"), path),
            lambda: vmdk.refuse_foreign(reader("vmdk"), len(data["vmdk"]), path),
            lambda: vhdx.refuse_parent(reader("vhdx"), path),
            lambda: Footer.parse(mutate(good_footer, dice)),
        ):
            try:
                judge()
            except DiskError:
                continue

    batches(trial)


@pytest.mark.parametrize("pack", ["gzip", "zstd", "lz4", "none"])
def test_initramfs(pack: str) -> None:
    data = phony.initramfs(pack=pack)
    batches(lambda dice: void(initramfs.read_initramfs(mutate(data, dice))))


def void(_: object) -> None:
    return None
