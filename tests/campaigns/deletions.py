"""A command reads while another one deletes: `make campaign-deletions`, no guests and no libvirt.

Before each access of a verb to something in the store that another command may delete (a version, a channel, a run, a
layer, a VM, a disk), exactly that is deleted. A verb that shows or looks after all of them goes on with the others; a
verb that names it says that there is none; nothing ends in an error that only the last net has caught.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt

from pipeline import __main__ as frame
from pipeline.base.errors import GoldsmithError
from pipeline.base.runs import LOCK as RUN_LOCK
from pipeline.base.runs import held
from pipeline.base.store import Store
from pipeline.evidence.site import write_site
from pipeline.evidence.site_data import collect
from pipeline.facade.backend import translated
from pipeline.facade.errors import ArmError
from pipeline.facade.fields import Fields
from pipeline.facade.home import Home
from pipeline.facade.manager import Manager
from pipeline.facade.routing import Request
from pipeline.gallery import GONE, LOCK, Gallery
from pipeline.gallery.retention import leases
from pipeline.gallery.versions import parse
from pipeline.instances.disk_records import DiskRecord
from pipeline.instances.fleet import Fleet
from tests.campaigns import records
from tests.campaigns.records import Bench, Outcome, call, direct
from tests.demo_gallery import add_vm
from tests.fakes.facade import GROUP, MACHINES, VERSION
from tests.harness import ROOT, commit_id

PAGE = ROOT / "docs/reports/campaign-deletions.md"
#: Errors that report that the thing which a command names does not exist.
UNKNOWN = ("gallery-unknown", "run-unknown", "vm-unknown", "disk-unknown", "no-such-image")
MADE = "2026-11-26T08:05:00Z"
#: Folders of the store whose entries commands make and delete.
KINDS = ("runs", "layers", "instances", "disks")
#: What an image's folder has beside versions and channels: folders of files that come and go.
INNER = (".leases", ".withdrawn", ".tombstones")


@dataclass(frozen=True)
class Case:
    """A verb, the number of its access to the store, what is deleted before that, and how."""

    verb: str
    access: int
    thing: str
    way: str = "deleted"


# ---- what is deleted ---------------------------------------------------------------------------------------------


def thing_of(path: str) -> str:
    """What another command deletes of which this path, below the store, is or is a part; '' where none does."""
    parts = path.split("/")
    if parts[0] in KINDS and len(parts) > 1 and not parts[1].startswith("."):
        return "/".join(parts[:2])
    if parts[0] != "gallery" or len(parts) < 3:
        return ""
    if parts[2] in INNER:
        return "/".join(parts[:4]) if len(parts) > 3 else ""
    return "/".join(parts[:3]) if parse(parts[2]) or not parts[2].startswith(".") else ""


def ways_of(store: Store, thing: str) -> list[str]:
    """How a thing is deleted: a channel may have moved on from a version before."""
    path = store.root / thing
    on_it = path.parent.parent == store.gallery and parse(path.name) and _channels_on(path)
    return ["deleted", "replaced"] if on_it and _another(path) else ["deleted"]


def may_go(store: Store, thing: str) -> bool:
    """Whether another command may delete it at this moment: nothing of it is held by the verb that looks."""
    path = store.root / thing
    if path.parent.parent == store.gallery:
        image = path.parent
        keeps = [lease for lease in leases(Gallery(store.gallery), image.name) if lease.version == path.name]
        return not held(image / LOCK) and not any(lease.pid == os.getpid() for lease in keeps)
    if path.parent.parent.parent == store.gallery:
        return not held(path.parent.parent / LOCK)
    if path.parent == store.layers:
        return not held(store.tmp / "layers.lock")
    if path.parent in (store.instances, store.disks):
        return not held(path.parent / ".locks" / f"{path.name}.lock")
    return not held(path / RUN_LOCK)


def delete(store: Store, thing: str, way: str) -> None:
    """As goldsmith deletes: a version leaves its channels first, and then its name, in one rename."""
    path = store.root / thing
    if path.parent.parent == store.gallery and parse(path.name) and not path.is_symlink():
        for link in _channels_on(path):
            link.unlink()
            if way == "replaced":
                link.symlink_to(_another(path))
    gone = path.with_name(f"{GONE}{path.name}")
    path.rename(gone)
    if gone.is_dir() and not gone.is_symlink():
        shutil.rmtree(gone)
    else:
        gone.unlink()


def _channels_on(version: Path) -> list[Path]:
    return [each for each in version.parent.iterdir() if each.is_symlink() and str(each.readlink()) == version.name]


def _another(version: Path) -> str:
    """Another version of the image, '' where there is none."""
    names = [each.name for each in version.parent.iterdir() if parse(each.name) and each.name != version.name]
    return max(names, default="")


# ---- the moment --------------------------------------------------------------------------------------------------


class Watch:
    """Counts the accesses of this process to things of a store, and does something before one of them."""

    def __init__(self, store: Store, before: int = -1, deed: Callable[[], None] | None = None) -> None:
        self._root = f"{store.root}/"
        self._before, self._deed = before, deed
        self._is_on = False
        self.things: list[str] = []

    def _note(self, path: object) -> None:
        name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""
        if not self._is_on or not str(name).startswith(self._root):
            return
        self._is_on = False  # do not count the accesses of this function
        try:
            thing = thing_of(str(name).removeprefix(self._root))
            if thing and os.path.lexists(self._root + thing):
                if len(self.things) == self._before and self._deed is not None:
                    self._deed()
                self.things.append(thing)
        finally:
            self._is_on = True

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        places: list[tuple[Any, str]] = [(os, each) for each in ("stat", "lstat", "readlink", "listdir", "scandir")]
        places += [(os, "open"), (io, "open"), (builtins, "open")]
        real = {(place, name): getattr(place, name) for place, name in places}
        for (place, name), function in real.items():
            setattr(place, name, self._wrapped(function))
        self._is_on = True
        try:
            yield
        finally:
            self._is_on = False
            for (place, name), function in real.items():
                setattr(place, name, function)

    def _wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(path: object = ".", *values: Any, **named: Any) -> Any:
            if named.get("dir_fd") is None:
                self._note(path)
            return function(path, *values, **named)

        return noted


# ---- the verbs ---------------------------------------------------------------------------------------------------


def fill(bench: Bench) -> None:
    """What the bench of damaged records does not have: VMs, and a disk of its own."""
    for number in range(3):
        state = {"allocated": bool(number), "provisioned": MADE}
        add_vm(bench.store, f"web-{number}", "db", {**state, "id": f"00000000-0000-4000-8000-{number:012}"})
    for manifest in bench.store.gallery.glob("*/2*/manifest.json"):
        (manifest.parent / "report.html").write_text("a page of the site\n")
    fleet = Fleet(bench.store)
    for number, name in enumerate(("data1", "data2")):
        (fleet.disks.root / name).mkdir(parents=True)
        file = fleet.disks.root / name / "disk.qcow2"
        file.write_bytes(bytes(4096))
        image, identity = {"path": str(file), "format": "qcow2"}, f"00000000-0000-4000-9000-{number:012}"
        fleet.disks.save(DiskRecord(identity, name, MADE, "build", 1 << 20, "qcow2", "Empty", image))
    shutil.rmtree(bench.root / "pattern")
    shutil.copytree(bench.store.root, bench.root / "pattern", symlinks=True)


def verbs(bench: Bench) -> dict[str, Callable[[], Outcome]]:
    """Those of the campaign of records, and some more."""
    store = bench.store
    commands: dict[str, tuple[str, ...]] = {
        "gallery channel list": ("gallery", "channel", "list"),
        "gallery prune --dry-run": ("gallery", "prune", "web", "--keep", "1", "--dry-run"),
        "gallery verify golden": ("gallery", "verify", "db@golden"),
        "runs prune --dry-run": ("runs", "prune", "--keep", "1", "--dry-run"),
        "plan --all": ("--project", str(bench.project), "plan", "--all", "--json"),
        "vm list": ("vm", "list"),
        "vm list --json": ("vm", "list", "--json"),
        "vm show": ("vm", "show", "web-1"),
        "vm budget": ("vm", "budget"),
        "disk list": ("disk", "list"),
        "disk show": ("disk", "show", "data1"),
    }
    own: dict[str, Callable[[], Outcome]] = {
        name: (lambda words=words: call(*words)) for name, words in commands.items()
    }
    return {
        **records.verbs(bench),
        **own,
        "site": lambda: direct(lambda: write_site(collect(store), bench.root / "site").images),
        **{name: (lambda path=path: ask(bench, path)) for name, path in QUESTIONS.items()},
    }


def ask(bench: Bench, path: str) -> Outcome:
    """What the facade of Azure answers to a request, as (text, status, traceback)."""
    manager = Manager(bench.store, Home(bench.root / "facade").ensure(), lambda: Fleet(bench.store), can_change=False)
    request = Request("GET", path, dict([VERSION.split("=")]), Fields({}), "https://localhost")
    try:
        answer = translated(path, lambda: manager.answer(request))
    except ArmError as error:
        # an error of the last net has a number in place of a name
        return error.message, error.status, error.message if error.own_name is None and error.status > 499 else ""
    return json.dumps(answer.body), answer.status, ""


#: Requests of az to `goldsmith serve azure`.
QUESTIONS = {
    "az vm list": MACHINES,
    "az vm show": f"{MACHINES}/web-1",
    "az disk list": f"{GROUP}/providers/Microsoft.Compute/disks",
    "az disk show": f"{GROUP}/providers/Microsoft.Compute/disks/data1",
    "az sig image-version list": f"{GROUP}/providers/Microsoft.Compute/galleries/goldsmith/images/web-gen1/versions",
    "az sig image-definition list": f"{GROUP}/providers/Microsoft.Compute/galleries/goldsmith/images",
}
#: Verbs that name one thing: they may report that it does not exist.
NAMING = {
    "gallery show": "gallery/web",
    "gallery show golden": "gallery/web",
    "gallery show other": "gallery/db",
    "gallery verify golden": "gallery/db",
    "gallery promote": "gallery/web",
    "gallery promote golden": "gallery/web",
    "gallery rollback": "gallery/web",
    "gallery lease": "gallery/web",
    "gallery export": "gallery/web",
    "runs show": "runs/R1",
    "runs show --json": "runs/R1",
    "shell": "runs/R1",
    "plan": "gallery/db",
    "plan --all": "gallery/db",
    "vm show": "instances/web-1",
    "disk show": "disks/data1",
    "az vm show": "instances/web-1",
    "az disk show": "disks/data1",
}
#: Those among them that name a channel, which has another version where it has moved on.
BY_CHANNEL = ("gallery show golden", "gallery show other", "gallery verify golden", "gallery rollback", "plan")


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """The bench of the campaign of records, with VMs, on a host of libvirt's test driver."""
    real = libvirt.open

    def open_test_host(_uri: str) -> libvirt.virConnect:
        made = real("test:///default")
        made.setKeepAlive = lambda *_values: 0
        return made

    with records.bench() as made:
        fill(made)
        libvirt.open = open_test_host
        try:
            yield made
        finally:
            libvirt.open = real


class Trial:
    """A verb on the bench: as it ends where nobody deletes anything, and a case for each of its accesses."""

    def __init__(self, bench: Bench, verb: str) -> None:
        self.bench, self.verb = bench, verb
        watch = Watch(bench.store)
        _, (self.text, self.code, trace) = self._run(watch)
        assert not trace and watch.things, f"{verb}: {trace or self.text}"
        self._reset()
        self.cases = [
            Case(verb, number, thing, way)
            for number, thing in enumerate(watch.things)
            if os.path.lexists(bench.store.root / thing)  # the verb has not made it itself
            for way in ways_of(bench.store, thing)
        ]

    def _reset(self) -> None:
        self.bench.reset()
        for name in ("parcel", "site"):
            shutil.rmtree(self.bench.root / name, ignore_errors=True)

    def _run(self, watch: Watch) -> tuple[str, Outcome]:
        """(the name of its error, its outcome) on a bench that is as it was."""
        self._reset()
        names: list[str] = []
        report = frame._report

        def note(error: GoldsmithError) -> None:
            names.append(error.name)
            report(error)

        frame._report = note
        deed = verbs(self.bench)[self.verb]
        try:
            with watch.on():
                outcome = deed()
        finally:
            frame._report = report
        return "".join(names), outcome

    def wrong(self, case: Case) -> str:
        """What is wrong with the verb while something is deleted, or nothing."""
        store, gone = self.bench.store, []

        def deed() -> None:
            if may_go(store, case.thing):
                delete(store, case.thing, case.way)
                gone.append(case.thing)

        name, (text, code, trace) = self._run(Watch(store, case.access, deed))
        if trace:
            return trace.strip().splitlines()[-1][:300]
        if code == self.code or not gone:
            return "" if "damaged" not in text or "damaged" in self.text else f"called damaged: {text[-300:]}"
        named = NAMING.get(self.verb)
        is_about_it = named is not None and case.thing.startswith(named)
        is_about_it &= case.way == "deleted" or self.verb not in BY_CHANNEL
        # of a definition whose master is gone the error is the definition's
        says_so = name in UNKNOWN or code == 404 or (name == "definition" and "is not in the gallery" in text)
        return "" if is_about_it and says_so else f"exit {code} {name}: {text.strip()[-300:]}"


def main() -> int:
    began, words = time.monotonic(), sys.argv[1:]
    counts: Counter[str] = Counter()
    bad: list[tuple[Case, str]] = []
    with bench() as made:
        for verb in words or verbs(made):
            trial = Trial(made, verb)
            for case in trial.cases:
                counts[verb] += 1
                if wrong := trial.wrong(case):
                    bad.append((case, wrong))
                    print(case, wrong, flush=True)
    lines = [
        "# Campaign: deletions",
        "",
        f"Commit {commit_id()}, {counts.total()} cases, {time.monotonic() - began:.0f} s in all.",
        "",
        "Before each access of a verb to something in the store that another command may delete, that is deleted.",
        "A command goes on with the remaining things, or reports that the thing it was asked for does not exist.",
        "",
        "| verb | cases | wrong |",
        "|---|---|---|",
        *(f"| {verb} | {count} | {sum(case.verb == verb for case, _ in bad)} |" for verb, count in counts.items()),
        *(f"\n{json.dumps([vars(case), wrong])}" for case, wrong in bad[:20]),
    ]
    if not words:
        PAGE.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
