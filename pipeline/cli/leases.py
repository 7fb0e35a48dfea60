"""The guard of verbs that write to a file that a user names: a disk that a VM leases is never replaced or changed."""

from __future__ import annotations

from pathlib import Path

from pipeline.cli.environment import locate_store


def refuse_leased(path: Path | None) -> None:
    """Raise UsageError (disk-leased) for the file of a leased disk of the store, by any of its names."""
    if path is None or not path.is_file():
        return
    store = locate_store()
    if not any(folder.is_dir() for folder in (store.disks, store.instances)):
        return
    from pipeline.instances.fleet import Fleet
    from pipeline.operations.disks import refuse_leased_file

    refuse_leased_file(Fleet(store), path)
