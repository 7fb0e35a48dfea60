"""`kill -9` at random moments of convert, export, import, archive and capture: `make campaign-kills`, no guests.

After each, `clean` is run; then nothing of goldsmith's is left beside targets, in the store, or in the places of
temporary files, and what the verb had to keep is whole. Of `capture` every other moment is of the command, which
ends at the inspection of a disk of noise, and every other of the last stage, which makes the version.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pipeline.base.scratch import PREFIX
from pipeline.base.store import Store
from pipeline.cli.environment import locate_store, signing_key
from pipeline.evidence import signing
from pipeline.evidence.checksum import write_evidence
from pipeline.gallery import Gallery, Version
from pipeline.gallery.retention import delete_version
from pipeline.maintenance.gc import clean_up
from tests.campaigns.gallery import capture as capture_noise
from tests.harness import ROOT, commit_id
from tests.processes import other_processes

COUNT = int(os.environ.get("GOLDSMITH_MOMENTS", "60"))
PAGE = ROOT / "docs/reports/campaign-kills.md"
NAME = "web"
VERBS = ("convert", "export", "import", "archive", "capture")
#: Bytes of noise that a converted or captured disk holds.
DATA = 48 << 20
#: Where programs leave temporary files.
SYSTEM = (Path("/tmp"), Path("/var/tmp"), Path("/run"), Path("/run/goldsmith"), Path("/dev/shm"))
#: What stays in a store for good, by its path there.
KEPT = re.compile(
    r"(gallery|layers|runs|(instances|disks)(/\.locks(/[a-z]+)?)?|downloads|tmp|scratch|accelerator\.json|archive(/.*)?"
    r"|gallery/[a-z]+(/\.lock|/\.leases|/\.tombstones(/[\d.]+\.json)?|/[\d.]+(/.*)?|/golden|/refused\.json)?"
    r"|runs/R\d+(/(?!\.).*)?|layers/[0-9a-f]{32}(/.*)?|tmp/(build-[a-z]+|layers)\.lock)"
)


@dataclass
class Bench:
    """A store with a key, a disk, and a folder of targets."""

    root: Path
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.targets = self.root / "targets"
        self.targets.mkdir()
        self.disk = self.root / "disk.raw"
        with self.disk.open("wb") as file:
            file.truncate(2 * DATA)
            file.write(os.urandom(DATA))
        self.store = Store(self.root / "store").ensure()
        os.environ |= {"GOLDSMITH_HOME": str(self.store.root), "GOLDSMITH_KEY": str(self.root / "key/signing.key")}
        self.key = signing.make(signing_key())
        self.gallery = Gallery(self.store.gallery)
        self.before = {place: set(_names(place)) for place in SYSTEM}
        self.gallery.promote(self.make())

    def make(self) -> Version:
        """One more version, signed."""
        return capture_signed(self.gallery, self.root, self.key)

    def spare(self) -> Version:
        """The newest version that no channel holds."""
        free = [version for version in self.gallery.versions(NAME) if not version.channels]
        return free[-1] if free else self.make()

    def words(self, verb: str, seed: int) -> list[str]:
        """The command of a verb; each time another target, or kind of target."""
        if verb == "convert":
            kind = ("fixed", "dynamic", "qcow2", "vmdk", "raw", "vhdx")[seed % 6]
            target = self.targets / f"disk-{kind}"
            force = ["--force"] if seed % 4 < 2 else []
            if not force:
                target.unlink(missing_ok=True)
            return ["vhd", "convert", str(self.disk), str(target), "--to", kind, "--format", "raw", *force]
        if verb == "export":
            shutil.rmtree(self.targets / "parcel", ignore_errors=True)
            return ["gallery", "export", NAME, str(self.targets / "parcel")]
        if verb == "import":
            parcel = self.root / "parcel"
            if not parcel.exists():
                self.run(["gallery", "export", f"{NAME}@{self.spare().version}", str(parcel)])
            version = json.loads((parcel / "manifest.json").read_text())["version"]
            shutil.rmtree(self.store.gallery / NAME / version, ignore_errors=True)
            return ["gallery", "import", str(parcel)]
        if verb == "archive":
            return ["gallery", "archive", f"{NAME}@{self.spare().version}"]
        return ["capture", str(self.disk), "--as", "noise"]

    def start(self, words: list[str]) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "pipeline", *words]
        return subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def run(self, words: list[str]) -> float:
        began = time.monotonic()
        self.start(words).wait(300)
        return time.monotonic() - began

    def clean(self) -> None:
        clean_up(self.store, layers=False)

    def left(self) -> list[str]:
        """What is there that should not be."""
        store = self.store.root
        found = [path.relative_to(store).as_posix() for path in sorted(store.rglob("*"))]
        bad = [f"store: {name}" for name in found if not KEPT.fullmatch(name) or _is_bad(store / name)]
        bad += [f"beside a target: {path.name}" for path in self.targets.iterdir() if path.name.startswith(".")]
        bad += [f"beside the archive: {path.name}" for path in self.root.iterdir() if path.name.startswith(".")]
        for path in self._in_the_system():
            # another goldsmith of this host may be at work: its files go by themselves
            if not _goes(path):
                bad.append(str(path))
        return bad + [f"process: {line}" for line in _processes(str(self.root))]

    def _in_the_system(self) -> list[Path]:
        found = [place / name for place, before in self.before.items() for name in set(_names(place)) - before]
        return [path for path in found if self._is_ours(path)]

    def _is_ours(self, path: Path) -> bool:
        if path.parent.name == "goldsmith":
            return self.store.own_run(path.name) is not None
        return path.name.startswith(PREFIX)


def _goes(path: Path) -> bool:
    until = time.monotonic() + 300
    while path.exists() and time.monotonic() < until:
        time.sleep(0.1)
    return not path.exists()


def _is_bad(path: Path) -> bool:
    """What has a name that stays, and yet should not: an entry of the journal, a layer without a record."""
    if path.parent.name == "scratch" and path.parent.parent.name == "store":
        return True
    return path.parent.name == "layers" and not (path / "record.json").exists()


def _names(place: Path) -> Iterator[str]:
    return (entry.name for entry in os.scandir(place)) if place.is_dir() else iter(())


def _processes(root: str) -> list[str]:
    return [each.line[:100] for each in other_processes() if root in each.line]


def moment(bench: Bench, verb: str, seed: int) -> str:
    """Kill the verb once; what is wrong after `clean`, or nothing."""
    dice = random.Random(f"{verb} {seed}")
    if verb == "capture" and seed % 2:
        argv = [sys.executable, "-m", "tests.campaigns.kills", "--capture", str(bench.root)]
        child = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(dice.uniform(0, 0.3))
    else:
        words = bench.words(verb, seed)
        if verb not in bench.seconds:
            bench.seconds[verb] = bench.run(words)
            words = bench.words(verb, seed)
        child = bench.start(words)
        # the first part of it only loads programs; scratch is made behind
        time.sleep(bench.seconds[verb] * dice.uniform(0.25, 1.0))
    child.send_signal(signal.SIGKILL)
    child.wait()
    _settle(bench)
    bench.clean()
    wrong = bench.left()
    golden = bench.gallery.find(NAME)
    if golden is None or golden.missing():
        wrong.append("golden is not whole")
    return "; ".join(wrong)


def _settle(bench: Bench) -> None:
    """Until the kernel has ended the children of the dead process too; at most a minute."""
    until = time.monotonic() + 60
    while _processes(str(bench.root)) and time.monotonic() < until:
        time.sleep(0.02)


def capture_signed(gallery: Gallery, root: Path, key: signing.SigningKey) -> Version:
    """A version with all its evidence."""
    words: dict[str, object] = {
        **{"summary": "noise", "os": "linux", "suite": None, "accelerator": "tcg", "agent": "waagent", "run": "R1"},
        **{
            "first_boot": None,
            "machine": {"cpus": 1, "memory": 1 << 30},
            "inputs": [],
            "definition": "",
            "tools": {},
        },
        **{"prove": {}, "signed_by": key.id, "evidence": 2},
    }
    complete = partial(write_evidence, contents=None, key=key)
    return capture_noise(gallery, root, random.Random(), complete, **words)


def capture_for_ever(root: Path) -> None:
    """Make versions without pause, as the last stage does."""
    gallery = Gallery(locate_store().gallery)
    key = signing.load(signing_key(), root / "store")
    assert key is not None
    print("ready", flush=True)
    while True:
        capture_signed(gallery, root, key)
        # the layers of an image are not pruned here, versions are: the disk would fill
        for version in gallery.versions(NAME)[:-8]:
            if not version.channels:
                with gallery.hold(NAME) as folder:
                    delete_version(folder, version, "the campaign")


@contextmanager
def _bench() -> Iterator[Bench]:
    from tests.harness import new_home, remove

    root = new_home("kills")
    root.mkdir(parents=True, exist_ok=True)
    kept = {name: os.environ.get(name) for name in ("GOLDSMITH_HOME", "GOLDSMITH_KEY")}
    try:
        yield Bench(root)
    finally:
        for name, value in kept.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        remove(root)


def run(
    count: int, verbs: tuple[str, ...] = VERBS, *, first: int = 0, say: Callable[[object], None] = print
) -> list[dict[str, object]]:
    """So many moments of each verb, from the number `first` on."""
    rows: list[dict[str, object]] = []
    with _bench() as bench:
        for verb in verbs:
            for seed in range(first, first + count):
                bad = moment(bench, verb, seed)
                rows.append({"verb": verb, "moment": seed, "wrong": bad, "ok": not bad})
                if bad:
                    say(rows[-1])
            say(f"{verb}: {count} moments")
    return rows


def main() -> int:
    began = time.monotonic()
    rows = run(COUNT)
    bad = [row for row in rows if not row["ok"]]
    lines = [
        "# Campaign: kills",
        "",
        f"Commit {commit_id()}, {len(rows)} moments, {time.monotonic() - began:.0f} s in all.",
        "",
        "A process that converts, exports, imports, archives or captures is killed by SIGKILL at a random moment.",
        "Then `clean` is run, and nothing of goldsmith's may be left beside the target, in the store, in /tmp,",
        "/var/tmp, /run or /dev/shm, and no process of it.",
        "",
        "| verb | kills | left something |",
        "|---|---|---|",
    ]
    for verb in VERBS:
        mine = [row for row in rows if row["verb"] == verb]
        lines.append(f"| {verb} | {len(mine)} | {sum(not row['ok'] for row in mine)} |")
    lines += [f"\n{json.dumps(row)}" for row in bad[:20]]
    text = "\n".join(lines) + "\n"
    PAGE.write_text(text)
    print(text)
    return 1 if bad else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--capture"]:
        capture_for_ever(Path(sys.argv[2]))
    sys.exit(main())
