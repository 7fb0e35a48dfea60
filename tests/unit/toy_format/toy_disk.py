"""A disk format that goldsmith does not have: the disk's bytes, then 1024 bytes with a magic and a size."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from pathlib import Path

from pipeline.base.disk_format import DiskFormat, register
from pipeline.base.errors import DiskError
from pipeline.vhd.extents import ExtentSource
from pipeline.vhd.fixed import write_raw

MAGIC = b"TOYDISK\0"
TRAILING = 1024


def write(
    source: ExtentSource,
    target: Path,
    *,
    unique_id: uuid.UUID,
    timestamp: int,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """The disk, then the trailer."""
    copied, _ = write_raw(source, target, progress=progress)
    with target.open("ab") as file:
        file.write(struct.pack(">8sQ", MAGIC, source.size).ljust(TRAILING, b"\0"))
    return copied


def verify(path: Path) -> int:
    """The size that the trailer names. Raises DiskError (toy-damaged)."""
    with path.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(max(0, end - TRAILING))
        magic, size = struct.unpack_from(">8sQ", file.read(TRAILING).ljust(16, b"\0"))
    if magic != MAGIC or size + TRAILING != end:
        raise DiskError(f"{path.name} has no toy's trailer", name="toy-damaged", hint="write it again", evidence=path)
    return int(size)


TOY = register(
    DiskFormat(
        "toy",
        driver="raw",
        suffix=".toy",
        output_title="toy disk",
        trailing=TRAILING,
        writer=f"{__name__}:write",
        verifier=f"{__name__}:verify",
    )
)
