"""Fourteen nights of one image by patches, on a file system with reflinks: versions, golden, the disk they take.

The packages come from an archive that the campaign makes and changes (tests/campaigns/archive.py). `GOLDSMITH_NIGHTS`
is the number of nights, `GOLDSMITH_REBUILDS` of those by rebuilds, whose figure stands beside.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.campaigns.archive import PACKAGE, Archive, serve
from tests.harness import ROOT, Lab, Say, remove

NIGHTS = int(os.environ.get("GOLDSMITH_NIGHTS", "14"))
REBUILDS = int(os.environ.get("GOLDSMITH_REBUILDS", "4"))
BLOCK = 64 << 10
#: Times the distinct blocks that the versions may take, and seconds that a way back may.
MOST, BACK = 1.3, 1.0
#: What makes a file system with reflinks, the better known first.
MAKERS = (("xfs", ["mkfs.xfs", "-q", "-m", "reflink=1"]), ("btrfs", ["mkfs.btrfs", "-q"]))

DEFINITION = """\
goldsmith: 1
summary: patched at night
os: linux
source: {{master: debian-12@{version}}}
steps:
  - {{script: scripts/night.sh}}
refresh: {{mode: {mode}, cold_days: 0}}
keep: {{versions: {keep}}}
waive: {{apt-mirror: the archive of the campaign is on the host, apt-trust: it is signed by nobody known}}
prove: [gen1-nocloud]
expect:
  - command: test "$(dpkg-query -W -f '${{Version}}' {package})" != ""
"""


def campaign(lab: Lab, master: Path, say: Say) -> list[dict[str, object]]:
    work = lab.folder / "fourteen"
    work.mkdir()
    with filesystem(work) as (kind, mount, own), serve(work / "archive") as archive:
        home = Lab(lab.folder, mount / "home")
        parcel = work / "parcel"
        done = Lab(ROOT, lab.home).run("gallery", "export", f"debian-12@{master.parent.name}", str(parcel))
        assert done.returncode == 0, done.stdout + done.stderr
        for words in (("import", str(parcel)), ("promote", f"debian-12@{master.parent.name}")):
            done = home.run("gallery", *words)
            assert done.returncode == 0, done.stdout + done.stderr
        shutil.rmtree(parcel)
        rows: list[dict[str, object]] = []
        for name, mode, count in (("patched", "patch", NIGHTS), ("rebuilt", "rebuild", REBUILDS)):
            rows += nights(home, archive, name, mode, count, master.parent.name, say)
            rows.append(disk_use(home, mount, kind, own, name, say))
            if name == "patched":
                rows.append(way_back(home, name))
                rows.append(delta(home, name, work))
                shutil.rmtree(home.home / "gallery" / name)
        return rows


@contextlib.contextmanager
def filesystem(work: Path) -> Iterator[tuple[str, Path, int]]:
    """A file system with reflinks in a sparse file, mounted below `work`, and the bytes that it takes for itself."""
    maker = next(((kind, argv) for kind, argv in MAKERS if shutil.which(argv[0])), None)
    assert maker is not None, "neither xfsprogs nor btrfs-progs is installed"
    kind, argv = maker
    image, mount = work / "disk.img", work / "mount"
    with image.open("wb") as file:
        file.truncate(40 << 30)
    mount.mkdir()
    subprocess.run([*argv, image], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop,discard", image, mount], check=True)
    try:
        mount.chmod(0o755)
        yield kind, mount, used(mount)
    finally:
        # an interrupted night may still have a file open
        if subprocess.run(["umount", mount], check=False).returncode:
            subprocess.run(["umount", "--lazy", mount], check=False)
        remove(image)


def nights(
    lab: Lab, archive: Archive, name: str, mode: str, count: int, version: str, say: Say
) -> list[dict[str, object]]:
    lines = ["#!/bin/sh", "set -e", "export DEBIAN_FRONTEND=noninteractive"]
    lines += [f"echo '{archive.line}' >/etc/apt/sources.list.d/night.list", "apt-get -q update"]
    lab.write("scripts/night.sh", "\n".join([*lines, f"apt-get -q -y install {PACKAGE}"]) + "\n")
    lab.write(
        f"images/{name}.yaml",
        DEFINITION.format(version=version, mode=mode, keep=max(count, 1), package=PACKAGE),
    )
    rows: list[dict[str, object]] = []
    for number in range(count):
        wanted = archive.release(number)
        for seen in (lab.home / "tmp").glob("index-*.json"):
            seen.unlink()  # the archive's state is believed for some minutes, and a night is longer
        began = time.monotonic()
        done = lab.run("refresh", name)
        seconds = time.monotonic() - began
        golden = lab.manifest(name) if done.returncode == 0 else {}
        has = {row["package"]: row["version"] for row in packages(lab, name)} if golden else {}
        rows.append(
            {
                "what": f"{name}, night {number + 1}",
                "s": round(seconds),
                "golden": golden.get("version", "none"),
                "told": f"{PACKAGE} {has.get(PACKAGE)}, patched from {golden.get('patched_from')}",
                "ok": done.returncode == 0 and golden["state"] == "proven" and has.get(PACKAGE) == wanted,
            }
        )
        say(rows[-1])
        if not rows[-1]["ok"]:
            say(done.stdout[-2000:] + done.stderr[-2000:])
    return rows


def packages(lab: Lab, name: str) -> list[dict[str, str]]:
    disk = lab.master(name)["path"]
    rows: list[dict[str, str]] = json.loads(lab.run("inspect", str(disk), "--list", "packages", "--json").stdout)
    return rows


def disk_use(lab: Lab, mount: Path, kind: str, own: int, name: str, say: Say) -> dict[str, object]:
    """What the versions take on the disk, against their distinct blocks; and without reflinks.

    Layers and runs, which only spare work, are deleted before; `own` are the bytes of the empty file system.
    """
    assert lab.run("clean", "--layers").returncode == 0
    shutil.rmtree(lab.home / "runs")
    subprocess.run(["sync", "-f", mount], check=True)
    # a channel is a link to a version, not another disk
    disks = sorted(path for path in (lab.home / "gallery").glob("*/*/disk.vhd") if not path.parent.is_symlink())
    apart = sum(path.stat().st_blocks * 512 for path in disks)
    blocks: set[bytes] = set()
    for path in disks:
        blocks |= distinct(path)
    with_all = used(mount) - own
    versions = [path for path in disks if path.parent.parent.name == name]
    rate = with_all / (len(blocks) * BLOCK)
    row = {
        "what": f"{name}: disk of {len(versions)} versions and their base, on {kind}",
        "told": f"{with_all >> 20} MiB used (beside the {own >> 20} MiB of an empty {kind}), "
        f"{len(blocks) * BLOCK >> 20} MiB of distinct 64 KiB blocks: {rate:.2f} (at most {MOST}); "
        f"without reflinks, as on ext4, {apart >> 20} MiB: {apart / (len(blocks) * BLOCK):.2f}",
        "ok": rate <= MOST or name != "patched",
    }
    say(row)
    return row


def used(mount: Path) -> int:
    status = os.statvfs(mount)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def distinct(path: Path) -> set[bytes]:
    """Digests of the disk's blocks that are not zeros."""
    found = set()
    size = path.stat().st_size - 512
    with path.open("rb") as file:
        at = 0
        while at < size:
            try:
                data_at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(file.fileno(), data_at, os.SEEK_HOLE)
            at = data_at // BLOCK * BLOCK
            while at < min(end, size):
                data = os.pread(file.fileno(), min(BLOCK, size - at), at)
                if data.strip(b"\0"):
                    found.add(hashlib.blake2b(data, digest_size=16).digest())
                at += BLOCK
    return found


def way_back(lab: Lab, name: str) -> dict[str, object]:
    before = lab.last_version(name)
    began = time.monotonic()
    done = lab.run("gallery", "rollback", name)
    seconds = time.monotonic() - began
    after = lab.last_version(name)
    listed: list[dict[str, Any]] = json.loads(lab.run("gallery", "list", name, "--json").stdout)
    proven = sum(version["state"] == "proven" for version in listed)
    return {
        "what": "rollback",
        "s": round(seconds, 2),
        "golden": after,
        "told": f"from {before}; {len(listed)} versions kept, {proven} of them proven",
        "ok": done.returncode == 0 and seconds < BACK and after != before and len(listed) == NIGHTS,
    }


def delta(lab: Lab, name: str, work: Path) -> dict[str, object]:
    """From the night before to the last: a delta that gives the same file back."""
    versions = json.loads(lab.run("gallery", "list", name, "--json").stdout)[-2:]
    old, new = (Path(item["path"]) for item in versions)
    before, after = (f"{name}@{item['version']}" for item in versions)
    target, again = work / "delta.vhd", work / "again.vhd"
    began = time.monotonic()
    done = lab.run("gallery", "delta", before, after, str(target))
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stdout + done.stderr
    assert lab.run("vhd", "apply", str(target), str(again), "--parent", str(old)).returncode == 0
    same = _sha256(new) == _sha256(again)
    differing = blocks_that_differ(old, new)
    size = target.stat().st_blocks * 512
    row = {
        "what": "delta between the last two nights",
        "s": round(seconds, 2),
        "told": f"{size >> 10} KiB for {differing} changed blocks of 64 KiB ({size / (differing * BLOCK):.2f}); "
        f"{'the same' if same else 'ANOTHER'} sha256",
        "ok": same and size <= 1.1 * differing * BLOCK,
    }
    for path in (target, again):
        path.unlink()
    return row


def blocks_that_differ(old: Path, new: Path) -> int:
    count = 0
    with old.open("rb") as a, new.open("rb") as b:
        while True:
            first, second = a.read(BLOCK), b.read(BLOCK)
            if len(second) < BLOCK:
                return count
            count += first != second


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
