"""What stands on a version of the gallery: VMs that run from it, versions that were built on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.base.store import Store
from pipeline.gallery import Gallery, Version
from pipeline.instances.record import Instances


@dataclass(frozen=True)
class Usage:
    """The users of a version. `vms`: their names, each with its set, if it is in one. `children`: IMAGE@VERSION."""

    vms: tuple[tuple[str, str | None], ...]
    children: tuple[str, ...]

    @property
    def sets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for _, name in self.vms if name is not None))


def find_usage(store: Store, version: Version) -> Usage:
    """The VMs of this host that run from a version, and the versions of the gallery that were built on it."""
    vms = tuple(
        (record.name, record.set)
        for record in Instances(store.instances).all()
        if f"{version.name}@{version.version}" in (record.reference, record.data_master)
    )
    return Usage(vms, tuple(children_of(Gallery(store.gallery), version.name, version.version)))


def children_of(gallery: Gallery, image: str, number: str) -> Iterator[str]:
    """The versions that were built or patched on a version, as IMAGE@VERSION."""
    for name in gallery.names():
        for child in gallery.versions(name):
            if _parent_of(child) == (image, number):
                yield f"{child.name}@{child.version}"


def _parent_of(version: Version) -> tuple[str, str] | None:
    """The image and number that a version was built or patched on, None if it has no parent."""
    if patched := version.manifest.get("patched_from"):
        return version.name, str(patched)
    units = version.manifest.get("inputs", ())
    begin = units[0]["inputs"] if units else {}
    return (str(begin.get("image")), str(begin.get("version"))) if begin.get("source") == "master" else None
