"""The disks that guests write to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.base import process, qemu_img
from pipeline.base.disk_format import QCOW2, RAW
from pipeline.cache.layers import Image
from pipeline.definition import DataDisk


def create_overlay(path: Path, below: Image, size: int | None = None) -> Image:
    """A new qcow2 overlay on `below`; `size` in bytes grows it. Its data disks get overlays beside it."""
    top = _overlay(path, below, size)
    data = ((lun, _overlay(path.with_name(f"{path.stem}-lun{lun}.qcow2"), disk)) for lun, disk in below.data)
    return replace(top, data=tuple(data))


def _overlay(path: Path, below: Image, size: int | None = None) -> Image:
    # a guest must not see what stands behind the disk's data
    size = below.size if size is None and below.format.trailing else size
    qemu_img.create_overlay(path, below.path, below.format.driver, size)
    return Image(path, QCOW2, below)


def create_data_disk(path: Path, disk: DataDisk) -> Image:
    """A new raw file of the disk's size, formatted where it says so. Its file system takes the whole disk."""
    with path.open("xb") as file:
        file.truncate(disk.size)
    if disk.filesystem is not None:
        options = ["-L", disk.label] if disk.label else []
        # as in the bases: what newer mke2fs turn on, older kernels do not read; the file is zeros already
        options += ["-O", "^metadata_csum_seed,^orphan_file", "-E", "root_owner=0:0,assume_storage_prezeroed=1"]
        process.run(["mke2fs", "-q", "-F", "-t", disk.filesystem, *options, path], deadline=300)
    return Image(path, RAW)
