"""Locks of other processes on a file: QEMU's and virtlockd's are of fcntl(2)."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from pathlib import Path

import pytest

from pipeline.base.errors import UsageError
from pipeline.base.file_locks import is_locked, refuse_locked


@pytest.mark.parametrize(("kind", "first", "length"), [(fcntl.F_RDLCK, 101, 1), (fcntl.F_WRLCK, 0, 1)])
def test_a_lock_on_any_byte_is_seen_until_it_ends(kind: int, first: int, length: int, tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(b"")
    with path.open("r+b") as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, first, length, 0))
        assert is_locked(path)
        with pytest.raises(UsageError) as error:
            refuse_locked(path)
        assert error.value.name == "file-in-use"
    refuse_locked(path)


def test_what_qemu_has_open_is_locked(tmp_path: Path) -> None:
    """QEMU itself, with a disk open for writing."""
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(1 << 20))
    argv = ["qemu-io", "-f", "raw", str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as qemu:
        assert qemu.stdin is not None and qemu.stdout is not None
        qemu.stdin.write(b"write 0 512\n")
        qemu.stdin.flush()
        assert b"wrote" in qemu.stdout.readline()
        assert is_locked(path)
        qemu.communicate(b"quit\n")
    assert not is_locked(path)


def test_what_cannot_be_opened_is_not_locked(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    assert not is_locked(tmp_path / "pipe")
