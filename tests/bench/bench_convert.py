"""Fixed conversion against cp and qemu-img, interleaved: python tests/bench/bench_convert.py --folder DIR

Each run is a process of its own, its start counted. Caches are dropped before each (where root), the sync at the
end is counted, the inputs are digested before and after. `--page FILE` writes the table with the commit's id.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import random
import statistics
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

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


@dataclass
class Run:
    """One competitor: its command but for the target, its seconds, its largest memory in MiB."""

    words: list[str]
    seconds: list[float] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    memory: int = 0

    @property
    def middle(self) -> float:
        return statistics.median(self.seconds)

    def once(self, target: Path, rest: float) -> None:
        os.sync()
        time.sleep(rest)
        with suppress(OSError):
            Path("/proc/sys/vm/drop_caches").write_text("3")
        began = time.monotonic()
        child = subprocess.Popen([*self.words, str(target)])
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        fd = os.open(target, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        self.seconds.append(time.monotonic() - began)
        self.memory = max(self.memory, used.ru_maxrss >> 10)
        assert child.returncode == 0, self.words
        target.unlink()


def convert_once(source: Path, fmt: str, target: Path) -> None:
    """What a goldsmith child does."""
    from pipeline.disk.disk_formats import extents
    from pipeline.vhd.fixed import write_fixed

    with extents(source, fmt, allow_backing_within=source.parent) as disk:
        write_fixed(disk, target, unique_id=uuid.uuid4(), timestamp=int(time.time()))


def digest(paths: list[Path]) -> str:
    """Of the data of sparse files, with its places."""
    from pipeline.vhd.extents import file_extents

    seen = hashlib.blake2b()
    for path in paths:
        with path.open("rb") as file:
            for extent in file_extents(path).extents:
                seen.update(f"{extent.start} {extent.length}".encode())
                file.seek(extent.start)
                for at in range(0, extent.length, 8 << 20):
                    seen.update(file.read(min(8 << 20, extent.length - at)))
    return seen.hexdigest()


def goldsmith(source: Path, fmt: str) -> Run:
    return Run([sys.executable, __file__, "--one", fmt, str(source)])


def tool(*words: object) -> Run:
    return Run([str(word) for word in words])


def table(runs: dict[str, Run], unchanged: bool) -> tuple[str, bool]:
    lines = ["| run | median, s | least to most, s | memory, MiB |", "|---|---|---|---|"]
    for name, run in runs.items():
        spread = f"{min(run.seconds):.2f} to {max(run.seconds):.2f}"
        lines.append(f"| {name} | {run.middle:.2f} | {spread} | {run.memory} |")
    lines += ["", "| what | measured | at most | |", "|---|---|---|---|"]
    whole = True
    for what, mine, other, most in (
        ("raw / cp", "goldsmith, raw", "cp --sparse=always", 1.1),
        ("raw / qemu-img", "goldsmith, raw", "qemu-img, raw", 0.7),
        ("chain / qemu-img", "goldsmith, qcow2 chain", "qemu-img, qcow2 chain", 0.7),
        ("1 TiB virtual / small", "goldsmith, 1 TiB virtual", "goldsmith, raw", 1.3),
    ):
        ratio = runs[mine].middle / runs[other].middle
        whole &= ratio <= most
        lines.append(f"| {what} | {ratio:.2f} | {most} | {'held' if ratio <= most else 'MISSED'} |")
    memory = max(run.memory for name, run in runs.items() if name.startswith("goldsmith"))
    whole &= memory < 100 and unchanged
    lines.append(f"| memory, MiB | {memory} | 100 | {'held' if memory < 100 else 'MISSED'} |")
    lines.append(f"| inputs unchanged | {unchanged} | | {'held' if unchanged else 'MISSED'} |")
    return "\n".join(lines) + "\n", whole


def balanced(names: list[str], number: int) -> list[str]:
    """The order of a round: over as many rounds as there are runs, each follows each other one once.

    What the host still has in hand of one run slows the next, whichever program it is; a Williams square (for an even
    number) gives everybody the same neighbours. https://en.wikipedia.org/wiki/Carryover_effect
    """
    count = len(names)
    zigzag = [(step + 1) // 2 if step % 2 else (count - step // 2) % count for step in range(count)]
    return [names[(place + number) % count] for place in zigzag]


def neighbours(runs: dict[str, Run]) -> str:
    """Everybody's seconds by what ran just before."""
    lines = ["| seconds after | " + " | ".join(runs) + " |", "|---" * (len(runs) + 1) + "|"]
    for before in ("nothing", *runs):
        result = [
            ", ".join(
                f"{seconds:.1f}" for after, seconds in zip(run.after, run.seconds, strict=True) if after == before
            )
            for run in runs.values()
        ]
        lines.append(f"| {before} | " + " | ".join(result) + " |")
    return "\n".join(lines) + "\n"


def commit() -> str:
    here = Path(__file__).parent
    done = subprocess.run(["git", "-C", here, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "no commit"


def main() -> None:
    ask = argparse.ArgumentParser()
    ask.add_argument("--folder", type=Path)
    ask.add_argument("--gib", type=float, default=4)
    ask.add_argument("--rounds", type=int, default=6, help="a multiple of 6 for a balanced order")
    ask.add_argument("--rest", type=float, default=0, help="seconds before each run")
    ask.add_argument("--page", type=Path)
    ask.add_argument("--one", nargs=3)
    args = ask.parse_args()
    if args.item:
        convert_once(Path(args.item[1]), args.item[0], Path(args.item[2]))
        return
    data = int(args.gib * 1024) << 20
    raw = make(args.folder / "bench.raw", data, data * 5 // 4)
    large = make(args.folder / "large.raw", data, 1 << 40)
    base, top = args.folder / "base.qcow2", args.folder / "top.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, base], check=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top], check=True)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 7 1M 64M", top], check=True)
    inputs = [raw, large, base, top]
    fixed = ("-O", "vpc", "-o", "subformat=fixed,force_size=on")
    runs = {
        "goldsmith, raw": goldsmith(raw, "raw"),
        "cp --sparse=always": tool("cp", "--sparse=always", raw),
        "qemu-img, raw": tool("qemu-img", "convert", "-f", "raw", *fixed, raw),
        "goldsmith, qcow2 chain": goldsmith(top, "qcow2"),
        "qemu-img, qcow2 chain": tool("qemu-img", "convert", "-f", "qcow2", *fixed, top),
        "goldsmith, 1 TiB virtual": goldsmith(large, "raw"),
    }
    try:
        # what is not written yet has no extents to speak of
        os.sync()
        before, last = digest(inputs), "nothing"
        for number in range(args.rounds):
            for name in balanced(list(runs), number):
                runs[name].after.append(last)
                runs[name].once(args.folder / "out.img", args.rest)
                last = name
        text, whole = table(runs, digest(inputs) == before)
    finally:
        for path in inputs:
            path.unlink(missing_ok=True)
    head = (
        "# Fixed conversion, measured\n\nMade by `python tests/bench/bench_convert.py --folder DIR "
        f"--page docs/reports/bench-convert.md` at commit {commit()}.\n\n{args.gib:g} GiB of data, {args.rounds} "
        f"interleaved rounds, each run after each other one once, caches dropped before each"
        f"{f' and {args.rest:g} s of rest' if args.rest else ''}, the start of each process "
        f"and the fsync at its end counted; Linux {platform.release()}, {os.cpu_count()} processors, "
        f"load {os.getloadavg()[2]:.1f} over the last minutes.\n\n"
    )
    text += "\n" + neighbours(runs)
    print(text)
    if args.page:
        args.page.write_text(head + text)
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    main()
