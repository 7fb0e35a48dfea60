"""What a night's difference costs: python tests/bench/bench_delta.py NAME@OLD NAME@NEW --folder DIR

A differencing VHD is made of two versions in the gallery, with caches dropped, and applied again: as versions, whose
digests are known (`gallery delta`), and as two files of which nothing is known (`vhd diff`). `--page FILE` writes the
table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

GIB, BLOCK = 1 << 30, 64 << 10
GOLDSMITH = str(Path(sys.executable).parent / "goldsmith")
ROUNDS = 5


def timed(words: list[str]) -> float:
    os.sync()
    with suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("3")
    began = time.monotonic()
    subprocess.run(words, check=True, capture_output=True)
    return time.monotonic() - began


def disk_of(reference: str) -> Path:
    """Where the disk of NAME@VERSION lies."""
    name, _, version = reference.partition("@")
    words = [GOLDSMITH, "gallery", "list", name, "--json"]
    listed = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
    return next(Path(item["path"]) for item in listed if item["version"] == version)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def changed(old: Path, new: Path) -> int:
    """Bytes of the 64 KiB blocks in which two files differ: read whole, by nobody's extents."""
    count = 0
    with old.open("rb") as first, new.open("rb") as other:
        while True:
            a, b = first.read(BLOCK), other.read(BLOCK)
            if not a and not b:
                return count
            count += len(max(a, b, key=len)) if a != b else 0


def main() -> int:
    ask = argparse.ArgumentParser()
    ask.add_argument("old")
    ask.add_argument("new")
    ask.add_argument("--folder", type=Path, required=True)
    ask.add_argument("--page", type=Path)
    args = ask.parse_args()
    delta, again = args.folder / "delta.vhd", args.folder / "again.vhd"
    old, new = disk_of(args.old), disk_of(args.new)
    making, applying, plainly = [], [], []
    for _ in range(ROUNDS):
        plainly.append(timed([GOLDSMITH, "vhd", "diff", str(old), str(new), str(delta), "--force"]))
        making.append(timed([GOLDSMITH, "gallery", "delta", args.old, args.new, str(delta), "--force"]))
        words = [GOLDSMITH, "vhd", "apply", str(delta), str(again), "--to", "fixed", "--force"]
        applying.append(timed(words))
        print(f"made in {making[-1]:.2f} s ({plainly[-1]:.2f} as files), applied in {applying[-1]:.2f} s", flush=True)
    data = max(old.stat().st_blocks, new.stat().st_blocks) * 512 / GIB
    differ = changed(old, new)
    same = sha256(again) == sha256(new)
    size = delta.stat().st_blocks * 512
    made = statistics.median(making)
    limits = [
        ("making it, s per GiB of data", made / data, 1.0),
        ("its bytes on disk / bytes of changed 64 KiB blocks", size / differ, 1.1),
    ]
    listed = json.loads(
        subprocess.run(
            [GOLDSMITH, "vhd", "diff", str(old), str(new), "--json"], check=True, capture_output=True
        ).stdout
    )
    lines = [
        "# The difference of two nights, measured",
        "",
        f"`python tests/bench/bench_delta.py NAME@OLD NAME@NEW --folder DIR` at commit {commit()}; {data:.2f} GiB of"
        f" data, {ROUNDS} rounds, caches dropped; Linux {platform.release()}, {os.cpu_count()} processors.",
        "",
        f"Changed: {differ} bytes in blocks of 64 KiB, {listed['bytes']} in sectors. The differencing VHD takes"
        f" {size} bytes on disk ({delta.stat().st_size} with its holes). Made in {made:.2f} s"
        f" ({min(making):.2f} to {max(making):.2f}), applied in {statistics.median(applying):.2f} s. The same of two"
        f" files of which nothing is known, both read whole: {statistics.median(plainly):.2f} s"
        f" ({min(plainly):.2f} to {max(plainly):.2f}).",
        "",
        "| what | measured | at most | |",
        "|---|---|---|---|",
        *(f"| {what} | {is_:.2f} | {most} | {'held' if is_ <= most else 'MISSED'} |" for what, is_, most in limits),
        f"| the sha256 of what applying gives | {'the same' if same else 'ANOTHER'} | the same | "
        f"{'held' if same else 'MISSED'} |",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if args.page:
        args.page.write_text(text)
    return 0 if same and all(is_ <= most for _, is_, most in limits) else 1


def commit() -> str:
    words = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip() or "no commit"


if __name__ == "__main__":
    sys.exit(main())
