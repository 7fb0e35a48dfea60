"""The guard of files that a verb would replace or change: disks that a VM leases or uses, and files of versions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli.environment import locate_store

if TYPE_CHECKING:
    from pipeline.base.store import Store


def refuse_protected(path: Path) -> None:
    """Raise UsageError for an existing file that no verb may replace: disk-leased for the disk of a VM of the store,
    by any of its names; target-in-gallery for a file of a version; file-in-use for one that a program has locked.
    """
    from pipeline.base.file_locks import refuse_locked

    store = locate_store()
    if _has_disks(store):
        from pipeline.instances.fleet import Fleet
        from pipeline.operations.find_disks import refuse_leased_file

        refuse_leased_file(Fleet(store), path)
    if path.resolve().is_relative_to(store.gallery.resolve()):
        from pipeline.base.errors import UsageError

        raise UsageError(
            f"{path} is part of the gallery, whose versions never change",
            name="target-in-gallery",
            hint="name a file in another place; goldsmith gallery remove deletes a version",
        )
    refuse_locked(path)


def refuse_running(source: Path) -> None:
    """Raise UsageError (disk-leased) for the file of a disk whose VM runs, which is not to be copied."""
    store = locate_store()
    if _has_disks(store):
        from pipeline.instances.fleet import Fleet
        from pipeline.operations.find_disks import refuse_running_source

        refuse_running_source(Fleet(store), source)


def _has_disks(store: Store) -> bool:
    return any(folder.is_dir() for folder in (store.disks, store.instances))
