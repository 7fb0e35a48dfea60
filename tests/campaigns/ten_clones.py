"""Ten clones of one master, four at a time, on one fabric: ten identities; and what it costs to make a clone."""

from __future__ import annotations

import statistics
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.base.disk_format import VHD
from pipeline.base.runs import Run
from pipeline.base.store import Store
from pipeline.cache.digests import chunk_digests
from pipeline.cache.layers import Image, Layers
from pipeline.context import BuildContext
from pipeline.definition import Definition, DiskSource
from pipeline.fabric import Fabric
from pipeline.gallery import Gallery
from pipeline.prove.matrix import TARGETS, TestRun
from pipeline.prove.result import IDENTITY, CloneResult, shared_identities
from pipeline.systems.linux.clone_test import CloneTest
from tests.harness import GOLDSMITH, Lab, Say

CLONES = 10
AT_ONCE = 4
#: Seconds that making a clone may take, whatever the master's size.
MOST = 0.3
#: Clones that are made, and not started, of each size of master.
MADE = 20


def campaign(lab: Lab, master: Path, say: Say) -> list[dict[str, object]]:
    with tempfile.TemporaryDirectory(dir=lab.home / "tmp", prefix="ten-") as scratch:
        large = Path(scratch) / "large.vhd"
        subprocess.run(["cp", "--sparse=always", master, large], check=True)
        large.chmod(0o644)
        subprocess.run([GOLDSMITH, "vhd", "resize", large, "1 TiB"], check=True)
        rows = [made(lab, disk, what) for what, disk in (("as it is", master), ("1 TiB", large))]
    before = chunk_digests(master).tree
    verdicts = provisioned(lab, master, say)
    shared_identities(verdicts)
    same = chunk_digests(master).tree == before
    rows += [
        {
            "what": f"clone {number}",
            **{when: verdict.seconds.get(when) for when in ("made", "ready", "ssh")},
            **{what: verdict.checks.get(what, "") for what in IDENTITY},
            "said": "; ".join(verdict.failures),
            "ok": not verdict.failures and same,
        }
        for number, verdict in enumerate(verdicts, 1)
    ]
    return rows


def provisioned(lab: Lab, master: Path, say: Say) -> list[CloneResult]:
    job, image = a_job(lab, master)
    _ = job.accelerator
    with Fabric(job.label) as fabric, ThreadPoolExecutor(AT_ONCE) as pool:

        def boot_clone(number: int) -> CloneResult:
            verdict = CloneTest(job, image, TestRun(TARGETS["gen1"], f"clone{number}"), AT_ONCE).run(
                fabric, job.run.folder
            )
            say(f"clone {number}: ssh after {verdict.seconds['ssh']} s {verdict.failures or ''}")
            return verdict

        verdicts = list(pool.map(boot_clone, range(1, CLONES + 1)))
    job.run.finish("done")
    return verdicts


def made(lab: Lab, disk: Path, what: str) -> dict[str, object]:
    """Clones made one after another and not started: overlay, place on the fabric, DHCP, medium."""
    job, image = a_job(lab, disk)
    seconds = []
    with Fabric(job.label) as fabric:
        for number in range(MADE):
            course = CloneTest(job, image, TestRun(TARGETS["gen1"], f"made{number}"), 1)
            with course.made(fabric):
                seconds.append(course.result.seconds["made"])
    job.run.finish("done")
    return {
        "what": f"{MADE} clones made, master {what}",
        "made": round(statistics.median(seconds), 2),
        "said": f"{min(seconds):.2f} to {max(seconds):.2f} s",
        "ok": statistics.median(seconds) <= MOST,
    }


def a_job(lab: Lab, disk: Path) -> tuple[BuildContext, Image]:
    store = Store(lab.home)
    definition = Definition(name="ten", path=disk, project=lab.home, source=DiskSource(disk, None, None, "vhd"))
    run = Run.start(store.runs, "ten", "campaign")
    job = BuildContext(definition, store, run, Layers(store.layers), Gallery(store.gallery), stage="prove")
    return job, Image(disk, VHD, size=disk.stat().st_size - 512)
