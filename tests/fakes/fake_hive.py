"""A registry hive from nothing: regf 1.5, one list of keys below each key, values of the usual types; and its logs.

A tree is a dict: a value that is a dict is a key, anything else a value (str, int, bytes, list of str, `Raw`).
"""

from __future__ import annotations

import struct
from array import array
from typing import Any, NamedTuple

NONE = 0xFFFFFFFF
WHEN = 133_000_000_000_000_000
#: The longest data that one cell may hold in Windows' own hives.
SEGMENT = 16344


class Raw(NamedTuple):
    """A value by its type's number and its bytes."""

    kind: int
    data: bytes


class _Cells:
    def __init__(self, lists: bytes) -> None:
        self.data = bytearray(32)
        self.lists = lists

    def add(self, body: bytes) -> int:
        at, size = len(self.data), (4 + len(body) + 7) & ~7
        self.data += struct.pack("<i", -size) + body.ljust(size - 4, b"\0")
        return at


def _name(name: str) -> tuple[bytes, bool]:
    """A name as a hive keeps it, and whether it has one byte a character."""
    try:
        return name.encode("latin-1"), True
    except UnicodeEncodeError:
        return name.encode("utf-16-le"), False


def _typed(value: Any) -> Raw:
    if isinstance(value, Raw):
        return value
    if isinstance(value, int):
        return Raw(4, struct.pack("<I", value))
    if isinstance(value, bytes):
        return Raw(3, value)
    if isinstance(value, list):
        return Raw(7, "".join(f"{each}\0" for each in [*value, ""]).encode("utf-16-le"))
    return Raw(1, f"{value}\0".encode("utf-16-le"))


def _value(cells: _Cells, name: str, value: Any) -> int:
    kind, data = _typed(value)
    if len(data) <= 4:
        size, at = len(data) | 0x80000000, int.from_bytes(data.ljust(4, b"\0"), "little")
    elif len(data) > SEGMENT:
        segments = [cells.add(data[place : place + SEGMENT]) for place in range(0, len(data), SEGMENT)]
        listed = cells.add(struct.pack(f"<{len(segments)}I", *segments))
        size, at = len(data), cells.add(struct.pack("<2sHI", b"db", len(segments), listed))
    else:
        size, at = len(data), cells.add(data)
    raw, compressed = _name(name)
    return cells.add(struct.pack("<2sHIIIHH", b"vk", len(raw), size, at, kind, int(compressed), 0) + raw)


def _listed(cells: _Cells, keys: list[tuple[str, int]], kind: bytes) -> int:
    if kind == b"ri":
        parts = [_listed(cells, keys[at : at + 100], b"lh") for at in range(0, len(keys), 100)]
        return cells.add(struct.pack("<2sH", b"ri", len(parts)) + struct.pack(f"<{len(parts)}I", *parts))
    items = b""
    for name, at in keys:
        items += struct.pack("<I", at)
        if kind == b"lf":
            items += name.encode("latin-1", "replace")[:4].ljust(4, b"\0")
        elif kind == b"lh":
            code = 0
            for char in name:
                code = (37 * code + ord(char)) & 0xFFFFFFFF
            items += struct.pack("<I", code)
    return cells.add(struct.pack("<2sH", kind, len(keys)) + items)


def _node(cells: _Cells, name: str, flags: int, keys: tuple[int, int], values: tuple[int, int], security: int) -> int:
    """A key of (number, list) of keys and of values."""
    return cells.add(_node_body(name, flags, keys, values, security))


def _node_body(name: str, flags: int, keys: tuple[int, int], values: tuple[int, int], security: int) -> bytes:
    raw, compressed = _name(name)
    flags = flags if compressed else flags & ~0x20
    # fmt: off
    return struct.pack("<2sHQ15IHH", b"nk", flags, WHEN, 0, NONE, keys[0], 0, keys[1], NONE, *values,
                       security, NONE, 0, 0, 0, 0, 0, len(raw), 0) + raw
    # fmt: on


def _key(cells: _Cells, name: str, tree: dict[str, Any], security: int, flags: int = 0x20, fill: int = 0) -> int:
    below = {key: value for key, value in tree.items() if isinstance(value, dict)}
    values = [_value(cells, key, value) for key, value in tree.items() if not isinstance(value, dict)]
    keys = sorted((key.upper(), _key(cells, key, value, security)) for key, value in below.items())
    if fill:
        keys.append(("ZZ FILLING", _filling(cells, fill, security)))
    listed = _listed(cells, keys, cells.lists) if keys else NONE
    shown = cells.add(b"".join(struct.pack("<I", at) for at in values)) if values else NONE
    return _node(cells, name, flags, (len(keys), listed), (len(values), shown), security)


def _filling(cells: _Cells, size: int, security: int) -> int:
    """A key with at least `size` bytes of keys of a thousand DWORDs each, made in blocks."""
    count, stride = 1000, 32
    block = b"".join(
        struct.pack("<i2sHIIIHH", -stride, b"vk", 4, 0x80000004, number, 4, 1, 0) + f"{number:04}".encode() + bytes(4)
        for number in range(count)
    )
    keys = []
    while len(cells.data) < size:
        at = len(cells.data)
        cells.data += block
        listed = cells.add(array("I", range(at, at + count * stride, stride)).tobytes())
        name = f"KEY{len(keys):05}"
        keys.append((name, _node(cells, name, 0x20, (0, NONE), (count, listed), security)))
    return _node(cells, "ZZ FILLING", 0x20, (len(keys), _listed(cells, keys, b"lh")), (0, NONE), security)


def build(tree: dict[str, Any], name: str = "SYSTEM", *, lists: bytes = b"lf", fill: int = 0) -> bytes:
    """`lists`: the kind of the lists of keys (lf, lh, li, ri); `fill`: bytes that the hive is made long at least."""
    cells = _Cells(lists)
    # the root is where Windows has it, and stays there whatever is added
    root = cells.add(bytes(80))
    security = cells.add(
        struct.pack("<2sHIIII", b"sk", 0, 32, 32, 1, 20) + struct.pack("<BBHIIII", 1, 0, 0x8000, *[0] * 4)
    )
    copy = _key(cells, "ROOT", tree, security, 0x2C, fill)
    cells.data[root + 4 : root + 84] = cells.data[copy + 4 : copy + 84]
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


# ---- a hive that was not brought home: its logs ------------------------------------------------------------------


def torn(data: bytes, first: int = 2, second: int = 1) -> bytes:
    """The hive with unequal sequence numbers."""
    return seal(data[:4] + struct.pack("<II", first, second) + data[12:])


def log(before: bytes, after: bytes, sequence: int, *, entries: int = 1) -> bytes:
    """A log as Windows 8.1 and later write it: what makes `after` of `before`, in `entries` parts."""
    size = len(after) - 4096
    padded = before.ljust(len(after), b"\0")
    pages = [at for at in range(0, size, 4096) if padded[4096 + at : 8192 + at] != after[4096 + at : 8192 + at]]
    assert len(pages) >= entries
    made = _log_head(after, sequence, 6)
    for number in range(entries):
        part = pages[number * len(pages) // entries : (number + 1) * len(pages) // entries]
        made += _entry(after, part, sequence + number, size)
    return made


def _log_head(hive: bytes, sequence: int, kind: int) -> bytes:
    head = bytearray(hive[:512])
    struct.pack_into("<II", head, 4, sequence, sequence)
    struct.pack_into("<I", head, 28, kind)
    return seal(bytes(head))


def _entry(hive: bytes, pages: list[int], sequence: int, size: int) -> bytes:
    # the stand-in has this module without the product, and writes no logs
    from pipeline.disk.hive_logs import marvin32

    body = b"".join(struct.pack("<II", at, 4096) for at in pages)
    body += b"".join(hive[4096 + at : 8192 + at] for at in pages)
    length = -(-(40 + len(body)) // 512) * 512
    body = body.ljust(length - 40, b"\0")
    head = struct.pack("<4sIIIIIQ", b"HvLE", length, 0, sequence, size, len(pages), marvin32(body))
    return head + struct.pack("<Q", marvin32(head)) + body


def old_log(before: bytes, after: bytes, sequence: int) -> bytes:
    """A log as earlier ones write it: a bitmap of dirty sectors, and the sectors."""
    sectors = range((len(after) - 4096) // 512)
    padded = before.ljust(len(after), b"\0")
    dirty = [n for n in sectors if padded[4096 + 512 * n : 4608 + 512 * n] != after[4096 + 512 * n : 4608 + 512 * n]]
    bitmap = bytearray(len(sectors) // 8)
    for number in dirty:
        bitmap[number // 8] |= 1 << number % 8
    vector = b"DIRT" + bitmap
    vector = vector.ljust(-(-len(vector) // 512) * 512, b"\0")
    return _log_head(after, sequence, 1) + vector + b"".join(after[4096 + 512 * n : 4608 + 512 * n] for n in dirty)
