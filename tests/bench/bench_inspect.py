"""A whole inspect against guestfish listing files: python tests/bench/bench_inspect.py DISK.vhd

Interleaved, caches dropped before each (where root). guestfish needs libguestfs-tools, and a kernel for its
appliance (SUPERMIN_KERNEL and SUPERMIN_MODULES where the host has none; LIBGUESTFS_BACKEND_SETTINGS=force_tcg where
/dev/kvm lies). `--page FILE` writes the table.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

GIB = 1 << 30
GOLDSMITH = str(Path(sys.executable).parent / "goldsmith")


def timed(words: list[str]) -> tuple[float, int]:
    """Seconds, and lines printed."""
    os.sync()
    with suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("3")
    began = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True)
    took = time.monotonic() - began
    # goldsmith's 1: a check failed, which is an answer
    assert done.returncode == 0 or (done.returncode == 1 and words[0] == GOLDSMITH), done.stderr
    return took, len(done.stdout.splitlines())


def windows(folder: Path) -> Path | None:
    """An NTFS disk with a SYSTEM hive of a server's size; None where the tools are not there."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from tests.fakes import fake_disk, fake_hive

    if not (fake_disk.find("mkfs.ntfs") and fake_disk.find("wimlib-imagex")):
        return None
    services = {f"service{number:05}": {"Start": 3, "ImagePath": "x" * 60, "Type": 16} for number in range(40_000)}
    config = folder / "windows/Windows/System32/config"
    config.mkdir(parents=True)
    tree = {"Setup": {"SetupType": 2}, "ControlSet001": {"Services": services}}
    (config / "SYSTEM").write_bytes(fake_hive.build(tree))
    disk, image = folder / "windows.raw", folder / "windows.wim"
    with disk.open("wb") as file:
        file.truncate(128 << 20)
    fake_disk.tool("mkfs.ntfs", "-q", "-F", "-s", "512", "-p", "0", "-H", "16", "-S", "63", disk)
    fake_disk.tool("wimlib-imagex", "capture", folder / "windows", image, "--compress=none")
    fake_disk.tool("wimlib-imagex", "apply", image, "1", disk)
    return disk


def commit() -> str:
    words = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip() or "no commit"


def main() -> None:
    ask = argparse.ArgumentParser()
    ask.add_argument("disk", type=Path)
    ask.add_argument("--rounds", type=int, default=3)
    ask.add_argument("--page", type=Path)
    args = ask.parse_args()
    disk = str(args.disk)
    used = args.disk.stat().st_blocks * 512 / GIB
    with tempfile.TemporaryDirectory(prefix="goldsmith-bench-") as name:
        hive = windows(Path(name))
        runs = {
            "goldsmith inspect": [GOLDSMITH, "inspect", disk],
            "goldsmith inspect --list packages": [GOLDSMITH, "inspect", disk, "--list", "packages"],
            "guestfish -i, find /": ["guestfish", "--ro", "--format=vpc", "-a", disk, "-i", "find", "/"],
        }
        if hive:
            runs["goldsmith inspect --key"] = [GOLDSMITH, "inspect", str(hive), "--key", "SYSTEM\\Setup"]
        seconds: dict[str, list[float]] = {run: [] for run in runs}
        printed: dict[str, int] = {}
        for _ in range(args.rounds):
            for run, words in runs.items():
                took, printed[run] = timed(words)
                seconds[run].append(took)
                print(f"{run:36} {took:7.2f} s", flush=True)
    middle = {run: statistics.median(each) for run, each in seconds.items()}
    lines = ["| run | median, s | least to most, s | lines |", "|---|---|---|---|"]
    for run, each in seconds.items():
        lines.append(f"| {run} | {middle[run]:.2f} | {min(each):.2f} to {max(each):.2f} | {printed[run]} |")
    whole = middle["goldsmith inspect"]
    limits = [
        ("inspect, s per GiB in use", whole / used, 8.0),
        ("inspect / guestfish", whole / middle["guestfish -i, find /"], 0.5),
        ("package list, s", middle["goldsmith inspect --list packages"], 1.0),
    ]
    if hive:
        limits.append(("registry key, s", middle["goldsmith inspect --key"], 1.0))
    lines += ["", "| what | measured | at most | |", "|---|---|---|---|"]
    lines += [
        f"| {what} | {is_:.2f} | {most} | {'held' if is_ <= most else 'MISSED'} |" for what, is_, most in limits
    ]
    text = "\n".join(lines) + "\n"
    head = (
        "# Inspect, measured\n\nMade by `python tests/bench/bench_inspect.py DISK --page "
        f"docs/reports/bench-inspect.md` at commit {commit()}.\n\nA Debian master with {used:.2f} GiB in use, "
        f"{args.rounds} interleaved rounds, caches "
        f"dropped before each run; Linux {platform.release()}, {os.cpu_count()} processors, load "
        f"{os.getloadavg()[2]:.1f}, guestfish's appliance under TCG (the host has no KVM).\n\n"
    )
    print(text)
    if args.page:
        args.page.write_text(head + text)
    sys.exit(0 if all(is_ <= most for _, is_, most in limits) else 1)


if __name__ == "__main__":
    main()
