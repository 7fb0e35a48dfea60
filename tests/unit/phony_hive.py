"""A registry hive from nothing: regf 1.5, one list of keys below each key, values of the usual types.

A tree is a dict: a value that is a dict is a key, anything else a value (str, int, bytes, list of str).
"""

from __future__ import annotations

import struct
from typing import Any

NONE = 0xFFFFFFFF
WHEN = 133_000_000_000_000_000


class _Cells:
    def __init__(self) -> None:
        self.data = bytearray(32)

    def add(self, body: bytes) -> int:
        at, size = len(self.data), (4 + len(body) + 7) & ~7
        self.data += struct.pack("<i", -size) + body.ljust(size - 4, b"\0")
        return at


def _value(cells: _Cells, name: str, value: Any) -> int:
    if isinstance(value, int):
        kind, data = 4, struct.pack("<I", value)
    elif isinstance(value, bytes):
        kind, data = 3, value
    elif isinstance(value, list):
        kind, data = 7, "".join(f"{each}\0" for each in [*value, ""]).encode("utf-16-le")
    else:
        kind, data = 1, f"{value}\0".encode("utf-16-le")
    if len(data) <= 4:
        size, at = len(data) | 0x80000000, int.from_bytes(data.ljust(4, b"\0"), "little")
    else:
        size, at = len(data), cells.add(data)
    raw = name.encode("latin-1")
    return cells.add(struct.pack("<2sHIIIHH", b"vk", len(raw), size, at, kind, int(bool(raw)), 0) + raw)


def _key(cells: _Cells, name: str, tree: dict[str, Any], security: int, flags: int = 0x20) -> int:
    below = {key: value for key, value in tree.items() if isinstance(value, dict)}
    values = [_value(cells, key, value) for key, value in tree.items() if not isinstance(value, dict)]
    keys = sorted((key.upper(), _key(cells, key, value, security)) for key, value in below.items())
    listed = NONE
    if keys:
        items = b"".join(struct.pack("<I4s", at, key.encode()[:4].ljust(4, b"\0")) for key, at in keys)
        listed = cells.add(struct.pack("<2sH", b"lf", len(keys)) + items)
    shown = cells.add(b"".join(struct.pack("<I", at) for at in values)) if values else NONE
    raw = name.encode("latin-1")
    # fmt: off
    return cells.add(struct.pack("<2sHQ15IHH", b"nk", flags, WHEN, 0, NONE, len(keys), 0, listed, NONE, len(values),
                                 shown, security, NONE, 0, 0, 0, 0, 0, len(raw), 0) + raw)
    # fmt: on


def build(tree: dict[str, Any], name: str = "SYSTEM") -> bytes:
    cells = _Cells()
    security = cells.add(
        struct.pack("<2sHIIII", b"sk", 0, 32, 32, 1, 20) + struct.pack("<BBHIIII", 1, 0, 0x8000, *[0] * 4)
    )
    root = _key(cells, "ROOT", tree, security, 0x2C)
    size = -(-len(cells.data) // 4096) * 4096
    if len(cells.data) < size:
        cells.data += struct.pack("<i", size - len(cells.data)).ljust(size - len(cells.data), b"\0")
    struct.pack_into("<4sIIQQI", cells.data, 0, b"hbin", 0, size, 0, WHEN, 0)
    head = bytearray(4096)
    struct.pack_into("<4sIIQIIIIIII", head, 0, b"regf", 1, 1, WHEN, 1, 5, 0, 1, root, size, 1)
    head[48 : 48 + 2 * len(name)] = name.encode("utf-16-le")
    return seal(bytes(head)) + bytes(cells.data)


def seal(data: bytes) -> bytes:
    """The same with the header's checksum made right."""
    check = 0
    for (word,) in struct.iter_unpack("<I", data[:508]):
        check ^= word
    return data[:508] + struct.pack("<I", check) + data[512:]
