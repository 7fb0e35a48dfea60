"""The store that faults are injected into: masters of a toy on a file system of its own, and verbs that change it.

The file system lies in a file, mounted by a loop device, so that it can be filled, made read-only, shut down, or
looked at as a power cut leaves it: what is in the file at that moment, and nothing of what only memory has. No guest
is started: tests/fakes/toy_system is built, inspected, proven and captured by the engine of all systems.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline import __main__ as frame
from pipeline.base.errors import GoldsmithError
from pipeline.base.store import Store
from pipeline.cli import app  # noqa: F401  loaded once, before the processes that need it are forked
from pipeline.cli.gallery.options import evidence_judge
from pipeline.cli.show import print_error  # noqa: F401  as above
from pipeline.engine import runner  # noqa: F401  as above
from pipeline.evidence import signing
from pipeline.gallery import Gallery
from pipeline.gallery.integrity import verify
from pipeline.gallery.retention import promotion_blocker
from pipeline.maintenance import gc  # noqa: F401  as above
from pipeline.systems import registry
from tests.fakes.toy_system.system import SYSTEM
from tests.harness import networks
from tests.processes import has_ended, other_processes
from tests.unit.systems.test_toy_build import DEFINITION
from tests.unit.systems.test_toy_inspection import FILES, disk_of

MIB = 1 << 20
#: How each file system is made and mounted. ext4 without its own help for programs that rename before they sync, and
#: without blocks that only root may use: a full one is full for everybody.
FILE_SYSTEMS: Mapping[str, tuple[list[str], str, int]] = {
    "ext4": (["mkfs.ext4", "-q", "-F", "-m", "0"], "loop,noauto_da_alloc,errors=remount-ro", 160 * MIB),
    "xfs": (["mkfs.xfs", "-q"], "loop", 320 * MIB),
    # with room for VMs: goldsmith wants room for whole disks, which stay sparse here
    "ext4-large": (["mkfs.ext4", "-q", "-F", "-m", "0"], "loop", 8 << 30),
}
#: Seconds within which a command that meets a fault ends, on a busy host.
DEADLINE = 120.0
#: What may be below the file system after `clean`, by its path there; a verb's own target is added.
KEPT = re.compile(
    r"(lost\+found|store|project|key|published|parcel|targets|tmp|borg)"
    r"|(project|key|published|parcel|borg)/.*"
    r"|store/(gallery|layers|runs|instances|disks|downloads|tmp|scratch|archive|refresh\.json|publish|accelerator\.json)"
    r"|store/(instances|disks)/\.locks(/[a-z]+)?|store/archive/(?!lock).*|store/publish/.*"
    r"|store/gallery/\.list-index\.json"
    r"|store/gallery/[a-z]+(/\.lock|/\.(leases|withdrawn|tombstones)(/[\d.]+\.json)?|/[\d.]+(/.*)?|/(golden|stable)"
    r"|/refused\.json)?"
    r"|store/runs/R\d+(/(?!\.).*)?|store/layers/[0-9a-f]{32}(/(?!lock).*)?"
    r"|store/tmp/((build-[a-z]+|layers|refresh)\.lock)"
)


# ---- processes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (-9: killed), its error's name, and what it printed."""

    code: int
    error: str
    output: str

    @property
    def how(self) -> str:
        if "Traceback" in self.output:
            return f"traceback: {self.output.strip().splitlines()[-1][:200]}"
        if self.code == 0:
            return "done"
        if self.code == -9:
            return "killed"
        return self.error or f"exit {self.code}: {self.output.strip()[-200:]}"


class Command:
    """`goldsmith WORDS` in a process that waits until it is let go, so that a tracer counts its calls from there."""

    def __init__(self, bench: Bench, words: Sequence[str], number: int = 1) -> None:
        self._out = bench.beside / f"output-{number}"
        # in memory that it shares with this process: no call of the kernel can fail on the way
        self._error = mmap.mmap(-1, 256)
        ready, self._go = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._be(ready, words)
        os.close(ready)

    def _be(self, ready: int, words: Sequence[str]) -> None:
        """Be the command; does not return."""
        os.close(self._go)
        out = os.open(self._out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.read(ready, 1)
        os.close(ready)
        report = frame._report

        def note(error: GoldsmithError) -> None:
            self._error.write(error.name.encode()[:256])
            report(error)

        frame._report = note
        sys.argv = ["goldsmith", *words]
        try:
            frame.main()
        except BaseException:
            traceback.print_exc()
        finally:
            # never up into the campaign that this process is a copy of
            os._exit(70)

    def start(self) -> None:
        os.write(self._go, b"1")
        os.close(self._go)

    def has_ended(self) -> bool:
        return has_ended(self.pid)

    def kill(self) -> None:
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)

    def end(self, deadline: float = DEADLINE) -> Ended:
        """Wait for its end; a command that does not end in time is killed, and its code is -15."""
        until, code = time.monotonic() + deadline, None
        while code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > until:
                self.kill()
                code = -15
            else:
                time.sleep(0.005)
        name = self._error[:].rstrip(b"\0").decode()
        output = self._out.read_text(errors="replace") if self._out.exists() else ""
        return Ended(code, "deadline" if code == -15 else name, output)


# ---- the verbs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verb:
    """A command, whether its product is there and whole, what it may take away, its target beside the store."""

    words: tuple[str, ...]
    is_done: Callable[[Bench], bool]
    takes: tuple[str, ...] = ()
    targets: str = ""


def _page_is(bench: Bench, image: str, text: str) -> bool:
    """Whether golden of an image has this page: read from its disk, not from what records say of it."""
    golden = bench.gallery.find(image)
    if golden is None:
        return False
    argv = ["mcopy", "-n", "-i", f"{golden.disk}@@{MIB}", "::TOY/PAGE.TXT", "-"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout == text


def _exported(bench: Bench) -> bool:
    folder = bench.root / "targets/out"
    argv = ["sha256sum", "--quiet", "-c", "SHA256SUMS"]
    return folder.is_dir() and subprocess.run(argv, cwd=folder, capture_output=True, check=False).returncode == 0


def _published(bench: Bench) -> bool:
    golden, path = bench.gallery.find("drum"), bench.root / "published/drum/index.json"
    if golden is None or not path.exists():
        return False
    index = json.loads(path.read_text())
    folders = {each["version"]: each["folder"] for each in index["versions"]}
    disk = bench.root / "published" / folders.get(golden.version, "none") / "disk.vhd"
    return index["newest"] == golden.version and disk.exists() and disk.read_bytes() == golden.disk.read_bytes()


def _converted(bench: Bench) -> bool:
    target = bench.root / "targets/disk.qcow2"
    argv = ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", str(bench.source), str(target)]
    return target.exists() and subprocess.run(argv, capture_output=True, check=False).returncode == 0


def _points(bench: Bench, channel: str, version: str) -> bool:
    found = bench.gallery.find("drum", channel)
    return found is not None and found.version == bench.names[version]


def _lacks(bench: Bench, version: str) -> bool:
    return bench.gallery.find("drum", bench.names[version]) is None


PROJECT = ("--project", "{root}/project")
VERBS: Mapping[str, Verb] = {
    "build": Verb((*PROJECT, "build", "drum"), partial(_page_is, image="drum", text="page 3\n")),
    "refresh": Verb((*PROJECT, "refresh", "--all"), partial(_page_is, image="drum", text="page 3\n")),
    "capture": Verb(
        ("capture", "{root}/project/hand.raw", "--as", "hand", "--generation", "1"),
        lambda bench: bench.gallery.find("hand") is not None,
    ),
    "export": Verb(("gallery", "export", "drum", "{root}/targets/out"), _exported, targets="out"),
    "import": Verb(("gallery", "import", "{root}/parcel"), lambda bench: bool(bench.gallery.versions("horn"))),
    "archive": Verb(("gallery", "archive", "drum@{middle}"), partial(_lacks, version="middle"), ("middle",)),
    "restore": Verb(("gallery", "restore", "drum@{archived}"), lambda bench: not _lacks(bench, "archived")),
    "push": Verb(("publish", "push", "drum", "{root}/published"), _published),
    "promote": Verb(
        ("gallery", "promote", "drum@{middle}", "stable", "--create"),
        partial(_points, channel="stable", version="middle"),
    ),
    "rollback": Verb(
        ("gallery", "rollback", "drum", "--why", "a fault"), partial(_points, channel="golden", version="middle")
    ),
    "remove": Verb(
        ("gallery", "remove", "drum@{middle}", "--why", "a fault"), partial(_lacks, version="middle"), ("middle",)
    ),
    "prune": Verb(("gallery", "prune", "drum", "--keep", "1"), partial(_lacks, version="middle"), ("middle",)),
    "clean": Verb(("clean", "--layers"), lambda bench: not any((bench.store.layers).glob("*/record.json"))),
    "convert": Verb(
        ("vhd", "convert", "{root}/project/toy.raw", "{root}/targets/disk.qcow2", "--to", "qcow2", "--format", "raw"),
        _converted,
        targets=r"disk\.qcow2",
    ),
}


# ---- the bench ---------------------------------------------------------------------------------------------------


class Bench:
    """A mounted file system with a store, a project, a key and what was published. `beside` is on another one."""

    def __init__(self, beside: Path, kind: str) -> None:
        self.beside, self.kind = beside, kind
        self.root = beside / "host"
        self._number = 0
        self.image = beside / f"case-{os.getpid()}-0.img"
        self.pattern = beside / f"pattern-{kind}.img"
        self.store = Store(self.root / "store")
        self.gallery = Gallery(self.store.gallery)
        self.names: dict[str, str] = {}

    @property
    def source(self) -> Path:
        return self.root / "project/toy.raw"

    def hand_in(self) -> None:
        """Make this process, and those forked from it, work on this store."""
        os.environ |= {
            "GOLDSMITH_HOME": str(self.store.root),
            "GOLDSMITH_KEY": str(self.root / "key/signing.key"),
            "TMPDIR": str(self.root / "tmp"),
            "LC_ALL": "C.UTF-8",
            # borg remembers how new an archive is: a pattern that is put back is older
            "BORG_BASE_DIR": str(self.root / "borg"),
        }

    # ---- its file system

    def mount(self, options: str = "") -> None:
        _, usual, _ = FILE_SYSTEMS[self.kind]
        self.root.mkdir(exist_ok=True)
        _run("mount", "-o", f"{usual},{options}" if options else usual, str(self.image), str(self.root))

    def unmount(self) -> None:
        until = time.monotonic() + 60
        while self.root.is_mount():
            done = subprocess.run(["umount", self.root], capture_output=True, text=True, check=False)
            if done.returncode and time.monotonic() > until:
                raise AssertionError(f"the file system is still used: {done.stderr.strip()}")
            if done.returncode:
                time.sleep(0.05)

    def reset(self) -> None:
        """The pattern again, mounted."""
        self.unmount()
        # another file: a mount that somebody's namespace still has would lend this case its memory of the last one
        self.image.unlink(missing_ok=True)
        self._number += 1
        self.image = self.beside / f"case-{os.getpid()}-{self._number}.img"
        _run("cp", "--sparse=always", str(self.pattern), str(self.image))
        self.mount()

    def make(self) -> None:
        """Make the pattern: drum with an archived version, one in no channel and golden; horn as an export."""
        argv, _, size = FILE_SYSTEMS[self.kind]
        self.unmount()
        with self.image.open("wb") as file:
            file.truncate(size)
        _run(*argv, str(self.image))
        self.mount()
        for name in ("tmp", "targets", "project/images", "key"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        self.store.ensure()
        signing.make(self.root / "key/signing.key")
        project = self.root / "project"
        disk_of(project, {**FILES, "TOY/WOUND": "up"})
        (project / "part").unlink()
        for name in ("drum", "horn"):
            (project / f"images/{name}.yaml").write_text(DEFINITION)
        (project / "page.txt").write_text("a page of horn\n")
        self.must(*PROJECT, "build", "horn")
        self.must("gallery", "export", "horn", "{root}/parcel")
        shutil.rmtree(self.store.gallery / "horn")
        (project / "images/horn.yaml").unlink()
        for number in range(3):
            (project / "page.txt").write_text(f"page {number}\n")
            self.must(*PROJECT, "build", "drum")
            if number == 1:
                self.must("publish", "push", "drum", "{root}/published")
        shutil.copyfile(self.gallery.get("drum").disk, project / "hand.raw")
        os.truncate(project / "hand.raw", (project / "hand.raw").stat().st_size - 512)
        (project / "page.txt").write_text("page 3\n")
        self.learn()
        self.must("gallery", "archive", "drum@{archived}")
        self.must("clean")
        self.unmount()
        _run("cp", "--sparse=always", str(self.image), str(self.pattern))
        self.pattern.with_suffix(".json").write_text(json.dumps(self.names))

    def learn(self) -> None:
        """The versions' numbers by their parts here."""
        path = self.pattern.with_suffix(".json")
        if path.exists():
            self.names = json.loads(path.read_text())
        else:
            numbers = [each.version for each in self.gallery.versions("drum")]
            self.names = dict(zip(("archived", "middle", "golden"), numbers, strict=True))

    # ---- commands on it

    def command(self, words: Sequence[str], number: int = 1) -> Command:
        """A command that waits for its start; of several at once each has a number."""
        return Command(self, [word.format(root=self.root, **self.names) for word in words], number)

    def run(self, *words: str) -> Ended:
        command = self.command(words)
        command.start()
        return command.end()

    def must(self, *words: str) -> None:
        ended = self.run(*words)
        assert ended.code == 0, f"{' '.join(words)}: {ended.output}"

    # ---- what must be true

    def wrong(self, verb: Verb) -> list[str]:
        """What of the gallery is lost or damaged: it is read whole, with its signatures."""
        found = []
        judge = evidence_judge([])
        for image in self.gallery.names():
            items = verify(self.gallery, image, judge=judge)
            found += [f"{item.what}: {item.wrong}" for item in items if item.wrong and not item.scratch]
        for part in ("middle", "golden"):
            if part not in verb.takes and self.gallery.find("drum", self.names[part]) is None:
                found.append(f"the {part} version is lost")
        golden = self.gallery.find("drum")
        if golden is None or promotion_blocker(golden):
            found.append("drum has no good golden version")
        return found

    def left(self, verb: Verb) -> list[str]:
        """What is there that nobody needs: files, processes, mounts, networks."""
        own = re.compile(rf"targets/{verb.targets}(/.*)?") if verb.targets else None
        found = []
        for path in sorted(self.root.rglob("*")):
            name = path.relative_to(self.root).as_posix()
            if not KEPT.fullmatch(name) and not (own and own.fullmatch(name)):
                found.append(f"file {name}")
            elif path.parent == self.store.layers and not (path / "record.json").exists():
                found.append(f"layer {path.name} without a record")
            elif path.parent == self.store.root / "scratch" or re.fullmatch(r"\..+\.\d+\.\d+", path.name):
                found.append(f"file {name}")
        found += [f"process {line}" for line in _processes(str(self.store.root))]
        found += [f"mount {line}" for line in self._mounts()]
        return found + [f"network {name}" for name in networks() if self.store.own_run(name) is not None]

    def _mounts(self) -> list[str]:
        places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        return [place for place in places if place.startswith(f"{self.root}/")]


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr.strip()}"


def _processes(home: str) -> list[str]:
    """Processes whose command or environment names this store; not this one, nor those above it."""
    found = (each for each in other_processes() if "campaigns" not in each.line)
    return [each.line[:120] for each in found if home in each.line or home in each.environment]


@contextlib.contextmanager
def opened(beside: Path, kind: str) -> Iterator[Bench]:
    """A bench in a folder; its pattern is made where there is none. The file system is unmounted at the end."""
    registry.register(SYSTEM)
    bench = Bench(beside, kind)
    bench.hand_in()
    try:
        if not bench.pattern.exists():
            bench.make()
        bench.learn()
        yield bench
    finally:
        bench.unmount()
        bench.image.unlink(missing_ok=True)
        registry.unregister(SYSTEM.name)
