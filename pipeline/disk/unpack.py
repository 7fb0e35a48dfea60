"""Unpacking a compressed disk: in a process of its own, as a stream, holes kept, with limits of size, space and time.

What is compressed comes from strangers, and a few KiB may hold terabytes. The process has little memory and no
rights but two open files: it is confined as the sandbox's worker is.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.base import process, scratch
from pipeline.base.disk_format import PACKED_SUFFIXES
from pipeline.base.errors import DiskError, GoldsmithError, HostError
from pipeline.base.printable import single_line
from pipeline.disk.formats import recognize_foreign
from pipeline.vhd.extents import Reader, file_extents, file_size
from pipeline.vhd.footer import MAX_SIZE

#: Ends of names of compressed files, and what stands in their place once they are unpacked.
_SUFFIXES = {".txz": ".tar", ".tgz": ".tar"} | dict.fromkeys(PACKED_SUFFIXES, "")
#: Bytes of the host's disk that stay free, and seconds: 2 TiB of zeros take about half of them.
RESERVE, DEADLINE = 256 << 20, 7200.0
#: The largest file that is made: what a VHD can hold, and its footer.
LIMIT = MAX_SIZE + 512


def packed_kind(path: Path) -> str:
    """How a file is compressed (xz, gz, bz2, zst, lz4, lzma), '' if it is not. Errors as `open_file`."""
    size = file_size(path)
    reader = Reader(file_extents(path))
    try:
        foreign = recognize_foreign(reader.read, size)
    finally:
        reader.close()
    return foreign.unpacks if foreign is not None else ""


@contextmanager
def unpacked(path: Path, folder: Path | None = None, *, limit: int | None = None) -> Iterator[Path]:
    """The unpacked file of a compressed one, in a scratch folder inside `folder` that goes with the block.

    A file that is not compressed is itself. `folder` is by default the system's for temporary files; `limit` is the
    bytes of the largest file that may come of it, by default what a disk can have. Raises DiskError: packed-damaged,
    packed-too-large, and `open_file`'s; HostError (no-space, sandbox-unavailable).
    """
    kind = packed_kind(path)
    if not kind:
        yield path
        return
    with scratch.folder(folder) as place:
        target = place / _plain_name(path.name)
        _unpack(path, kind, target, LIMIT if limit is None else limit)
        yield target


def _plain_name(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    after = _SUFFIXES.get(f".{suffix.lower()}") if dot and stem else None
    return name if after is None else stem + after


def _unpack(path: Path, kind: str, target: Path, limit: int) -> None:
    budget = max(0, shutil.disk_usage(target.parent).free - RESERVE)
    order = {
        "kind": kind,
        "source": str(path.absolute()),
        "target": str(target.absolute()),
        "limit": limit,
        "budget": budget,
        "seconds": int(DEADLINE),
    }
    try:
        done = process.run(
            [sys.executable, "-P", "-m", "pipeline.disk.unpack_worker"],
            deadline=DEADLINE,
            stdin=json.dumps(order),
            ok_codes=tuple(range(-64, 256)),
            env={"PYTHONPATH": ":".join(filter(None, sys.path)), "PYTHONDONTWRITEBYTECODE": "1"},
        )
    except process.CommandTimeout:
        raise _too_large(path, f"it was not unpacked after {DEADLINE:.0f} s") from None
    name, _, why = done.stdout.strip().partition(" ")
    if name == "unfit":
        raise HostError(
            f"this host cannot confine the disk reader: {single_line(why)[:300]}",
            name="sandbox-unavailable",
            hint="install libseccomp2 (make setup does); goldsmith doctor shows other problems",
        )
    if done.code == 0 and name == "done":
        return
    raise _error(path, name if done.code == 0 else "damaged", limit)


def _error(path: Path, name: str, limit: int) -> GoldsmithError:
    shown = single_line(path.name)
    if name == "large":
        return _too_large(path, f"unpacked it has more than {limit} bytes")
    if name == "space":
        return HostError(
            f"there is no space to unpack {shown}",
            name="no-space",
            hint="free some space, or unpack it on another disk",
        )
    return DiskError(
        f"{shown}: it cannot be unpacked, because it is damaged or incomplete",
        name="packed-damaged",
        hint="copy it again from its source, and compare the checksums",
        evidence=path,
    )


def _too_large(path: Path, why: str) -> DiskError:
    return DiskError(
        f"{single_line(path.name)}: {why}",
        name="packed-too-large",
        hint="check that it is a disk; unpack it yourself, then use the unpacked file",
        evidence=path,
    )
