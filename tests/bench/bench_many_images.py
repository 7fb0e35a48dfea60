"""`python -m tests.bench.bench_many_images`: forty images of three short files, then two thousand, are planned.

Cold is a store that has checked and planned nothing yet; warm is the second call. A changed default is planned too:
the images whose keys change must be those that have it. Two thousand are the images of a night on many hosts: each
has two playbooks, of which one draws in a role, and a variable of its own. The page is docs/reports/many-images.md.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tests.harness import GOLDSMITH, ROOT, commit_id, describe_load

PAGE, ROUNDS = ROOT / "docs/reports/many-images.md", 5
#: Seconds that are wanted at most of a warm call.
WANTED = {"validate": 1.0, "plan --all": 5.0}
#: Files with images, and the images of each beside those of `base`; seconds that are wanted at most of a call.
MANY_FILES, MANY_ROLES, MANY_WANTED, MANY_ROUNDS = 20, 50, 20.0, 3
FILES = {
    "defaults.yaml": """\
goldsmith: 1
parameters:
  size: {type: size, default: 8 GiB}
  days: {type: number, default: 90}
disk: ${size}
generalize: {agent: waagent}
keep: {versions: 3, days: "${days}"}
""",
    "images/base.yaml": """\
goldsmith: 1
source: {debian: {suite: "${suite}", packages: [waagent, hyperv-daemons]}}
steps: [{playbook: azure-linux.yml}]
matrix: {suite: [bookworm, trixie]}
""",
    "images/role.yaml": """\
goldsmith: 1
extends: base
parameters: {greeting: hello}
steps+: [{playbook: role.yml, vars: {role: "${role}", greeting: "${greeting}"}}]
matrix:
  suite: [bookworm, trixie]
  role: [r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, r12, r13, r14, r15, r16, r17, r18, r19]
""",
}
ROLE = """\
- hosts: guest
  become: true
  gather_facts: false
  tasks:
    - ansible.builtin.copy: {content: "{{ greeting }} {{ role }}", dest: /etc/role, mode: "0644"}
"""


def many_files() -> dict[str, str]:
    """FILES with 2 images for each of MANY_ROLES roles in each of MANY_FILES files."""
    head, role = FILES["images/role.yaml"].split("  role: ")[0], iter(range(MANY_FILES * MANY_ROLES))
    matrices = {
        f"images/role{number}.yaml": f"{head}  role: [{', '.join(f'r{next(role)}' for _ in range(MANY_ROLES))}]\n"
        for number in range(MANY_FILES)
    }
    return {**{name: text for name, text in FILES.items() if name != "images/role.yaml"}, **matrices}


def lay_out(project: Path, files: Mapping[str, str] = FILES) -> None:
    for name, text in files.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    shutil.copytree(ROOT / "playbooks", project / "playbooks")
    (project / "playbooks/role.yml").write_text(ROLE)


def call(project: Path, store: Path, *words: str) -> tuple[float, str]:
    began = time.perf_counter()
    done = subprocess.run(
        [GOLDSMITH, "--project", project, *words],
        env={**os.environ, "GOLDSMITH_HOME": str(store)},
        check=True,
        capture_output=True,
        text=True,
    )
    return time.perf_counter() - began, done.stdout


def keys(project: Path, store: Path) -> dict[str, list[str]]:
    """The keys of all units of each image."""
    plans = json.loads(call(project, store, "plan", "--all", "--json")[1])
    return {plan["image"]: [unit["key"] for unit in plan["units"]] for plan in plans}


def changed_by(project: Path, store: Path, name: str, old: str, new: str) -> set[str]:
    """The images whose keys another text in a file changes; the file is as before afterwards."""
    before, path = keys(project, store), project / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    after = keys(project, store)
    path.write_text(text)
    return {image for image in before if before[image] != after[image]}


def measure_many() -> tuple[dict[str, list[float]], int]:
    """Seconds of a plan of two thousand images, by the state of store and project; and how many it planned."""
    seconds: dict[str, list[float]] = {}
    images = 0
    for _ in range(MANY_ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            project, store = Path(folder) / "project", Path(folder) / "store"
            lay_out(project, many_files())
            for kind in ("cold", "warm", "warm, a playbook changed"):
                if "changed" in kind:
                    (project / "playbooks/role.yml").write_text(ROLE.replace("/etc/role", "/etc/greeting"))
                taken, printed = call(project, store, "plan", "--all", "--json")
                seconds.setdefault(kind, []).append(taken)
                images = len(json.loads(printed))
    return seconds, images


def main() -> int:
    load = describe_load()
    seconds: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        project, store = Path(folder) / "project", Path(folder) / "store"
        lay_out(project)
        for number in range(ROUNDS):
            for verb in WANTED:
                for kind in ("cold", "warm"):
                    taken, _ = call(project, Path(folder) / f"store-{number}-{verb[:4]}", *verb.split())
                    seconds.setdefault((verb, kind), []).append(taken)
        images = set(keys(project, store))
        roles = {image for image in images if image.startswith("role-")}
        changes = {
            "a default of all images (`size`)": (
                changed_by(project, store, "defaults.yaml", "8 GiB", "9 GiB"), images,
            ),
            "a default of `role.yaml` (`greeting`)": (
                changed_by(project, store, "images/role.yaml", "greeting: hello", "greeting: welcome"), roles,
            ),
            "a default that no disk depends on (`days`)": (
                changed_by(project, store, "defaults.yaml", "default: 90", "default: 91"), set[str](),
            ),
        }  # fmt: skip
    many, counted = measure_many()
    good = counted == 2 + 2 * MANY_FILES * MANY_ROLES and max(map(max, many.values())) <= MANY_WANTED
    good &= all(found == wanted for found, wanted in changes.values()) and len(images) == 40
    good &= all(statistics.median(seconds[verb, "warm"]) <= most for verb, most in WANTED.items())
    write(load, seconds, len(images), changes)
    write_many(many, counted)
    print(PAGE.read_text())
    return 0 if good else 1


def write(
    load: str,
    seconds: dict[tuple[str, str], list[float]],
    images: int,
    changes: dict[str, tuple[set[str], set[str]]],
) -> None:
    lines = sum(len(text.splitlines()) for text in FILES.values())
    rows = [
        f"| {verb} | {kind} | {statistics.median(taken):.2f} | {min(taken):.2f} to {max(taken):.2f} | "
        f"{f'{WANTED[verb]:.0f}' if kind == 'warm' else ''} |"
        for (verb, kind), taken in seconds.items()
    ]
    effects = [
        f"| {what} | {len(found)} | {'exactly these' if found == wanted else 'NOT the right ones'} |"
        for what, (found, wanted) in changes.items()
    ]
    text = [
        "# Forty images in a few lines", "",
        f"Measured at `{commit_id()}` by `python -m tests.bench.bench_many_images`; {load}, {os.cpu_count()} "
        f"processors. {images} images of {lines} lines in {len(FILES)} files, {ROUNDS} rounds.", "",
        "| command | store | s, median | s, range | at most |", "|---|---|---|---|---|", *rows, "",
        "| what is changed | images that are built anew | |", "|---|---|---|", *effects,
    ]  # fmt: skip
    PAGE.write_text("\n".join(text) + "\n")


def write_many(seconds: dict[str, list[float]], images: int) -> None:
    rows = [
        f"| {kind} | {statistics.median(taken):.1f} | {min(taken):.1f} to {max(taken):.1f} | {MANY_WANTED:.0f} |"
        for kind, taken in seconds.items()
    ]
    text = [
        "", f"`plan --all --json` of {images} images in {len(many_files())} files, {MANY_ROUNDS} rounds; each image "
        "but the first two has two playbooks, a role, and a variable of its own.", "",
        "| store | s, median | s, range | at most |", "|---|---|---|---|", *rows,
    ]  # fmt: skip
    with PAGE.open("a") as file:
        file.write("\n".join(text) + "\n")


if __name__ == "__main__":
    sys.exit(main())
