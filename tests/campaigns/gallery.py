"""`kill -9` at random moments of capture, promote, rollback, prune and import: `make campaign-gallery`, no guests.

After each, the gallery is whole or names scratch, golden is a good version, and the next process goes on.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from pipeline.base.errors import GoldsmithError
from pipeline.base.runs import now
from pipeline.cache.digests import chunk_digests, flat_digest
from pipeline.gallery import DISK as MASTER
from pipeline.gallery import Gallery, Version
from pipeline.gallery.export_import import export, import_version
from pipeline.gallery.integrity import verify
from pipeline.gallery.retention import promote, promotion_blocker, prune, roll_back, take_lease
from tests.harness import ROOT, commit_id

COUNT = int(os.environ.get("GOLDSMITH_MOMENTS", "200"))
PAGE = ROOT / "docs/reports/campaign-gallery.md"
NAME = "web"
#: Seconds after a worker's first word within which it is killed.
SPAN = 0.5
DISK = 6 << 20
KEEP = 3


def work(root: Path, seed: int) -> None:
    """Do what nights and people do to a gallery, for ever; each deed is said before it is begun."""
    gallery, dice = Gallery(root / "gallery"), random.Random(seed)
    while True:
        deed = dice.choice(["capture", "capture", "promote", "rollback", "prune", "export", "import", "lease"])
        print(deed, flush=True)
        versions = gallery.versions(NAME)
        try:
            if deed == "capture":
                promote(gallery, capture(gallery, root, dice), "golden")
            elif deed == "prune":
                prune(gallery, NAME, KEEP, None)
            elif deed == "rollback":
                roll_back(gallery, NAME, "golden", "the campaign")
            elif deed == "import":
                for parcel in sorted(root.glob("parcel-*"))[:1]:
                    import_version(gallery, parcel)
                    shutil.rmtree(parcel)
            elif versions:
                version = dice.choice(versions)
                if deed == "promote":
                    promote(gallery, version, dice.choice(["golden", "stable"]))
                elif deed == "export":
                    export(version, root / f"parcel-{version.version}")
                else:
                    take_lease(gallery, version, "the campaign", seconds=0.2)
        except GoldsmithError:
            continue  # nothing to roll back to, there already, pruned: a person's mistakes


def capture(
    gallery: Gallery,
    root: Path,
    dice: random.Random,
    complete: Callable[[Path, Path], None] = lambda _folder, _final: None,
    **words: object,
) -> Version:
    disk = root / f"made-{os.getpid()}.vhd"
    with disk.open("wb") as file:
        file.truncate(DISK)
        file.seek(dice.randrange(DISK >> 16) << 16)
        file.write(dice.randbytes(1 << 16))
    digests = chunk_digests(disk)

    def manifest(version: str) -> dict[str, object]:
        digests_record = {"size": digests.size, "virtual_size": digests.size - 512, "sha256": flat_digest(disk)}
        digests_record["tree_sha256"] = digests.tree
        chunks = {"chunk_size": 2 << 20, "chunks_sha256": list(digests.chunks)}
        more = {"state": "proven", "start": "cold", "created": now(), "checks": [], "generations": [1]}
        return {"name": NAME, "version": version, "disk": {**digests_record, **chunks}, **more, **words}

    made = gallery.capture(NAME, {MASTER: disk}, [], manifest, complete)
    disk.unlink()
    return made


def moment(root: Path, seed: int) -> tuple[str, str]:
    """Kill one worker; what it was doing, and what is wrong afterwards (nothing, if all is well)."""
    argv = [sys.executable, "-m", "tests.campaigns.gallery", "--work", str(root), str(seed)]
    worker = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    output = [worker.stdout.readline().strip()]
    time.sleep(random.Random(seed).uniform(0, SPAN))
    worker.send_signal(signal.SIGKILL)
    output += worker.stdout.read().split()
    worker.wait()
    return output[-1], "; ".join(wrong(root))


def wrong(root: Path) -> list[str]:
    gallery = Gallery(root / "gallery")
    found = [f"{item.what}: {item.wrong}" for item in verify(gallery, NAME) if item.wrong and not item.scratch]
    golden = gallery.find(NAME)
    if golden is None:
        found.append("golden is gone")
    elif why := promotion_blocker(golden):
        found.append(f"golden is {golden.version}: {why}")
    # anyone who comes next clears up, and nothing of the dead stays in its way
    prune(gallery, NAME, KEEP, None)
    gallery.promote(capture(gallery, root, random.Random()))
    left = [item.what for item in verify(gallery, NAME) if item.scratch]
    return [*found, *(f"{what} stays" for what in left)]


def run(count: int) -> list[dict[str, object]]:
    with tempfile.TemporaryDirectory(prefix="goldsmith-gallery-", dir="/var/tmp") as name:
        root = Path(name)
        gallery = Gallery(root / "gallery")
        for _ in range(2):
            gallery.promote(capture(gallery, root, random.Random()))
        rows = []
        for seed in range(count):
            deed, bad = moment(root, seed)
            rows.append({"case": seed, "killed in": deed, "wrong": bad, "ok": not bad})
        return rows


def main() -> int:
    began = time.monotonic()
    rows = run(COUNT)
    deeds = Counter(str(row["killed in"]) for row in rows)
    bad = [row for row in rows if not row["ok"]]
    lines = [
        "# Campaign: gallery",
        "",
        f"Commit {commit_id()}, {len(rows)} moments, {time.monotonic() - began:.0f} s in all.",
        "",
        "A process that captures, promotes, rolls back, prunes, exports, imports and leases without pause is",
        "killed by SIGKILL. Then the gallery is read again whole, golden must be a good version, and the next prune",
        "and capture must leave nothing of the dead behind.",
        "",
        "| killed in | moments | wrong |",
        "|---|---|---|",
        *(f"| {d} | {n} | {sum(row['killed in'] == d for row in bad)} |" for d, n in sorted(deeds.items())),
        *(f"\n{json.dumps(row)}" for row in bad[:20]),
    ]
    text = "\n".join(lines) + "\n"
    PAGE.write_text(text)
    print(text)
    return 1 if bad else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(Path(sys.argv[2]), int(sys.argv[3]))
    sys.exit(main())
