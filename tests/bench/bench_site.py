"""`python -m tests.bench.bench_site`: the site of a gallery of a hundred images with fifty versions each.

The gallery is made by its own capture, with manifests as large as real ones and disks of a few KiB. Each version has
a page as large as a real one with its pictures. No index is there: each site is made as after the first night.
The table goes to docs/reports/gallery-site.md.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from pathlib import Path

from pipeline.evidence.page_parts import PAGE as VERSION_PAGE
from tests.bench import bench_listing
from tests.bench.bench_listing import run
from tests.harness import ROOT, commit_id, describe_load

PAGE = ROOT / "docs/reports/gallery-site.md"
IMAGES, VERSIONS, ROUNDS = 100, 50, 3
#: Bytes of a version's page with its pictures, as that of a Debian master with two clones has.
PAGE_SIZE = 940_000
INDEX = ".list-index.json"


def main() -> None:
    bench_listing.IMAGES, bench_listing.VERSIONS = IMAGES, IMAGES * VERSIONS
    load, rows = describe_load(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store, site = folder / "store", folder / "site"
        store.mkdir()
        gallery = bench_listing.fill(store)
        for version in gallery.root.glob("*/2*"):
            (version / VERSION_PAGE).write_bytes(os.urandom(PAGE_SIZE))
        with Path(os.devnull).open("wb") as out:
            for what, more, keep in (
                ("a new site", [], False),
                ("a new site, pages copied (`--copy`)", ["--copy"], False),
                ("a site that is there, pages copied", ["--copy"], True),
            ):
                seen = []
                for _ in range(ROUNDS):
                    (gallery.root / INDEX).unlink(missing_ok=True)
                    if not keep:
                        shutil.rmtree(site, ignore_errors=True)
                    # a night's disk has nothing left to write; here the last round's pages would be in the way
                    os.sync()
                    seen.append(run(["gallery", "site", str(site), *more], store, out.fileno()))
                wall, processor = (statistics.median(column) for column in zip(*seen, strict=True))
                rows.append(f"| {what} | {wall:.1f} | {processor:.1f} |")
                print(rows[-1], flush=True)
    PAGE.write_text(
        f"""# What the site of a gallery costs

Measured at `{commit_id()}` by `python -m tests.bench.bench_site`: {IMAGES} images with {VERSIONS} versions each,
pages of {PAGE_SIZE >> 10} KiB; {os.cpu_count()} processors, {load}; medians of {ROUNDS}, with the start of Python.
The disk has written what came before.
Wanted: 10 s.

| | seconds | of processor time |
|---|---|---|
"""
        + "\n".join(rows)
        + "\n"
    )


if __name__ == "__main__":
    main()
