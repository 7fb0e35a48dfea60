"""The files of a btrfs: subvolumes, directories, extents as they are, inline or compressed, the map of free room.

An inode's number holds its tree's: `tree << 64 | object`. By the kernel's include/uapi/linux/btrfs_tree.h.
"""

from __future__ import annotations

import io
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import zstandard

from pipeline.base.errors import DiskError
from pipeline.disk import lzo
from pipeline.disk.btrfs import KEY, BtrfsFacts
from pipeline.disk.btrfs_trees import (
    FIRST_SUBVOLUME,
    LAST,
    LAST_SUBVOLUME,
    ROOT_BACKREF,
    ROOT_ITEM,
    TOP_TREE,
    Item,
    TreeRoot,
    Trees,
)
from pipeline.disk.filesystem import MAX_ENTRIES, Entry, FileSystem, Read, Recent, Stat, Subvolume

#: Types of items.
_INODE_ITEM, _INODE_REF, _DIR_ITEM, _DIR_INDEX, _EXTENT_DATA = 1, 12, 84, 96, 108
_TYPES = {0x8: "file", 0x4: "dir", 0xA: "link"}
_ENTRY_TYPES = {1: "file", 2: "dir", 7: "link"}
_INLINE, _RESERVED = 0, 2
_ZLIB, _LZO, _ZSTD = 1, 2, 3
#: Bytes that one compressed extent may have, packed and unpacked: btrfs makes none of more than 128 KiB.
_MAX_PACKED = 1 << 20
#: Pieces of one file, and subvolumes of a file system.
_MAX_PIECES, _MAX_SUBVOLUMES = 200_000, 4096
_MAX_LINK = 4096
_KEPT_PIECES, _KEPT_UNPACKED = 400_000, 2 << 20
_CHUNK = 4 << 20


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bytes `begin` to `end` of a file, which stand `skip` bytes into the extent at `address`.

    `size` is what the extent takes there, `unpacked` what it holds; `is_data` is false of a hole.
    """

    begin: int
    end: int
    address: int
    size: int
    skip: int
    unpacked: int
    packing: int
    is_data: bool


class BtrfsFileSystem(FileSystem):
    """Raises DiskError: fs-damaged, fs-unsupported."""

    compresses = True

    def __init__(self, read: Read, start: int, facts: BtrfsFacts) -> None:
        super().__init__("btrfs", start)
        self._disk = read
        self._trees = Trees(read, start, facts, self)
        self._maps: Recent[list[_Piece]] = Recent(_KEPT_PIECES, lambda found: len(found) + 1)
        self._unpacked: Recent[bytes] = Recent(_KEPT_UNPACKED, len)

    # subvolumes

    @cached_property
    def root(self) -> int:
        return self._top(self._default_tree())

    def _default_tree(self) -> int:
        """The tree that is mounted without options: what the entry "default" of the tree of trees names."""
        directory = self._trees.facts.top_directory
        for item in self._trees.items(self._trees.root_tree, (directory, _DIR_ITEM, 0), (directory, _DIR_ITEM, LAST)):
            for name, (number, kind, _), _ in self._entries_of(item):
                if name == b"default" and kind == ROOT_ITEM and self._trees.tree(number) is not None:
                    return number
        return TOP_TREE

    def _top(self, tree: int) -> int:
        """The first inode of a tree. Raises DiskError (fs-damaged) where there is no such tree."""
        return tree << 64 | (self._tree(tree).directory or FIRST_SUBVOLUME)

    def _tree(self, number: int) -> TreeRoot:
        found = self._trees.tree(number)
        if found is None:
            raise self.damaged(f"it has no tree {number}")
        return found

    def subvolumes(self) -> Sequence[Subvolume]:
        default = self.root >> 64
        rows = [Subvolume(path, self._top(number)) for number, path in self._paths.items()]
        return sorted(rows, key=lambda row: (row.inode >> 64 != default, row.inode))

    def find_subvolume(self, options: Iterable[str]) -> int | None:
        wanted = self.root
        for option in options:
            key, _, value = option.partition("=")
            if key == "subvolid":
                # the kernel takes 0 for the top
                number = (int(value) or TOP_TREE) if value.isascii() and value.isdigit() and len(value) < 20 else -1
                return self._top(number) if number in self._paths else None
            if key == "subvol":
                path = "/".join(part for part in value.split("/") if part)
                found = [number for number, each in self._paths.items() if each == path]
                return self._top(found[0]) if found else None
        return wanted

    @cached_property
    def _paths(self) -> dict[int, str]:
        """Each subvolume's path from the top by its number. One whose parent is gone has none, and is left out."""
        above: dict[int, tuple[int, str]] = {}
        for item in self._trees.items(
            self._trees.root_tree, (FIRST_SUBVOLUME, ROOT_BACKREF, 0), (LAST_SUBVOLUME, ROOT_BACKREF, LAST)
        ):
            if item.key[1] == ROOT_BACKREF and self._trees.tree(item.key[0]) is not None:
                above[item.key[0]] = (item.key[2], self._path_in_parent(item))
            if len(above) > _MAX_SUBVOLUMES:
                raise self.unsupported(f"more than {_MAX_SUBVOLUMES} subvolumes")
        found = {TOP_TREE: ""}
        for number in above:
            parts: list[str] = []
            here = number
            while here != TOP_TREE and here in above and len(parts) <= len(above):
                here, name = above[here]
                parts.append(name)
            if here == TOP_TREE:
                found[number] = "/".join(reversed(parts))
        return found

    def _path_in_parent(self, reference: Item) -> str:
        """A subvolume's path from the top of the one that it is in."""
        if len(reference.data) < 18:
            raise self.damaged("the name of a subvolume")
        directory, _, size = struct.unpack_from("<QQH", reference.data)
        names = [_text(reference.data[18 : 18 + size])]
        parent = reference.key[2]
        first, seen = self._top(parent) & LAST, set[int]()
        while directory != first and directory not in seen:
            seen.add(directory)
            key = (directory, _INODE_REF, 0)
            item = next(self._trees.items(self._tree(parent), key, (directory, _INODE_REF, LAST)), None)
            if item is None or len(item.data) < 10:
                raise self.damaged(f"directory {directory} of tree {parent} has no name")
            (size,) = struct.unpack_from("<H", item.data, 8)
            names.append(_text(item.data[10 : 10 + size]))
            directory = item.key[2]
        return "/".join(reversed(names))

    # inodes

    def _items(self, inode: int, kind: int) -> Iterator[Item]:
        number = inode & LAST
        return self._trees.items(self._tree(inode >> 64), (number, kind, 0), (number, kind, LAST))

    def _read_stat(self, inode: int) -> Stat:
        item = next(self._items(inode, _INODE_ITEM), None)
        if item is None or len(item.data) < 160:
            raise self.damaged(f"inode {inode & LAST} of tree {inode >> 64} does not exist")
        (size,) = struct.unpack_from("<Q", item.data, 16)
        uid, gid, mode = struct.unpack_from("<III", item.data, 44)
        (mtime,) = struct.unpack_from("<q", item.data, 136)
        if size >= 1 << 63:
            raise self.damaged(f"inode {inode & LAST} of tree {inode >> 64} has {size} bytes")
        return Stat(inode, _TYPES.get(mode >> 12, "other"), mode & 0o7777, uid, gid, size, mtime)

    def read_link(self, inode: int) -> str:
        found = self.stat(inode)
        if found.type != "link" or found.size > _MAX_LINK:
            raise self.damaged(f"inode {inode & LAST} is not a link, or one of {found.size} bytes")
        return _text(self.read(inode, 0, found.size))

    # directories

    def _read_directory(self, inode: int) -> dict[str, Entry]:
        if self.stat(inode).type != "dir":
            raise self.damaged(f"inode {inode & LAST} of tree {inode >> 64} is not a directory")
        found: dict[str, Entry] = {}
        for item in self._items(inode, _DIR_INDEX):
            for raw, (number, kind, _), shown in self._entries_of(item):
                entry = self._entry(inode >> 64, raw, number, kind, shown)
                if entry is not None:
                    found[entry.name] = entry
            if len(found) > MAX_ENTRIES:
                raise DiskError(
                    f"a directory has more than {MAX_ENTRIES} names",
                    name="fs-too-many-names",
                    hint="spread its files over several directories",
                )
        return found

    def _entry(self, tree: int, raw: bytes, number: int, kind: int, shown: int) -> Entry | None:
        """A name; None of a subvolume that is gone: a snapshot shows those of its source as empty folders."""
        if raw in (b".", b"..", b"") or b"/" in raw or b"\0" in raw:
            return None
        if kind == _INODE_ITEM:
            return Entry(_text(raw), tree << 64 | number, _ENTRY_TYPES.get(shown, "other"))
        inside = kind == ROOT_ITEM and self._paths.get(number) is not None
        return Entry(_text(raw), self._top(number), "dir") if inside else None

    def _entries_of(self, item: Item) -> Iterator[tuple[bytes, tuple[int, int, int], int]]:
        """(name, key that it points at, type); an item by a name's hash may hold several."""
        at = 0
        while at + 30 <= len(item.data):
            target: tuple[int, int, int] = KEY.unpack_from(item.data, at)
            beside, size, kind = struct.unpack_from("<HHB", item.data, at + 25)
            if at + 30 + size + beside > len(item.data):
                raise self.damaged("a name in a directory")
            yield item.data[at + 30 : at + 30 + size], target, kind
            at += 30 + size + beside

    # data

    def read(self, inode: int, offset: int, length: int) -> bytes:
        stop = offset + max(0, min(length, self.stat(inode).size - offset))
        pieces = self._pieces(inode)
        # gives its bytes without a second copy of them: memory is limited where disks are read
        out = io.BytesIO()
        number = max(0, bisect_right(pieces, offset, key=lambda piece: piece.begin) - 1)
        for piece in pieces[number:]:
            if piece.begin >= stop:
                break
            begin, end = max(piece.begin, offset), min(piece.end, stop)
            if begin < end and piece.is_data:
                _zeros(out, begin - offset)
                for part in self._data(piece, begin - piece.begin, end - piece.begin):
                    out.write(part)
        _zeros(out, stop - offset)
        return out.getvalue()

    def is_compressed(self, inode: int) -> bool:
        return any(piece.packing for piece in self._pieces(inode))

    def _runs(self, inode: int) -> list[tuple[int, int]]:
        """Of an extent that is compressed all that it takes on the disk. A second copy follows after the first."""
        found: list[list[tuple[int, int]]] = []
        if self.stat(inode).type not in ("file", "link"):
            return []
        for piece in self._pieces(inode):
            if not piece.address:
                continue
            whole = bool(piece.packing)
            size = piece.size if whole else piece.end - piece.begin
            for number, copy in enumerate(self._trees.copies(piece.address + (0 if whole else piece.skip), size)):
                if number >= len(found):
                    found.append([])
                found[number] += copy
        return [run for copy in found for run in copy]

    def _pieces(self, inode: int) -> list[_Piece]:
        return self._maps.get(inode, self._read_pieces)

    def _read_pieces(self, inode: int) -> list[_Piece]:
        found: list[_Piece] = []
        end = 0
        for item in self._items(inode, _EXTENT_DATA):
            piece = self._piece(item)
            if piece.begin < end:
                raise self.damaged(f"inode {inode & LAST}: the pieces of a file overlap")
            end = piece.end
            found.append(piece)
            if len(found) > _MAX_PIECES:
                raise self.unsupported(f"a file in more than {_MAX_PIECES} pieces (inode {inode & LAST})")
        return found

    def _piece(self, item: Item) -> _Piece:
        inode, _, begin = item.key
        if len(item.data) < 21:
            raise self.damaged(f"an extent of inode {inode}")
        (unpacked,) = struct.unpack_from("<Q", item.data, 8)
        packing, encryption, _, kind = struct.unpack_from("<BBHB", item.data, 16)
        if packing > _ZSTD or encryption:
            raise self.unsupported(f"compression {packing} or encryption {encryption} (inode {inode})")
        if kind == _INLINE:
            size = len(item.data) - 21
            unpacked = unpacked if packing else size
            piece = _Piece(begin, begin + unpacked, item.address + 21, size, 0, unpacked, packing, is_data=True)
        elif len(item.data) < 53:
            raise self.damaged(f"an extent of inode {inode}")
        else:
            address, size, skip, length = struct.unpack_from("<QQQQ", item.data, 21)
            is_data = bool(address) and kind != _RESERVED
            piece = _Piece(begin, begin + length, address, size, skip, unpacked, packing, is_data)
        most = _MAX_PACKED if packing else 1 << 62
        wrong = piece.skip + piece.end - piece.begin > (unpacked if packing else max(piece.size, unpacked))
        if piece.end >= 1 << 63 or max(piece.size, unpacked) > most or (piece.address and wrong):
            raise self.damaged(f"an extent of inode {inode}")
        return piece

    def _data(self, piece: _Piece, begin: int, end: int) -> Iterator[bytes]:
        """Bytes of a piece from `begin` to `end`, counted from where the piece begins."""
        if piece.packing:
            data = self._unpack(piece)[piece.skip + begin : piece.skip + end]
            yield data + bytes(end - begin - len(data))
            return
        for at in range(begin, end, _CHUNK):
            yield self._trees.read(piece.address + piece.skip + at, min(_CHUNK, end - at))

    def _unpack(self, piece: _Piece) -> bytes:
        """The whole extent; its neighbours in the file are often parts of the same one."""
        return self._unpacked.get(piece.address, lambda _: self._unpack_again(piece))

    def _unpack_again(self, piece: _Piece) -> bytes:
        raw = self._trees.read(piece.address, piece.size)
        try:
            if piece.packing == _ZLIB:
                return zlib.decompressobj().decompress(raw, piece.unpacked)
            if piece.packing == _ZSTD:
                reader = zstandard.ZstdDecompressor(max_window_size=_MAX_PACKED).stream_reader(raw)
                return reader.read(piece.unpacked)
            return unpack_lzo(raw, piece.unpacked, self._trees.facts.sector_size)
        except (zlib.error, zstandard.ZstdError, ValueError):
            raise self.damaged(f"the compressed extent at address {piece.address}") from None

    # free room

    def _free(self) -> Iterator[tuple[int, int]]:
        return self._trees.free()


def unpack_lzo(raw: bytes, limit: int, sector: int) -> bytes:
    """Segments, each of one sector unpacked, behind the length of all. No segment's length crosses a sector's end.

    By the kernel's fs/btrfs/lzo.c. Raises ValueError.
    """
    if len(raw) < 8:
        raise ValueError("too short")
    (total,) = struct.unpack_from("<I", raw)
    out = bytearray()
    at = 4
    while at + 4 <= min(total, len(raw)) and len(out) < limit:
        if sector - at % sector < 4:
            at += sector - at % sector
            continue
        (size,) = struct.unpack_from("<I", raw, at)
        if not size or at + 4 + size > len(raw):
            raise ValueError("a segment outside of its extent")
        out += lzo.decompress(raw[at + 4 : at + 4 + size], sector)
        at += 4 + size
    return bytes(out[:limit])


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _zeros(out: io.BytesIO, until: int) -> None:
    while out.tell() < until:
        out.write(bytes(min(until - out.tell(), _CHUNK)))
