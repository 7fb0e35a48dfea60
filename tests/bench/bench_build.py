"""The same job through goldsmith, cold and warm, and through packer: make bench

One base disk (the golden master of debian-13), five shell steps, `waagent -deprovision`, shutdown, fixed VHD. The
competitors take turns, after one round that warms the host's caches. What only goldsmith does (inspect, prove) is
left out, and so is the making of the saved guest, which has a column of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.base.store import Store
from pipeline.cache.layers import SNAPSHOT, Layers
from pipeline.disk import open_disk
from pipeline.hypervisor import accelerator
from pipeline.systems.linux.scripts import generalize_script
from tests.bench.growth import by_data, by_size, data_lines, define, size_lines
from tests.bench.meter import Cost, Meter, Series
from tests.harness import ROOT, Lab, commit_id, new_home, remove

DISK = "9 GiB"
#: The job that goldsmith and packer do: one shell provisioner, as a first image has it.
JOB = """\
mkdir -p /opt/bench
for i in $(seq 300); do echo $i >/opt/bench/$i; done
echo 'net.ipv4.tcp_syncookies=1' >/etc/sysctl.d/90-bench.conf
"""
#: The job whose last step is changed: a web server from packages, with its pages.
STEPS = {
    "1-packages": "apt-get update -qq\nDEBIAN_FRONTEND=noninteractive apt-get install -qq -y nginx-light",
    "2-tools": "DEBIAN_FRONTEND=noninteractive apt-get install -qq -y tree jq",
    "3-pages": "for i in $(seq 500); do echo page $i >/var/www/html/$i.html; done",
    "4-data": "head -c 32M /dev/urandom >/var/www/html/data",
    "5-config": "echo 'server_tokens off;' >/etc/nginx/conf.d/bench.conf",
}


# ---- the competitors ---------------------------------------------------------------------------------------------


def project(lab: Lab) -> None:
    for name, text in {"job": JOB, **STEPS}.items():
        lab.write(f"scripts/{name}.sh", f"#!/bin/sh\nset -e\n{text}\n")
    define(lab, "bench", DISK, ["job"])
    define(lab, "five", DISK, list(STEPS))


class Packer:
    """Debian's packer with its qemu builder: no boot wait, one host key type, unsafe cache.

    Its use_backing_file fails with QEMU 7.2 ("Backing file specified without backing format"): it copies the base.
    """

    def __init__(self, folder: Path, master: Path, kvm: bool) -> None:
        self.folder = folder
        base = folder / "base.qcow2"
        subprocess.run(["qemu-img", "convert", "-f", "vpc", "-O", "qcow2", master, base], check=True)
        key = folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        (folder / "meta-data").write_text("instance-id: bench\nlocal-hostname: bench\n")
        (folder / "user-data").write_text(
            "#cloud-config\nssh_genkeytypes: [ed25519]\nusers:\n  - name: packer\n    shell: /bin/sh\n"
            "    sudo: ALL=(ALL) NOPASSWD:ALL\n    ssh_authorized_keys:\n      - "
            + key.with_suffix(".pub").read_text()
        )
        (folder / "generalize.sh").write_text(generalize_script("waagent") + "\nuserdel -rf packer || true\n")
        shell = {"type": "shell", "execute_command": "sudo -n sh '{{ .Path }}'"}
        template = {
            "builders": [
                {
                    "type": "qemu",
                    "accelerator": "kvm" if kvm else "tcg",
                    "disk_image": True,
                    "iso_url": str(base),
                    "iso_checksum": "none",
                    "format": "qcow2",
                    "disk_size": DISK.split()[0] + "G",
                    "disk_interface": "virtio",
                    "disk_cache": "unsafe",
                    "disk_discard": "unmap",
                    "net_device": "virtio-net",
                    "headless": True,
                    "memory": 2048,
                    "cpus": 2,
                    "qemuargs": [["-cpu", "host" if kvm else "max"]],
                    "cd_files": [str(folder / "meta-data"), str(folder / "user-data")],
                    "cd_label": "cidata",
                    "boot_wait": "-1s",
                    "ssh_username": "packer",
                    "ssh_private_key_file": str(key),
                    "ssh_timeout": "20m",
                    "output_directory": str(folder / "out"),
                    "vm_name": "bench",
                    "shutdown_command": "sudo -n sh -c 'sh /root/generalize.sh; rm /root/generalize.sh; poweroff'",
                }
            ],
            "provisioners": [
                {**shell, "script": str(folder / "scripts/job.sh")},
                {"type": "file", "source": str(folder / "generalize.sh"), "destination": "/tmp/generalize.sh"},
                {**shell, "inline": ["mv /tmp/generalize.sh /root/"]},
            ],
        }
        (folder / "bench.json").write_text(json.dumps(template, indent=2))
        self.vhd = folder / "bench.vhd"

    def run(self) -> None:
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        environment = {**os.environ, "PACKER_CACHE_DIR": str(self.folder / "cache"), "CHECKPOINT_DISABLE": "1"}
        done = subprocess.run(
            ["packer", "build", "-color=false", str(self.folder / "bench.json")],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=1500,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        fixed = ["-o", "subformat=fixed,force_size=on"]
        subprocess.run(
            ["qemu-img", "convert", "-f", "qcow2", "-O", "vpc", *fixed, self.folder / "out" / "bench", self.vhd],
            check=True,
        )


def goldsmith(lab: Lab, *words: str, image: str = "bench") -> None:
    done = lab.run("build", image, *words)
    assert done.returncode == 0, done.stdout + done.stderr


def vhd(lab: Lab) -> Path:
    rows = json.loads(lab.run("plan", "bench", "--json").stdout)
    key = next(row["key"] for row in rows if row["stage"] == "convert")
    return lab.home / "layers" / key / "disk.vhd"


def tree(path: Path) -> dict[str, str]:
    """Paths of a shipped disk with their kind."""
    with open_disk(path, "vpc") as disk:
        return dict(disk.root.walk())


# ---- the table ---------------------------------------------------------------------------------------------------


def measure(rounds: int, runs: dict[str, Callable[[], None]], say: Callable[[str], None]) -> dict[str, Series]:
    series = {name: Series(name) for name in runs}
    names = list(runs)
    for number in range(rounds + 1):
        # another one first in each round: nobody runs always after the same
        first = number % len(names)
        for name in names[first:] + names[:first]:
            with Meter() as meter:
                runs[name]()
            say(f"round {number} {name}: {meter.cost.wall:.1f} s")
            if number:
                series[name].costs.append(meter.cost)
    return series


def paired(mine: Series, other: Series) -> float:
    return statistics.median(a.wall / b.wall for a, b in zip(mine.costs, other.costs, strict=True))


#: The bench's parts. Each can be measured again alone; the page keeps the others, and says of each at which commit.
PARTS = ("rounds", "last", "growth")


def main() -> int:
    ask = argparse.ArgumentParser()
    ask.add_argument("--rounds", type=int, default=5)
    ask.add_argument("--page", type=Path, default=ROOT / "docs/reports/bench.md")
    ask.add_argument("--part", action="append", choices=PARTS, help="only this part; repeatable")
    args = ask.parse_args()
    if shutil.which("packer") is None:
        print("packer is not installed: apt-get install packer", file=sys.stderr)
        return 2
    kept = os.environ.get("GOLDSMITH_TEST_HOME")
    home = Path(kept) if kept else new_home("bench")
    folder = new_home("bench-project")
    data: dict[str, Any] = json.loads(args.page.with_suffix(".json").read_text()) if args.part else {}
    try:
        lab = Lab(folder, home)
        assert Lab(ROOT, home).run("build", "debian-13").returncode == 0
        project(lab)
        os.environ["GOLDSMITH_HOME"] = str(home)
        for part in args.part or PARTS:
            data[part] = {"commit": commit_id(), **measured(part, lab, args.rounds)}
            write_page(args.page, data)
    finally:
        remove(folder)
        if not kept:
            remove(home)
    print(args.page.read_text(), flush=True)
    return 0 if all(value <= most for value, most in bounds(data).values()) else 1


def measured(part: str, lab: Lab, rounds: int) -> dict[str, Any]:
    def say(text: str) -> None:
        print(text, flush=True)

    if part == "rounds":
        return in_turns(lab, rounds, say)
    if part == "last":
        shares, result = change_last(lab, min(rounds, 3), say)
        return {"shares of a cold build": shares, "plan said": result}
    return {"by size": by_size(lab, say), "by data": by_data(lab, say)}


def in_turns(lab: Lab, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    verdict = accelerator.choose("auto", Store(lab.home))
    packer = Packer(lab.folder, Path(Lab(ROOT, lab.home).master("debian-13")["path"]), verdict.kind == "kvm")
    goldsmith(lab, "--until", "acquire")
    layers = Layers(lab.home / "layers")
    for layer in list(layers.all()):
        # one that is there from other days would not be made
        if layer.record["stage"] == SNAPSHOT:
            layers.drop(layer.key)
    with Meter() as making:
        goldsmith(lab, "--warm", "--until", "1")
    say(f"making the saved guest, one step included: {making.cost.wall:.1f} s")
    again = ("--from", "provision", "--until", "convert")
    series = measure(
        rounds,
        {
            "goldsmith cold": lambda: goldsmith(lab, *again),
            "goldsmith warm": lambda: goldsmith(lab, "--warm", *again),
            "packer": packer.run,
        },
        say,
    )
    mine, theirs = tree(vhd(lab)), tree(packer.vhd)
    return {
        "host": f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors, {verdict.kind}",
        "count": rounds,
        "runs": {name: [vars(cost) for cost in item.costs] for name, item in series.items()},
        "making the saved guest": making.cost.wall,
        "only in": {"goldsmith": sorted(mine.keys() - theirs.keys()), "packer": sorted(theirs.keys() - mine.keys())},
    }


def bounds(data: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Each ratio that was measured, and what it may be."""
    found: dict[str, tuple[float, float]] = {}
    if "rounds" in data:
        series = series_of(data["rounds"])
        cold, warm, other = (series[name] for name in ("goldsmith cold", "goldsmith warm", "packer"))
        found |= {"cold / packer": (paired(cold, other), 0.8), "warm / packer": (paired(warm, other), 0.25)}
    if "last" in data:
        shares = data["last"]["shares of a cold build"]
        found["one changed last step of five / cold"] = (statistics.median(shares), 0.35)
    return found


def series_of(rounds: dict[str, Any]) -> dict[str, Series]:
    return {name: Series(name, [Cost(**cost) for cost in costs]) for name, costs in rounds["runs"].items()}


def write_page(page: Path, data: dict[str, Any]) -> None:
    page.with_suffix(".json").write_text(json.dumps(data, indent=2) + "\n")
    lines = ["# Bench: a build against packer", ""]
    if "rounds" in data:
        lines += rounds_lines(data["rounds"])
    lines += ["| ratio | measured | at most | |", "|---|---|---|---|"]
    for name, (value, most) in bounds(data).items():
        lines.append(f"| {name} | {value:.2f} | {most} | {'held' if value <= most else 'MISSED'} |")
    if "last" in data:
        summary = "; ".join(data["last"]["plan said"])
        lines += ["", f"`plan` before the changed step, at commit {data['last']['commit']}: {summary}."]
    if "rounds" in data:
        lines += ["", *content_lines(data["rounds"])]
    if "growth" in data:
        grown = data["growth"]
        lines += size_lines(grown["by size"], grown["commit"]) + data_lines(grown["by data"], grown["commit"])
    page.write_text("\n".join(lines) + "\n")


def change_last(lab: Lab, rounds: int, say: Callable[[str], None]) -> tuple[list[float], list[str]]:
    """Shares of a cold build that a changed last step of five costs, and what `plan` said before it."""
    shares: list[float] = []
    messages: list[str] = []
    path = lab.folder / "scripts/5-config.sh"
    for number in range(rounds):
        with Meter() as cold:
            goldsmith(lab, "--from", "provision", "--until", "convert", image="five")
        path.write_text(path.read_text() + f"# changed {number}\n")
        rows = json.loads(lab.run("plan", "five", "--json").stdout)
        live = [row for row in rows if row["stage"] == "provision"]
        messages = [f"{row['action']} {row['title']}: {row['why']}".rstrip(": ") for row in live]
        assert [row["action"] for row in live] == ["keep"] * 4 + ["run"], messages
        with Meter() as changed:
            goldsmith(lab, "--until", "convert", image="five")
        states = [stage["state"] for stage in lab.last_run("five")["stages"] if stage["stage"] == "provision"]
        assert states.count("new") == 1, states
        shares.append(changed.cost.wall / cold.cost.wall)
        say(f"five steps: {cold.cost.wall:.1f} s, the last one changed: {changed.cost.wall:.1f} s")
    return shares, messages


def rounds_lines(data: dict[str, Any]) -> list[str]:
    lines = [
        f"Commit {data['commit']}; {data['host']}; medians of {data['count']} rounds, taken in turns",
        "after one that is not counted. Base disk, steps, generalize script, sizes: the same.",
        "",
        "| run | wall, s | qemu CPU, s | tool CPU, s | written, MiB | peak memory of qemu, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for name, item in series_of(data).items():
        values = " | ".join(
            f"{item.median(what):.0f}" for what in ("wall", "qemu_cpu", "tool_cpu", "written", "memory")
        )
        lines.append(f"| {name} | {values} |")
    snapshots = data["making the saved guest"]
    return [*lines, "", f"Making the saved guest, once, its first step included: {snapshots:.0f} s.", ""]


def content_lines(data: dict[str, Any]) -> list[str]:
    lines = []
    for name, paths in data["only in"].items():
        lines += [f"Only on {name}'s disk ({len(paths)}): {', '.join(f'`{p}`' for p in paths[:12])}", ""]
    return [
        *lines,
        "Left out: goldsmith's inspect and prove, which packer has nothing of. qemu is packer's child, so that",
        "its CPU is in packer's tool column too, and libvirt's child; libvirtd's own CPU is in neither.",
    ]


if __name__ == "__main__":
    sys.exit(main())
