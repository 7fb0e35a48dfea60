"""The disks of an instance: overlays on its master, in its own folder."""

from __future__ import annotations

from pathlib import Path

from pipeline.cache.layers import Image
from pipeline.gallery import Version
from pipeline.guest.disks import create_overlay


def disk_size(version: Version) -> int:
    """Bytes that the disks of an instance of a master can grow to together."""
    disks = (version.manifest["disk"], *version.manifest.get("data_disks", ()))
    return sum(int(disk["virtual_size"]) for disk in disks)


def create_disks(folder: Path, version: Version) -> Image:
    """An overlay for the OS disk, and one for each data disk of the master."""
    for old in folder.glob("disk*.qcow2"):
        old.unlink()
    return create_overlay(folder / "disk.qcow2", version.image)
