"""The trees of a btrfs: items by key, and the maps that the first trees give of the others.

No number on the disk is believed: each block names itself and its level, no block is visited twice in one pass, and
an item lies in its block.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.disk.btrfs import (
    KEY,
    MIRROR_ROOM,
    MIRRORS,
    RESERVED,
    BtrfsFacts,
    ChunkMap,
    UnsupportedChunkError,
    parse_chunk,
    system_chunks,
)
from pipeline.disk.filesystem import FileSystem, Read, Recent

#: Types of items.
ROOT_ITEM, ROOT_BACKREF, EXTENT_ITEM, METADATA_ITEM, CHUNK_ITEM = 132, 144, 168, 169, 228
#: Numbers of trees.
EXTENT_TREE, TOP_TREE, FIRST_SUBVOLUME, LAST_SUBVOLUME = 2, 5, 256, (1 << 64) - 257
LAST = (1 << 64) - 1
#: Features that are read: references, the default subvolume, compression, large nodes, skinny extents, no holes, an
#: id of metadata, RAID (whose chunks are refused where one is read), simple quotas.
_READ = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800 | 0x10000
_NOT_READ = {0x1000: "zones", 0x2000: "an extent tree of version 2", 0x4000: "a tree of stripes"}
_HEADER, _ITEM, _POINTER = 101, 25, 33
#: Bytes of nodes that are kept, roots of trees.
_KEPT_NODES, _KEPT_ROOTS = 12 << 20, 4096

Key = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Item:
    """`address` is the logical one of `data`."""

    key: Key
    data: bytes
    address: int


@dataclass(frozen=True, slots=True)
class TreeRoot:
    """Where a tree begins, and the first inode of its files."""

    address: int
    level: int
    directory: int = 0


class Trees:
    """`owner` words the errors. Raises DiskError: fs-damaged, fs-unsupported."""

    def __init__(self, read: Read, start: int, facts: BtrfsFacts, owner: FileSystem) -> None:
        self._disk, self._start, self.facts, self._owner = read, start, facts, owner
        self._nodes: Recent[bytes] = Recent(_KEPT_NODES, len)
        self._roots: Recent[TreeRoot] = Recent(_KEPT_ROOTS)
        self._refuse_features()
        self.map = ChunkMap(facts.size)
        try:
            for at, raw in system_chunks(facts):
                self._add_chunk(at, raw)
        except ValueError as error:
            raise owner.damaged(str(error)) from None
        chunk_tree = TreeRoot(facts.chunk_root, facts.chunk_level)
        for item in self.items(chunk_tree, (0, CHUNK_ITEM, 0), (LAST, LAST, LAST)):
            if item.key[1] == CHUNK_ITEM:
                self._add_chunk(item.key[2], item.data)
        self.root_tree = TreeRoot(facts.root, facts.root_level)

    def _refuse_features(self) -> None:
        unknown = self.facts.incompatible & ~_READ
        if unknown:
            bit = unknown & -unknown
            raise self._owner.unsupported(_NOT_READ.get(bit, f"an unknown feature (incompat {bit:#x})"))
        if self.facts.devices != 1:
            raise self._owner.unsupported(f"{self.facts.devices} devices")

    def _add_chunk(self, start: int, raw: bytes) -> None:
        try:
            self.map.add(parse_chunk(start, raw, self.facts.device))
        except UnsupportedChunkError as error:
            raise self._owner.unsupported(str(error)) from None
        except ValueError as error:
            raise self._owner.damaged(str(error)) from None

    # bytes

    def copies(self, address: int, length: int) -> list[list[tuple[int, int]]]:
        """For each copy of a range the (start, length) of its parts, by the volume's addresses."""
        try:
            found = self.map.copies(address, length)
        except ValueError as error:
            raise self._owner.damaged(str(error)) from None
        return [[(self._start + at, size) for at, size in copy] for copy in found]

    def read(self, address: int, length: int) -> bytes:
        """Bytes at a logical address, by their first copy."""
        return self._parts(self.copies(address, length)[0], length)

    def _parts(self, parts: list[tuple[int, int]], length: int) -> bytes:
        data = b"".join(self._disk(at, size) for at, size in parts)
        if len(data) < length:
            raise self._owner.damaged(f"the volume ends before byte {parts[-1][0] + parts[-1][1]}")
        return data

    def _node(self, address: int) -> bytes:
        return self._nodes.get(address, self._read_node)

    def _read_node(self, address: int) -> bytes:
        """A block of a tree: the first copy of it that names itself."""
        for copy in self.copies(address, self.facts.node_size):
            data = self._parts(copy, self.facts.node_size)
            (own,) = struct.unpack_from("<Q", data, 48)
            (count,) = struct.unpack_from("<I", data, 96)
            size = _POINTER if data[100] else _ITEM
            if own == address and data[32:48] == self.facts.fsid and _HEADER + count * size <= len(data):
                return data
        raise self._owner.damaged(f"the block of a tree at address {address}")

    # trees

    def tree(self, number: int) -> TreeRoot | None:
        """The root of a tree, None where there is none, or one that is being deleted."""
        found = self._roots.get(number, self._read_root)
        return found if found.address else None

    def _read_root(self, number: int) -> TreeRoot:
        # a tree may have versions by generation: the last one counts
        newest = TreeRoot(0, 0)
        for item in self.items(self.root_tree, (number, ROOT_ITEM, 0), (number, ROOT_ITEM, LAST)):
            if len(item.data) >= 239 and struct.unpack_from("<I", item.data, 216)[0]:
                directory, address = struct.unpack_from("<QQ", item.data, 168)
                newest = TreeRoot(address, item.data[238], directory)
        return newest

    def items(self, root: TreeRoot, first: Key, last: Key) -> Iterator[Item]:
        """Items in order from `first` to `last`, both included."""
        if root.level > 7:
            raise self._owner.damaged(f"a tree of {root.level} levels")
        todo, seen = [(root.address, root.level)], set[int]()
        while todo:
            address, level = todo.pop()
            if address in seen:
                raise self._owner.damaged(f"the block at address {address} is pointed at twice by one tree")
            seen.add(address)
            data = self._node(address)
            if data[100] != level:
                raise self._owner.damaged(f"the block at address {address} has level {data[100]}, not {level}")
            if level:
                todo += [(below, level - 1) for below in _children(data, first, last)][::-1]
            else:
                yield from self._leaf(data, address, first, last)

    def _leaf(self, data: bytes, address: int, first: Key, last: Key) -> Iterator[Item]:
        (count,) = struct.unpack_from("<I", data, 96)

        def key(number: int) -> Key:
            return KEY.unpack_from(data, _HEADER + number * _ITEM)

        for number in range(bisect_left(range(count), first, key=key), count):
            found = key(number)
            if found > last:
                return
            offset, size = struct.unpack_from("<II", data, _HEADER + number * _ITEM + KEY.size)
            begin = _HEADER + offset
            if begin + size > len(data):
                raise self._owner.damaged(f"an item outside of the block at address {address}")
            yield Item(found, data[begin : begin + size], address + begin)

    # free room

    def free(self) -> Iterator[tuple[int, int]]:
        """(start, length), by the volume's addresses, of what neither a chunk nor an extent in one has."""
        taken = [(0, RESERVED), *((at, at + MIRROR_ROOM) for at in MIRRORS if at < self.facts.size)]
        chunks = sorted((place, place + chunk.length) for chunk in self.map.chunks for place in chunk.places)
        yield from self._between(sorted([*taken, *chunks]), 0, self.facts.size)
        tree = self.tree(EXTENT_TREE)
        if tree is None:
            raise self._owner.damaged("it has no tree of extents")
        for chunk in self.map.chunks:
            for begin, end in self._unused(tree, chunk.start, chunk.end):
                for copy in self.copies(begin, end - begin):
                    for at, size in copy:
                        yield from self._between(taken, at - self._start, at - self._start + size)

    def _unused(self, tree: TreeRoot, start: int, end: int) -> Iterator[tuple[int, int]]:
        """(begin, end), logical, of what no extent has in a chunk."""
        reached = start
        for item in self.items(tree, (start, 0, 0), (end - 1, LAST, LAST)):
            address, kind, offset = item.key
            if kind not in (EXTENT_ITEM, METADATA_ITEM):
                continue
            if address < reached:
                raise self._owner.damaged(f"two extents overlap at address {address}")
            if address > reached:
                yield reached, address
            reached = address + (offset if kind == EXTENT_ITEM else self.facts.node_size)
            if reached > end:
                raise self._owner.damaged(f"the extent at address {address} is outside of its chunk")
        if reached < end:
            yield reached, end

    def _between(self, taken: list[tuple[int, int]], begin: int, end: int) -> Iterator[tuple[int, int]]:
        """What of a range none of the sorted `taken` has, as addresses."""
        for first, behind in taken:
            if first >= end:
                break
            if first > begin:
                yield self._start + begin, first - begin
            begin = max(begin, behind)
        if begin < end:
            yield self._start + begin, end - begin


def _children(data: bytes, first: Key, last: Key) -> list[int]:
    """Addresses of the blocks below a node in which keys of a range may stand."""
    (count,) = struct.unpack_from("<I", data, 96)

    def key(number: int) -> Key:
        return KEY.unpack_from(data, _HEADER + number * _POINTER)

    begin = max(0, bisect_right(range(count), first, key=key) - 1)
    end = max(begin, bisect_right(range(count), last, key=key))
    return [struct.unpack_from("<Q", data, _HEADER + number * _POINTER + KEY.size)[0] for number in range(begin, end)]
