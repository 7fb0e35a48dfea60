"""What publishing costs: python tests/bench/bench_publish.py DISK.vhd --folder DIR [--rounds N] [--page FILE]

DISK is a master's fixed VHD, which is only read. It is published to Azurite by goldsmith, without and with reading
back, and uploaded by the SDK's own `upload_blob` at equal concurrency, alternated, each to a new server. A second
version, in which about 20 MiB differ, is published by difference. The bytes on the wire are counted by a proxy, in
rounds of their own that are not timed. With `--rounds 0` only these are run.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from pipeline.base.store import Store  # noqa: E402
from pipeline.cache.digests import BLOCK, write_block_digests  # noqa: E402
from pipeline.gallery import DISK, Gallery, Version, digests_file  # noqa: E402
from pipeline.publish.ranges import BlockDigests, whole  # noqa: E402
from tests.bench.bench_delta import changed, commit  # noqa: E402
from tests.fakes.azurite import KEY, open_service, running  # noqa: E402
from tests.fakes.blob_proxy import BlobProxy  # noqa: E402

PARALLEL, MIB = 4, 1 << 20
ROUNDS = 2
#: Bytes of memory and of a night's change that the issue names.
MEMORY, CHANGE = 150 * MIB, 20 * MIB


def make_version(store: Store, disk: Path) -> Version:
    """A version of image `bench` with the disk, whose file goes into the gallery."""
    folder = disk.parent
    digests = folder / digests_file(DISK)
    digests.unlink(missing_ok=True)
    found = write_block_digests(disk, digests)

    def manifest(version: str) -> dict[str, object]:
        record = {"size": found.size, "virtual_size": found.size - 512, "sha256": None, "tree_sha256": found.tree}
        record |= {"chunk_size": 2 << 20, "digests": {"file": digests.name, "block_size": BLOCK}}
        fields = {"created": "2026-11-21T10:00:00Z", "generations": [1], "checks": [], "disk": record}
        return {"name": "bench", "version": version, **fields}

    return Gallery(store.gallery).capture("bench", {DISK: disk}, [(digests.name, digests)], manifest)


def change(disk: Path, target: Path) -> None:
    """A copy in which about CHANGE bytes differ: half in single blocks, half in one piece; some blocks emptied."""
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", disk, target], check=True)
    target.chmod(0o644)
    digests = target.with_name("scratch.digests")
    digests.unlink(missing_ok=True)
    write_block_digests(disk, digests)
    rng = random.Random(24)
    blocks = list(BlockDigests(digests, disk.stat().st_size).with_data())[64:-1]
    with target.open("r+b") as file:
        for number in rng.sample(blocks, CHANGE // BLOCK // 2):
            file.seek(number * BLOCK + 4096)
            file.write(rng.randbytes(4096))
        file.seek(_largest_hole(blocks) * BLOCK)
        file.write(rng.randbytes(CHANGE // 2))
        for number in rng.sample(blocks, 16):
            file.seek(number * BLOCK)
            file.write(bytes(BLOCK))
    digests.unlink()


def _largest_hole(blocks: list[int]) -> int:
    """The first block of the largest hole between blocks with data."""
    pairs = itertools.pairwise(blocks)
    size, first = max((after - before - 1, before + 1) for before, after in pairs)
    assert size * BLOCK >= CHANGE, "no hole takes the new data"
    return first


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """A new Azurite with an empty container `bench`."""
    place = folder / "server"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    with running(place) as url:
        open_service(url).create_container("bench")
        yield url
    shutil.rmtree(place, ignore_errors=True)


def push(store: Store, url: str, version: Version, *options: str) -> tuple[dict, float, int]:
    """Publish a version by the command line: what it prints, seconds, and bytes of memory at most."""
    words = [sys.executable, "-m", "pipeline", "publish", "push", f"bench@{version.version}", f"{url}/bench"]
    words += ["--key-from", "env:BENCH_KEY", "--parallel", str(PARALLEL), "--json", *options]
    environment = {**os.environ, "GOLDSMITH_HOME": str(store.root), "BENCH_KEY": KEY, "GOLDSMITH_KEY": "/nonexistent"}
    began = time.monotonic()
    child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    output = child.stdout.read() if child.stdout else ""
    _, status, usage = os.wait4(child.pid, 0)
    assert status == 0, f"publish push ended with {status}"
    return json.loads(output), time.monotonic() - began, usage.ru_maxrss * 1024


def upload_by_sdk(url: str, disk: Path) -> float:
    began = time.monotonic()
    blob = open_service(url).get_blob_client("bench", "sdk.vhd")
    with disk.open("rb") as file:
        blob.upload_blob(file, blob_type="PageBlob", length=disk.stat().st_size, max_concurrency=PARALLEL)
    return time.monotonic() - began


def is_equal(url: str, folder: str, disk: Path) -> bool:
    """Whether the blob, downloaded whole, is the disk."""
    stream = open_service(url).get_blob_client("bench", f"{folder}/{DISK}").download_blob(max_concurrency=1)
    if stream.size != disk.stat().st_size:
        return False
    with disk.open("rb") as file:
        return all(piece == file.read(len(piece)) for piece in stream.chunks()) and not file.read(1)


def main() -> int:
    ask = argparse.ArgumentParser()
    ask.add_argument("disk", type=Path)
    ask.add_argument("--folder", type=Path, required=True)
    ask.add_argument("--rounds", type=int, default=ROUNDS)
    ask.add_argument("--page", type=Path)
    args = ask.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    store = Store(args.folder / "store").ensure()
    shutil.rmtree(store.gallery)
    first_disk, second_disk = args.folder / "first.vhd", args.folder / "second.vhd"
    for each in (first_disk, second_disk):
        each.unlink(missing_ok=True)
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", args.disk, first_disk], check=True)
    change(first_disk, second_disk)
    first = make_version(store, first_disk)
    second = make_version(store, second_disk)
    first_disk.unlink()
    second_disk.unlink()
    data = whole(first.disk, BlockDigests(first.path / digests_file(DISK), first.disk.stat().st_size)).write_bytes
    blocks = changed(first.disk, second.disk)

    plain, proven, sdk, memory = [], [], [], []
    for number in range(args.rounds):
        for kind in ("plain", "sdk", "proven") if number % 2 == 0 else ("proven", "sdk", "plain"):
            with server(args.folder) as url:
                if kind == "sdk":
                    sdk.append(upload_by_sdk(url, first.disk))
                else:
                    _, seconds, most = push(store, url, first, *(["--no-read-back"] if kind == "plain" else []))
                    (plain if kind == "plain" else proven).append(seconds)
                    memory.append(most)
            print(f"plain {plain}, proven {proven}, sdk {sdk}", flush=True)

    with server(args.folder) as url:
        proxy = BlobProxy(("127.0.0.1", int(url.split(":")[2].split("/")[0])))
        through = f"http://127.0.0.1:{proxy.port}/devstoreaccount1"
        push(store, through, first, "--no-read-back")
        whole_sent, whole_heads = proxy.sent, proxy.heads
        proxy.reset()
        made, night, most = push(store, through, second)
        memory.append(most)
        night_sent, night_heads, night_received = proxy.sent, proxy.heads, proxy.received
        same = is_equal(url, made["folder"], second.disk)
        proxy.close()

    limits = [("whole: bytes of bodies sent, by bytes of data", whole_sent / data, 1.02)]
    if args.rounds:
        base = statistics.median(sdk)
        limits += [
            ("whole, without reading back: seconds, by the SDK's", statistics.median(plain) / base, 0.4),
            ("whole, read back: seconds, by the SDK's", statistics.median(proven) / base, 0.7),
        ]
    limits += [
        ("a night: MiB of bodies sent", night_sent / MIB, round(1.2 * blocks / MIB + 1, 2)),
        ("memory at most, MiB", max(memory) / MIB, MEMORY / MIB),
    ]
    load = f"load {os.getloadavg()[2]:.1f} in the last quarter of an hour"
    lines = [
        "# What publishing costs",
        "",
        f"`python tests/bench/bench_publish.py DISK --folder DIR --rounds {args.rounds}` at commit {commit()}; a disk"
        f" of {first.disk.stat().st_size} bytes with {data} bytes of data; Azurite on loopback; Linux"
        f" {platform.release()}, {os.cpu_count()} processors, {load}. Whole pushes include the MD5 of the whole disk"
        " and the start of the command.",
        "",
        f"Whole: {whole_sent} bytes of bodies and {whole_heads} of heads. Seconds, each round: {_shown(plain)}"
        f" without reading back, {_shown(proven)} read back, {_shown(sdk)} by the SDK"
        f" ({PARALLEL} at once each).",
        f"A night: {blocks} bytes in changed blocks of 64 KiB; {night_sent} bytes of bodies and {night_heads} of"
        f" heads sent, {night_received} received (read back), {night:.1f} s through the proxy.",
        "",
        "| what | measured | at most | |",
        "|---|---|---|---|",
        *(f"| {what} | {is_:.2f} | {most} | {'held' if is_ <= most else 'MISSED'} |" for what, is_, most in limits),
        f"| the night's blob, downloaded whole | {'equal' if same else 'DIFFERENT'} | equal |"
        f" {'held' if same else 'MISSED'} |",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if args.page:
        args.page.write_text(text)
    shutil.rmtree(store.root, ignore_errors=True)
    return 0 if same and all(is_ <= most for _, is_, most in limits) else 1


def _shown(seconds: list[float]) -> str:
    return ", ".join(f"{each:.1f}" for each in seconds) or "not measured"


if __name__ == "__main__":
    sys.exit(main())
