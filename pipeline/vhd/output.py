"""Writing and verifying the disks that ship, in whatever format: the functions that a format's row names."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pipeline.base.disk_format import DiskFormat, load
from pipeline.vhd.extents import ExtentSource
from pipeline.vhd.fixed import write_fixed
from pipeline.vhd.footer import verify_fixed

Progress = Callable[[int, int], None]


class Writer(Protocol):
    """Writes `source` as a new file, sparse and fsynced; returns the bytes copied.

    `unique_id` is the same for the same layer, `timestamp` in Unix seconds; a format without either ignores it.
    `progress` gets the bytes done and those of the whole. Raises DiskError or HostError, and then leaves no file.
    """

    def __call__(
        self,
        source: ExtentSource,
        target: Path,
        *,
        unique_id: uuid.UUID,
        timestamp: int,
        progress: Progress | None = None,
    ) -> int: ...


def writer_of(row: DiskFormat) -> Writer:
    """The function that writes a format's files."""
    found: Writer = load(row.writer)
    return found


def write_fixed_vhd(
    source: ExtentSource, target: Path, *, unique_id: uuid.UUID, timestamp: int, progress: Progress | None = None
) -> int:
    """A fixed VHD: the disk's bytes, holes kept, and its footer. Errors as `write_fixed`."""
    return write_fixed(source, target, unique_id=unique_id, timestamp=timestamp, progress=progress).copied


def verify_fixed_vhd(path: Path) -> int:
    """The bytes of the disk in a fixed VHD. Errors as `verify_fixed`."""
    return verify_fixed(path).current_size
