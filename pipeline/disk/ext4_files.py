"""The files of ext2, ext3 and ext4, read in pure Python: extents and block maps, linear and indexed directories.

By the kernel's Documentation/filesystems/ext4. Nothing here believes a number on the disk: each is compared with what
the superblock's own counts allow, no block of pointers is visited twice, and a file has at most as many pieces as
`datamap.MAX_PIECES`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.base.errors import DiskError
from pipeline.disk import ext4
from pipeline.disk.datamap import DataMap, TooManyPiecesError
from pipeline.disk.filesystem import MAX_ENTRIES, Entry, FileSystem, Read, Recent, Stat

_ROOT_INODE = 2
#: Features without which a file system cannot be read right; those below are read, and any other is refused.
_FILE_TYPE, _META_BG, _64BIT = 0x2, 0x10, 0x80
_READ = (
    _FILE_TYPE | 0x4 | _META_BG | 0x40 | _64BIT | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x20000
)
_NOT_READ = {0x1: "compression", 0x8: "the journal of another file system in it", 0x1000: "data in its directories"}
_SPARSE_SUPER, _SPARSE_SUPER2 = 0x1, 0x200
#: A group's flag: its bitmap was never written (uninit_bg).
_NO_BITMAP = 0x2
#: Flags of an inode.
_ENCRYPTED, _EXTENTS, _INLINE = 0x800, 0x80000, 0x10000000
_TYPES = {0x8: "file", 0x4: "dir", 0xA: "link"}
_ENTRY_TYPES = {1: "file", 2: "dir", 7: "link"}
_EXTENT_MAGIC, _MAX_DEPTH, _MAX_WRITTEN = 0xF30A, 5, 0x8000
_XATTR_MAGIC, _XATTR_SYSTEM = 0xEA020000, 7
#: A link's target is at most one block; Linux takes no path of more.
_MAX_LINK = 4096
#: Bytes of a directory that are looked at: more than MAX_ENTRIES of the longest names take.
_MAX_DIRECTORY = 256 << 20
#: Places of inode tables and blocks of them that are kept.
_KEPT_TABLES, _KEPT_TABLE_BLOCKS = 4096, 256
#: Bytes of the inodes that are kept, and pieces of all the files whose maps are.
_KEPT_INODES = 4 << 20
_KEPT_PIECES = 1_000_000


@dataclass(frozen=True, slots=True)
class _Inode:
    number: int
    raw: bytes
    mode: int
    size: int
    flags: int

    @property
    def type(self) -> str:
        return _TYPES.get(self.mode >> 12, "other")

    @property
    def block(self) -> bytes:
        """The 60 bytes that say where the data is, or hold it."""
        return self.raw[40:100]


class Ext4FileSystem(FileSystem):
    """Raises DiskError: fs-damaged, fs-unsupported."""

    def __init__(self, read: Read, start: int, facts: ext4.Ext4Facts) -> None:
        super().__init__(facts.kind, start)
        self._disk = read
        raw = read(start + ext4.SUPERBLOCK_AT, ext4.SUPERBLOCK_SIZE)
        self._block_size, self._blocks = facts.block_size, facts.blocks
        self._compat, self._incompat, self._ro_compat = struct.unpack_from("<III", raw, 92)
        self._refuse_features(facts)
        (self._inodes,) = struct.unpack_from("<I", raw, 0)
        (self._first_block,) = struct.unpack_from("<I", raw, 20)
        (self._group_blocks,) = struct.unpack_from("<I", raw, 32)
        (self._group_inodes,) = struct.unpack_from("<I", raw, 40)
        (revision,) = struct.unpack_from("<I", raw, 76)
        (inode_size, descriptor_size) = (struct.unpack_from("<H", raw, at)[0] for at in (88, 254))
        self._inode_size = inode_size if revision else 128
        self._descriptor_size = descriptor_size if self._incompat & _64BIT else 32
        (self._first_meta_bg,) = struct.unpack_from("<I", raw, 260)
        self._backups = struct.unpack_from("<II", raw, 0x24C)
        sizes_right = 128 <= self._inode_size <= self._block_size and 32 <= self._descriptor_size <= self._block_size
        if not (sizes_right and self._group_blocks and self._group_inodes):
            raise self.damaged("the sizes in its superblock contradict each other")
        self._tables: Recent[int] = Recent(_KEPT_TABLES)
        self._table_pieces: Recent[bytes] = Recent(_KEPT_TABLE_BLOCKS)
        self._inodes_kept: Recent[_Inode] = Recent(_KEPT_INODES, lambda found: len(found.raw))
        self._maps: Recent[DataMap] = Recent(_KEPT_PIECES, lambda found: len(found) + 1)

    @property
    def root(self) -> int:
        return _ROOT_INODE

    def read_link(self, inode: int) -> str:
        found = self._inode(inode)
        if found.size > _MAX_LINK:
            raise self.damaged(f"inode {inode} is a link of {found.size} bytes")
        if found.flags & (_INLINE | _EXTENTS) or found.size >= len(found.block):
            data = self.read(inode, 0, found.size)
        else:
            data = found.block[: found.size]
        return data.decode("utf-8", "surrogateescape")

    def read(self, inode: int, offset: int, length: int) -> bytes:
        found = self._inode(inode)
        if found.flags & _ENCRYPTED and found.type != "dir":
            raise self.unsupported(f"an encrypted file (inode {inode})")
        length = max(0, min(length, found.size - offset))
        if found.flags & _INLINE:
            return self._inline(found)[offset : offset + length]
        return self._map(inode).read(self._disk, offset, length)

    def _runs(self, inode: int) -> list[tuple[int, int]]:
        found = self._inode(inode)
        no_data = found.flags & _INLINE or found.type == "other" or (found.type == "link" and _is_fast(found))
        if no_data:
            return []
        single = self._single_run(found)
        return self._map(inode).runs() if single is None else [single]

    def _single_run(self, inode: _Inode) -> tuple[int, int] | None:
        """The data of a file that has one extent, as most have; None of all others, and of what is damaged.

        Needs a fifth of the time of a map, which is not kept: a search asks for the places of every file.
        """
        magic, count, _, depth = struct.unpack_from("<HHHH", inode.raw, 40)
        if not inode.flags & _EXTENTS or magic != _EXTENT_MAGIC or depth or count != 1:
            return None
        blocks, high, low = struct.unpack_from("<HHI", inode.raw, 56)
        place, length = low | high << 32, blocks - _MAX_WRITTEN if blocks > _MAX_WRITTEN else blocks
        if place + length > self._blocks:
            return None
        return self.start + place * self._block_size, length * self._block_size

    def _read_stat(self, inode: int) -> Stat:
        found = self._inode(inode)
        uid, gid = (low | high << 16 for low, high in (_pair(found.raw, 2, 120), _pair(found.raw, 24, 122)))
        (mtime,) = struct.unpack_from("<i", found.raw, 16)
        if len(found.raw) >= 140 and struct.unpack_from("<H", found.raw, 128)[0] >= 12:
            mtime += (struct.unpack_from("<I", found.raw, 136)[0] & 3) << 32
        return Stat(inode, found.type, found.mode & 0o7777, uid, gid, found.size, mtime)

    def _refuse_features(self, facts: ext4.Ext4Facts) -> None:
        if facts.bigalloc:
            # its bitmaps count clusters; what looks at freed blocks reads them
            raise self.unsupported("the feature bigalloc")
        unknown = self._incompat & ~_READ
        if unknown:
            bit = unknown & -unknown
            raise self.unsupported(_NOT_READ.get(bit, f"an unknown feature (incompat {bit:#x})"))

    # inodes

    def _inode(self, number: int) -> _Inode:
        return self._inodes_kept.get(number, self._read_inode)

    def _read_inode(self, number: int) -> _Inode:
        if not 0 < number <= self._inodes:
            raise self.damaged(f"inode {number} does not exist")
        raw = self._raw_inode(number)
        mode, _, size = struct.unpack_from("<HHI", raw)
        if mode >> 12 in (0x8, 0x4):
            size |= struct.unpack_from("<I", raw, 108)[0] << 32
        if not mode:
            raise self.damaged(f"inode {number} is not in use")
        return _Inode(number, raw, mode, size, struct.unpack_from("<I", raw, 32)[0])

    def _raw_inode(self, number: int) -> bytes:
        """One inode's bytes; neighbours are asked for one after the other, so a block of them is read at once."""
        group, index = divmod(number - 1, self._group_inodes)
        at = self._tables.get(group, self._inode_table) * self._block_size + index * self._inode_size
        block, inner = divmod(at, self._block_size)
        if inner + self._inode_size > self._block_size:
            return self._bytes(at, self._inode_size)
        return self._table_pieces.get(block, self._table_block)[inner : inner + self._inode_size]

    def _table_block(self, number: int) -> bytes:
        return self._bytes(number * self._block_size, self._block_size)

    def _inode_table(self, group: int) -> int:
        """The first block of a group's inode table."""
        return self._pointer(self._descriptor(group), 8, 0x28)

    def _pointer(self, descriptor: bytes, low: int, high: int) -> int:
        (block,) = struct.unpack_from("<I", descriptor, low)
        if self._descriptor_size >= 64:
            block |= struct.unpack_from("<I", descriptor, high)[0] << 32
        return int(block)

    def _descriptor(self, group: int) -> bytes:
        per_block = self._block_size // self._descriptor_size
        index = group // per_block
        if self._incompat & _META_BG and index >= self._first_meta_bg:
            first = index * per_block
            block = self._first_block + first * self._group_blocks + self._has_superblock(first)
            if self._block_size == 1024 and first == 0 and self._first_block == 0:
                block += 1
        else:
            block = self._first_block + 1 + index
        return self._bytes(
            block * self._block_size + group % per_block * self._descriptor_size, self._descriptor_size
        )

    def _has_superblock(self, group: int) -> bool:
        if self._compat & _SPARSE_SUPER2:
            return group == 0 or group in self._backups
        if group <= 1 or not self._ro_compat & _SPARSE_SUPER:
            return True
        return any(group == base**power for base in (3, 5, 7) for power in range(1, 21))

    def _bytes(self, at: int, length: int) -> bytes:
        """Bytes of the file system; a place outside it is damage."""
        data = self._disk(self.start + at, length) if at + length <= self._blocks * self._block_size else b""
        if len(data) < length:
            raise self.damaged(f"byte {at} is outside")
        return data

    def _block(self, number: int, seen: set[int]) -> bytes:
        """A block of pointers, which no file needs twice."""
        if number in seen:
            raise self.damaged(f"block {number} is pointed at twice by one file")
        seen.add(number)
        return self._bytes(number * self._block_size, self._block_size)

    # data

    def _map(self, inode: int) -> DataMap:
        return self._maps.get(inode, self._read_map)

    def _read_map(self, number: int) -> DataMap:
        found, inode = DataMap(), self._inode(number)
        try:
            for logical, physical, count, unwritten in (
                self._extents(inode) if inode.flags & _EXTENTS else self._block_map(inode)
            ):
                if physical + count > self._blocks:
                    raise self.damaged(f"block {physical + count - 1} of inode {number} is outside")
                size = self._block_size
                found.add(logical * size, self.start + physical * size, count * size, unwritten=unwritten)
        except ValueError as error:
            raise self.damaged(f"inode {number}: {error}") from None
        except TooManyPiecesError:
            raise self.unsupported(f"a file in more than a million pieces (inode {number})") from None
        return found

    def _extents(self, inode: _Inode) -> Iterator[tuple[int, int, int, bool]]:
        """(first block in the file, first block on the disk, blocks, unwritten) by the extent tree, in order."""
        seen: set[int] = set()
        todo: list[tuple[bytes | int, int | None]] = [(inode.block, None)]
        while todo:
            node, expected = todo.pop()
            data = self._block(node, seen) if isinstance(node, int) else node
            magic, count, _, depth = struct.unpack_from("<HHHH", data)
            wrong_depth = depth > _MAX_DEPTH if expected is None else depth != expected
            if magic != _EXTENT_MAGIC or 12 + 12 * count > len(data) or wrong_depth:
                raise self.damaged(f"the extent tree of inode {inode.number}")
            if depth:
                leaves = struct.iter_unpack("<IIHH", data[12 : 12 + 12 * count])
                todo += [(low | high << 32, depth - 1) for _, low, high, _ in leaves][::-1]
                continue
            for logical, blocks, high, low in struct.iter_unpack("<IHHI", data[12 : 12 + 12 * count]):
                unwritten = blocks > _MAX_WRITTEN
                yield logical, low | high << 32, blocks - _MAX_WRITTEN if unwritten else blocks, unwritten

    def _block_map(self, inode: _Inode) -> Iterator[tuple[int, int, int, bool]]:
        """The same by the map of ext2: twelve blocks, then blocks of pointers, of those, and of those again."""
        seen: set[int] = set()
        pointers = struct.unpack("<15I", inode.block)
        each = self._block_size // 4
        logical = 0
        for block in pointers[:12]:
            if block:
                yield logical, block, 1, False
            logical += 1
        for depth, block in enumerate(pointers[12:], 1):
            if block:
                yield from self._indirect(block, depth, logical, seen)
            logical += each**depth

    def _indirect(self, block: int, depth: int, logical: int, seen: set[int]) -> Iterator[tuple[int, int, int, bool]]:
        each = self._block_size // 4
        data = self._block(block, seen)
        for index, below in enumerate(struct.unpack(f"<{each}I", data)):
            if not below:
                continue
            if depth == 1:
                yield logical + index, below, 1, False
            else:
                yield from self._indirect(below, depth - 1, logical + index * each ** (depth - 1), seen)

    def _inline(self, inode: _Inode) -> bytes:
        return inode.block + self._inline_rest(inode)

    def _inline_rest(self, inode: _Inode) -> bytes:
        """What of a small file does not fit into the 60 bytes: its attribute system.data."""
        raw = inode.raw
        first = 128 + struct.unpack_from("<H", raw, 128)[0] + 4 if len(raw) > 130 else len(raw)
        if first + 4 > len(raw) or struct.unpack_from("<I", raw, first - 4)[0] != _XATTR_MAGIC:
            return b""
        at = first
        while at + 16 <= len(raw) and any(raw[at : at + 4]):
            name_length, index, offset, _, size = struct.unpack_from("<BBHII", raw, at)
            if index == _XATTR_SYSTEM and raw[at + 16 : at + 16 + name_length] == b"data":
                return raw[first + offset : first + offset + size]
            at += 16 + (name_length + 3 & ~3)
        return b""

    # directories

    def _read_directory(self, inode: int) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        for data in self._directory_data(self._inode(inode)):
            for entry in self._names(data, inode):
                found[entry.name] = entry
            if len(found) > MAX_ENTRIES:
                raise DiskError(
                    f"a directory has more than {MAX_ENTRIES} names",
                    name="fs-too-many-names",
                    hint="spread its files over several directories",
                )
        return found

    def _directory_data(self, inode: _Inode) -> Iterator[bytes]:
        if inode.type != "dir":
            raise self.damaged(f"inode {inode.number} is not a directory")
        if inode.flags & _ENCRYPTED:
            raise self.unsupported(f"an encrypted directory (inode {inode.number})")
        if inode.flags & _INLINE:
            yield from (inode.block[4:], self._inline_rest(inode))
            return
        left = _MAX_DIRECTORY
        for begin, end in self._map(inode.number).pieces():
            for at in range(begin, min(end, inode.size), self._block_size):
                left -= self._block_size
                if left < 0:
                    raise self.damaged(f"the directory in inode {inode.number} has more than {_MAX_DIRECTORY} bytes")
                yield self._map(inode.number).read(self._disk, at, self._block_size)

    def _names(self, data: bytes, directory: int) -> Iterator[Entry]:
        at = 0
        if not any(data):
            return
        while at + 8 <= len(data):
            inode, length, name_length, kind = struct.unpack_from("<IHBB", data, at)
            if not self._incompat & _FILE_TYPE:
                kind = 0
            # blocks of 64 KiB: a length that does not fit into 16 bits
            length = 65536 if length in (0, 65535) and len(data) == 65536 else length
            if length < 8 or length % 4 or at + length > len(data) or name_length > length - 8:
                raise self.damaged(f"a name in the directory in inode {directory}")
            raw = data[at + 8 : at + 8 + name_length]
            if inode and raw not in (b".", b"..", b"") and b"/" not in raw and b"\0" not in raw:
                name = raw.decode("utf-8", "surrogateescape")
                shown = _ENTRY_TYPES.get(kind, "other") if kind else self._inode(inode).type
                yield Entry(name, inode, shown)
            at += length

    # free blocks

    def _free(self) -> Iterator[tuple[int, int]]:
        """By the groups' bitmaps. A group without one was never written to by this file system."""
        for group in range(-(-(self._blocks - self._first_block) // self._group_blocks)):
            descriptor = self._descriptor(group)
            if struct.unpack_from("<H", descriptor, 0x12)[0] & _NO_BITMAP:
                continue
            bitmap = self._bytes(self._pointer(descriptor, 0, 0x20) * self._block_size, self._block_size)
            first = self._first_block + group * self._group_blocks
            count = min(self._group_blocks, self._blocks - first, 8 * len(bitmap))
            for begin, end in _clear_bits(bitmap, count):
                yield self.start + (first + begin) * self._block_size, (end - begin) * self._block_size


def _clear_bits(bitmap: bytes, count: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of the runs of zeros among the first `count` bits, the lowest of each byte first."""
    bits = bin(int.from_bytes(bitmap, "little") | 1 << 8 * len(bitmap))[:2:-1][:count]
    at = bits.find("0")
    while at >= 0:
        end = bits.find("1", at)
        end = len(bits) if end < 0 else end
        yield at, end
        at = bits.find("0", end)


def _pair(raw: bytes, low: int, high: int) -> tuple[int, int]:
    return struct.unpack_from("<H", raw, low)[0], struct.unpack_from("<H", raw, high)[0]


def _is_fast(inode: _Inode) -> bool:
    """Does a link stand in its inode?"""
    return inode.size < len(inode.block) and not inode.flags & _EXTENTS
