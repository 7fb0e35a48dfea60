"""VMDK: recognising it, and refusing what refers to another file.

By VMware's "Virtual Disk Format 5.0" and the way qemu's block/vmdk.c opens one.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

from pipeline.base.errors import DiskError
from pipeline.base.printable import single_line
from pipeline.vhd.extents import AGAIN

Read = Callable[[int, int], bytes]

_SPARSE, _ESX = b"KDMV", b"COWD"
#: qemu reads at most 20 sectors of an embedded descriptor; a text descriptor may be longer.
_DESCRIPTOR_SECTORS, _DESCRIPTOR_LIMIT = 20, 1 << 20
_EXTENT = re.compile(r'^\s*(RW|RDONLY|NOACCESS)\s+\d+\s+(\w+)(?:\s+"([^"]*)")?', re.MULTILINE)


def looks_like(head: bytes) -> bool:
    """Does a file that begins with `head` open as VMDK? Text descriptors as qemu's probe takes them."""
    if head[:4] in (_SPARSE, _ESX):
        return True
    for line in head.split(b"\n"):
        text = line.strip()
        if text and not text.startswith(b"#"):
            return re.match(rb"version\s*=\s*\d", text) is not None
        if text.startswith(b"# Disk DescriptorFile"):
            return True
    return False


def refuse_foreign(read: Read, size: int, path: Path) -> None:
    """Raises DiskError: vmdk-foreign-extent, vmdk-parent, vmdk-damaged."""
    head = read(0, 512)
    if head.startswith(_ESX):
        raise DiskError(
            f"{path.name} is a VMFS sparse extent, not a whole disk",
            name="vmdk-foreign-extent",
            hint="export the machine as OVF on its host, and use the exported VMDK",
        )
    if not head.startswith(_SPARSE):
        _judge_text(read(0, min(size, _DESCRIPTOR_LIMIT)), path)
        return
    if len(head) < 80:
        raise _damaged(path, "the VMDK header is cut off")
    version, _flags, capacity, _grain, descriptor_at, descriptor_size = struct.unpack_from("<IIQQQQ", head, 4)
    if version not in (1, 2, 3):
        raise _damaged(path, f"VMDK version {version}")
    if not descriptor_at:
        return
    if descriptor_at * 512 >= size or descriptor_size > _DESCRIPTOR_LIMIT // 512:
        raise _damaged(path, "its descriptor lies outside the file")
    # as much as any opener reads, so that nothing hides past a size that the header understates
    text = read(descriptor_at * 512, max(descriptor_size, _DESCRIPTOR_SECTORS) * 512)
    if capacity == 0:
        _judge_text(text, path)
        return
    _refuse_parent(text.split(b"\0", 1)[0] if b"parentFileNameHint" not in text else text, path)
    extents = _EXTENT.findall(text.split(b"\0", 1)[0].decode("utf-8", "replace"))
    if len(extents) > 1 or any(re.search(r"[/\\:]|\.\.", name) for _, _, name in extents):
        _foreign([name for _, _, name in extents], path)


def _damaged(path: Path, what: str) -> DiskError:
    return DiskError(
        f"{path.name}: {what}",
        name="vmdk-damaged",
        hint=AGAIN,
        evidence=path,
    )


def _judge_text(text: bytes, path: Path) -> None:
    _refuse_parent(text, path)
    _foreign([name or kind for _, kind, name in _EXTENT.findall(text.decode("utf-8", "replace"))], path)


def _refuse_parent(text: bytes, path: Path) -> None:
    parent = re.search(rb"^\s*parentCID\s*=\s*([0-9A-Fa-f]+)", text, re.MULTILINE)
    if b"parentFileNameHint" in text or (parent and int(parent[1], 16) != 0xFFFFFFFF):
        raise DiskError(
            f"{path.name} is incomplete: it names a parent disk",
            name="vmdk-parent",
            hint="consolidate the disk's snapshots on its original host",
            evidence=path,
        )


def _foreign(names: list[str], path: Path) -> None:
    raise DiskError(
        f"{path.name} keeps its data in other files: {single_line(', '.join(names), 200) or 'none named'}",
        name="vmdk-foreign-extent",
        hint="convert it on its original host: qemu-img convert -O vmdk (monolithicSparse)",
        evidence=path,
    )
