"""Fixed conversion against cp and qemu-img, interleaved: python tests/bench/bench_convert.py --folder DIR

Caches are dropped before each run (where root), the sync at the end is counted, the inputs stay as they are.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import statistics
import subprocess
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pipeline.offline.containers import extents
from pipeline.vhd.fixed import write_fixed

GIB = 1 << 30


def make(path: Path, data: int, size: int) -> Path:
    """A raw disk with `data` bytes that do not compress, in runs of 1 to 64 MiB spread over `size`."""
    dice = random.Random(4)
    block = os.urandom(1 << 20)
    with path.open("wb") as file:
        file.truncate(size)
        left, at = data, 0
        gap = max(0, size - data) // max(1, data >> 25)
        while left > 0:
            length = min(left, dice.randrange(1, 65) << 20)
            file.seek(at)
            for number in range(length >> 20):
                file.write(block[number % 997 :] + block[: number % 997])
            left -= length
            at = min(at + length + dice.randrange(0, gap + 1), size - left)
    return path


def timed(run: Callable[[Path], None], target: Path) -> float:
    os.sync()
    with suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("3")
    began = time.monotonic()
    run(target)
    fd = os.open(target, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    took = time.monotonic() - began
    target.unlink()
    return took


def goldsmith(source: Path, fmt: str) -> Callable[[Path], None]:
    def run(target: Path) -> None:
        with extents(source, fmt, allow_backing_within=source.parent) as disk:
            write_fixed(disk, target, unique_id=uuid.uuid4(), timestamp=int(time.time()))

    return run


def tool(*words: object) -> Callable[[Path], None]:
    return lambda target: void(subprocess.run([*map(str, words), str(target)], check=True))


def void(_: object) -> None:
    return None


def main() -> None:
    ask = argparse.ArgumentParser()
    ask.add_argument("--folder", type=Path, required=True)
    ask.add_argument("--gib", type=float, default=4)
    ask.add_argument("--rounds", type=int, default=5)
    args = ask.parse_args()
    data = int(args.gib * 1024) << 20
    raw = make(args.folder / "bench.raw", data, data * 5 // 4)
    large = make(args.folder / "large.raw", data, 1 << 40)
    base, top = args.folder / "base.qcow2", args.folder / "top.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, base], check=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top], check=True)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 7 1M 64M", top], check=True)
    fixed = ("-O", "vpc", "-o", "subformat=fixed,force_size=on")
    runs = {
        "goldsmith, raw": goldsmith(raw, "raw"),
        "cp --sparse=always": tool("cp", "--sparse=always", raw),
        "qemu-img, raw": tool("qemu-img", "convert", "-f", "raw", *fixed, raw),
        "goldsmith, qcow2 chain": goldsmith(top, "qcow2"),
        "qemu-img, qcow2 chain": tool("qemu-img", "convert", "-f", "qcow2", *fixed, top),
        "goldsmith, 1 TiB virtual": goldsmith(large, "raw"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            seconds[name].append(timed(run, args.folder / "out.img"))
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    for name, each in seconds.items():
        print(f"{name:26} {middle[name]:7.2f} s   ({min(each):.2f} to {max(each):.2f})")
    for what, one, other, most in (
        ("raw / cp", "goldsmith, raw", "cp --sparse=always", 1.1),
        ("raw / qemu-img", "goldsmith, raw", "qemu-img, raw", 0.7),
        ("chain / qemu-img", "goldsmith, qcow2 chain", "qemu-img, qcow2 chain", 0.7),
        ("1 TiB / small", "goldsmith, 1 TiB virtual", "goldsmith, raw", 1.3),
    ):
        print(f"{what:26} {middle[one] / middle[other]:7.2f}     (at most {most})")
    print(f"{'memory':26} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10:7} MiB")
    for path in (raw, large, base, top):
        path.unlink()


if __name__ == "__main__":
    main()
