"""Registry hives of a Windows disk, through regipy: keys, values, and first of all whether they can be believed.

A hive whose two sequence numbers differ was not written to its end: its log would have to be replayed, and what
stands in the file is stale. Most readers show it all the same; here that is an error of its own.
"""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline.errors import DiskError

#: The header, and everything's offsets count from behind it. libyal: "Windows NT Registry File format".
HEADER = 4096
#: SOFTWARE of a server has about 100 MiB; more is an attack on memory.
LARGEST = 256 << 20
#: What looking at one key may cost, so that no damage makes the reader turn in circles.
_CALLS, _BYTES, _KEYS = 3_000_000, 512 << 20, 200_000
_MAX_VALUE = 4 << 20

T = TypeVar("T")
Value = str | int | bytes | list[str]


@dataclass(frozen=True)
class Header:
    """The first 512 bytes of a hive, verified."""

    sequences: tuple[int, int]
    root: int
    data_size: int
    name: str

    @property
    def dirty(self) -> bool:
        return self.sequences[0] != self.sequences[1]


def read_header(data: bytes) -> Header:
    """Raises DiskError (hive-damaged) where this is no hive, its checksum is wrong, or it is cut off."""
    if len(data) < HEADER or not data.startswith(b"regf"):
        raise _damaged("no hive: it does not begin with 'regf'")
    first, second, _, major, minor, kind, form, root, size = struct.unpack_from("<IIQIIIIII", data, 4)
    check = 0
    for (word,) in struct.iter_unpack("<I", data[:508]):
        check ^= word
    check = {0: 1, 0xFFFFFFFF: 0xFFFFFFFE}.get(check, check)
    if check != struct.unpack_from("<I", data, 508)[0]:
        raise _damaged("the checksum of its header is wrong")
    if major != 1 or minor > 6 or kind != 0 or form != 1:
        raise _damaged(f"version {major}.{minor}, type {kind}, format {form}")
    if size % 4096 or not size or HEADER + size > len(data):
        raise _damaged(f"{size} bytes of cells in a file of {len(data)}")
    if not 32 <= root < size:
        raise _damaged("its root key lies outside")
    name = data[48:112].decode("utf-16-le", "replace").split("\0", 1)[0]
    return Header((first, second), root, size, name)


class Hive:
    """One hive, whole in memory. Key names compare without case, as Windows does."""

    def __init__(self, data: bytes, *, allow_dirty: bool = False) -> None:
        """Raises DiskError: hive-dirty, hive-damaged, hive-too-large."""
        if len(data) > LARGEST:
            raise DiskError(f"a hive of {len(data)} bytes", name="hive-too-large")
        self.header = read_header(data)
        if self.header.dirty and not allow_dirty:
            raise DiskError(
                "the registry hive{} was not written to its end (sequences {} and {})".format(
                    f" {self.header.name}" if self.header.name else "", *self.header.sequences
                ),
                name="hive-dirty",
                hint="shut Windows down in order, without fast startup, then look again",
            )
        self._stream = _Bounded(data[: HEADER + self.header.data_size])
        self._root = self._guarded(self._read_root)
        self._below: dict[int, dict[str, Any]] = {}

    def keys(self, path: str = "") -> list[str] | None:
        """The names below a key, as they are written; None where there is no such key."""
        record = self._find(path)
        return None if record is None else [each.name for each in self._subkeys(record).values()]

    def values(self, path: str) -> dict[str, Value] | None:
        """A key's values by name ('' is the default one); None where there is no such key."""
        record = self._find(path)
        return None if record is None else self._guarded(lambda: _values(record))

    def value(self, path: str, name: str) -> Value | None:
        """One value, its name without regard to case; None where it is not there."""
        found = self.values(path) or {}
        return next((value for key, value in found.items() if key.lower() == name.lower()), None)

    def _read_root(self) -> Any:
        reader = _regipy()
        at = HEADER + self.header.root
        self._stream.seek(at)
        if self._stream.read(6)[4:] != b"nk":
            raise _damaged("there is no key where its root should be")
        return reader.NKRecord(reader.Cell(offset=at + 6, cell_type="nk", size=0), self._stream)

    def _find(self, path: str) -> Any | None:
        record = self._root
        for part in filter(None, path.split("\\")):
            record = self._subkeys(record).get(part.lower())
            if record is None:
                return None
        return record

    def _subkeys(self, record: Any) -> dict[str, Any]:
        if id(record) not in self._below:
            self._below[id(record)] = self._guarded(lambda: _subkeys(record))
        return self._below[id(record)]

    def _guarded(self, look: Callable[[], T]) -> T:
        """Whatever a damaged hive does to its reader comes out as hive-damaged, and after bounded work."""
        self._stream.refill()
        try:
            return look()
        except DiskError:
            raise
        except (Exception, RecursionError) as error:
            raise _damaged(f"{type(error).__name__}: {error}"[:200]) from None


def _subkeys(record: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in record.iter_subkeys():
        found.setdefault(each.name.lower(), each)
        if len(found) > _KEYS:
            raise _damaged("too many keys below one")
    return found


def _values(record: Any) -> dict[str, Value]:
    found: dict[str, Value] = {}
    taken = 0
    for each in record.iter_values(trim_values=False):
        value = each.value
        if isinstance(value, (bytes, str)):
            value = value[:_MAX_VALUE]
            taken += len(value)
        elif isinstance(value, list):
            value = [str(item) for item in value]
        elif not isinstance(value, int):
            value = str(value)
        if taken > _BYTES or len(found) > _KEYS:
            raise _damaged("too much in one key")
        found["" if each.name == "(default)" else each.name] = value
    return found


class _Strict(logging.Handler):
    """regipy logs what it cannot parse and shows the rest as if it were all: here that is the end of the reading."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            raise _damaged(record.getMessage()[:200])


def _regipy() -> Any:
    from regipy import registry

    logger = logging.getLogger("regipy")
    if not any(isinstance(each, _Strict) for each in logger.handlers):
        logger.addHandler(_Strict())
        logger.propagate = False
    return registry


class _Bounded(io.BytesIO):
    """The hive's bytes, of which only so many may be read, and only so often."""

    def refill(self) -> None:
        self._calls, self._bytes = _CALLS, _BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._calls -= 1
        self._bytes -= len(data)
        if self._calls < 0 or self._bytes < 0:
            raise _damaged("its keys lead in circles")
        return data


def _damaged(what: str) -> DiskError:
    return DiskError(f"the registry hive cannot be read: {what}", name="hive-damaged")
