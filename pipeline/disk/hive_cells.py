"""The cells of a registry hive: header, keys, lists of keys, values and their data, read where they lie in the file.

Nothing is read before it is asked for: the cost of a key is its own path, not its hive. Every offset and length is
the disk's, and is compared with its cell; what does not fit raises DiskError (hive-damaged).

The format: M. Suhanov, "Windows registry file format specification"; libyal, "Windows NT Registry File (REGF)
format".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.base.errors import DiskError

#: Bytes of the header; all other offsets count from behind it.
HEADER = 4096
#: An offset that points nowhere.
NOWHERE = 0xFFFFFFFF
#: More keys or values below one key than any Windows has (its largest have about 30,000): an attack on memory.
MAX_KEYS = MAX_VALUES = 200_000
#: Bytes of one value, and of all values of one key. Windows' own are below 2 MiB.
MAX_VALUE, MAX_VALUES_BYTES = 8 << 20, 64 << 20
#: Data above this length is split into segments of it, where the cell that is pointed to holds their list.
_SEGMENT = 16344
#: Flags of a key: its name has one byte a character; it stands for another key and has no values of its own.
_KEY_COMPRESSED, _KEY_PREDEFINED = 0x20, 0x40
#: The flag of a value whose name has one byte a character; the bit of a size whose data stands in the value itself.
_VALUE_COMPRESSED, _INLINE = 0x1, 0x80000000
_PRIMARY = 0
#: Bytes of a piece of a hive that is changed as a whole.
_PAGE = 4096


@dataclass(frozen=True)
class Header:
    """The first 512 bytes of a hive or of its log, verified."""

    sequences: tuple[int, int]
    #: When it was written last, a FILETIME.
    written: int
    #: 0 is a hive, 1, 2 and 6 are logs.
    kind: int
    root: int
    data_size: int
    name: str

    @property
    def dirty(self) -> bool:
        return self.sequences[0] != self.sequences[1]


@dataclass(frozen=True)
class RawValue:
    """A value as it stands in the hive: its type is the registry's number, its data are uninterpreted."""

    name: str
    kind: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Key:
    """A key node: where its lists lie. Offsets count from behind the header."""

    at: int
    name: str
    subkeys: int
    subkeys_at: int
    values: int
    values_at: int


class Patched:
    """A hive's bytes with changes over them, page by page: a copy of a large hive would be too much for a reader."""

    def __init__(self, base: bytes) -> None:
        self._base = base
        self._length = len(base)
        self._pages: dict[int, bytearray] = {}

    def __len__(self) -> int:
        return self._length

    def grow(self, length: int) -> None:
        """Make it at least so long, by zeros."""
        self._length = max(self._length, length)

    def write(self, at: int, data: bytes | memoryview) -> None:
        """Change bytes in place. What lies behind its end is not written."""
        data = data[: max(0, self._length - at)]
        done = 0
        while done < len(data):
            number, inner = divmod(at + done, _PAGE)
            piece = data[done : done + _PAGE - inner]
            if number not in self._pages:
                self._pages[number] = bytearray(self._base[number * _PAGE : (number + 1) * _PAGE].ljust(_PAGE, b"\0"))
            self._pages[number][inner : inner + len(piece)] = piece
            done += len(piece)

    def __getitem__(self, where: slice) -> bytes:
        start, stop, _ = where.indices(self._length)
        found = bytearray()
        while start < stop:
            number, inner = divmod(start, _PAGE)
            end = min(stop, (number + 1) * _PAGE)
            page = self._pages.get(number)
            piece = self._base[start:end] if page is None else page[inner : inner + end - start]
            found += piece.ljust(end - start, b"\0")
            start = end
        return bytes(found)


Content = bytes | Patched


def read_header(data: Content) -> Header:
    """The header of a hive. Raises DiskError (hive-damaged): it is none, its checksum is wrong, it is cut off."""
    header = read_base_block(data[:HEADER])
    if header.kind != _PRIMARY:
        raise damaged(f"it is a log (type {header.kind}), not a hive")
    size, root = header.data_size, header.root
    if size % 4096 or not size or HEADER + size > len(data):
        raise damaged(f"its header counts {size} bytes of cells, its file has {len(data)} bytes")
    if not 32 <= root < size:
        raise damaged("its root key lies outside the file")
    return header


def read_base_block(data: bytes) -> Header:
    """The first 512 bytes of a hive or a log. Raises DiskError (hive-damaged)."""
    if len(data) < 512 or not data.startswith(b"regf"):
        raise damaged("it does not begin with 'regf'")
    if checksum(data) != struct.unpack_from("<I", data, 508)[0]:
        raise damaged("the checksum of its header is wrong")
    first, second, written, major, minor, kind, form, root, size = struct.unpack_from("<IIQIIIIII", data, 4)
    # before 1.2 cells and values were laid out otherwise: Windows NT 3.1
    if major != 1 or not 2 <= minor <= 6 or form != 1:
        raise damaged(f"version {major}.{minor} with format {form} is not known")
    name = data[48:112].decode("utf-16-le", "replace").split("\0", 1)[0]
    return Header((first, second), written, kind, root, size, name)


def checksum(data: bytes | bytearray) -> int:
    """XOR of the header's first 127 words, where all bits or none have values of their own."""
    found = 0
    for (word,) in struct.iter_unpack("<I", data[:508]):
        found ^= word
    return {0: 1, 0xFFFFFFFF: 0xFFFFFFFE}.get(found, found)


class Cells:
    """Reading single cells of a hive that lies in memory."""

    def __init__(self, data: Content, size: int) -> None:
        """`size`: bytes of cells behind the header."""
        self._data = data
        self._end = HEADER + size

    def key(self, at: int) -> Key:
        start, end = self._cell(at)
        if end - start < 76 or self._data[start : start + 2] != b"nk":
            raise damaged(f"there is no key at {at:#x}")
        (flags,) = self._unpack("<H", start + 2)
        subkeys, _, subkeys_at, _, values, values_at = self._unpack("<6I", start + 20)
        (length,) = self._unpack("<H", start + 72)
        if start + 76 + length > end:
            raise damaged(f"the name of the key at {at:#x} is longer than its cell")
        name = _text(self._data[start + 76 : start + 76 + length], compressed=bool(flags & _KEY_COMPRESSED))
        if flags & _KEY_PREDEFINED:
            values = 0
        return Key(at, name, subkeys, subkeys_at, values, values_at)

    def subkeys(self, key: Key) -> Iterator[Key]:
        """The keys below one, in the order of their list, which is that of their names."""
        if not key.subkeys:
            return
        if key.subkeys > MAX_KEYS:
            raise damaged(f"key {key.name!r} counts {key.subkeys} keys, more than {MAX_KEYS}")
        count = 0
        for at in self._listed(key.subkeys_at):
            count += 1
            if count > key.subkeys:
                break
            yield self.key(at)
        if count != key.subkeys:
            raise damaged(
                f"key {key.name!r} counts {key.subkeys} keys, its list has {'more' if count > key.subkeys else count}"
            )

    def _listed(self, at: int, *, inner: bool = False) -> Iterator[int]:
        start, end = self._cell(at)
        signature = bytes(self._data[start : start + 2])
        step = {b"lf": 8, b"lh": 8, b"li": 4, b"ri": 4}.get(signature)
        if step is None or (inner and signature == b"ri"):
            raise damaged(f"there is no list of keys at {at:#x}")
        (count,) = self._unpack("<H", start + 2)
        if start + 4 + count * step > end:
            raise damaged(f"the list of keys at {at:#x} is longer than its cell")
        for place in range(start + 4, start + 4 + count * step, step):
            (each,) = self._unpack("<I", place)
            if signature == b"ri":
                yield from self._listed(each, inner=True)
            else:
                yield each

    def values(self, key: Key) -> Iterator[tuple[str, int]]:
        """Name and place of each value. The name of the default value is empty."""
        if not key.values:
            return
        if key.values > MAX_VALUES:
            raise damaged(f"key {key.name!r} counts {key.values} values, more than {MAX_VALUES}")
        start, end = self._cell(key.values_at)
        if start + 4 * key.values > end:
            raise damaged(f"the list of values of key {key.name!r} is longer than its cell")
        for (at,) in struct.iter_unpack("<I", self._data[start : start + 4 * key.values]):
            yield self._value_name(at), at

    def _value_name(self, at: int) -> str:
        start, end = self._cell(at)
        if end - start < 20 or self._data[start : start + 2] != b"vk":
            raise damaged(f"there is no value at {at:#x}")
        (length,) = self._unpack("<H", start + 2)
        (flags,) = self._unpack("<H", start + 16)
        if start + 20 + length > end:
            raise damaged(f"the name of the value at {at:#x} is longer than its cell")
        return _text(self._data[start + 20 : start + 20 + length], compressed=bool(flags & _VALUE_COMPRESSED))

    def value(self, name: str, at: int) -> RawValue:
        """A value whose place `values` gave."""
        start, _ = self._cell(at)
        size, place, kind = self._unpack("<III", start + 4)
        if size & _INLINE:
            # four bytes or fewer stand where otherwise the offset of the data does
            size &= ~_INLINE
            if size > 4:
                raise damaged(f"value {name!r} has {size} bytes in a field of 4")
            return RawValue(name, kind, bytes(self._data[start + 8 : start + 8 + size]))
        if size > MAX_VALUE:
            raise damaged(f"value {name!r} has {size} bytes, more than {MAX_VALUE}")
        return RawValue(name, kind, self._content(name, place, size) if size else b"")

    def _content(self, name: str, at: int, size: int) -> bytes:
        start, end = self._cell(at)
        if start + size <= end:
            return bytes(self._data[start : start + size])
        if size <= _SEGMENT or self._data[start : start + 2] != b"db":
            raise damaged(f"value {name!r} has {size} bytes in a cell of {end - start}")
        count, listed = self._unpack("<HI", start + 2)
        first, last = self._cell(listed)
        if count != -(-size // _SEGMENT) or first + 4 * count > last:
            raise damaged(f"value {name!r} has {size} bytes in {count} segments")
        found = bytearray()
        for (place,) in struct.iter_unpack("<I", self._data[first : first + 4 * count]):
            begin, stop = self._cell(place)
            length = min(_SEGMENT, size - len(found))
            if begin + length > stop:
                raise damaged(f"value {name!r} has a segment of {length} bytes in a cell of {stop - begin}")
            found += self._data[begin : begin + length]
        return bytes(found)

    def _unpack(self, form: str, at: int) -> tuple[int, ...]:
        if isinstance(self._data, bytes):
            return struct.unpack_from(form, self._data, at)
        return struct.unpack(form, self._data[at : at + struct.calcsize(form)])

    def _cell(self, at: int) -> tuple[int, int]:
        """Begin and end of an allocated cell's content in the file."""
        start = HEADER + at
        if at == NOWHERE or at % 4 or start + 4 > self._end:
            raise damaged(f"an offset {at:#x} points outside the cells")
        (size,) = self._unpack("<i", start)
        # a free cell counts its size upwards
        if size > -8 or start - size > self._end:
            raise damaged(f"there is no cell in use at {at:#x}")
        return start + 4, start - size


def _text(raw: bytes | bytearray, *, compressed: bool) -> str:
    """A name: each character one byte of its UTF-16 where all others are zero, else UTF-16."""
    return raw.decode("latin-1") if compressed else raw.decode("utf-16-le", "replace")


def damaged(what: str) -> DiskError:
    return DiskError(
        f"the registry hive cannot be read: {what}",
        name="hive-damaged",
        hint="start that Windows, which rewrites its registry, or restore the hive from a backup",
    )
