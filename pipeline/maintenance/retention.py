"""Which versions of masters are deleted, and which layers with them."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.base.byte_progress import OnWork, ignore_work
from pipeline.base.disk_format import output_formats
from pipeline.base.errors import CheckFailed, NotFound
from pipeline.base.files import RecordDamaged, disk_bytes
from pipeline.base.printable import listed
from pipeline.base.store import Store
from pipeline.cache.layers import Layer, Layers
from pipeline.definition import Keep
from pipeline.gallery import GOLDEN, Gallery, Version, archive
from pipeline.gallery.channels import list_channels
from pipeline.gallery.integrity import Judge
from pipeline.gallery.retention import PruneCandidate, delete_with_tombstone, instances_on, leases, prune
from pipeline.maintenance.gc import cache_lock, in_use
from pipeline.maintenance.usage import children_of


def layers_above(layers: Layers) -> dict[Path, list[Layer]]:
    """For each file below the disk of a layer, the layers above it."""
    found: dict[Path, list[Layer]] = defaultdict(list)
    for layer in layers.all():
        for level in layer.image.below if layer.record.get("image") else ():
            found[level.path].append(layer)
    return found


@contextlib.contextmanager
def users_of(store: Store, *, dry: bool = False) -> Iterator[Callable[[Version], str]]:
    """A function that names the running builds that use a version, '' if none does. No build starts to use one while
    this is held; with `dry` nothing is held."""
    layers = Layers(store.layers)
    with contextlib.nullcontext() if dry else cache_lock(store):
        busy, above = in_use(store), layers_above(layers)

        def used(version: Version) -> str:
            names = {str(layer.record.get("name")) for layer in above[version.disk] if layer.key in busy}
            return f"a build of {', '.join(sorted(names))} uses it" if names else ""

        yield used


def prune_masters(store: Store, name: str, keep: Keep, *, dry: bool = False) -> list[PruneCandidate]:
    """Delete the versions of an image beyond `keep:`.

    A version that a running build uses stays. The layers on top of a deleted version are deleted too.
    """
    gallery, layers = Gallery(store.gallery), Layers(store.layers)
    with users_of(store, dry=dry) as used:
        going = prune(gallery, name, keep.versions, keep.days, used=used, dry=dry)
        for candidate in going:
            if not dry and not candidate.held:
                _drop_above(layers, candidate.version)
    return going


@dataclass(frozen=True)
class Removal:
    """One version that a user deletes: bytes on disk, its channels, objections, and the layers deleted with it."""

    image: str
    version: str
    size: int
    channels: tuple[str, ...]
    objections: tuple[str, ...]
    layers: tuple[str, ...]


def remove_master(
    store: Store, image: str, number: str, why: str, *, force: bool = False, dry: bool = False
) -> Removal:
    """Delete one version, damaged or not, its channels, and the layers that share its disk or lie on top of it.

    Raises NotFound, CheckFailed: version-protected for what is leased, in a channel or a parent, where `force` is not
    set; version-in-use for what a running build or a VM stands on, in any case.
    """
    gallery, layers = Gallery(store.gallery), Layers(store.layers)
    with users_of(store, dry=dry) as used, gallery.hold(image, dry=dry) as folder:
        path = folder / number
        if path.is_symlink() or not path.is_dir():
            raise NotFound(
                f"the gallery has no {image} {number}", name="gallery-unknown", hint=_others(gallery, image)
            )
        try:
            version: Version | None = gallery.get(f"{image}@{number}")
        except RecordDamaged:
            version = None  # what is damaged must be removable too
        if vms := instances_on(gallery, image, number):
            raise CheckFailed(
                f"{image} {number} is in use: {listed(lease.why for lease in vms)}",
                name="version-in-use",
                hint="goldsmith vm delete NAME deletes the VM, goldsmith disk delete NAME the disk; --force does not",
            )
        if version is not None and (by := used(version)):
            hint = "wait for the build, or stop it (goldsmith runs list)"
            raise CheckFailed(f"{image} {number} is in use: {by}", name="version-in-use", hint=hint)
        channels = tuple(each.name for each in list_channels(gallery, image) if each.version == number)
        objections = tuple(_objections(gallery, image, number, channels))
        if objections and not force:
            hint = "use --force to remove it"
            if GOLDEN in channels:
                hint = f"goldsmith gallery rollback {image} makes the version before golden; {hint}"
            why_kept = "; ".join(objections)
            raise CheckFailed(f"{image} {number} is protected: {why_kept}", name="version-protected", hint=hint)
        disks = [disk for row in output_formats() for disk in path.glob(f"*{row.suffix}")]
        above = {layer.key for disk in disks for layer in _layers_of(layers, disk)}
        found = Removal(image, number, disk_bytes(path), channels, objections, tuple(sorted(above)))
        if not dry:
            # a channel must never point at nothing, whenever this ends
            for channel in channels:
                (folder / channel).unlink()
            delete_with_tombstone(folder, number, version.digest if version else None, why)
            for key in found.layers:
                layers.drop(key)
    return found


def _others(gallery: Gallery, image: str) -> str:
    return f"versions of {image}: {listed((each.version for each in gallery.versions(image)), newest=True) or 'none'}"


def _objections(gallery: Gallery, image: str, number: str, channels: Sequence[str]) -> Iterator[str]:
    """The reasons to keep a version: channels, leases, versions of other images that were built on it."""
    for channel in channels:
        yield f"it is {image}@{channel}"
    for lease in leases(gallery, image):
        if lease.version == number:
            yield f"leased ({lease.id}): {lease.why}"
    for child in children_of(gallery, image, number):
        yield f"it is the parent of {child.replace('@', ' ')}"


def _layers_of(layers: Layers, disk: Path) -> Iterator[Layer]:
    """The layers that share a version's disk (a hard link), and those on top of it."""
    yield from layers_above(layers)[disk]
    for layer in layers.all():
        image = layer.image.path if layer.record.get("image") else None
        if image is not None and image.exists() and image.samefile(disk):
            yield layer


def archive_version(
    store: Store, version: Version, repository: Path, judge: Judge, progress: OnWork = ignore_work
) -> None:
    """Move a version into an archive; the layers on top of it are deleted. As `archive.archive_version`."""
    with users_of(store) as used:
        archive.archive_version(
            Gallery(store.gallery), version, repository, store.tmp, judge=judge, used=used, progress=progress
        )
        _drop_above(Layers(store.layers), version)


def _drop_above(layers: Layers, version: Version) -> None:
    for layer in layers_above(layers)[version.disk]:
        layers.drop(layer.key)
