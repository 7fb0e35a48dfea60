"""What a VM costs beside a proof's clone: python -m tests.bench.bench_instances rest|round|idle IMAGE

`rest`: how long a VM's record, lease and disks take. `round`: one pair of `goldsmith vm create` until its agent has
reported Ready, and of a proof's clone of the same master on the same machine until it has, one guest at a time; the
rounds begin with one and the other in turn, and the page counts the last three. `idle`: five VMs whose agents have
reported Ready run on, and goldsmith's own processes are measured. Each writes its part of
docs/reports/bench-instances.md, so the rounds may be hours apart. IMAGE is a golden master of the store that
GOLDSMITH_HOME names.
"""

from __future__ import annotations

import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.cache.units import StageResult
from pipeline.cli.environment import locate_store
from pipeline.context import BuildContext
from pipeline.definition import load_named
from pipeline.engine import runner
from pipeline.fabric import Fabric
from pipeline.gallery import Gallery
from pipeline.instances.fleet import Fleet
from pipeline.operations.create import Wishes, make_at_rest, plan
from pipeline.prove.matrix import TARGETS
from pipeline.stages.prove import Prove
from pipeline.systems.linux.clone_test import CloneTest
from tests.harness import ROOT, Lab, commit_id
from tests.processes import PROC, other_processes

PAGE = ROOT / "docs/reports/bench-instances.md"
ROUNDS = 3
VMS = 5
#: Seconds after the last Ready until a guest has done what it does at its first boot, and seconds of the measurement.
SETTLE, IDLE = 60.0, 60.0
#: What is wanted at most: VM to clone, seconds, MiB and parts of a core.
RATIO, AT_REST, MEMORY, CORE = 1.15, 0.3, 120.0, 0.02
_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHVXj1oPbH2pH0XkYlKUhIoWHv6lz0CT2mqkqKZ5t3cF bench"
_TARGET = "gen2"


def time_clone(image: str) -> float:
    """Seconds from the power-on of a proof's clone until it has reported Ready. It is ended then."""
    store = locate_store()
    definition, version = load_named(ROOT, image), Gallery(store.gallery).get(image)
    seen: list[float] = []

    def work(context: BuildContext) -> StageResult:
        master = version.image
        (test_run,) = context.system.test_runs(context, master, [TARGETS[_TARGET]], whole=False)
        test = CloneTest(context, master, test_run, 1)
        with Fabric(context.label) as fabric, test.made(fabric) as (clone, disk):
            try:
                clone.boot(disk, provisions=True, name="boot")
                seen.append(clone.seconds["ready"])
            finally:
                clone.close()
        return StageResult(master, {}, "")

    runner.run_alone(Prove(), definition, image, store, work, title=_TARGET, command="bench", listeners=[])
    return seen[0]


def time_vm(lab: Lab, image: str, key: Path) -> float:
    """Seconds of the whole command `vm create`, which ends once the VM's agent has reported Ready."""
    began = time.monotonic()
    done = lab.run("vm", "create", "bench", "--image", image, "--ssh-key", str(key))
    took = time.monotonic() - began
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    delete(lab, "bench")
    return took


def time_at_rest(image: str) -> float:
    """Seconds for a VM's share of the host, its record, its lease and its disks."""
    fleet = Fleet(locate_store())
    wishes = Wishes("at-rest", image, "azureuser", _KEY)
    record, version = plan(fleet, wishes)
    try:
        with fleet.instances.hold(record.name):
            began = time.monotonic()
            record = make_at_rest(fleet, record, version, wishes)
            return time.monotonic() - began
    finally:
        fleet.destroy(record)
        fleet.connection.close()


def delete(lab: Lab, name: str) -> None:
    assert lab.run("vm", "delete", name, "--yes").returncode == 0


def own_processes() -> list[Path]:
    """The folders in /proc of goldsmith's processes on this host, but this one."""
    label, home = str(locate_store().instances_label), f"GOLDSMITH_HOME={locate_store().root}"
    found = (each for each in other_processes() if "pipeline" in each.line)
    return [PROC / str(each.pid) for each in found if label in each.line or home in each.environment.split("\0")]


def proportional_memory(folder: Path) -> float:
    """MiB of memory of a process; pages that it shares with others count in part."""
    (line,) = (line for line in (folder / "smaps_rollup").read_text().splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) / 1024


def processor_time(folder: Path) -> float:
    words = (folder / "stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def measure_rest(lab: Lab, image: str, key: Path) -> list[str]:
    at_rest = [time_at_rest(image) for _ in range(10)]
    return [
        *head("what", "measured", "wanted at most"),
        row("record, lease and disks, median of 10", f"{statistics.median(at_rest):.3f} s", f"{AT_REST} s"),
    ]


def measure_round(lab: Lab, image: str, key: Path) -> list[str]:
    """One more pair: the rounds that the page has, this one, and the ratio of the last three."""
    rounds = [line for line in section("round") if ROUND.fullmatch(line)]
    load, measures = os.getloadavg()[0], {"clone": lambda: time_clone(image), "vm": lambda: time_vm(lab, image, key)}
    order = ("clone", "vm") if len(rounds) % 2 == 0 else ("vm", "clone")
    took: dict[str, float] = {}
    for what in order:
        took[what] = measures[what]()
        print(what, f"{took[what]:.1f}", flush=True)
    cells = (commit_id(), order[0], f"{took['clone']:.1f}", f"{took['vm']:.1f}", f"{load:.1f}")
    rounds = [*rounds, row(*cells)]
    last = [list(map(float, match.group(2, 3))) for line in rounds[-ROUNDS:] if (match := ROUND.fullmatch(line))]
    clone, vm = (statistics.median(column) for column in zip(*last, strict=True))
    return [
        *head(
            "commit", "first", "a proof's clone, power-on to Ready, s", "`vm create`, the whole command, s", "load"
        ),
        *rounds,
        "",
        *head("what", "measured", "wanted at most"),
        row(f"`vm create` / clone, medians of the last {len(last)}", f"{vm / clone:.2f}", f"{RATIO}"),
    ]


def measure_idle(lab: Lab, image: str, key: Path) -> list[str]:
    names = [f"bench-{number}" for number in range(VMS)]
    machine = ("--memory", "1G", "--cpus", "1", "--count", str(VMS))
    try:
        done = lab.run("vm", "create", "bench", "--image", image, "--ssh-key", str(key), *machine)
        assert done.returncode == 0, done.stderr
        time.sleep(SETTLE)
        own = own_processes()
        assert own, "the fabric that serves these VMs"
        memory = sum(map(proportional_memory, own))
        before = sum(map(processor_time, own))
        time.sleep(IDLE)
        used = (sum(map(processor_time, own)) - before) / IDLE
        memory = max(memory, sum(map(proportional_memory, own)))
    finally:
        for name in names:
            lab.run("vm", "delete", name, "--yes")
    return [
        *head("what", "measured", "wanted at most"),
        row(f"processes of goldsmith while {VMS} VMs of {image} idle", str(len(own)), ""),
        row("their memory (PSS)", f"{memory:.0f} MiB", f"{MEMORY:.0f} MiB"),
        row(f"their processor time in {IDLE:.0f} s", f"{used * 100:.1f} % of a core", f"{CORE * 100:.0f} %"),
    ]


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def head(*cells: str) -> tuple[str, str]:
    return row(*cells), "|" + "---|" * len(cells)


#: A round in the page: its commit, which was first, seconds of the clone and of the VM, load.
ROUND = re.compile(r"\| \w+ \| (clone|vm) \| ([0-9.]+) \| ([0-9.]+) \| [0-9.]+ \|")
PARTS: dict[str, Callable[[Lab, str, Path], list[str]]] = {
    "rest": measure_rest,
    "round": measure_round,
    "idle": measure_idle,
}


def section(part: str) -> list[str]:
    """The lines of a part of the page; none where there is none yet."""
    page = PAGE.read_text() if PAGE.exists() else ""
    found = re.search(rf"^## {part}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    return found[1].strip().splitlines() if found else []


def write(part: str, image: str, load: float, rows: list[str]) -> None:
    """Put a part's table in its place in the page; the others stay."""
    where = f"Commit {commit_id()}, {image}, {os.cpu_count()} processors, load {load:.1f} when it began."
    parts = {each: section(each) for each in PARTS} | {part: [where, "", *rows]}
    lines = ["# What VMs cost", "", "Measured by tests/bench/bench_instances.py on emulated guests.", ""]
    for each, text in parts.items():
        lines += [f"## {each}", "", *text, ""] if text else []
    PAGE.write_text("\n".join(lines).rstrip() + "\n")


def main() -> int:
    if len(sys.argv) != 3 or sys.argv[1] not in PARTS:
        print(__doc__, file=sys.stderr)
        return 2
    part, image = sys.argv[1:]
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder) / "key.pub"
        key.write_text(f"{_KEY}\n")
        rows = PARTS[part](Lab(ROOT, locate_store().root), image, key)
    write(part, image, load, rows)
    print("\n".join(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
