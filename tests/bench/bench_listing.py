"""`python -m tests.bench.bench_listing`: `gallery list` of a thousand versions, and `plan` where nothing changed.

The gallery is made by its own capture, with manifests as large as real ones and disks of a few KiB. The plan is that
of images/debian-13.yaml; its layers are committed as a build leaves them, but for the contents of their disks.
The table goes to docs/reports/listing.md.
"""

from __future__ import annotations

import os
import pty
import resource
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.base.disk_format import QCOW2
from pipeline.base.runs import NO_RUN
from pipeline.base.store import Store
from pipeline.cache.digests import CHUNK, chunk_digests, flat_digest
from pipeline.cache.layers import DISK as LAYER_DISK
from pipeline.cache.layers import Image, Layers, PendingLayer
from pipeline.checks import all_checks
from pipeline.context import BuildContext
from pipeline.definition import load_named
from pipeline.engine.plan import plan
from pipeline.gallery import DISK, Gallery
from tests.harness import GOLDSMITH, ROOT, commit_id, describe_load

PAGE = ROOT / "docs/reports/listing.md"
VERSIONS, IMAGES, ROUNDS = 1000, 20, 10
PLANNED = "debian-13"
#: Bytes of a manifest, as that of a Debian master has.
MANIFEST_SIZE = 40_000


def manifest(name: str, version: str, disk: Path) -> dict[str, Any]:
    digests = chunk_digests(disk)
    facts = {"size": digests.size, "virtual_size": max(0, digests.size - 512), "sha256": flat_digest(disk)}
    facts |= {"chunk_size": CHUNK, "tree_sha256": digests.tree}
    checks = [{"id": check.id, "status": "pass", "evidence": check.remedy} for check in all_checks()]
    made = {"name": name, "version": version, "created": "2026-11-21T10:00:00Z", "generations": [1, 2]}
    made |= {"state": "proven", "checks": checks, "disk": facts, "definition": ""}
    text = "steps: []\n"
    return {**made, "definition": text * ((MANIFEST_SIZE - len(str(made))) // len(text))}


def fill(root: Path) -> Gallery:
    gallery = Gallery(root / "gallery")
    disk = root / "disk"
    disk.write_bytes(os.urandom(4096))
    for number in range(VERSIONS):
        name = f"image-{number % IMAGES:02}"
        made = gallery.capture(name, {DISK: disk}, [], lambda version, name=name: manifest(name, version, disk))
        gallery.promote(made)
    return gallery


def keep_all(root: Path, name: str) -> None:
    """Leave what a build of an image leaves, but for the contents."""
    store = Store(root).ensure()
    job = BuildContext(load_named(ROOT, name), store, NO_RUN, Layers(store.layers), Gallery(store.gallery))
    image: Image | None = None
    for unit in plan(job):
        draft = job.layers.begin(unit.key)
        assert isinstance(draft, PendingLayer)
        (draft.path / LAYER_DISK).write_bytes(b"")
        image = Image(draft.path / LAYER_DISK, QCOW2, None if unit.stage.name == "convert" else image)
        draft.commit(
            stage=unit.stage.name,
            inputs=unit.inputs,
            source=unit.source,
            image=image,
            title=unit.spec.title,
            name=name,
            version=unit.stage.version,
        )


def environment(store: Path) -> dict[str, str]:
    """The commands' own. Their modules are compiled once, as those of an installed goldsmith are."""
    caller = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**caller, "GOLDSMITH_HOME": str(store), "PYTHONPYCACHEPREFIX": f"{store}.bytecode"}


def run(arguments: Sequence[str], store: Path, out: int) -> tuple[float, float]:
    """Seconds on the clock, and of processor time, that a command takes."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([GOLDSMITH, *arguments], env=environment(store), stdout=out, check=True)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def into_pipe(arguments: Sequence[str], store: Path) -> tuple[float, float]:
    ends = os.pipe()
    return _read_meanwhile(ends[0], lambda: run(arguments, store, ends[1]), ends[1])


def on_terminal(arguments: Sequence[str], store: Path) -> tuple[float, float]:
    ours, theirs = pty.openpty()
    return _read_meanwhile(ours, lambda: run(arguments, store, theirs), theirs)


def _read_meanwhile(end: int, work: Callable[[], tuple[float, float]], other: int) -> tuple[float, float]:
    def drain() -> None:
        try:
            while os.read(end, 1 << 16):
                pass
        except OSError:
            pass  # how a terminal ends whose other side is closed

    reader = threading.Thread(target=drain)
    reader.start()
    try:
        return work()
    finally:
        os.close(other)
        reader.join()
        os.close(end)


def main() -> None:
    rows, load = [], describe_load()

    def measure(what: str, call: Callable[[], tuple[float, float]], wanted: str) -> None:
        seen = [call() for _ in range(ROUNDS)]
        wall, processor = (statistics.median(column) for column in zip(*seen, strict=True))
        rows.append(f"| {what} | {wall:.2f} | {processor:.2f} | {wanted} |")
        print(rows[-1], flush=True)

    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        store.mkdir()
        gallery = fill(store)
        size = next(gallery.root.glob("*/*/manifest.json")).stat().st_size
        first, _ = into_pipe(["gallery", "list"], store)
        time.sleep(2.5)  # what had been captured just before is remembered from here on
        into_pipe(["gallery", "list"], store)
        measure("`gallery list`, into a pipe", lambda: into_pipe(["gallery", "list"], store), "0.4 s")
        measure("`gallery list --json`", lambda: into_pipe(["gallery", "list", "--json"], store), "0.4 s")
        measure("`gallery list`, on a terminal", lambda: on_terminal(["gallery", "list"], store), "0.8 s")
        arguments = ["--project", str(ROOT), "plan", PLANNED]
        keep_all(store, PLANNED)
        into_pipe(arguments, store)
        measure(f"`plan {PLANNED}`, all kept", lambda: into_pipe(arguments, store), "0.3 s of processor time")
        shown = subprocess.run(
            [GOLDSMITH, *arguments], env=environment(store), capture_output=True, text=True, check=True
        ).stdout
        if " run " in shown:
            raise SystemExit(f"not all is kept:\n{shown}")
    text = f"""# What a list and a plan cost

Measured at `{commit_id()}` by `python -m tests.bench.bench_listing`: {VERSIONS} versions of {IMAGES} images,
manifests of {size >> 10} KiB; {os.cpu_count()} processors, {load}; medians of {ROUNDS},
with the start of Python. The first list, which reads every manifest, took {first:.1f} s.

| | seconds | of processor time | wanted at most |
|---|---|---|---|
"""
    PAGE.write_text(text + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
