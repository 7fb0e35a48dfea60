"""Registry hives of a Windows disk: keys and values by path, and first of all whether they can be believed.

A hive whose two sequence numbers differ is dirty: Windows has written changes to its logs and not yet into it. With
its logs it is read as Windows would load it; without them what stands in the file is stale, and an error of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.base.errors import DiskError
from pipeline.disk.hive_cells import MAX_VALUES_BYTES, Cells, Key, RawValue, damaged, read_header
from pipeline.disk.hive_logs import replay

__all__ = ["LARGEST", "Hive", "RawValue", "Value", "decode", "read_header"]

#: SOFTWARE of a server has about 100 MiB; more is an attack on memory.
LARGEST = 256 << 20
#: Keys that `walk` gives at most. The largest SOFTWARE have about half a million.
_MAX_WALK = 4_000_000
#: What SOFTWARE\Microsoft\... may be nested at most. Microsoft: registry element size limits.
_MAX_DEPTH = 512

Value = str | int | bytes | list[str]


@dataclass(frozen=True)
class _Kind:
    """The registry's types that have a meaning of their own; all others are bytes."""

    texts: frozenset[int] = frozenset((1, 2, 6))
    multi: int = 7
    dword: int = 4
    dword_big: int = 5
    qword: int = 11


_KIND = _Kind()


class Hive:
    """One hive, whole in memory. Names compare without case, as Windows does."""

    def __init__(self, data: bytes, *, logs: Sequence[bytes] = (), allow_dirty: bool = False) -> None:
        """`logs`: the files beside it with `hive_logs.SUFFIXES`, in that order.

        Raises DiskError: hive-dirty (but with `allow_dirty`), hive-damaged, hive-too-large.
        """
        if len(data) > LARGEST:
            raise DiskError(
                f"the registry hive has more than {LARGEST >> 20} MiB, which is the limit",
                name="hive-too-large",
                hint="compact the hive: load it in Windows and save it with reg save",
            )
        found = replay(data, logs)
        self.header, self.replayed, self._why_dirty = found.header, found.entries, found.why_dirty
        if self.dirty and not allow_dirty:
            raise self.dirt()
        self._cells = Cells(found.data, found.header.data_size)
        self._root = self._cells.key(found.header.root)
        self._below: dict[int, dict[str, Key]] = {}

    @property
    def dirty(self) -> bool:
        """What it shows is stale: it is dirty, and no log was replayed."""
        return bool(self._why_dirty)

    def dirt(self) -> DiskError:
        """Why a dirty hive is not believed."""
        named = f" {self.header.name}" if self.header.name else ""
        return DiskError(
            "the registry hive{} is dirty (sequences {} and {}): {}".format(
                named, *self.header.sequences, self._why_dirty
            ),
            name="hive-dirty",
            hint="the logs lie beside the hive (.LOG1, .LOG2): copy them too; for a disk: start that Windows, shut "
            "it down without fast startup, then inspect again",
        )

    def keys(self, path: str = "") -> list[str] | None:
        """The names below a key, as they are written; None where there is no such key."""
        key = self._find(path)
        return None if key is None else [each.name for each in self._subkeys(key).values()]

    def values(self, path: str) -> dict[str, Value] | None:
        """A key's values by name ('' is the default one); None where there is no such key."""
        found = self.raw_values(path)
        if found is None:
            return None
        decoded: dict[str, Value] = {}
        for each in found:
            decoded.setdefault(each.name, decode(each))
        return decoded

    def raw_values(self, path: str) -> list[RawValue] | None:
        """A key's values as they stand in the hive, with their types; None where there is no such key."""
        key = self._find(path)
        return None if key is None else self._raw(key)

    def value(self, path: str, name: str) -> Value | None:
        """One value, its name without regard to case; None where it is not there. No other value is read."""
        key, wanted = self._find(path), _upper(name)
        for each, at in () if key is None else self._cells.values(key):
            if _upper(each) == wanted:
                return decode(self._cells.value(each, at))
        return None

    def walk(self) -> Iterator[tuple[tuple[str, ...], list[RawValue]]]:
        """Every key, as the names of its path, with its values. Raises DiskError (hive-damaged) where it circles."""
        todo: list[tuple[Key, tuple[str, ...]]] = [(self._root, ())]
        seen = {self._root.at}
        while todo:
            key, path = todo.pop()
            yield path, self._raw(key)
            for each in self._cells.subkeys(key):
                if each.at in seen or len(seen) > _MAX_WALK or len(path) > _MAX_DEPTH:
                    raise damaged(f"key {each.name!r} lies below two keys, or too deep")
                seen.add(each.at)
                todo.append((each, (*path, each.name)))

    def _raw(self, key: Key) -> list[RawValue]:
        found, total = [], 0
        for name, at in self._cells.values(key):
            found.append(self._cells.value(name, at))
            total += len(found[-1].data)
            if total > MAX_VALUES_BYTES:
                raise damaged(f"the values of key {key.name!r} have more than {MAX_VALUES_BYTES >> 20} MiB")
        return found

    def _find(self, path: str) -> Key | None:
        key = self._root
        for part in filter(None, path.split("\\")):
            below = self._subkeys(key).get(_upper(part))
            if below is None:
                return None
            key = below
        return key

    def _subkeys(self, key: Key) -> dict[str, Key]:
        if key.at not in self._below:
            found: dict[str, Key] = {}
            for each in self._cells.subkeys(key):
                found.setdefault(_upper(each.name), each)
            self._below[key.at] = found
        return self._below[key.at]


def decode(raw: RawValue) -> Value:
    """A value by its type. Bytes where the type has no meaning here, or its data have another length.

    A text ends at its first NUL, as Windows' own programs take it. A list of texts (REG_MULTI_SZ) may hold empty
    ones, as PendingFileRenameOperations does, and may lack its last NUL or both.
    """
    kind, data = raw.kind, raw.data
    if kind in _KIND.texts:
        return _decode_text(data).split("\0", 1)[0]
    if kind == _KIND.multi:
        return _decode_list(_decode_text(data))
    if kind in (_KIND.dword, _KIND.dword_big) and len(data) == 4:
        return int.from_bytes(data, "little" if kind == _KIND.dword else "big")
    if kind == _KIND.qword and len(data) == 8:
        return int.from_bytes(data, "little")
    return data


def _decode_text(data: bytes) -> str:
    # half a character at the end is left out
    return data[: len(data) & ~1].decode("utf-16-le", "replace")


def _decode_list(text: str) -> list[str]:
    texts = text.split("\0")
    # each text ends with a NUL, and so does the list; either may be missing
    for _ in range(2):
        if texts and not texts[-1]:
            texts.pop()
    return texts if any(texts) else []


def _upper(name: str) -> str:
    """A name as Windows compares it: each character by itself, so that none becomes two."""
    if name.isascii():
        return name.upper()
    return "".join(upper if len(upper := char.upper()) == 1 else char for char in name)
