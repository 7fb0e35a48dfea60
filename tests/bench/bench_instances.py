"""What a VM costs beside a proof's clone: python -m tests.bench.bench_instances ready|idle IMAGE

`ready`: `goldsmith vm create` until its agent reports Ready, alternated with the first clone of a proof of the same
master on the same machine, one guest at a time; and how long a VM's record, lease and disks take. `idle`: five VMs
whose agents have reported Ready run on, and goldsmith's own processes are measured. Each writes its part of
docs/reports/instances.md. IMAGE is a golden master of the store that GOLDSMITH_HOME names.
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
from pipeline.gallery import Gallery
from pipeline.instances.fleet import Fleet
from pipeline.operations.create import Wishes, make_at_rest, plan
from pipeline.stages.prove import Prove
from tests.harness import ROOT, Lab, commit_id

PAGE = ROOT / "docs/reports/instances.md"
ROUNDS = 3
VMS = 5
#: Seconds after the last Ready until a guest has done what it does at its first boot, and seconds of the measurement.
SETTLE, IDLE = 60.0, 60.0
#: What the issue wants at most: VM to clone, seconds, MiB and parts of a core.
RATIO, AT_REST, MEMORY, CORE = 1.15, 0.3, 120.0, 0.02
_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHVXj1oPbH2pH0XkYlKUhIoWHv6lz0CT2mqkqKZ5t3cF bench"
_TARGET = "gen2"


def time_clone(image: str) -> float:
    """Seconds from the power-on of a proof's clone until it has posted Ready, as the proof itself records them."""
    store = locate_store()
    definition, version = load_named(ROOT, image), Gallery(store.gallery).get(image)
    seen: list[float] = []

    def work(context: BuildContext) -> StageResult:
        from pipeline.prove import prove

        pictures = context.run.folder / "pictures"
        pictures.mkdir()
        results, _ = prove(context, context.system, version.image, pictures, [_TARGET], whole=False)
        seen.append(results[0].seconds["ready"])
        return StageResult(version.image, {}, "")

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
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"pipeline" in words and str(locate_store().instances_label).encode() in words + _home(folder):
            found.append(folder)
    return found


def _home(folder: Path) -> bytes:
    try:
        words = (folder / "environ").read_bytes()
    except OSError:
        return b""
    home = f"GOLDSMITH_HOME={locate_store().root}".encode()
    return str(locate_store().instances_label).encode() if home in words.split(b"\0") else b""


def proportional_memory(folder: Path) -> float:
    """MiB of memory of a process; pages that it shares with others count in part."""
    (line,) = (line for line in (folder / "smaps_rollup").read_text().splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) / 1024


def processor_time(folder: Path) -> float:
    words = (folder / "stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def measure_ready(lab: Lab, image: str, key: Path) -> list[str]:
    at_rest = [time_at_rest(image) for _ in range(10)]
    clones, machines = [], []
    for number in range(ROUNDS):
        for measure in (clones, machines) if number % 2 == 0 else (machines, clones):
            measure.append(time_clone(image) if measure is clones else time_vm(lab, image, key))
            print("clone" if measure is clones else "vm", f"{measure[-1]:.1f}", flush=True)
    ratio = statistics.median(machines) / statistics.median(clones)
    return [
        row("record, lease and disks, median of 10", f"{statistics.median(at_rest):.2f} s", f"{AT_REST} s"),
        row("a proof's clone, power-on to Ready, medians of 3", listed(clones), ""),
        row("`vm create`, the whole command until Ready", listed(machines), ""),
        row("`vm create` / clone", f"{ratio:.2f}", f"{RATIO}"),
    ]


def measure_idle(lab: Lab, image: str, key: Path) -> list[str]:
    names = [f"bench-{number}" for number in range(VMS)]
    try:
        for name in names:
            done = lab.run(
                "vm", "create", name, "--image", image, "--ssh-key", str(key), "--memory", "1G", "--cpus", "1"
            )
            assert done.returncode == 0, done.stderr
        time.sleep(SETTLE)
        own = own_processes()
        memory = sum(map(proportional_memory, own))
        before = sum(map(processor_time, own))
        time.sleep(IDLE)
        used = (sum(map(processor_time, own)) - before) / IDLE
        memory = max(memory, sum(map(proportional_memory, own)))
    finally:
        for name in names:
            lab.run("vm", "delete", name, "--yes")
    return [
        row(f"processes of goldsmith while {VMS} VMs of {image} idle", str(len(own)), ""),
        row("their memory (PSS)", f"{memory:.0f} MiB", f"{MEMORY:.0f} MiB"),
        row(f"their processor time in {IDLE:.0f} s", f"{used * 100:.1f} % of a core", f"{CORE * 100:.0f} %"),
    ]


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def listed(times: list[float]) -> str:
    return f"{statistics.median(times):.1f} s ({', '.join(f'{each:.1f}' for each in times)})"


PARTS: dict[str, Callable[[Lab, str, Path], list[str]]] = {"ready": measure_ready, "idle": measure_idle}


def write(part: str, image: str, load: float, rows: list[str]) -> None:
    """Put a part's table in its place in the page; the other one stays."""
    command = "python -m tests.bench.bench_instances ready|idle IMAGE"
    head = f"# What VMs cost\n\nMeasured by `{command}` on emulated guests.\n"
    page = PAGE.read_text() if PAGE.exists() else head
    kept = {found[1]: found[0] for found in re.finditer(r"^## (\w+)\n.*?(?=^## |\Z)", page, re.M | re.S)}
    where = f"Commit {commit_id()}, {image}, {os.cpu_count()} processors, load {load:.1f} when it began."
    table = [row("what", "measured", "wanted at most"), "|---|---|---|", *rows]
    kept[part] = "\n".join([f"## {part}", "", where, "", *table, ""])
    PAGE.write_text("\n".join([head, *(kept[each].rstrip() + "\n" for each in PARTS if each in kept)]))


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
