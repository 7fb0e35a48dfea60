"""A build host from examples/build-host, tried for real: python -m tests.campaigns.build_host

The master `build-host` is golden in the store that GOLDSMITH_HOME names, or is built first: `make wheelhouse`, and a
copy of its packages in examples/build-host/wheel. A VM from it, with systemd, AppArmor, polkit and a firewall, runs
the rows of build_host_inside.py: guests of the tests, emulated in an emulated guest. A row is right if it ends well
and AppArmor refused nothing meanwhile. GOLDSMITH_PART names rows, GOLDSMITH_KEEP leaves the VM for the next run.
The page is docs/reports/campaign-build-host.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.cli.environment import locate_store
from pipeline.gallery import Gallery
from tests.campaigns.__main__ import Page, Row
from tests.campaigns.build_host_inside import ROWS
from tests.fakes import small_linux
from tests.fakes.disks import add_master, small_linux_disk
from tests.fakes.fake_windows import parts
from tests.harness import ROOT, Lab, new_home, remove, wanted

IMAGE, VM = "build-host", "build-host-trial"
PROJECT = ROOT / "examples/build-host"
INSIDE = Path(__file__).with_name("build_host_inside.py")
#: Seconds: the longest row creates an instance in the VM twice.
ROW = 3600.0
#: Whoever keeps the VM keeps its key beside it.
KEEP = bool(os.environ.get("GOLDSMITH_KEEP"))


class Trial:
    """The VM, and a shell in it."""

    def __init__(self, lab: Lab, key: Path) -> None:
        self.lab, self.key = lab, key

    def create(self) -> str:
        listed = json.loads(self.lab.run("vm", "list", "--json").stdout)
        if any(vm["name"] == VM for vm in listed):
            self.lab.run("vm", "start", VM)
            return "is there already"
        began = time.monotonic()
        words = (
            "--cpus",
            "2",
            "--memory",
            "4G",
            "--os-disk-size",
            "30G",
            "--ssh-key",
            f"{self.key}.pub",
            "--outside",
        )
        done = self.lab.run("vm", "create", VM, "--image", IMAGE, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return f"Ready after {time.monotonic() - began:.0f} s"

    def shell(
        self, command: str, data: Path | None = None, deadline: float = ROW
    ) -> subprocess.CompletedProcess[str]:
        """A command of root's in the VM, with a file as its input."""
        with (data or Path(os.devnull)).open("rb") as file:
            return subprocess.run(
                self._argv(command), stdin=file, capture_output=True, text=True, timeout=deadline, check=False,
                env=self.lab.environment, cwd=ROOT,
            )  # fmt: skip

    @contextlib.contextmanager
    def started(self, command: str) -> Iterator[subprocess.Popen[str]]:
        """A command of root's in the VM whose output is read while it runs; at the end it is cut off."""
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
        process = subprocess.Popen(
            self._argv(command), **streams, text=True, env=self.lab.environment, cwd=ROOT, start_new_session=True
        )
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _argv(self, command: str) -> list[str]:
        return [sys.executable, "-m", "pipeline", "vm", "ssh", VM, "-i", str(self.key), f"sudo sh -c '{command}'"]

    def bring(self, archive: Path) -> None:
        """Unpack the trial's things in the VM: /root/trial, and the master `small` in its gallery."""
        # files of another trial's version would be mixed with those of this one
        gallery = "/var/lib/goldsmith/gallery"
        command = f"rm -rf {gallery}/small && tar -C / -xzSf - && chown -R root:libvirt {gallery} && sync"
        done = self.shell(command, archive)
        assert done.returncode == 0, done.stderr

    def row(self, name: str) -> Row:
        """A row of build_host_inside.py, and what AppArmor refused while it ran."""
        began = time.monotonic()
        done = self.shell(f"/opt/goldsmith/bin/python /root/trial/{INSIDE.name} {name}")
        last = (done.stdout.strip().splitlines() or ["{}"])[-1]
        try:
            found = json.loads(last)
        except ValueError:
            found = {}
        seen = found.get("seen") or (done.stdout + done.stderr)[-600:]
        denied = found.get("denied", ["unknown"])
        if done.returncode:
            print(done.stderr[-4000:], flush=True)
        print(*denied, sep="\n", flush=True)
        return {
            "row": name,
            "s": round(time.monotonic() - began),
            "outcome": seen,
            "denied by AppArmor": shorten(denied),
            "ok": done.returncode == 0 and not denied,
        }


def shorten(denied: list[str]) -> str:
    """Each kind of refusal once: the operation, what refused and the object."""
    kinds: dict[str, int] = {}
    for line in denied:
        fields = dict(re.findall(r'(\w+)="([^"]*)"', line))
        profile = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", fields.get("profile", "?"))
        words = (
            f"{profile}: {fields.get('operation', line)} {fields.get('name', '')} {fields.get('requested_mask', '')}"
        )
        kinds[words.strip()] = kinds.get(words.strip(), 0) + 1
    return "; ".join(f"{words} ({count})" for words, count in kinds.items()) or "nothing"


def pack(work: Path) -> Path:
    """The archive for the VM: the small Linux and its kernel, a newer wheel, a public key, the rows' program."""
    root = work / "root"
    trial, gallery = root / "root/trial", root / "var/lib/goldsmith/gallery"
    trial.mkdir(parents=True)
    gallery.mkdir(parents=True)
    found = parts.gather(work / "packages")
    kernel = small_linux.make_small_linux(found, work / "small")
    small_linux_disk(found, kernel, work, work / "small.raw")
    add_master(Gallery(gallery), "small", work / "small.raw")
    shutil.copy(kernel.image, trial / "vmlinux")
    shutil.copy(kernel.initrd, trial / "initrd")
    (trial / "command-line").write_text(kernel.command_line)
    shutil.copy(INSIDE, trial)
    shutil.copy(work / "key.pub", trial)
    newer_wheel(work / "source", trial)
    archive = work / "trial.tar.gz"
    subprocess.run(["tar", "-C", root, "-czSf", archive, "root", "var"], check=True)
    assert archive.stat().st_size > 1 << 20
    return archive


def newer_wheel(source: Path, target: Path) -> None:
    """goldsmith's wheel with the number of a later version."""
    source.mkdir()
    shutil.copytree(ROOT / "pipeline", source / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    package = source / "pipeline/__init__.py"
    package.write_text(with_later_version(package.read_text()))
    words = ("wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--wheel-dir", str(target), str(source))
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)


def with_later_version(text: str) -> str:
    """pipeline/__init__.py with the number of a later version. Raises ValueError where it has none. Pure."""
    changed, count = re.subn(r'^(__version__ = ".*)"$', r'\1.post1"', text, flags=re.MULTILINE)
    if count != 1:
        raise ValueError("pipeline/__init__.py has no version")
    return changed


@contextlib.contextmanager
def opened_trial(lab: Lab) -> Iterator[Trial]:
    """The VM with the trial's things in it, made where it is not there; it is deleted afterwards, unless KEEP."""
    work, key = new_home("build-host"), lab.home / "tmp" / "build-host-trial.key"
    try:
        if lab.last_version(IMAGE) == "none":
            done = lab.run("build", IMAGE, deadline=6 * 3600)
            assert done.returncode == 0, done.stdout + done.stderr
        if not key.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        shutil.copy(f"{key}.pub", work / "key.pub")
        trial = Trial(lab, key)
        print(f"VM: {trial.create()}", flush=True)
        trial.bring(pack(work))
        yield trial
    finally:
        remove(work)
        if not KEEP:
            lab.run("vm", "delete", VM, "--yes")
            for path in (key, Path(f"{key}.pub")):
                path.unlink(missing_ok=True)


def main() -> int:
    page = Page("build_host")
    began = time.monotonic()
    rows: list[Row] = []
    with opened_trial(Lab(PROJECT, locate_store().root)) as trial:
        for name in wanted(ROWS):
            rows.append(trial.row(name))
            page.say(rows[-1])
    page.write(rows, f"{time.monotonic() - began:.0f} s")
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
