"""Whether another process has locked a file: QEMU locks the disks that it has open, virtlockd those of libvirt."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from pipeline.base.errors import UsageError

#: struct flock of Linux on 64 bits (fcntl(2)): type, whence, start, length, process.
_FLOCK = struct.Struct("hhqqi4x")


def is_locked(path: Path) -> bool:
    """Whether another process has a lock of fcntl(2) on a part of the file, for reading or writing. False for what
    cannot be opened.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        # a lock for writing on the whole file meets each other one; it is only asked for
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked)
        return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)
    except OSError:
        return False  # a file system without locks
    finally:
        os.close(fd)


def refuse_locked(path: Path) -> None:
    """Raise UsageError (file-in-use) for a file that another process has locked."""
    if is_locked(path):
        raise UsageError(
            f"another process uses {path}, and has locked it",
            name="file-in-use",
            hint="stop the virtual machine or the program that uses it; lslocks shows who that is",
        )
