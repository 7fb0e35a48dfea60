"""What a master costs as its disk grows, and as its data grows: seconds of each stage, proofs aside."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from tests.harness import Lab, remove

#: What a master costs: these stages of a whole build.
COUNTED = ("acquire", "provision", "generalize", "convert", "capture")
#: The same data on disks of these sizes.
SIZES = ("9 GiB", "100 GiB", "1 TiB")
#: GiB of random data that a step writes, on a disk of one size.
DATA = (0, 2, 4)
DATA_DISK = "16 GiB"

Seconds = dict[str, float]


def define(lab: Lab, name: str, size: str, steps: Sequence[str]) -> None:
    summary = "\n".join(f"  - script: scripts/{step}.sh" for step in steps)
    lab.write(
        f"images/{name}.yaml",
        f"goldsmith: 1\nsummary: {name}\nos: linux\nsource: {{master: debian-13@golden}}\ndisk: {size}\n"
        f"steps:\n{summary}\nprove: [gen1]\n",
    )


def by_size(lab: Lab, say: Callable[[str], None]) -> dict[str, Seconds]:
    """Seconds by size of the disk; the step is the bench's own `job`."""
    found = {}
    for number, size in enumerate(SIZES):
        found[size] = stages(lab, f"size-{number}", size, ["job"])
        say(f"{size}: {found[size]['counted']:.1f} s")
    return found


def by_data(lab: Lab, say: Callable[[str], None]) -> dict[str, Seconds]:
    """Seconds by what a step wrote."""
    found = {}
    for amount in DATA:
        label = f"{amount} GiB"
        lab.write(
            f"scripts/data-{amount}.sh",
            f"#!/bin/sh\nset -e\nmkdir -p /opt/data\nhead -c {amount}G /dev/urandom >/opt/data/it\n",
        )
        found[label] = stages(lab, f"data-{amount}", DATA_DISK, [f"data-{amount}"])
        say(f"{label} of data: {found[label]['counted']:.1f} s")
    return found


def stages(lab: Lab, name: str, size: str, steps: Sequence[str]) -> Seconds:
    define(lab, name, size, steps)
    # what another image of this bench has made already would cost nothing
    done = lab.run("build", name, "--from", "provision")
    assert done.returncode == 0, done.stdout + done.stderr
    seconds: Seconds = {}
    for stage in lab.last_run(name)["stages"]:
        seconds[stage["stage"]] = seconds.get(stage["stage"], 0.0) + stage["seconds"]
    # gigabytes that nobody needs any more, and the next ones want the room
    for row in json.loads(lab.run("plan", name, "--json").stdout):
        if row["stage"] != "acquire":
            remove(lab.home / "layers" / row["key"])
    remove(lab.home / "gallery" / name)
    return {**seconds, "counted": sum(seconds[stage] for stage in COUNTED)}


def size_lines(found: dict[str, Seconds], commit: str) -> list[str]:
    smallest, largest = (found[size]["counted"] for size in (min(found, key=_gib), max(found, key=_gib)))
    held = "held" if largest <= 1.3 * smallest else "MISSED"
    return [
        "",
        "## Against the virtual size",
        "",
        f"The same data on larger disks, at commit {commit}: seconds of each stage; inspect and prove not counted.",
        "",
        *_table("size", found, COUNTED),
        "",
        f"Largest against smallest: {largest / smallest:.2f}, at most 1.3: {held}.",
    ]


def data_lines(found: dict[str, Seconds], commit: str) -> list[str]:
    least, most = min(found, key=_gib), max(found, key=_gib)
    span = _gib(most) - _gib(least)
    per = {
        stage: (found[most].get(stage, 0.0) - found[least].get(stage, 0.0)) / span for stage in (*COUNTED, "inspect")
    }
    summary = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in per.items() if stage != "acquire")
    return [
        "",
        "## Against the data",
        "",
        f"A disk of {DATA_DISK} on which a step writes random data, at commit {commit}: seconds of each stage.",
        "The guest's own writing is in provision; inspect is shown, and not counted.",
        "",
        *_table("data", found, (*COUNTED, "inspect")),
        "",
        f"Seconds for each further GiB: {summary}.",
    ]


def _table(head: str, found: dict[str, Seconds], columns: Sequence[str]) -> list[str]:
    columns = [*columns, "counted"]
    lines = [f"| {head} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for label, seconds in found.items():
        lines.append(f"| {label} | {' | '.join(f'{seconds.get(column, 0.0):.1f}' for column in columns)} |")
    return lines


def _gib(size: str) -> float:
    number, unit = size.split()
    return float(number) * (1024 if unit == "TiB" else 1)
