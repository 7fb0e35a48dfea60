"""Writing a fixed VHD: the disk's bytes, holes kept, then one footer."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.base.errors import DiskError, HostError
from pipeline.vhd.copy import as_ours, copy_extents
from pipeline.vhd.extents import ExtentSource
from pipeline.vhd.footer import FOOTER_SIZE, MIB, DiskType, Footer


@dataclass(frozen=True)
class WriteReport:
    """What a write did: sizes in bytes, time in seconds."""

    size: int
    file_size: int
    copied: int
    allocated: int
    seconds: float
    footer: Footer


def round_up_mib(size: int) -> int:
    """The next whole MiB. Only up, and not at all where `size` is one already."""
    return -(-size // MIB) * MIB


def write_fixed(
    source: ExtentSource,
    target: Path,
    *,
    unique_id: uuid.UUID,
    timestamp: int,
    progress: Callable[[int, int], None] | None = None,
    size: int | None = None,
) -> WriteReport:
    """Write `source` to `target` as a fixed VHD of exactly `size` bytes (by default the source's) + 512.

    `timestamp` is in Unix seconds. `size` may be larger than the source: the rest is a hole. The file is sparse
    and fsynced; the caller renames it. On any error nothing is left at `target`.

    Raises DiskError: vhd-not-whole-mib, vhd-too-large, vhd-shrink, disk-truncated, disk-unreadable, same-file; and
    HostError: no-space, cannot-write.
    """
    size = source.size if size is None else size
    if size % MIB:
        raise DiskError(
            f"a virtual size of {size} bytes is not a whole number of MiB, which Azure requires",
            name="vhd-not-whole-mib",
            hint=f"use {round_up_mib(size)} bytes",
        )
    if size < source.size:
        raise DiskError(
            f"{source.size} bytes do not fit into {size}",
            name="vhd-shrink",
            hint="use a larger size; goldsmith never shortens a disk",
        )
    footer = Footer.build(size, disk_type=DiskType.FIXED, unique_id=unique_id, timestamp=timestamp)
    started = time.monotonic()
    copied, allocated = _write(source, target, size=size, tail=footer.pack(), progress=progress)
    return WriteReport(size, size + FOOTER_SIZE, copied, allocated, time.monotonic() - started, footer)


def write_raw(
    source: ExtentSource, target: Path, *, progress: Callable[[int, int], None] | None = None
) -> tuple[int, int]:
    """Write `source` as a raw disk, sparse and fsynced. Returns (bytes copied, bytes allocated); errors as above."""
    return _write(source, target, size=source.size, tail=b"", progress=progress)


def _write(
    source: ExtentSource,
    target: Path,
    *,
    size: int,
    tail: bytes,
    progress: Callable[[int, int], None] | None,
) -> tuple[int, int]:
    for path in {extent.path for extent in source.extents}:
        if target.exists() and target.samefile(path):
            raise DiskError(
                f"{target} is part of the disk that is read", name="same-file", hint="name another target"
            )
    try:
        fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise HostError(
            f"cannot write {target}: {error.strerror}",
            name="cannot-write",
            hint="check the folder's permissions with ls -ld FOLDER",
        ) from None
    try:
        os.ftruncate(fd, size + len(tail))
        copied = copy_extents(source, fd, progress=progress)
        os.pwrite(fd, tail, size)
        os.fsync(fd)
        return copied, os.fstat(fd).st_blocks * 512
    except BaseException as error:
        with suppress(OSError):
            target.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise as_ours(error, target, writing=True) from None
        raise
    finally:
        os.close(fd)
