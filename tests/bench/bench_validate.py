"""`python -m tests.bench.bench_validate`: twenty images, each with a playbook and a role of its own.

Cold is a store that has checked nothing yet; warm is the second call. The table goes to docs/reports/validate.md.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from tests.harness import GOLDSMITH, ROOT, commit_id

PAGE = ROOT / "docs/reports/validate.md"
IMAGES, ROUNDS = 20, 5
#: Seconds that are wanted at most.
WANTED = {"cold": 15.0, "warm": 2.0}


def lay_out(project: Path) -> None:
    for number in range(IMAGES):
        name = f"image-{number:02}"
        files = {
            f"images/{name}.yaml": "goldsmith: 1\nsource: {debian: {suite: bookworm, packages: [waagent, less]}}\n"
            f"disk: 8 GiB\nsteps:\n  - playbook: {name}.yml\n    vars: {{number: {number}}}\n",
            f"playbooks/{name}.yml": f"- hosts: all\n  become: true\n  roles: [role{number}]\n  tasks:\n"
            + "".join(
                f"    - name: file {task}\n      ansible.builtin.copy:\n        content: '{{{{ number }}}}'\n"
                f"        dest: /srv/{task}\n        mode: '0644'\n"
                for task in range(10)
            ),
            f"playbooks/roles/role{number}/tasks/main.yml": "- ansible.builtin.apt: {name: tree, state: present}\n",
        }
        for file, text in files.items():
            path = project / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def validate(project: Path, store: Path) -> float:
    began = time.perf_counter()
    subprocess.run(
        [GOLDSMITH, "--project", project, "validate"],
        env={**os.environ, "GOLDSMITH_HOME": str(store)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - began


def main() -> None:
    seconds: dict[str, list[float]] = {"cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        lay_out(project)
        for number in range(ROUNDS):
            for kind in seconds:
                seconds[kind].append(validate(project, Path(folder) / f"store-{number}"))
    rows = [
        f"| {kind} | {statistics.median(taken):.2f} | {min(taken):.2f} to {max(taken):.2f} | {WANTED[kind]:.0f} |"
        for kind, taken in seconds.items()
    ]
    head = "| store | s, median | s, range | at most |\n|---|---|---|---|"
    load = f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors"
    text = f"Commit {commit_id()}, {IMAGES} images with a playbook and a role each, {ROUNDS} rounds; {load}."
    PAGE.write_text("\n".join(["# validate of twenty images", "", text, "", head, *rows]) + "\n")
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
