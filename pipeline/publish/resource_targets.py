"""What managed disks and galleries have of an image, and its removal: for all who see targets from outside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.base.errors import UsageError
from pipeline.publish.errors import Conflict
from pipeline.publish.image_gallery import read_versions
from pipeline.publish.index import Index
from pipeline.publish.managed_disk import leftovers, read_disks
from pipeline.publish.resource_manager import ACCESS, Resource, ResourceManager
from pipeline.publish.retries import Retries
from pipeline.publish.targets import Target


@contextmanager
def opened(target: Target, variables: Mapping[str, str]) -> Iterator[ResourceManager]:
    assert target.place is not None
    manager = ResourceManager(target.place, target.credential.open("", variables), Retries())
    try:
        yield manager
    finally:
        manager.close()


def read_index(manager: ResourceManager, target: Target, image: str) -> Index:
    """The published versions of an image. There is no index blob: resources and their tags are the index."""
    if target.gallery is not None:
        return read_versions(manager, target.gallery, image)
    return read_disks(manager, image)


def refuse(target: Target, what: str, hint: str) -> None:
    """Raise UsageError (target-kind) where the target has no blobs or files of goldsmith's to read."""
    if target.place is not None:
        raise UsageError(f"{target.shown} cannot be {what}", name="target-kind", hint=hint)


def remove_versions(manager: ResourceManager, target: Target, entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """Remove published versions; the numbers of those that went. One that Azure says is in use stays."""
    gone = []
    for entry in entries:
        try:
            for disk in entry["disks"]:
                if target.gallery is not None:
                    manager.delete_version(target.gallery.name, disk["file"], entry["version"])
                else:
                    manager.delete_disk(disk["file"])
        except Conflict:
            continue
        gone.append(str(entry["version"]))
    return gone


def interrupted_disks(manager: ResourceManager, image: str | None) -> list[tuple[str, int, str]]:
    """Disks whose upload never ended: name, bytes, and why one stays, or nothing. Their signed URLs end in a day."""
    found = []
    for disk in leftovers(manager, image):
        kept = "" if _age(disk) > timedelta(seconds=ACCESS) else "its upload began less than a day ago"
        found.append((str(disk["name"]), int(disk["properties"].get("diskSizeBytes") or 0), kept))
    return found


def _age(disk: Resource) -> timedelta:
    created = disk["properties"].get("timeCreated")
    return datetime.now(UTC) - datetime.fromisoformat(created) if created else timedelta(0)
