"""One clone of one disk on the fabric, without a build: for campaigns that change the disk or the weather."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.base.disk_format import VHD
from pipeline.base.errors import GoldsmithError
from pipeline.base.runs import Run
from pipeline.base.store import Store
from pipeline.cache.layers import Image, Layers
from pipeline.context import BuildContext
from pipeline.definition import Definition, DiskSource
from pipeline.disk import open_disk
from pipeline.fabric import Fabric, Instance, Request, Response, answer
from pipeline.gallery import Gallery
from pipeline.prove.matrix import TARGETS, TestRun, TestTarget
from pipeline.prove.result import CloneResult
from pipeline.systems.linux.clone_test import CloneTest


@dataclass(frozen=True)
class Outcome:
    """How a clone ended: its verdict, or the error that it was given. `seconds` from before the overlay was made."""

    verdict: CloneResult | None
    error: GoldsmithError | None
    seconds: float
    folder: Path

    @property
    def name(self) -> str:
        if self.error is not None:
            return self.error.name
        assert self.verdict is not None
        return "not-as-asked" if self.verdict.failures else "green"

    @property
    def words(self) -> str:
        if self.error is not None:
            return self.error.message
        assert self.verdict is not None
        return "; ".join(self.verdict.failures) or "as asked"


def start(
    home: Path,
    disk: Path,
    name: str,
    *,
    cell: str = "gen1",
    say: Callable[[Instance, Request], Response] = answer,
    beside: int = 2,
    revoked: Sequence[str] = (),
) -> Outcome:
    """Boot one clone of a fixed VHD in a cell of the matrix; `say` is what the fabric answers.

    `revoked`: Authenticode SHA-256 digests that the firmware's dbx holds, for cells with Secure Boot.
    """
    store = Store(home)
    definition = Definition(name=name, path=disk, project=home, source=DiskSource(disk, None, None, "vhd"))
    run = Run.start(store.runs, name, "campaign")
    job = BuildContext(definition, store, run, Layers(store.layers), Gallery(store.gallery), stage="prove")
    began = time.monotonic()
    verdict: CloneResult | None = None
    error: GoldsmithError | None = None
    try:
        _ = job.accelerator
        image = Image(disk, VHD, size=disk.stat().st_size - 512)
        course = CloneTest(job, image, TestRun(with_revoked(TARGETS[cell], revoked), cell, messages=True), beside)
        with Fabric(job.label, say) as fabric:
            verdict = course.run(fabric, run.folder)
    except GoldsmithError as caught:
        error = caught
    run.finish("failed" if error else "done", error)
    return Outcome(verdict, error, time.monotonic() - began, run.folder)


def with_revoked(target: TestTarget, digests: Sequence[str]) -> TestTarget:
    """The same target; its firmware revokes the programs with these digests."""
    if not digests:
        return target
    assert target.hardware.keys is not None, f"{target.name} has no Secure Boot keys of its own"
    keys = replace(target.hardware.keys, revoked=tuple(digests))
    return replace(target, hardware=replace(target.hardware, keys=keys))


def changed(master: Path, to: Path, commands: Sequence[str]) -> Path:
    """A copy of a fixed VHD with debugfs commands carried out on its root file system."""
    subprocess.run(["cp", "--sparse=always", master, to], check=True)
    to.chmod(0o644)
    with open_disk(to, "vpc") as disk:
        start = disk.root.start
    with tempfile.NamedTemporaryFile("w", suffix=".debugfs") as script:
        script.write("\n".join(commands) + "\n")
        script.flush()
        done = subprocess.run(
            ["debugfs", "-w", "-f", script.name, f"{to}?offset={start}"], capture_output=True, text=True, check=True
        )
    output = [line for line in done.stderr.splitlines() if not line.startswith("debugfs 1.")]
    assert not output, output
    return to
