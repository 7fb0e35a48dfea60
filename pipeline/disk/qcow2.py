"""qcow2: reading what its header refers to. By qemu's docs/interop/qcow2.txt; integers are big-endian."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from pipeline.base.errors import DiskError
from pipeline.base.printable import single_line
from pipeline.vhd.extents import AGAIN

Read = Callable[[int, int], bytes]

MAGIC = b"QFI\xfb"
#: Incompatible feature bits: dirty, corrupt, external data file, compression
#: type, extended L2 entries.
_DIRTY, _CORRUPT, _DATA_FILE, _KNOWN = 1, 2, 4, 0b11111
_BACKING_FORMAT, _DATA_FILE_NAME, _END = 0xE2792ACA, 0x44415441, 0


def judge(read: Read, path: Path) -> tuple[str, str] | None:
    """The (name, format) of its backing file, or None.

    Raises DiskError: qcow2-data-file, qcow2-encrypted, qcow2-damaged.
    """
    head = read(0, 104)
    damaged = DiskError(
        f"{path.name}: the qcow2 header is damaged",
        name="qcow2-damaged",
        hint=AGAIN,
        evidence=path,
    )
    if len(head) < 48 or not head.startswith(MAGIC):
        raise damaged
    if head[4:8] == b"\0\0\0\1":
        raise DiskError(
            f"{path.name} is qcow version 1, but goldsmith reads only versions 2 and 3",
            name="qcow2-version",
            hint="if you trust the disk: qemu-img convert -f qcow -O qcow2 FILE NEW.qcow2",
            evidence=path,
        )
    if len(head) < 72:
        raise damaged
    version, backing_at, backing_length, cluster_bits = struct.unpack_from(">IQII", head, 4)
    (crypt,) = struct.unpack_from(">I", head, 32)
    if version not in (2, 3) or not 9 <= cluster_bits <= 21:
        raise damaged
    features, header_length = 0, 72
    if version == 3:
        if len(head) < 104:
            raise damaged
        features = struct.unpack_from(">Q", head, 72)[0]
        header_length = struct.unpack_from(">I", head, 100)[0]
    extensions = _extensions(read, header_length, 1 << cluster_bits, damaged)
    other = single_line(_text(extensions.get(_DATA_FILE_NAME, b"?")), 200)
    if features & _DATA_FILE or _DATA_FILE_NAME in extensions:
        raise DiskError(
            f"{path.name} keeps its data in another file ({other})",
            name="qcow2-data-file",
            hint="convert it on its original host: qemu-img convert -O qcow2",
            evidence=path,
        )
    if features & _CORRUPT or features & ~_KNOWN:
        raise DiskError(
            f"{path.name}: the header is marked corrupt, or has unknown features ({features:#x})",
            name="qcow2-damaged",
            hint="run qemu-img check -r all on a copy",
            evidence=path,
        )
    if crypt:
        raise DiskError(
            f"{path.name} is encrypted",
            name="qcow2-encrypted",
            hint="decrypt it on the host that has its key: qemu-img convert with --object secret",
            evidence=path,
        )
    if not backing_at:
        return None
    if not 0 < backing_length <= 1023:
        raise damaged
    return _text(read(backing_at, backing_length)), _text(extensions.get(_BACKING_FORMAT, b""))


def _extensions(read: Read, at: int, end: int, damaged: DiskError) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while at + 8 <= end:
        raw = read(at, 8)
        if len(raw) < 8:
            return found
        kind, length = struct.unpack(">II", raw)
        if kind == _END:
            return found
        if at + 8 + length > end:
            # a version 2 header may be followed by the backing file's name itself
            if not found:
                return found
            raise damaged
        found[kind] = read(at + 8, length)
        at += 8 + -(-length // 8) * 8
    return found


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
