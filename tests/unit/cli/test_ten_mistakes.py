"""A new user's ten mistakes: each is told in one line, and doing what the line says mends it.

`python -m tests.unit.test_ten_mistakes` prints the transcript.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DEBIAN = "goldsmith: 1\nsource: {debian: {suite: bookworm, packages: [less]}}\n"
PLAY = "- hosts: all\n  become: true\n  tasks:\n    - ansible.builtin.command: {cmd: id}\n"
Mend = Callable[[Path], None]


def replace(name: str, old: str, new: str) -> Mend:
    def mend(project: Path) -> None:
        path = project / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return mend


def run(command: str) -> Mend:
    """The command that the hint names."""

    def mend(project: Path) -> None:
        subprocess.run(["sh", "-c", command], cwd=project, check=True)

    return mend


@dataclass(frozen=True)
class Mistake:
    """Files of a project, what is said of them, and what a reader of that does."""

    files: dict[str, str]
    #: Parts of the one line, in order.
    says: tuple[str, ...]
    mend: Mend


MISTAKES: dict[str, Mistake] = {
    "yaml": Mistake(
        {"images/yaml.yaml": DEBIAN + "summary: a server: nginx\n"},
        ("images/yaml.yaml:3:18: is not YAML", "(quote text that contains ': '"),
        replace("images/yaml.yaml", "a server: nginx", '"a server: nginx"'),
    ),
    "playbook": Mistake(
        {
            "images/playbook.yaml": DEBIAN + "steps:\n  - playbook: site.yml\n",
            "playbooks/site.yml": PLAY.replace("ansible.builtin.command", "ansible.builtin.comand"),
        },
        ("playbooks/site.yml:4:7: step 1 of playbook: couldn't resolve module/action", "(correct the name"),
        replace("playbooks/site.yml", "comand", "command"),
    ),
    "script": Mistake(
        {
            "images/script.yaml": DEBIAN + "steps:\n  - script: scripts/tune.sh\n",
            "scripts/tune.sh": "#!/bin/sh\r\nset -e\r\necho tuned > /etc/tuned\r\n",
        },
        ("images/script.yaml:4:13: steps[0].script: scripts/tune.sh:1: the line ends with a carriage", "sed -i"),
        run("sed -i 's/\\r$//' scripts/tune.sh"),
    ),
    "disk": Mistake(
        {"images/disk.yaml": "goldsmith: 1\nsource: {disk: {path: disks/x.img, format: raw}}\n"},
        ("images/disk.yaml:2:44: source.disk.format: x.img is a qcow2 disk, not raw", "(write format: qcow2)"),
        replace("images/disk.yaml", "format: raw", "format: qcow2"),
    ),
    "size": Mistake(
        {"images/size.yaml": DEBIAN + "disk: 8 GB\n"},
        ("images/size.yaml:3:7: disk: ", "GiB"),
        replace("images/size.yaml", "8 GB", "8 GiB"),
    ),
    "name": Mistake(
        {"images/name.yaml": "goldsmith: 1\nsource: {master: siez@golden}\ndisk: 9 GiB\n"},
        ("images/name.yaml:2:18: source.master: siez@golden is not in the gallery", "(size?)"),
        replace("images/name.yaml", "siez", "size"),
    ),
    "waiver": Mistake(
        {"images/waiver.yaml": DEBIAN + "waive: {serial-consol: we have no console}\n"},
        ("images/waiver.yaml:3:9: waive.serial-consol: the check serial-consol does not exist", "(serial-console?)"),
        replace("images/waiver.yaml", "consol:", "console:"),
    ),
    "package": Mistake(
        {"images/package.yaml": DEBIAN.replace("less", "ngnix")},
        ("images/package.yaml:2:47: source.debian.packages[0]: bookworm has no package ngnix", "(nginx?)"),
        replace("images/package.yaml", "ngnix", "nginx"),
    ),
    "host": Mistake(
        {"images/host.yaml": DEBIAN + "machine: {cpus: 64}\n"},
        ("images/host.yaml:3:17: machine.cpus: this host has only", "(write cpus: "),
        replace("images/host.yaml", "cpus: 64", f"cpus: {len(os.sched_getaffinity(0))}"),
    ),
}  # fmt: skip


def lay_out(folder: Path) -> Path:
    """A project with nine mistakes, and a store that has a gallery."""
    project = folder / "project"
    for mistake in MISTAKES.values():
        for name, text in mistake.files.items():
            path = project / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
    (project / "disks").mkdir()
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", project / "disks/x.img", "4G"], check=True)
    (folder / "store/gallery").mkdir(parents=True)
    cache = folder / "store/packages/bookworm.txt"
    cache.parent.mkdir()
    # as the archive's list would be kept: a unit test asks nobody
    cache.write_text("less\nnginx\nnano\n")
    return project


def goldsmith(project: Path, *words: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "GOLDSMITH_HOME": str(project.parent / "store"), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*before, sys.executable, "-m", "pipeline", "--project", project, *words],
        capture_output=True,
        text=True,
        env=environment,
        cwd=project,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """What is said of all mistakes, and what of each image once its own is mended."""
    project = lay_out(tmp_path_factory.mktemp("mistakes"))
    first = goldsmith(project, "validate")
    assert first.returncode == 2
    for mistake in MISTAKES.values():
        mistake.mend(project)
    second = goldsmith(project, "validate")
    return first.stderr + first.stdout, dict.fromkeys(MISTAKES, second.stdout + second.stderr)


@pytest.mark.parametrize("name", MISTAKES)
def test_one_line_says_what_to_do_and_doing_it_mends_it(name: str, both: tuple[str, dict[str, str]]) -> None:
    output, after = both
    lines = [line for line in output.splitlines() if line.startswith(MISTAKES[name].says[0])]
    assert len(lines) == 1, output
    assert all(part in lines[0] for part in MISTAKES[name].says), lines[0]
    assert f"images/{name}.yaml: ok" in after[name], after[name]


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed to be refused")
def test_permission(tmp_path: Path) -> None:
    project = lay_out(tmp_path)
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o755)
    MISTAKES["host"].mend(project)
    # the folders above pytest's own are root's alone: another user could not even look
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        subprocess.run(["cp", "-a", project, tmp_path / "store", folder], check=True)
        moved = Path(folder) / "project"
        refused = goldsmith(moved, "build", "host", before=NOBODY)
        assert refused.returncode == 3, refused.stderr
        assert "Permission denied" in refused.stderr and "run it with sudo" in refused.stderr
        assert "Traceback" not in refused.stderr


NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def refuse_and_mend(folder: Path) -> list[subprocess.CompletedProcess[str]]:
    """The tenth mistake, permission: init in root's folder, then what its hint says, and validate."""
    roots, own = folder / "roots", folder / "own"
    roots.mkdir()
    own.mkdir()
    (folder / "store").mkdir()
    os.chown(own, 65534, 65534)
    for path in (folder, roots, own, folder / "store"):
        path.chmod(0o755)
    user = (*NOBODY, "env", f"HOME={own}")
    # the list of packages is at hand, as after a build: a unit test asks nobody
    (folder / "store/packages").mkdir()
    (folder / "store/packages/bookworm.txt").write_text("waagent\nhyperv-daemons\n")
    return [
        goldsmith(roots, "init", "web", before=user),
        goldsmith(own, "init", "web", before=user),
        goldsmith(own, "validate", "web", before=user),
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed to be refused")
def test_permission_is_mended_by_its_hint() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        refused, mended, valid = refuse_and_mend(Path(folder))
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [
        f"goldsmith: cannot write {folder}/roots/images: Permission denied",
        "  hint   use a writable folder: goldsmith --project FOLDER init NAME",
    ]
    assert mended.returncode == 0, mended.stderr
    assert (valid.returncode, valid.stdout) == (0, "images/web.yaml: ok\n"), valid.stderr


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        project = lay_out(Path(folder))
        for name, mistake in MISTAKES.items():
            done = goldsmith(project, "validate", name)
            print(f"$ goldsmith validate {name}\n{(done.stderr + done.stdout).strip()}")
            mistake.mend(project)
            done = goldsmith(project, "validate", name)
            print(f"  (done)\n$ goldsmith validate {name}\n{(done.stderr + done.stdout).strip()}\n")
    if os.geteuid() == 0:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            words = ("--project roots init web", "--project own init web", "--project own validate web")
            for call, done in zip(words, refuse_and_mend(Path(folder)), strict=True):
                print(f"nobody$ goldsmith {call}\n{(done.stderr + done.stdout).strip()}")


if __name__ == "__main__":
    main()
