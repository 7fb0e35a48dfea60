"""A laboratory for VMs: a store with masters of the guests without a system, and `goldsmith vm` on it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.base.store import Store
from pipeline.fabric import control
from pipeline.fabric.privileged import Host
from pipeline.gallery import Gallery
from pipeline.gallery.retention import leases
from tests.fakes import small_linux
from tests.fakes.disks import add_master, small_linux_disk
from tests.fakes.fake_windows import parts
from tests.fakes.power import Behaviour, power_disk
from tests.harness import Lab, domains, networks, new_home

#: Seconds for what takes one on a quiet host.
SOON = 300.0
#: Nobody has its private half.
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHVXj1oPbH2pH0XkYlKUhIoWHv6lz0CT2mqkqKZ5t3cF me"


class Vms(Lab):
    """A store with two masters that boot at once, `small` and `power`, and its `goldsmith vm`."""

    @property
    def key(self) -> Path:
        """A public key for `--ssh-key`."""
        path = self.home / "key.pub"
        path.write_text(f"{PUBLIC_KEY}\n")
        return path

    @property
    def store(self) -> Store:
        return Store(self.home)

    def vm(self, *words: str) -> str:
        """What a verb printed. It must not fail."""
        done = self.run("vm", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, *words: str) -> str:
        """The first line of why a verb refused."""
        done = self.run("vm", *words)
        assert done.returncode in (1, 2, 3, 4), done.stdout
        return done.stderr.splitlines()[0]

    def seen(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.vm("show", name, "--json"))
        return found

    def status(self, name: str) -> str:
        return str(self.seen(name)["status"])

    def page(self, name: str, path: str = "/index.html") -> str:
        """What the guest's web server answers, asked through the VM's own network."""
        request = f"GET {path} HTTP/1.0\r\n\r\n"
        argv = [sys.executable, "-m", "pipeline", "vm", "connect", name, "80"]
        done = subprocess.run(
            argv, input=request, capture_output=True, text=True, env=self.environment, timeout=SOON, check=False
        )
        return done.stdout

    def held(self, image: str) -> list[str]:
        return [lease.why for lease in leases(Gallery(self.home / "gallery"), image)]

    def left(self) -> list[str]:
        """What is there of instances."""
        label = self.store.instances_label
        found = [name for name in domains() if name.startswith(f"goldsmith-{label}-")]
        found += [str(path) for path in (self.home / "instances").glob("[!.]*")]
        found += [str(path) for path in (self.home / "instances").glob(".gone-*")]
        found += [str(path) for path in Path("/run/goldsmith").glob(label)]
        found += [name for name in networks() if name == label]
        found += [f"lease: {why}" for image in ("small", "power") for why in self.held(image)]
        return found

    def add_small(self, packages: Path) -> None:
        """A golden version of `small`, a Linux that reports Ready, serves a page and goes off by its button."""
        work = self.home / "tmp" / "disks"
        work.mkdir()
        found = parts.gather(packages)
        kernel = small_linux.make_small_linux(found, work / "small")
        small_linux_disk(found, kernel, work, work / "small.raw")
        add_master(Gallery(self.store.gallery), "small", work / "small.raw")
        shutil.rmtree(work)

    def add_power(self) -> None:
        """A new golden version of `power`, a guest that goes off by its button and does nothing else."""
        raw = self.home / "tmp" / "power.raw"
        power_disk(raw, Behaviour.BUTTON)
        add_master(Gallery(self.store.gallery), "power", raw)
        raw.unlink()

    def domains_on(self) -> list[str]:
        """The names of domains that run on this host."""
        return virsh("list", "--name").split()

    def fabric_pid(self) -> int:
        """The process that serves these VMs."""
        return int(control.ask(Host(self.store.instances_label).control, {"do": "hello"})["pid"])


def make_lab(prefix: str) -> Vms:
    """A laboratory with the master `power` alone, which needs no packages."""
    home = new_home(prefix)
    lab = Vms(home / "project", home)
    lab.store.ensure()
    lab.add_power()
    return lab


def virsh(*words: str) -> str:
    argv = ["virsh", "-q", "-c", "qemu:///system", *words]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout
