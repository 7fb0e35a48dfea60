"""Garbage collection of the store: leftovers of dead runs, and layers that were not used for long, down to a size.

Masters are never deleted here, nor any layer that a running build uses.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline.base import locks, scratch
from pipeline.base.errors import UsageError
from pipeline.base.files import disk_bytes, is_older, list_folder, sweep_unfinished, walk_files
from pipeline.base.runs import drop_run, drop_unrecorded, held, list_runs, remove_tree, run_ids
from pipeline.base.store import IMAGE_NAME, Store
from pipeline.cache.layers import RECORD, SNAPSHOT, SNAPSHOT_LOCK, Layer, Layers
from pipeline.context import BuildContext
from pipeline.fabric import sweep_networks
from pipeline.gallery import Gallery
from pipeline.gallery.retention import sweep as sweep_image
from pipeline.gallery.versions import parse
from pipeline.guest.access import sweep_access
from pipeline.hypervisor.connection import connect
from pipeline.hypervisor.domains import domains, sweep
from pipeline.hypervisor.persistent import power_off
from pipeline.instances.disk_records import Disks
from pipeline.instances.disks import release_master
from pipeline.instances.record import Instances
from pipeline.maintenance.owners import is_orphan, owners_of

#: Seconds for which a layer stays after its last use: a build may be about to register that it uses the layer.
FRESH = 600.0
#: Seconds to wait for another plan or another deletion, which may download collections meanwhile.
TIMEOUT = 1800.0
#: How many runs of each image keep their records, unless `goldsmith runs prune --keep` says otherwise. A run's folder
#: takes some 350 KiB; a failed one, with what was gathered of its guest, a few MiB.
KEPT_RUNS = 100


@contextlib.contextmanager
def cache_lock(store: Store) -> Iterator[None]:
    """Held while a build decides which layers it uses and registers them, and while layers are deleted.

    Raises BuildError (layers-locked) after TIMEOUT seconds.
    """
    lock = FileLock(store.tmp / "layers.lock", thread_local=False)
    locks.acquire(lock, "the plan of another build", deadline=TIMEOUT, name="layers-locked", runs=store.runs)
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class Removed:
    """One thing that was deleted, or would be. `bytes`: on the disk, 0 if it is not a file."""

    kind: str
    name: str
    bytes: int = 0
    why: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def collect_orphans(store: Store, context: BuildContext | None = None, *, dry: bool = False) -> list[Removed]:
    """Delete what dead runs left: domains, access folders, unfinished layers, scratch. Returns what was deleted.

    With `dry` nothing is deleted.
    """
    connection = context.connection if context else connect()
    kept = {run for _, run, role in domains(connection) if role == "kept"}
    dead: set[str] = set()
    owners = owners_of(store)

    def wanted(label: str) -> bool:
        """Whether a domain or an access folder is another store's or a live owner's, or was kept on purpose."""
        if label in kept or not is_orphan(owners, label):
            return True
        dead.add(label)
        return dry  # what is wanted stays

    gone = [_scratch(Path(path)) for path in scratch.sweep(dry=dry)]
    gone += [Removed("scratch", name) for name in _sweep_store(store, dry=dry)]
    sweeps: dict[str, Callable[[], Sequence[str]]] = {
        "domain": lambda: sweep(connection, wanted),
        "access": lambda: sweep_access(wanted),
        "network": lambda: sweep_networks(wanted),
    }
    for kind, find in sweeps.items():
        dead.clear()
        names = find()
        gone += [Removed(kind, name) for name in (sorted(dead) if dry else names)]
    gone += [Removed("layer", key, why="unfinished") for key in Layers(store.layers).sweep(dry=dry)]
    for path in list_folder(store.tmp):
        run = next((part for part in path.name.split("-") if part[:1] == "R" and part[1:].isdigit()), None)
        if run is not None and is_orphan(owners, store.label(run)):
            gone.append(_scratch(path, path.name))
            if not dry:
                remove_tree(path)
    gone += prune_runs(store, dry=dry)
    if context is not None and gone:
        context.run.emit("note", "", f"removed leftovers of a dead run: {', '.join(map(str, gone))}")
    return gone


def _scratch(path: Path, name: str = "") -> Removed:
    return Removed("scratch", name or str(path), disk_bytes(path) if path.exists() else 0)


def _sweep_store(store: Store, *, dry: bool = False) -> list[str]:
    """Delete what dead processes left in the gallery and beside records, and scratch from before the journal existed.

    An image whose folder another process holds is skipped: that process cleans it itself.
    """
    gone = []
    gallery = Gallery(store.gallery)
    for name in gallery.names():
        with gallery.hold_now(name) as folder:
            if folder is not None:
                gone += [f"{name}/{each}" for each in sweep_image(folder, dry=dry)]
                gone += [name] if not dry and gallery.drop_empty(name) else []
    instances = Instances(store.instances)
    with instances.hold_budget():
        gone += [f"instances/{name}" for name in instances.sweep(dry=dry)]
    gone += [
        f"disks/{name}"
        for name in Disks(store.disks).sweep_unheld(lambda disk: release_master(gallery, disk), dry=dry)
    ]
    runs = list_folder(store.runs, "R*")
    gone += [f"runs/{folder.name}" for folder in runs if drop_unrecorded(folder, dry=dry)]
    # beside the key lies the register of masters without a signature
    folders = [store.root, *store.folders, *runs, *list_folder(store.layers), store.host.key.parent]
    for path in (path for folder in folders for path in sweep_unfinished(folder, dry=dry)):
        gone.append(str(path.relative_to(store.root)) if path.is_relative_to(store.root) else str(path))
    old = time.time() - FRESH
    for path in [*list_folder(store.tmp, "unpacked-*"), *list_folder(store.tmp, "capture-*")]:
        # made by an older goldsmith, which noted no owner
        if is_older(path, old):
            if not dry:
                remove_tree(path)
            gone.append(path.name)
    return gone


def clean_up(store: Store, *, layers: bool, dry: bool = False) -> list[Removed]:
    """Delete what dead runs left, and guests kept on purpose; with `layers` every layer. Returns what was deleted.

    Raises UsageError (image-locked) for `layers` while a build runs: the build uses its layers.
    """
    if layers:
        _refuse_running(store)
    connection = connect()
    gone = []
    for domain, label, role in domains(connection):
        if role == "kept" and store.own_run(label) is not None:
            gone.append(Removed("kept guest", domain.name(), why="--keep-failed kept it"))
            if not dry:
                power_off(domain)
    gone += collect_orphans(store, dry=dry)
    present = Layers(store.layers)
    gone += [Removed("layer", key, why="a file of it is missing") for key in present.sweep(dry=dry, useless=True)]
    if layers:
        gone += _drop_layers(store, dry=dry)
    return gone


def _drop_layers(store: Store, *, dry: bool) -> list[Removed]:
    """Delete every layer. A build that begins meanwhile waits before it decides which ones it uses."""
    gone, present = [], Layers(store.layers)
    with contextlib.nullcontext() if dry else cache_lock(store):
        _refuse_running(store)
        for usage in layer_usages(present):
            gone.append(removed_layer(usage))
            if not dry:
                present.drop(usage.layer.key)
        for key in present.keys() if not dry else ():
            gone.append(Removed("layer", key, why="its record cannot be used"))
            present.drop(key)
    return gone


def _refuse_running(store: Store) -> None:
    for path in list_folder(store.tmp, "build-*.lock"):
        if held(path):
            raise UsageError(
                f"{path.stem[6:]} is being built, so its layers are in use",
                name="image-locked",
                hint="wait for the build to end (goldsmith runs list), then run clean again",
            )


# ---- records of runs ---------------------------------------------------------------------------------------------


def prune_runs(
    store: Store, keep: int = KEPT_RUNS, names: Collection[str] = (), *, dry: bool = False
) -> list[Removed]:
    """Delete records of runs beyond the newest `keep` of each image (of `names`, or all). Returns what was deleted.

    A run stays while it is alive, while its guest is kept, and while the gallery has the version that it made or the
    refusal in which it ended.
    """
    if len(run_ids(store.runs)) <= keep:
        return []
    gallery = Gallery(store.gallery)
    seen: Counter[str] = Counter()
    gone = []
    refused = {str(word.get("run")) for name in gallery.names() if (word := gallery.refused(name))}
    for run in list_runs(store.runs):
        image, folder = str(run["image"]).partition(" ")[0], Path(run["folder"])
        seen[image] += 1
        if seen[image] <= keep or (names and image not in names):
            continue
        if run["outcome"] == "running" or run["id"] in refused or _has_guest(run) or _has_version(gallery, run):
            continue
        why = f"{image}, {run['outcome']} {run['started'] or ''}".strip()
        found = Removed("run", run["id"], disk_bytes(folder), why)
        if dry or drop_run(folder):
            gone.append(found)
    return gone


def _has_guest(run: Mapping[str, Any]) -> bool:
    """Whether a guest of the run was kept, and its key is still there."""
    kept = run.get("kept_guest") or {}
    return bool(kept.get("folder")) and Path(str(kept["folder"])).exists()


def _has_version(gallery: Gallery, run: Mapping[str, Any]) -> bool:
    """Whether the version that the run captured is still in the gallery; its record says 'NAME VERSION'."""
    for stage in run["stages"]:
        name, _, number = str(stage["detail"]).partition(" ")
        captured = stage["stage"] == "capture" and IMAGE_NAME.fullmatch(name) and parse(number)
        if captured and (gallery.root / name / number).is_dir():
            return True
    return False


# ---- size and age ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerUsage:
    """A layer's size (the bytes that its deletion would free), the time of its last use, and the layers below it."""

    layer: Layer
    size: int
    used: float
    below: frozenset[str]

    @property
    def is_snapshot(self) -> bool:
        return str(self.layer.record["stage"]) == SNAPSHOT


def layer_usages(layers: Layers) -> list[LayerUsage]:
    """The usage of all layers. A VHD that a master shares counts as nothing."""
    found = []
    for layer in layers.all():
        files = walk_files(layer.path)
        # when it was written: a layer that is dropped meanwhile has none
        used = next((status.st_mtime for path, status in files if path == layer.path / RECORD), None)
        if used is None:
            continue
        size = sum(status.st_blocks * 512 for _, status in files if status.st_nlink == 1)
        chain = layer.image.files if layer.record.get("image") else ()
        below = {level.path.parent.name for level in chain if level.path.is_relative_to(layers.root)}
        found.append(LayerUsage(layer, size, used, frozenset(below - {layer.key})))
    return found


def evictable(
    layer_usages: Iterable[LayerUsage], keep: int, in_use: frozenset[str], fresh_since: float
) -> list[LayerUsage]:
    """The layers to delete, in order, until the others fit into `keep` bytes: the least recently used first, never a
    layer below another one.

    A layer that is in use, or was used since `fresh_since`, stays, and so do all layers below it.
    """
    left = {usage.layer.key: usage for usage in layer_usages}
    total = sum(usage.size for usage in left.values())
    bound = set(in_use)
    for usage in left.values():
        if usage.layer.key in in_use or usage.used >= fresh_since:
            bound |= {usage.layer.key, *usage.below}
    gone = []
    while total > keep:
        carrying = {key for usage in left.values() for key in usage.below}
        free = [usage for key, usage in left.items() if key not in bound and key not in carrying]
        if not free:
            break
        oldest = min(free, key=lambda each: each.used)
        del left[oldest.layer.key]
        total -= oldest.size
        gone.append(oldest)
    return gone


def prune(store: Store, keep: int, *, dry: bool = False) -> list[Removed]:
    """Delete layers and memory snapshots until the others fit into `keep` bytes. Returns what was deleted."""
    layers = Layers(store.layers)
    with cache_lock(store):
        gone = evictable(layer_usages(layers), keep, in_use(store), time.time() - FRESH)
        for usage in gone if not dry else ():
            layers.drop(usage.layer.key)
    return [removed_layer(usage) for usage in gone]


def in_use(store: Store) -> frozenset[str]:
    """The keys of layers that living owners use or make, and of snapshots whose guest runs."""
    keys = {key for owners in owners_of(store) for key in owners.layers_in_use()}
    keys |= {path.name for path in list_folder(store.layers) if held(path / SNAPSHOT_LOCK)}
    return frozenset(keys)


def removed_layer(usage: LayerUsage) -> Removed:
    """A layer by the names that a person knows: its image, stage and title."""
    record = usage.layer.record
    age = (time.time() - usage.used) / 86400
    what = " ".join(str(record.get(word) or "") for word in ("name", "stage", "title")).strip()
    return Removed("saved guest" if usage.is_snapshot else "layer", what, usage.size, f"last used {age:.1f} days ago")


def disk_use(store: Store) -> dict[str, int]:
    """Bytes on disk of the store's layers, memory snapshots and masters."""
    held_by = layer_usages(Layers(store.layers))
    gallery = sum(status.st_blocks * 512 for _, status in walk_files(store.gallery))
    return {
        "layers": sum(usage.size for usage in held_by if not usage.is_snapshot),
        "saved guests": sum(usage.size for usage in held_by if usage.is_snapshot),
        "gallery": gallery,
    }
