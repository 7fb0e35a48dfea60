"""40 cycles of a host's life in one process, and 6 with real guests: `make campaign-soak`.

A toy is built anew, refreshed, published to a folder, pruned; layers go by policy. A VM of the small Linux is made in
the same process, reports Ready, and is deleted. Between cycle 10 and 40 the open files, threads, children, domains,
namespaces and mounts are equal, memory grows by at most 5 %, and the store by policy. A cycle of the part `guests`
does the same with an image on golden debian-13, and a VM of it comes and goes; cycle 3 is compared with the last one.
That master is taken from the store GOLDSMITH_TEST_HOME, or built. GOLDSMITH_PART chooses a part.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.base.files import disk_bytes
from pipeline.base.store import Store
from pipeline.definition import load
from pipeline.engine import runner
from pipeline.gallery import GOLDEN, Gallery
from pipeline.gallery.retention import promote
from pipeline.instances.fleet import Fleet
from pipeline.maintenance.gc import clean_up, prune
from pipeline.nightly.refresh import UNCHANGED, refresh
from pipeline.operations import create
from pipeline.operations.delete import delete
from pipeline.publish.page_blob import Options
from pipeline.publish.push import push
from pipeline.publish.targets import Target
from tests.campaigns.__main__ import Page, Row
from tests.campaigns.fault_bench import MIB, Bench, opened
from tests.harness import ROOT, Lab, Say, commit_id, domains, networks, new_home, remove, wait_for, wanted
from tests.processes import children, threads
from tests.vms import PUBLIC_KEY, SOON, Vms

CYCLES = int(os.environ.get("GOLDSMITH_CYCLES", "40"))
#: The cycle with which the last one is compared: by then everything was loaded and every cache has been filled.
WARM = 10
#: How much memory may grow from there, in percent.
GROWTH = 5
#: Bytes of layers that a night leaves, and versions that the gallery keeps.
LAYERS, KEEP = 24 * MIB, 3


@dataclass(frozen=True)
class Use:
    """What this process and its store have at the end of a cycle. `memory` in KiB: without pages of files, such as
    programs, which count as this process's alone as soon as the last other process that has them mapped ends."""

    files: int
    threads: int
    children: int
    domains: int
    namespaces: int
    mounts: int
    memory: int
    store: int


def measure(store: Path) -> Use:
    gc.collect()
    rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
    own = sum(int(line.split()[1]) for line in rollup if line.startswith(("Anonymous:", "Swap:")))
    own_store = Store(store)
    label = str(own_store.instances_label)
    named = [name for name in domains() if label in name or own_store.own_run(name.split("-")[1]) is not None]
    spaces = [name for name in networks() if name.startswith(label) or own_store.own_run(name) is not None]
    return Use(
        files=len(list(Path("/proc/self/fd").iterdir())),
        threads=len(threads(os.getpid())),
        children=len(children(os.getpid())),
        domains=len(named),
        namespaces=len(spaces),
        mounts=sum(str(store) in line for line in Path("/proc/self/mounts").read_text().splitlines()),
        memory=own,
        store=disk_bytes(store) >> 20,
    )


def judge(warm: Use, last: Use) -> list[str]:
    """What has grown between two cycles that must not grow."""
    before, after = asdict(warm), asdict(last)
    counts = [name for name in before if name not in ("memory", "store")]
    wrong = [f"{name}: {before[name]}, then {after[name]}" for name in counts if before[name] != after[name]]
    if last.memory > warm.memory * (100 + GROWTH) / 100:
        wrong.append(f"memory: {warm.memory} KiB, then {last.memory} KiB")
    # a run's record and page are kept for each cycle
    if last.store > warm.store + CYCLES:
        wrong.append(f"store: {warm.store} MiB, then {last.store} MiB")
    return wrong


def run(
    part: str, cycle: Callable[[int], None], store: Path, say: Say, cycles: int = CYCLES, warm: int = WARM
) -> Row:
    """All cycles of a part, and what is wrong with the last one. Figures of some cycles go to `say`."""
    began = time.monotonic()
    uses: list[Use] = []
    for number in range(1, cycles + 1):
        cycle(number)
        uses.append(measure(store))
        if number in (1, warm, cycles):
            say(f"{part} {number}: {uses[-1]}")
    wrong = judge(uses[warm - 1], uses[-1])
    figures = {
        name: f"{before}, {after}"
        for (name, before), after in zip(asdict(uses[warm - 1]).items(), asdict(uses[-1]).values(), strict=True)
    }
    row: Row = {"part": part, "cycles": cycles, "s": round(time.monotonic() - began), **figures}
    return {**row, "commit": commit_id(), "why": "; ".join(wrong), "ok": not wrong}


# ---- what a cycle is -----------------------------------------------------------------------------------------------


def instance(lab: Vms, image: str) -> None:
    """A VM of an image comes, reports Ready, and goes, by calls of this process; nothing of it is left."""
    fleet = Fleet(lab.store)
    try:
        begun = create.begin(fleet, create.Wishes("soaked", image, "azureuser", PUBLIC_KEY, resource_size=0))
        record = create.wait_ready(lab.store, "soaked", begun.operation, lambda _: None, threading.Event())
        assert record.provisioned
        delete(fleet, "soaked", running=True)
    finally:
        fleet.close()
    wait_for("the end of the VM", lambda: lab.left() == [], SOON)


def masters(bench: Bench, lab: Vms, number: int) -> None:
    """One night: a changed image is built, an unchanged one is not, the golden one is published, old ones go. A VM
    of another master comes and goes.
    """
    project = bench.root / "project"
    (project / "page.txt").write_text(f"cycle {number}\n")
    definition = load(project / "images/drum.yaml", project)
    made = runner.build(definition, bench.store, command="soak").version
    assert made is not None
    report = refresh([definition], bench.store, command="soak", keep=LAYERS)
    assert [image.outcome for image in report.images] == [UNCHANGED], report.images
    target = Target(folder=bench.root / "published")
    assert push(bench.store, made, target, {}, options=Options(1)).plan.version == made.version
    instance(lab, "small")
    forget_layers(bench.store)
    versions = [each.version for each in bench.gallery.versions("drum")]
    assert len(versions) <= KEEP, versions


def forget_layers(store: Store) -> None:
    """A day passes, for what was used just now is kept whatever its size; then layers go by policy."""
    yesterday = time.time() - 86400
    for record in store.layers.glob("*/record.json"):
        os.utime(record, (yesterday, yesterday))
    prune(store, LAYERS)
    clean_up(store, layers=False)


def run_masters(say: Say) -> Row:
    home = new_home("soak")
    try:
        with opened(home, "ext4-large") as bench:
            bench.reset()
            lab = Vms(bench.root / "project", bench.store.root)
            lab.add_small(home / "packages")
            definition = bench.root / "project/images/drum.yaml"
            definition.write_text(f"{definition.read_text()}keep: {{versions: {KEEP}}}\n")
            return run("masters", lambda number: masters(bench, lab, number), bench.store.root, say)
    finally:
        remove(home)


#: Cycles with real guests, and the one with which the last is compared.
GUEST_CYCLES, GUEST_WARM = int(os.environ.get("GOLDSMITH_GUEST_CYCLES", "6")), KEEP
IMAGE = f"""\
goldsmith: 1
summary: an image that is built in each cycle
source: {{master: debian-13@golden}}
steps: [{{copy: {{from: page.txt, to: /etc/page}}}}]
generalize: {{agent: waagent}}
prove: [gen2]
keep: {{versions: {KEEP}}}
"""


def guests(lab: Vms, number: int) -> None:
    """One night with real guests: build, refresh, publish, and a VM of the new version that comes and goes."""
    lab.write("page.txt", f"cycle {number}\n")
    definition = load(lab.folder / "images/soaked.yaml", lab.folder)
    made = runner.build(definition, lab.store, command="soak").version
    assert made is not None
    report = refresh([definition], lab.store, command="soak", keep=None)
    assert [image.outcome for image in report.images] == [UNCHANGED], report.images
    target = Target(folder=lab.folder / "published")
    assert push(lab.store, made, target, {}, options=Options(1)).plan.version == made.version
    instance(lab, "soaked")
    forget_layers(lab.store)
    assert len(Gallery(lab.store.gallery).versions("soaked")) <= KEEP


def run_guests(say: Say) -> Row:
    home, project = new_home("soak"), new_home("soak-project")
    lab = Vms(project, home)
    try:
        if kept := os.environ.get("GOLDSMITH_TEST_HOME"):
            parcel = str(project / "parcel")
            assert Lab(project, Path(kept)).run("gallery", "export", "debian-13", parcel).returncode == 0
            assert lab.run("gallery", "import", parcel).returncode == 0
            gallery = Gallery(lab.store.gallery)
            promote(gallery, gallery.versions("debian-13")[-1], GOLDEN)
            remove(project / "parcel")
        else:
            assert Lab(ROOT, home).run("build", "debian-13").returncode == 0
        lab.write("images/soaked.yaml", IMAGE)
        return run("guests", lambda number: guests(lab, number), home, say, GUEST_CYCLES, GUEST_WARM)
    finally:
        remove(project)
        remove(home)


PARTS: dict[str, Callable[[Say], Row]] = {"masters": run_masters, "guests": run_guests}


def main() -> int:
    page, began = Page("soak"), time.monotonic()
    rows: list[Row] = []
    for name in wanted(PARTS):
        rows.append(PARTS[name](page.say))
        page.say(rows[-1])
    page.write(rows, f"{time.monotonic() - began:.0f} s")
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
