"""`python -m tests.bench.bench_imports`: many processes import signed versions into one gallery, as an owner does.

2,000 versions of as many images by 200 processes at once; then every version is verified. Before, between and after,
the system calls of one more import are counted by strace. The table goes to docs/reports/imports.md.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from pipeline.evidence import signing
from pipeline.evidence.checksum import judge, write_local_evidence
from pipeline.gallery import GOLDEN, Gallery
from pipeline.gallery.export_import import import_version
from pipeline.gallery.integrity import verify
from pipeline.gallery.retention import promote
from tests.fakes.signed_master import SIZE, make_signed_version
from tests.harness import ROOT, commit_id, describe_load

PAGE = ROOT / "docs/reports/imports.md"
VERSIONS, PROCESSES = int(os.environ.get("GOLDSMITH_VERSIONS", "2000")), 200
#: What more system calls an import into the full gallery may take than into the empty one.
TOLERANCE = 1.02


def take(gallery: Gallery, exported: Path, public: Path) -> None:
    """What the owner does with a delivery."""
    held = partial(judge, keys=[signing.load_public(public)], demanded=True)
    promote(gallery, import_version(gallery, exported, judge=held, complete=write_local_evidence), GOLDEN)


def calls_of_import(root: Path, source: Gallery, name: str) -> int:
    """The system calls that one import makes, without those of a process that imports nothing."""
    exported = source.get(name).path
    return _calls(root, str(exported)) - _calls(root, "")


def _calls(root: Path, exported: str) -> int:
    summary = root / "strace.txt"
    words = ["strace", "-f", "-c", "-o", str(summary), sys.executable, "-m", "tests.bench.bench_imports", "--take"]
    subprocess.run([*words, str(root), exported], check=True, cwd=ROOT)
    total = re.search(r"^100\.00\s+[\d.]+\s+(?:\d+\s+)?(\d+)(?:\s+\d+)?\s+total", summary.read_text(), re.MULTILINE)
    assert total is not None
    return int(total[1])


def import_all(root: Path, source: Gallery, names: list[str]) -> float:
    """Import and promote versions, in PROCESSES processes at once; seconds."""
    gallery, public = Gallery(root / "owner" / "gallery"), root / "signing.pub"
    begin, started = os.pipe()
    children = []
    for number in range(PROCESSES):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(started)
                os.read(begin, 1)  # its end comes when all are there
                for name in names[number::PROCESSES]:
                    take(gallery, source.get(name).path, public)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    os.close(begin)
    watch = time.monotonic()
    os.close(started)
    failed = sum(os.waitpid(child, 0)[1] != 0 for child in children)
    assert failed == 0, f"{failed} processes failed"
    return time.monotonic() - watch


def main() -> int:
    if sys.argv[1:2] == ["--take"]:
        root, exported = Path(sys.argv[2]), sys.argv[3]
        if exported:
            take(Gallery(root / "owner" / "gallery"), Path(exported), root / "signing.pub")
        return 0
    load = describe_load()
    with tempfile.TemporaryDirectory(prefix="goldsmith-imports-", dir="/var/tmp") as folder:
        root = Path(folder)
        for place in ("source", "owner"):
            (root / place / "gallery").mkdir(parents=True)
        key = signing.make(root / "signing.key")
        source = Gallery(root / "source" / "gallery")
        names = [f"image-{number:04}" for number in range(VERSIONS)]
        for name in (*names, "first", "half", "last"):
            make_signed_version(source, name, key, name)
        counts = {0: calls_of_import(root, source, "first")}
        half = VERSIONS // 2
        seconds = import_all(root, source, names[:half])
        counts[half] = calls_of_import(root, source, "half")
        seconds += import_all(root, source, names[half:])
        counts[VERSIONS] = calls_of_import(root, source, "last")
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        gallery = Gallery(root / "owner" / "gallery")
        held = partial(judge, keys=[key.public], demanded=True)
        whole = sum(all(not item.wrong for item in verify(gallery, name, judge=held)) for name in names)
        golden = sum(gallery.find(name) is not None for name in names)
    write(load, seconds, used.ru_utime + used.ru_stime, counts, whole, golden)
    constant = max(counts.values()) <= TOLERANCE * min(counts.values())
    return 0 if whole == golden == VERSIONS and constant else 1


def write(load: str, seconds: float, processor: float, counts: dict[int, int], whole: int, golden: int) -> None:
    rate = VERSIONS / seconds
    rows = "".join(f"| {there} | {calls} |\n" for there, calls in counts.items())
    PAGE.write_text(
        f"""# Imports by many processes into one gallery

Measured at `{commit_id()}` by `python -m tests.bench.bench_imports`; {os.cpu_count()} processors, {load}.

{VERSIONS} signed versions of as many images, with disks of {SIZE >> 10} KiB, imported and promoted by {PROCESSES}
processes at once: {seconds:.1f} s, {rate:.0f} imports a second, {processor / VERSIONS * 1000:.0f} ms of processor
time each. Afterwards {whole} versions are whole, and {golden} images have a golden version.

| versions in the gallery | system calls of one more import and its promotion |
|---|---|
{rows}
## Toward a night of 200 hosts and 2,000 images

Let `t` be the seconds of a build with its proof on a worker, `k` the builds at once on each of `h` hosts, `c` the
length of the longest chain of parents, `d` the bytes of data of a disk, and `r` the bytes a second at which the owner
copies and hashes a disk.

- **The workers' part**: at least `max(2000 * t / (h * k), c * t)` seconds. An assumed `t` of 600 s (emulated guests),
  `h` of 200, `k` of 1 and `c` of 5 make 6,000 s: 1 hour 40 minutes. With `t` of 180 s it is half an hour.
- **The owner's part**: 2,000 imports at the rate above, {2000 / rate / 60:.1f} minutes for disks without data,
  and `2000 * d / r` for the data: 1 GiB each at an assumed 300 MB/s makes 2 hours. So the owner's disk, not its
  processor, is the limit when every image has changed. On XFS or btrfs the copy shares its blocks with the parcel if
  the exchange is on the same file system, and only the hashing is left. A usual night changes few images.
- **Slurm's part**: one `sbatch` for each changed image, and one `squeue` in two seconds for all jobs together.
"""
    )


if __name__ == "__main__":
    sys.exit(main())
