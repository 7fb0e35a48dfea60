"""Every kind of record, damaged in every way, before every verb: `make campaign-records`, no guests.

No verb ends in a traceback, what is good is still shown, and what is damaged is named.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.base.disk_format import QCOW2
from pipeline.base.errors import GoldsmithError
from pipeline.base.runs import Run, write_json
from pipeline.base.scratch import sweep
from pipeline.base.store import Store
from pipeline.cache.layers import DISK, Image, Layers, PendingLayer
from pipeline.gallery import CANDIDATE, GOLDEN, Gallery
from pipeline.gallery.retention import delete_version, roll_back, take_lease
from pipeline.maintenance.gc import disk_use, in_use
from pipeline.maintenance.gc import prune as prune_layers
from tests.harness import ROOT, commit_id

#: How many cases; 0 for all.
COUNT = int(os.environ.get("GOLDSMITH_MOMENTS", "0"))
PAGE = ROOT / "docs/reports/campaign-records.md"
CHILD = "goldsmith: 1\nsummary: a child\nos: linux\nsource: {master: db@golden}\n"


@dataclass(frozen=True)
class Bench:
    """A store that holds one of each kind of record, and a pattern of it to begin again from."""

    root: Path

    @property
    def store(self) -> Store:
        return Store(self.root / "store")

    @property
    def project(self) -> Path:
        return self.root / "project"

    def reset(self) -> None:
        shutil.rmtree(self.store.root, ignore_errors=True)
        subprocess.run(["cp", "-a", self.root / "pattern", self.store.root], check=True)


def make(root: Path) -> Bench:
    """A bench with two images, and everything else that has a record."""
    from tests.unit.gallery.test_retention import capture

    bench = Bench(root)
    store = bench.store.ensure()
    (bench.project / "images").mkdir(parents=True)
    (bench.project / "images/child.yaml").write_text(CHILD)
    gallery, layers = Gallery(store.gallery), Layers(store.layers)
    versions = [capture(gallery) for _ in range(4)]
    with gallery.hold("web") as folder:
        delete_version(folder, versions[0], "too many")
    gallery.promote(versions[3])
    roll_back(gallery, "web", GOLDEN, "it was bad")
    gallery.promote(versions[1], CANDIDATE)
    gallery.promote(capture(gallery, name="db"))
    take_lease(gallery, versions[1], "an upload")
    gallery.refuse("web", {"gate": "prove", "why": "no page", "run": "R1", "when": "today"})
    write_json(store.gallery / "web/.truth.json", {"when": "2026-11-21T10:00:00Z", "run": "R1"})
    write_json(store.tmp / "index-bookworm.json", {"digest": "0" * 64, "seen": "2026-11-21T10:00:00Z"})
    for _ in range(2):
        run = Run.start(store.runs, "web", "goldsmith build web")
        run.stage("acquire", "new", seconds=1.5, detail="bootstrap", title="bootstrap")
        run.note(layers=["a" * 32])
        run.finish("failed", GoldsmithError("no", hint="try again"))
    below = None
    for key in ("a" * 32, "b" * 32):
        draft = layers.begin(key)
        assert isinstance(draft, PendingLayer)
        (draft.path / DISK).write_bytes(b"data" * 1000)
        made = Image(draft.path / DISK, QCOW2, below)
        draft.commit(stage="provision", inputs={"a": 1}, source=None, image=made, title="x", facts={})
        below = made
    shutil.copytree(store.root, root / "pattern", symlinks=True)
    return bench


def _kind(pattern: str) -> Callable[[Bench], Path]:
    def find(bench: Bench) -> Path:
        return sorted(bench.store.root.glob(pattern))[0]

    return find


#: Each kind of record, by where the first of it lies.
KINDS: dict[str, Callable[[Bench], Path]] = {
    "manifest": _kind("gallery/web/2*/manifest.json"),
    "golden's manifest": lambda bench: (bench.store.gallery / "web" / GOLDEN).resolve() / "manifest.json",
    "channel": _kind("gallery/web/golden"),
    "disk": _kind("gallery/web/2*/disk.vhd"),
    "run": _kind("runs/R1/run.json"),
    "layer": _kind("layers/a*/record.json"),
    "layer above": _kind("layers/b*/record.json"),
    "lease": _kind("gallery/web/.leases/*.json"),
    "withdrawn": _kind("gallery/web/.withdrawn/*.json"),
    "tombstone": _kind("gallery/web/.tombstones/*.json"),
    "refused": _kind("gallery/web/refused.json"),
    "truth": _kind("gallery/web/.truth.json"),
    "index": _kind("tmp/index-bookworm.json"),
    "accelerator": lambda bench: bench.store.root / "accelerator.json",
}


def replace(path: Path, data: bytes) -> None:
    remove(path)
    path.write_bytes(data)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def cut(path: Path) -> None:
    replace(path, path.read_bytes()[:25] if path.is_file() else b"{")


def edited(change: Callable[[object], object]) -> Callable[[Path], None]:
    """The record as an object, changed; of what is none an empty object."""

    def apply(path: Path) -> None:
        try:
            data = json.loads(path.read_bytes())
        except (OSError, ValueError):
            data = {}
        replace(path, json.dumps(change(data)).encode())

    return apply


def every(value: object) -> Callable[[object], object]:
    return lambda data: dict.fromkeys(data, value) if isinstance(data, dict) else value


def deeper(data: object) -> object:
    for _ in range(400):
        data = {"a": [data]}
    return data


def folder(path: Path) -> None:
    remove(path)
    (path / "inner").mkdir(parents=True)


def loop(path: Path) -> None:
    remove(path)
    path.symlink_to(path.name)


def outside(path: Path) -> None:
    remove(path)
    path.symlink_to("/etc/passwd")


def pipe(path: Path) -> None:
    remove(path)
    os.mkfifo(path)


MUTATIONS: dict[str, Callable[[Path], None]] = {
    "truncated": cut,
    "empty": lambda path: replace(path, b""),
    "missing": remove,
    "a list": lambda path: replace(path, b"[1, 2]"),
    "a text": lambda path: replace(path, b'"text"'),
    "null": lambda path: replace(path, b"null"),
    "an empty object": lambda path: replace(path, b"{}"),
    "nested 100,000 deep": lambda path: replace(path, b"[" * 100_000 + b"]" * 100_000),
    "objects 100,000 deep": lambda path: replace(path, b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "nested 800 deep": edited(deeper),
    "NUL": lambda path: replace(path, b"\0" * 500),
    "no UTF-8": lambda path: replace(path, b'{"id": "\xff\xfe"}'),
    "half a character": edited(every("\ud800")),
    "a huge number": lambda path: replace(path, b'{"id": ' + b"9" * 5000 + b"}"),
    "infinity": lambda path: replace(path, b'{"until": 1e999, "seconds": Infinity}'),
    "all null": edited(every(None)),
    "all lists": edited(every([])),
    "all objects": edited(every({})),
    "all numbers": edited(every(-1)),
    "all large numbers": edited(every(1 << 62)),
    "all texts": edited(every("\x1b[31m\n../..")),
    "a folder": folder,
    "a loop of links": loop,
    "a link outside": outside,
    "a pipe": pipe,
    "1 GiB": lambda path: (replace(path, b"{"), os.truncate(path, 1 << 30), None)[2],
}


def without(number: int) -> Callable[[object], object]:
    """Without its key of this number."""

    def change(data: object) -> object:
        pairs = list(data.items()) if isinstance(data, dict) else []
        return dict(pairs[:number] + pairs[number + 1 :])

    return change


MUTATIONS |= {f"without key {number}": edited(without(number)) for number in range(12)}


Outcome = tuple[str, int, str]


def call(*words: str) -> Outcome:
    """(output, exit code, traceback) of a command, in this process: the frame of the command line included."""
    from pipeline import __main__ as frame

    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["goldsmith", *words]
    trace, code = "", 99
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = frame._guarded()
        except BaseException:
            trace = traceback.format_exc()
        finally:
            sys.argv = before
    text = out.getvalue() + err.getvalue()
    if "host-file-error" in text or ("Errno" in text and not trace):
        trace = text  # an error that only the last net has caught
    return text, code, trace


def direct(deed: Callable[[], object]) -> Outcome:
    """A deed of a verb that otherwise needs libvirt."""
    try:
        return str(deed()), 0, ""
    except GoldsmithError as error:
        return error.message, error.exit_code, ""
    except BaseException:
        return "", 99, traceback.format_exc()


def verbs(bench: Bench) -> dict[str, Callable[[], Outcome]]:
    """Every verb that reads records, as a person calls it."""
    from pipeline.maintenance.gc import _sweep_store

    store = bench.store
    version = sorted(path.name for path in (store.gallery / "web").glob("2*"))[0]
    commands: dict[str, tuple[str, ...]] = {
        "gallery list": ("gallery", "list"),
        "gallery list --json": ("gallery", "list", "--json"),
        "gallery show": ("gallery", "show", f"web@{version}"),
        "gallery show golden": ("gallery", "show", "web", "--json"),
        "gallery show other": ("gallery", "show", "db"),
        "gallery verify": ("gallery", "verify"),
        "gallery promote": ("gallery", "promote", f"web@{version}", "stable", "--create"),
        "gallery promote golden": ("gallery", "promote", f"web@{version}"),
        "gallery rollback": ("gallery", "rollback", "web"),
        "gallery lease": ("gallery", "lease", f"web@{version}"),
        "gallery prune": ("gallery", "prune", "web", "--keep", "1"),
        "gallery export": ("gallery", "export", f"web@{version}", str(bench.root / "parcel")),
        "runs list": ("runs", "list"),
        "runs list --json": ("runs", "list", "--json"),
        "runs show": ("runs", "show", "R1"),
        "runs show --json": ("runs", "show", "R1", "--json"),
        "shell": ("shell", "R1"),
        "plan": ("--project", str(bench.project), "plan", "child"),
    }
    found: dict[str, Callable[[], Outcome]] = {
        name: (lambda words=words: call(*words)) for name, words in commands.items()
    }
    return found | {
        "clean": lambda: direct(lambda: [*_sweep_store(store), *sweep(), *Layers(store.layers).sweep()]),
        "clean --keep": lambda: direct(lambda: prune_layers(store, 1)),
        "doctor": lambda: direct(lambda: disk_use(store)),
        "in use": lambda: direct(lambda: in_use(store)),
    }


#: Damage of these is seen by `gallery list`.
LISTED = ("manifest", "golden's manifest")


def _is_bad_channel(kind: str, mutation: str) -> bool:
    return kind == "channel" and mutation != "missing"


def wrong_with(bench: Bench, kind: str, mutation: str, verb: str) -> str:
    """What is wrong with a verb before a damaged record, or nothing."""
    bench.reset()
    shutil.rmtree(bench.root / "parcel", ignore_errors=True)
    deeds = verbs(bench)
    path = KINDS[kind](bench)
    MUTATIONS[mutation](path)
    # not every key is one that a record must have
    must_be_named = kind in LISTED and not mutation.startswith("without")
    text, code, trace = deeds[verb]()
    if trace:
        return trace.strip().splitlines()[-1][:300]
    if verb == "gallery list":
        if "db" not in text:
            return "the good image is not shown"
        if must_be_named and (code != 1 or str(path) not in text):
            return f"exit {code}, and the damaged record is not named: {text[-300:]}"
    if (
        verb == "gallery verify"
        and (must_be_named or kind == "disk" or _is_bad_channel(kind, mutation))
        and code == 0
    ):
        return "it was called good"
    if verb == "runs list" and not ("R1" in text and "R2" in text):
        return "a run is not shown"
    if code not in (0, 1, 2, 3, 4):
        return f"exit {code}"
    return ""


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    kept = {name: os.environ.get(name) for name in ("GOLDSMITH_HOME", "GOLDSMITH_KEY")}
    with tempfile.TemporaryDirectory(prefix="goldsmith-records-") as name:
        root = Path(name)
        os.environ |= {"GOLDSMITH_HOME": str(root / "store"), "GOLDSMITH_KEY": str(root / "none/signing.key")}
        try:
            yield make(root)
        finally:
            for word, value in kept.items():
                os.environ.pop(word) if value is None else os.environ.update({word: value})


def cases(count: int = COUNT, seed: int = 0) -> list[tuple[str, str, str]]:
    """All cases, or so many of them, others with another seed."""
    with bench() as made:
        names = list(verbs(made))
    everything = [(kind, mutation, verb) for kind in KINDS for mutation in MUTATIONS for verb in names]
    return random.Random(seed).sample(everything, count) if count else everything


def main() -> int:
    began = time.monotonic()
    found: dict[str, int] = {}
    bad = []
    all_of_them = cases()
    with bench() as made:
        for kind, mutation, verb in all_of_them:
            found[kind] = found.get(kind, 0) + 1
            if wrong := wrong_with(made, kind, mutation, verb):
                bad.append((kind, mutation, verb, wrong))
                print(bad[-1], flush=True)
    lines = [
        "# Campaign: records",
        "",
        f"Commit {commit_id()}, {len(all_of_them)} cases, {time.monotonic() - began:.0f} s in all.",
        "",
        f"Each kind of record is damaged in {len(MUTATIONS)} ways, and each verb is called: no traceback, no error",
        "without a name, what is good is shown, a damaged version is named.",
        "",
        "| record | cases | wrong |",
        "|---|---|---|",
        *(f"| {kind} | {count} | {sum(each[0] == kind for each in bad)} |" for kind, count in found.items()),
        *(f"\n{json.dumps(each)}" for each in bad[:20]),
    ]
    text = "\n".join(lines) + "\n"
    PAGE.write_text(text)
    print(text)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
