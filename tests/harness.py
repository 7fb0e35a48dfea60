"""A laboratory for whole builds: a project of its own, a store of its own, the real command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pipeline.base.store import Store
from pipeline.cli.environment import hand_in_environment
from pipeline.network.namespaces import OUT

# a campaign calls what the command line calls, and it hands this in before
hand_in_environment()

ROOT = Path(__file__).parents[1]
GOLDSMITH = Path(sys.executable).parent / "goldsmith"
#: The environment's word for a part of a corpus: its rows take their places in the page that is there.
PART = "GOLDSMITH_PART"
#: Seconds for a whole build of a small image under TCG on a busy host.
DEADLINE = 1500.0
#: Where a campaign's rows go as they come, and words for anyone who watches.
Say = Callable[[dict[str, object] | str], None]


def describe_load() -> str:
    """How busy the host is, and whether that matters to this process: for reports of figures."""
    real_time = os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR)
    before_others = ", but with real-time priority (`chrt`), so that others wait" if real_time else ""
    return f"load {os.getloadavg()[0]:.1f} when it began{before_others}"


class Lab:
    """A project folder and a GOLDSMITH_HOME that tests write to and builds run in."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self.home = home
        #: What the caller's shell exports beside this process's environment, and its file mode mask (-1: as ours).
        self.caller: dict[str, str] = {}
        self.umask = -1
        (folder / "images").mkdir(parents=True, exist_ok=True)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.caller, "GOLDSMITH_HOME": str(self.home)}

    def start(self, *words: str) -> subprocess.Popen[str]:
        argv = [str(GOLDSMITH), "--project", str(self.folder), *words]
        return subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environment, bufsize=1
        )

    def run(self, *words: str, deadline: float = DEADLINE) -> subprocess.CompletedProcess[str]:
        """Run goldsmith; its output goes to the test's own output too, for anyone who reads a failure."""
        argv = [str(GOLDSMITH), "--project", str(self.folder), *words]
        began = time.monotonic()
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            env=self.environment,
            umask=self.umask,
            timeout=deadline,
            check=False,
        )
        print(f"$ goldsmith {' '.join(words)}   [{done.returncode}, {time.monotonic() - began:.1f} s]")
        print(done.stdout + done.stderr)
        return done

    def shell(self, run: str) -> list[str]:
        """The argv of a shell in a kept guest."""
        return [str(GOLDSMITH), "--project", str(self.folder), "shell", run]

    def last_run(self, image: str | None = None) -> dict[str, Any]:
        """The record of the newest run, of `image` where one is named."""
        for folder in sorted((self.home / "runs").glob("R*"), key=lambda path: int(path.name[1:]), reverse=True):
            record: dict[str, Any] = json.loads((folder / "run.json").read_text())
            if image in (None, record["image"]):
                return {**record, "folder": folder}
        raise AssertionError(f"no run of {image}")

    def master(self, name: str) -> dict[str, Any]:
        """The golden version of an image, as `gallery list --json` shows it."""
        listed = json.loads(self.run("gallery", "list", name, "--json").stdout)
        return next(version for version in listed if "golden" in version["channels"])

    def last_version(self, name: str) -> str:
        """What golden of an image points at, or none."""
        link = self.home / "gallery" / name / "golden"
        return str(link.readlink()) if link.is_symlink() else "none"

    def manifest(self, name: str) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads((Path(self.master(name)["path"]).parent / "manifest.json").read_text())
        return manifest

    def leftovers(self) -> list[str]:
        """What a run must not leave: domains, scratch, keys, processes. Kept layers and masters are not leftovers."""
        store = Store(self.home)
        found = [f"domain {name}" for name in domains() if store.own_run(_label(name)) is not None]
        for layer in sorted((self.home / "layers").glob("*")):
            if not (layer / "record.json").exists():
                found.append(f"scratch layer {layer.name}")
            if (layer / ".lock").exists():
                found.append(f"lock of layer {layer.name}")
        found += [f"scratch {p.name}" for p in (self.home / "tmp").iterdir() if p.suffix not in (".lock", ".json")]
        for access in (Path("/run/goldsmith"), Path("/dev/shm/goldsmith")):
            here = access.iterdir() if access.is_dir() else ()
            found += [f"access {p}" for p in here if store.own_run(p.name) is not None]
        found += [f"scratch version {p}" for p in (self.home / "gallery").glob("*/.new-*")]
        found += [f"network {name}" for name in networks() if store.own_run(name.removesuffix(OUT)) is not None]
        found += [f"mount {line.split()[1]}" for line in mounts() if str(self.home) in line]
        return found


def _label(domain: str) -> str:
    """The run's label in a domain's name: goldsmith-R12-3fa9c1-shop, or goldsmith-R12-shop in the default store."""
    words = domain.split("-")
    tagged = len(words) > 3 and len(words[2]) == 6 and all(c in "0123456789abcdef" for c in words[2])
    return "-".join(words[1:3]) if tagged else words[1]


def domains() -> list[str]:
    """Names of running domains of goldsmith's."""
    listed = subprocess.run(
        ["virsh", "-q", "-c", "qemu:///system", "list", "--all", "--name"], capture_output=True, text=True, check=True
    )
    return [name for name in listed.stdout.split() if name.startswith("goldsmith-")]


def networks() -> set[str]:
    """Runs that have a namespace or a bridge on this host."""
    named = {path.name.removeprefix("goldsmith-") for path in Path("/run/netns").glob("goldsmith-*")}
    shown = subprocess.run(["ip", "-json", "link", "show"], capture_output=True, text=True, check=True).stdout
    aliases = (str(link.get("ifalias", "")) for link in json.loads(shown))
    return named | {alias.removeprefix("goldsmith ") for alias in aliases if alias.startswith("goldsmith ")}


def mounts() -> list[str]:
    return Path("/proc/self/mounts").read_text().splitlines()


def new_home(prefix: str) -> Path:
    """A store that libvirt can reach, on the disk that the real store lies on."""
    base = Path(os.environ.get("GOLDSMITH_TEST_BASE", "/var/tmp"))
    home = Path(tempfile.mkdtemp(prefix=f"goldsmith-{prefix}-", dir=base))
    home.chmod(0o755)
    return home


def wait_for(what: str, probe: Callable[[], bool], deadline: float) -> None:
    until = time.monotonic() + deadline
    while not probe():
        if time.monotonic() > until:
            raise AssertionError(f"{what}: not within {deadline:.0f} s")
        time.sleep(0.1)


#: Which part of each corpus the tests run. Whoever raises it runs that part before: `make test` must not be the
#: first run of a case.
TURN = 530


def rotation(count: int, step: int = 0) -> int:
    """Which of `count` cases this turn runs."""
    return (int(os.environ.get("GOLDSMITH_TURN", TURN)) + step) % count


def tenth(names: Iterable[str]) -> list[str]:
    """The tenth of a corpus that this turn runs, at least one; the whole under GOLDSMITH_WHOLE."""
    whole = list(names)
    if os.environ.get("GOLDSMITH_WHOLE"):
        return whole
    return whole[rotation(min(10, len(whole))) :: 10]


def wanted(names: Iterable[str]) -> list[str]:
    """Those of a corpus that PART names, by parts of their names, separated by commas; all without it."""
    parts = os.environ.get(PART, "").split(",")
    return [name for name in names if any(part in name for part in parts)]


def commit_id() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
