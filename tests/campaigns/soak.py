"""40 cycles of a host's life in one process, without a Debian guest: `make campaign-soak`.

Masters: a toy is built anew, refreshed, published to a folder, pruned; layers go by policy. VMs, on a host of its own
with a stub guest: created, a disk attached and detached, stopped, started, deleted. Between cycle 10 and 40 the open
files, threads, children, domains, namespaces and mounts are equal, memory grows by at most 5 %, and the store by
policy. GOLDSMITH_PART=masters or vms runs one of them; the page keeps the other's rows.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.base.files import disk_bytes
from pipeline.base.store import Store
from pipeline.definition import load
from pipeline.engine import runner
from pipeline.fabric import service
from pipeline.instances.fleet import Fleet
from pipeline.maintenance.gc import clean_up, prune
from pipeline.nightly.refresh import UNCHANGED, refresh
from pipeline.operations.attach_disk import attach_new, detach
from pipeline.operations.create import Wishes, begin, forget
from pipeline.operations.delete import delete
from pipeline.operations.disks import DiskWishes, delete_disk
from pipeline.operations.start import start
from pipeline.operations.stop import stop
from pipeline.publish.page_blob import Options
from pipeline.publish.push import push
from pipeline.publish.targets import Target
from tests import own_host
from tests.campaigns.__main__ import Page, Row
from tests.campaigns.fault_bench import MIB, Bench, opened
from tests.harness import PART, Say, commit_id, domains, networks, new_home, remove
from tests.vms import PUBLIC_KEY, make_lab

CYCLES = int(os.environ.get("GOLDSMITH_CYCLES", "40"))
#: The cycle with which the last one is compared: by then everything was loaded and every cache has been filled.
WARM = 10
#: How much memory may grow from there, in percent.
GROWTH = 5
#: Bytes of layers that a night leaves, and versions that the gallery keeps.
LAYERS, KEEP = 24 * MIB, 3


@dataclass(frozen=True)
class Use:
    """What this process and its store have at the end of a cycle. `memory` in KiB: what is this process's alone."""

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
    own = sum(int(line.split()[1]) for line in rollup if line.startswith(("Private_Clean", "Private_Dirty")))
    tasks = list(Path("/proc/self/task").iterdir())
    own_store = Store(store)
    label = str(own_store.instances_label)
    named = [name for name in domains() if label in name or own_store.own_run(name.split("-")[1]) is not None]
    spaces = [name for name in networks() if name.startswith(label) or own_store.own_run(name) is not None]
    return Use(
        files=len(list(Path("/proc/self/fd").iterdir())),
        threads=len(tasks),
        children=sum(len((task / "children").read_text().split()) for task in tasks),
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


def run(part: str, cycle: Callable[[int], None], store: Path, say: Say) -> Row:
    """All cycles of a part, and what is wrong with the last one. Each cycle's figures go to `say`."""
    began = time.monotonic()
    uses: list[Use] = []
    for number in range(1, CYCLES + 1):
        cycle(number)
        uses.append(measure(store))
        if number in (1, WARM, CYCLES):
            say(f"{part} {number}: {uses[-1]}")
    wrong = judge(uses[WARM - 1], uses[-1])
    figures = {
        name: f"{before}, {after}"
        for (name, before), after in zip(asdict(uses[WARM - 1]).items(), asdict(uses[-1]).values(), strict=True)
    }
    row: Row = {"part": part, "cycles": CYCLES, "s": round(time.monotonic() - began), **figures}
    return {**row, "commit": commit_id(), "why": "; ".join(wrong), "ok": not wrong}


# ---- the two parts -----------------------------------------------------------------------------------------------


def masters(bench: Bench, number: int) -> None:
    """One night: a changed image is built, an unchanged one is not, the golden one is published, old ones go."""
    project = bench.root / "project"
    (project / "page.txt").write_text(f"cycle {number}\n")
    definition = load(project / "images/drum.yaml", project)
    made = runner.build(definition, bench.store, command="soak").version
    assert made is not None
    report = refresh([definition], bench.store, command="soak", keep=LAYERS)
    assert [image.outcome for image in report.images] == [UNCHANGED], report.images
    target = Target(folder=bench.root / "published")
    assert push(bench.store, made, target, {}, options=Options(1)).plan.version == made.version
    prune(bench.store, LAYERS)
    clean_up(bench.store, layers=False)
    versions = [each.version for each in bench.gallery.versions("drum")]
    assert len(versions) <= KEEP, versions


def vms(fleet: Fleet, _number: int) -> None:
    """One VM's life, with a disk of its own."""
    made = begin(fleet, Wishes("web", "power", "azureuser", PUBLIC_KEY))
    forget(fleet, "web", made.operation)
    attach_new(fleet, "web", DiskWishes("data1", 1 << 30))
    detach(fleet, "web", "data1")
    # its button would take the time of a boot
    stop(fleet, "web", force=True)
    start(fleet, "web")
    delete(fleet, "web", running=True)
    delete_disk(fleet, "data1")
    assert fleet.survey() == []


def run_masters(say: Say) -> Row:
    home = new_home("soak")
    try:
        with opened(home, "ext4") as bench:
            bench.reset()
            definition = bench.root / "project/images/drum.yaml"
            definition.write_text(f"{definition.read_text()}keep: {{versions: {KEEP}}}\n")
            return run("masters", lambda number: masters(bench, number), bench.store.root, say)
    finally:
        remove(home)


def run_vms_here() -> int:
    """On a host of its own: print the row of the VMs as JSON, in the last line."""
    lab = make_lab("soak-vms")
    fleet = Fleet(lab.store)
    service.ensure(lab.store)
    try:
        row = run("vms", lambda number: vms(fleet, number), lab.home, lambda text: print(text, flush=True))
    finally:
        fleet.connection.close()
        remove(lab.home)
    print(json.dumps(row))
    return 0


def run_vms(say: Say) -> Row:
    words = [sys.executable, "-m", "tests.campaigns.soak", "--vms"]
    output = own_host.run(words, deadline=3600).stdout
    for line in output.splitlines():
        if line.startswith("vms "):
            say(line)
    try:
        row: Row = json.loads(next(line for line in reversed(output.splitlines()) if line.startswith("{")))
        return row
    except StopIteration:
        return {"part": "vms", "why": output[-600:], "ok": False}


def main() -> int:
    if sys.argv[1:] == ["--vms"]:
        return run_vms_here()
    page = Page("soak")
    page.part = True
    part, began = os.environ.get(PART, ""), time.monotonic()
    parts = {"masters": run_masters, "vms": run_vms}
    rows = []
    for name, run_part in parts.items():
        if part in ("", name):
            rows.append(run_part(page.say))
            page.say(rows[-1])
    page.write(rows, f"{time.monotonic() - began:.0f} s")
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
