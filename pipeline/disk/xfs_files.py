"""The files of XFS, versions 4 and 5: inodes, extents and their trees, directories, links, the map of free blocks.

By the kernel's fs/xfs/libxfs (xfs_format.h, xfs_da_format.h). No number on the disk is believed: each is compared
with what the superblock allows, no block of a tree is visited twice, and a tree has at most _MAX_LEVELS levels.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.base.errors import DiskError
from pipeline.disk.datamap import DataMap, TooManyPiecesError
from pipeline.disk.filesystem import MAX_ENTRIES, Entry, FileSystem, Recent, Stat
from pipeline.disk.xfs import NEEDS_REPAIR, Superblock, XfsFacts

_INODE_MAGIC = b"IN"
#: Features of version 5 that are read: names' types, sparse inodes, an id of metadata, large times, interrupted
#: repair (named by `faults`), large counts, exchanged ranges, parents' attributes.
_READ = 0x1 | 0x2 | 0x4 | 0x8 | NEEDS_REPAIR | 0x20 | 0x40 | 0x80
_NOT_READ = {0x100: "a tree of metadata (metadir)", 0x200: "zones"}
_TYPES = {0x8: "file", 0x4: "dir", 0xA: "link"}
_ENTRY_TYPES = {1: "file", 2: "dir", 7: "link"}
#: Forms of a fork: in the inode, a list of extents, a tree of them.
_LOCAL, _EXTENTS, _TREE = 1, 2, 3
_REALTIME = 0x1
_BIG_TIME, _BIG_COUNTS = 0x8, 0x10
#: Seconds by which large times begin before 1970.
_BIG_TIME_EPOCH = 1 << 31
_MAP_MAGICS = (b"BMAP", b"BMA3")
_FREE_MAGICS = (b"ABTB", b"AB3B")
_GROUP_MAGIC, _LINK_MAGIC = b"XAGF", b"XSLM"
#: Blocks of a directory: a single one with its index in it, or one of several.
_SINGLE_MAGICS, _DATA_MAGICS = (b"XD2B", b"XDB3"), (b"XD2D", b"XDD3")
#: Names stand in the first 32 GiB of a directory's addresses, indexes behind them.
_DIRECTORY_END = 1 << 35
_MAX_DIRECTORY = 256 << 20
#: XFS_MAX_FILEOFF: sizes are signed.
_FILE_END = 1 << 63
_MAX_LEVELS, _MAX_LINK = 9, 1024
_UNUSED = 0xFFFF
_KEPT_INODES, _KEPT_PIECES, _KEPT_BLOCKS = 4 << 20, 1_000_000, 256


@dataclass(frozen=True, slots=True)
class _Inode:
    """`fork` holds the data, or says where it is; `extents` is how many there are."""

    number: int
    mode: int
    form: int
    uid: int
    gid: int
    mtime: int
    size: int
    extents: int
    flags: int
    fork: bytes

    @property
    def type(self) -> str:
        return _TYPES.get(self.mode >> 12, "other")


class XfsFileSystem(FileSystem):
    """Raises DiskError: fs-damaged, fs-unsupported."""

    def __init__(self, facts: XfsFacts) -> None:
        super().__init__("xfs", facts.start)
        self._disk = facts.read
        self._super: Superblock = facts.superblock
        self._is_new = self._super.version == 5
        unknown = self._super.incompatible & ~_READ
        if unknown:
            bit = unknown & -unknown
            raise self.unsupported(_NOT_READ.get(bit, f"an unknown feature (incompat {bit:#x})"))
        self._inodes: Recent[_Inode] = Recent(_KEPT_INODES, lambda found: len(found.fork) + 100)
        self._maps: Recent[DataMap] = Recent(_KEPT_PIECES, lambda found: len(found) + 1)
        self._blocks: Recent[bytes] = Recent(_KEPT_BLOCKS)

    @property
    def root(self) -> int:
        return self._super.root

    def read_link(self, inode: int) -> str:
        found = self._inode(inode)
        if found.type != "link" or found.size > _MAX_LINK:
            raise self.damaged(f"inode {inode} is not a link, or one of {found.size} bytes")
        if found.form == _LOCAL:
            return found.fork[: found.size].decode("utf-8", "surrogateescape")
        parts = [self._link_part(start, length) for start, length in self._map(inode).runs()]
        return b"".join(parts)[: found.size].decode("utf-8", "surrogateescape")

    def _link_part(self, start: int, length: int) -> bytes:
        data = self._disk(start, min(length, 64 << 10))
        if not self._is_new:
            return data
        if data[:4] != _LINK_MAGIC or len(data) < 56:
            raise self.damaged(f"byte {start - self.start} should hold a link's target")
        (size,) = struct.unpack_from(">I", data, 8)
        return data[56 : 56 + size]

    def read(self, inode: int, offset: int, length: int) -> bytes:
        found = self._inode(inode)
        length = max(0, min(length, found.size - offset))
        if found.form == _LOCAL:
            return found.fork[: found.size][offset : offset + length]
        return self._map(inode).read(self._disk, offset, length)

    def _runs(self, inode: int) -> list[tuple[int, int]]:
        found = self._inode(inode)
        return [] if found.form == _LOCAL or found.type == "other" else self._map(inode).runs()

    def _read_stat(self, inode: int) -> Stat:
        found = self._inode(inode)
        return Stat(inode, found.type, found.mode & 0o7777, found.uid, found.gid, found.size, found.mtime)

    # inodes

    def _inode(self, number: int) -> _Inode:
        return self._inodes.get(number, self._read_inode)

    def _read_inode(self, number: int) -> _Inode:
        block, index = divmod(number, 1 << self._super.inodes_log)
        data = self._blocks.get(block, self._block)
        at = index * self._super.inode_size
        raw = data[at : at + self._super.inode_size]
        if raw[:2] != _INODE_MAGIC:
            raise self.damaged(f"inode {number} does not exist")
        return self._parse_inode(number, raw)

    def _parse_inode(self, number: int, raw: bytes) -> _Inode:
        mode, version, form = struct.unpack_from(">HBB", raw, 2)
        core = 176 if version == 3 else 100
        if version != (3 if self._is_new else 2) and (self._is_new or version not in (1, 2)):
            raise self.damaged(f"inode {number} has version {version}")
        if self._is_new and struct.unpack_from(">Q", raw, 152)[0] != number:
            raise self.damaged(f"inode {number} says that it is another one")
        if not mode:
            raise self.damaged(f"inode {number} is not in use")
        uid, gid = struct.unpack_from(">II", raw, 8)
        (size,) = struct.unpack_from(">Q", raw, 56)
        fork_end = raw[82] * 8
        (flags,) = struct.unpack_from(">H", raw, 90)
        flags2 = struct.unpack_from(">Q", raw, 120)[0] if version == 3 else 0
        (few, many) = (struct.unpack_from(">I", raw, 76)[0], struct.unpack_from(">Q", raw, 24)[0])
        if core + fork_end > len(raw):
            raise self.damaged(f"inode {number} has a fork outside of it")
        if size >= 1 << 63:
            raise self.damaged(f"inode {number} has {size} bytes")
        fork = raw[core : core + fork_end] if fork_end else raw[core:]
        count = many if flags2 & _BIG_COUNTS else few
        return _Inode(number, mode, form, uid, gid, _mtime(raw, flags2), size, count, flags, fork)

    def _bytes(self, block: int, count: int = 1) -> bytes:
        at = self._super.place(block)
        size = count * self._super.block_size
        data = self._disk(self.start + at, size) if at is not None else b""
        if len(data) < size:
            raise self.damaged(f"block {block} is outside")
        return data

    def _block(self, number: int) -> bytes:
        return self._bytes(number)

    # data

    def _map(self, inode: int) -> DataMap:
        return self._maps.get(inode, self._read_map)

    def _read_map(self, number: int) -> DataMap:
        found, inode, size = DataMap(), self._inode(number), self._super.block_size
        if inode.flags & _REALTIME and inode.type == "file":
            raise self.unsupported(f"a file on a realtime device (inode {number})")
        try:
            for logical, block, count, unwritten in self._extents(inode):
                at, last = self._super.place(block), self._super.place(block + count - 1)
                if logical + count > _FILE_END // size:
                    raise self.damaged(f"inode {number} has data behind the largest size of a file")
                if at is None or last is None or last - at != (count - 1) * size:
                    raise self.damaged(f"block {block} of inode {number} is outside")
                found.add(logical * size, self.start + at, count * size, unwritten=unwritten)
        except ValueError as error:
            raise self.damaged(f"inode {number}: {error}") from None
        except TooManyPiecesError:
            raise self.unsupported(f"a file in more than a million pieces (inode {number})") from None
        return found

    def _extents(self, inode: _Inode) -> Iterator[tuple[int, int, int, bool]]:
        """(first block in the file, first block of the file system, blocks, unwritten), in order."""
        if inode.form == _EXTENTS:
            if inode.extents * 16 > len(inode.fork):
                raise self.damaged(f"inode {inode.number} has more extents than it has room for")
            yield from _records(inode.fork[: inode.extents * 16])
        elif inode.form == _TREE:
            for data, at, count in self._leaves(inode):
                yield from _records(data[at : at + 16 * count])
        elif inode.form != _LOCAL:
            raise self.damaged(f"inode {inode.number} has data of form {inode.form}")

    def _leaves(self, inode: _Inode) -> Iterator[tuple[bytes, int, int]]:
        """The leaves of a tree of extents: the block, where its records begin, and how many there are."""
        level, count = struct.unpack_from(">HH", inode.fork)
        most = (len(inode.fork) - 4) // 16
        if not 0 < level <= _MAX_LEVELS or count > most:
            raise self.damaged(f"the tree of extents of inode {inode.number}")
        head = 72 if self._is_new else 24
        room = (self._super.block_size - head) // 16
        todo = [(block, level - 1) for block in _pointers(inode.fork, 4 + 8 * most, count)][::-1]
        seen: set[int] = set()
        while todo:
            block, expected = todo.pop()
            data = self._once(block, seen)
            depth, count = struct.unpack_from(">HH", data, 4)
            if data[:4] != _MAP_MAGICS[self._is_new] or depth != expected or count > room:
                raise self.damaged(f"the tree of extents of inode {inode.number}")
            if depth:
                todo += [(below, depth - 1) for below in _pointers(data, head + 8 * room, count)][::-1]
            else:
                yield data, head, count

    def _once(self, block: int, seen: set[int]) -> bytes:
        """A block of a tree, which no tree needs twice."""
        if block in seen:
            raise self.damaged(f"block {block} is pointed at twice by one tree")
        seen.add(block)
        return self._bytes(block)

    # directories

    def _read_directory(self, inode: int) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        directory = self._inode(inode)
        if directory.type != "dir":
            raise self.damaged(f"inode {inode} is not a directory")
        names = self._short_names(directory) if directory.form == _LOCAL else self._long_names(directory)
        for raw, number, kind in names:
            if raw in (b".", b"..", b"") or b"/" in raw or b"\0" in raw:
                continue
            name = raw.decode("utf-8", "surrogateescape")
            shown = _ENTRY_TYPES.get(kind, "other") if self._super.has_types else self._inode(number).type
            found[name] = Entry(name, number, shown)
            if len(found) > MAX_ENTRIES:
                raise DiskError(
                    f"a directory has more than {MAX_ENTRIES} names",
                    name="fs-too-many-names",
                    hint="spread its files over several directories",
                )
        return found

    def _short_names(self, directory: _Inode) -> Iterator[tuple[bytes, int, int]]:
        """Names in the inode itself: (name, inode, type)."""
        data = directory.fork[: directory.size]
        if len(data) < 2:
            raise self.damaged(f"the directory in inode {directory.number}")
        count, wide = data[0] or data[1], bool(data[1])
        at = 2 + (8 if wide else 4)
        for _ in range(count):
            size = data[at] if at < len(data) else 0
            behind = at + 3 + size + self._super.has_types
            if at >= len(data) or behind + (8 if wide else 4) > len(data):
                raise self.damaged(f"a name in the directory in inode {directory.number}")
            kind = data[behind - 1] if self._super.has_types else 0
            (number,) = struct.unpack_from(">Q" if wide else ">I", data, behind)
            yield data[at + 3 : at + 3 + size], number, kind
            at = behind + (8 if wide else 4)

    def _long_names(self, directory: _Inode) -> Iterator[tuple[bytes, int, int]]:
        size = self._super.block_size << self._super.directory_log
        left = _MAX_DIRECTORY
        reached = -1
        for begin, end in self._map(directory.number).pieces():
            for at in range(begin // size * size, min(end, directory.size, _DIRECTORY_END), size):
                if at <= reached:
                    continue
                reached = at
                left -= size
                if left < 0:
                    raise self.damaged(f"the directory in inode {directory.number} has more than 256 MiB")
                yield from self._names(self._map(directory.number).read(self._disk, at, size), directory.number)

    def _names(self, data: bytes, directory: int) -> Iterator[tuple[bytes, int, int]]:
        end = len(data)
        if data[:4] == _SINGLE_MAGICS[self._is_new]:
            (count,) = struct.unpack_from(">I", data, end - 8)
            end -= 8 + 8 * count
        elif data[:4] != _DATA_MAGICS[self._is_new]:
            raise self.damaged(f"a block of the directory in inode {directory}")
        at = 64 if self._is_new else 16
        while at + 12 <= end:
            tag, length = struct.unpack_from(">HH", data, at)
            if tag == _UNUSED:
                if length < 8 or length % 8:
                    raise self.damaged(f"a gap in the directory in inode {directory}")
                at += length
                continue
            number, size = struct.unpack_from(">QB", data, at)
            behind = at + 9 + size
            length = 9 + size + self._super.has_types + 2 + 7 & ~7
            if at + length > end:
                raise self.damaged(f"a name in the directory in inode {directory}")
            yield data[at + 9 : behind], number, data[behind] if self._super.has_types else 0
            at += length

    # free blocks

    def _free(self) -> Iterator[tuple[int, int]]:
        """By each group's tree of free blocks. What waits in its list for these trees to grow is not among them."""
        for group in range(self._super.groups):
            at = self.start + group * self._super.group_blocks * self._super.block_size + self._super.sector_size
            header = self._disk(at, 64)
            if len(header) < 64 or header[:4] != _GROUP_MAGIC:
                raise self.damaged(f"the header of allocation group {group}")
            (number, length, root) = struct.unpack_from(">III", header, 8)
            (levels,) = struct.unpack_from(">I", header, 28)
            if number != group or length > self._super.group_blocks or not 0 < levels <= _MAX_LEVELS:
                raise self.damaged(f"the header of allocation group {group}")
            for first, count in self._free_in(group, root, levels - 1):
                begin = self._super.place(group << self._super.group_log | first)
                if not count or first + count > length or begin is None:
                    raise self.damaged(f"a free block of allocation group {group} is outside")
                yield self.start + begin, count * self._super.block_size

    def _free_in(self, group: int, root: int, level: int) -> Iterator[tuple[int, int]]:
        """(first block in the group, blocks) of the tree of free blocks that begins with block `root`."""
        head = 56 if self._is_new else 16
        room = self._super.block_size - head
        todo, seen = [(root, level)], set[int]()
        while todo:
            block, expected = todo.pop()
            data = self._once(group << self._super.group_log | block, seen)
            depth, count = struct.unpack_from(">HH", data, 4)
            most = room // 12 if depth else room // 8
            if data[:4] != _FREE_MAGICS[self._is_new] or depth != expected or count > most:
                raise self.damaged(f"the tree of free blocks of allocation group {group}")
            if depth:
                below = struct.unpack_from(f">{count}I", data, head + 8 * most)
                todo += [(each, depth - 1) for each in below][::-1]
            else:
                yield from struct.iter_unpack(">II", data[head : head + 8 * count])


def _mtime(raw: bytes, flags2: int) -> int:
    """Unix seconds: of large times nanoseconds since 1901, else seconds and nanoseconds."""
    if flags2 & _BIG_TIME:
        nanoseconds: int = struct.unpack_from(">Q", raw, 40)[0]
        return nanoseconds // 1_000_000_000 - _BIG_TIME_EPOCH
    seconds: int = struct.unpack_from(">i", raw, 40)[0]
    return seconds


def _pointers(data: bytes, at: int, count: int) -> tuple[int, ...]:
    return struct.unpack_from(f">{count}Q", data, at)


def _records(data: bytes) -> Iterator[tuple[int, int, int, bool]]:
    """Extents as XFS packs them: a bit, 54 bits of place in the file, 52 of block, 21 of length."""
    for high, low in struct.iter_unpack(">QQ", data):
        logical, block = high >> 9 & (1 << 54) - 1, (high & 0x1FF) << 43 | low >> 21
        yield logical, block, low & (1 << 21) - 1, bool(high >> 63)
