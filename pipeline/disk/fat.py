"""FAT12, FAT16 and FAT32, read in pure Python: what a person sees there, and nothing that only the format has.

Layout by Microsoft's FAT specification 1.03; where it and Linux differ (a FAT32 with few clusters), Linux is
followed, because what it writes is what is found. Times are taken as UTC.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.base.errors import DiskError
from pipeline.disk.datamap import DataMap, TooManyPiecesError
from pipeline.disk.filesystem import MAX_ENTRIES, Entry, FileSystem, Read, Recent, Stat

#: The top directory has no entry of its own; the number 1 would lie in the boot sector.
_ROOT = 1
_ENTRY, _DELETED, _FREE_FROM_HERE = 32, 0xE5, 0
_READ_ONLY, _LABEL, _DIRECTORY, _LONG = 0x01, 0x08, 0x10, 0x0F
_LOWER_NAME, _LOWER_EXTENSION = 0x08, 0x10
#: The specification allows a directory 65,536 entries; twice as much is read.
_MAX_DIRECTORY = 2 * 65536 * _ENTRY
#: Bytes of the allocation table that are read at once, and such pieces that are kept.
_PAGE, _KEPT_PAGES, _KEPT_PIECES = 64 << 10, 64, 1_000_000
#: Bytes of two copies of the table that are compared at once.
_COMPARED = 1 << 20
#: Code page 437, which Linux takes where none is given; made here, because a reader without rights loads no codec.
_CODE_PAGE = bytes(range(256)).decode("cp437")


@dataclass(frozen=True)
class Layout:
    """`bits` is 12, 16 or 32. Offsets and sizes in bytes from the file system's start."""

    bits: int
    cluster: int
    clusters: int
    table: int
    table_size: int
    root: int
    root_size: int
    root_cluster: int
    data: int
    size: int
    serial: int
    boot_label: bytes


def parse_layout(sector: bytes) -> Layout | None:
    """The layout that a boot sector (its first 512 bytes) gives; None where it is not FAT's."""
    if len(sector) < 512 or sector[510:512] != b"\x55\xaa" or sector[3:11] in (b"NTFS    ", b"EXFAT   ", b"-FVE-FS-"):
        return None
    if sector[0] not in (0xEB, 0xE9) and b"FAT" not in (sector[54:57], sector[82:85]):
        return None
    size, per_cluster, reserved, tables, roots, total16, media = struct.unpack_from("<HBHBHHB", sector, 11)
    (table16,) = struct.unpack_from("<H", sector, 22)
    total32, table32, flags = struct.unpack_from("<IIH", sector, 32)
    powers = size in (512, 1024, 2048, 4096) and per_cluster and not per_cluster & (per_cluster - 1)
    if not powers or not reserved or not 1 <= tables <= 4 or (media != 0xF0 and media < 0xF8):
        return None
    table, total = table16 or table32, total16 or total32
    data = reserved + tables * table + -(-roots * _ENTRY // size)
    clusters = (total - data) // per_cluster
    if not table or clusters <= 0:
        return None
    # as Linux tells them apart: FAT32 by its field, whatever the number of clusters
    bits = 32 if not table16 else 12 if clusters < 4085 else 16
    at = 67 if bits == 32 else 39
    active = flags & 0xF if bits == 32 and flags & 0x80 else 0
    return Layout(
        bits=bits,
        cluster=per_cluster * size,
        clusters=min(clusters, table * size * 8 // bits - 2),
        table=(reserved + active * table) * size,
        table_size=table * size,
        root=(reserved + tables * table) * size,
        root_size=roots * _ENTRY,
        root_cluster=struct.unpack_from("<I", sector, 44)[0] if bits == 32 else 0,
        data=data * size,
        size=total * size,
        serial=struct.unpack_from("<I", sector, at)[0],
        boot_label=sector[at + 4 : at + 15],
    )


def tables_agree(read: Read, start: int, sector: bytes) -> bool:
    """Whether all copies of the allocation table agree. `sector` is the boot sector of a FAT at byte `start`."""
    size, _, reserved, tables = struct.unpack_from("<HBHB", sector, 11)
    layout = parse_layout(sector)
    if layout is None or tables < 2:
        return True
    first = start + reserved * size
    for at in range(0, layout.table_size, _COMPARED):
        length = min(_COMPARED, layout.table_size - at)
        whole = read(first + at, length)
        if any(read(first + copy * layout.table_size + at, length) != whole for copy in range(1, tables)):
            return False
    return True


class Table:
    """The allocation table of a file system that begins at byte `start` of the disk, a page at a time."""

    def __init__(self, read: Read, start: int, layout: Layout) -> None:
        self._read, self._at, self._layout = read, start + layout.table, layout
        # a page of FAT12 holds whole pairs of entries (3 bytes)
        self._page = _PAGE // 2 * 3 if layout.bits == 12 else _PAGE
        self.page_entries = self._page * 8 // layout.bits
        self._pages: Recent[array[int]] = Recent(_KEPT_PAGES)

    def __getitem__(self, cluster: int) -> int:
        """The entry of a cluster: the next one, 0 for a free one, or one of the marks above the last cluster."""
        page, index = divmod(cluster, self.page_entries)
        entries = self.page(page)
        return entries[index] if index < len(entries) else 0

    def page(self, number: int) -> array[int]:
        """The entries of clusters `number * page_entries` and on; fewer where the table ends."""
        return self._pages.get(number, self._load)

    def _load(self, page: int) -> array[int]:
        begin = page * self._page
        raw = self._read(self._at + begin, max(0, min(self._page, self._layout.table_size - begin)))
        if self._layout.bits == 12:
            raw += bytes(-len(raw) % 3)
            pairs = (int.from_bytes(raw[at : at + 3], "little") for at in range(0, len(raw), 3))
            return array("I", [value for pair in pairs for value in (pair & 0xFFF, pair >> 12)])
        code, width = ("<%dH", 2) if self._layout.bits == 16 else ("<%dI", 4)
        count = len(raw) // width
        return array("I", [value & 0x0FFFFFFF for value in struct.unpack_from(code % count, raw)])


def free_ranges(read: Read, start: int, layout: Layout) -> Iterator[tuple[int, int]]:
    """(start, length) in bytes of the disk of the clusters that the allocation table calls free, in order."""
    begin: int | None = None
    for cluster, free in _free_changes(Table(read, start, layout), layout.clusters + 2):
        if free:
            begin = cluster
        elif begin is not None:
            yield start + layout.data + (begin - 2) * layout.cluster, (cluster - begin) * layout.cluster
            begin = None


def _free_changes(table: Table, end: int) -> Iterator[tuple[int, bool]]:
    """(cluster, is it free) wherever that changes, and (end, False). A page in which all is free costs nothing."""
    free = False
    for page in range(-(-end // table.page_entries)):
        first = page * table.page_entries
        entries = table.page(page)[: end - first]
        if not free or any(entries):
            for index, entry in enumerate(entries):
                if (not entry) != free and first + index >= 2:
                    free = not free
                    yield first + index, free
        if len(entries) < min(table.page_entries, end - first):
            # the disk ends inside the table
            end = first + len(entries)
            break
    yield end, False


class FatFileSystem(FileSystem):
    """An inode's number is the place of its directory entry: bytes from the file system's start, by 32.

    Raises DiskError (fs-damaged).
    """

    folds_case = True

    def __init__(self, read: Read, start: int) -> None:
        super().__init__("vfat", start)
        layout = parse_layout(read(start, 512))
        if layout is None:
            raise self.damaged("its boot sector contradicts itself")
        self._read_disk, self._layout = read, layout
        self._table = Table(read, start, layout)
        self._maps: Recent[DataMap] = Recent(_KEPT_PIECES, lambda found: len(found) + 1)

    @property
    def root(self) -> int:
        return _ROOT

    def label(self) -> str:
        """The volume's name: its entry in the top directory, or what the boot sector says."""
        for _, raw in self._raw_entries(_ROOT):
            if raw[11] & (_LABEL | _DIRECTORY) == _LABEL and raw[11] & _LONG != _LONG and raw[0] != _DELETED:
                return _text(bytes([0xE5]) + raw[1:11] if raw[0] == 0x05 else raw[:11])
        label = _text(self._layout.boot_label)
        return "" if label == "NO NAME" else label

    def read_link(self, inode: int) -> str:
        raise self.damaged(f"entry {inode} is not a link")

    def read(self, inode: int, offset: int, length: int) -> bytes:
        size = self.stat(inode).size
        data = self._map(inode).read(self._read_disk, offset, max(0, min(length, size - offset)))
        if len(data) < min(length, size - offset):
            raise self.damaged(f"the file of entry {inode} ends outside the disk")
        return data

    def _runs(self, inode: int) -> list[tuple[int, int]]:
        return self._map(inode).runs()

    def _read_stat(self, inode: int) -> Stat:
        if inode == _ROOT:
            return Stat(_ROOT, "dir", 0o777, 0, 0, 0, 0)
        raw = self._entry(inode)
        mode = 0o555 if raw[11] & _READ_ONLY else 0o777
        time, date, _, size = struct.unpack_from("<HHHI", raw, 22)
        if raw[11] & _DIRECTORY:
            return Stat(inode, "dir", mode, 0, 0, 0, _unix_time(date, time))
        return Stat(inode, "file", mode, 0, 0, size, _unix_time(date, time))

    def _entry(self, inode: int) -> bytes:
        at = inode * _ENTRY
        raw = self._read_disk(self.start + at, _ENTRY) if self._layout.root <= at < self._layout.size else b""
        if len(raw) < _ENTRY:
            raise self.damaged(f"entry {inode} is outside")
        return raw

    # clusters

    def _map(self, inode: int) -> DataMap:
        return self._maps.get(inode, self._read_map)

    def _read_map(self, inode: int) -> DataMap:
        if inode == _ROOT:
            if self._layout.bits == 32:
                return self._chain(self._layout.root_cluster, None)
            found = DataMap()
            found.add(0, self.start + self._layout.root, self._layout.root_size)
            return found
        raw = self._entry(inode)
        high, low = struct.unpack_from("<H", raw, 20)[0], struct.unpack_from("<H", raw, 26)[0]
        first = low | (high << 16 if self._layout.bits == 32 else 0)
        if raw[11] & _DIRECTORY:
            return self._chain(first, None)
        return self._chain(first, struct.unpack_from("<I", raw, 28)[0])

    def _chain(self, cluster: int, size: int | None) -> DataMap:
        """The clusters from one on: as many as `size` bytes take, or until the chain's end (of a directory)."""
        found, layout = DataMap(), self._layout
        count = -(-size // layout.cluster) if size is not None else -(-_MAX_DIRECTORY // layout.cluster)
        end_mark = (1 << min(layout.bits, 28)) - 8
        try:
            for number in range(min(count, layout.clusters + 1)):
                if size is None and number and cluster >= end_mark:
                    return found
                if not 2 <= cluster < layout.clusters + 2:
                    raise self.damaged(f"a chain of clusters leads to number {cluster}")
                place = self.start + layout.data + (cluster - 2) * layout.cluster
                found.add(number * layout.cluster, place, layout.cluster)
                cluster = self._table[cluster]
        except TooManyPiecesError:
            raise self.unsupported("a file in more than a million pieces") from None
        if (size is None and cluster < end_mark) or (len(found) and count > layout.clusters):
            raise self.damaged("a chain of clusters has no end")
        return found

    # directories

    def _raw_entries(self, directory: int) -> Iterator[tuple[int, bytes]]:
        """(number, its 32 bytes) of each entry until the one that ends the directory; deleted ones too."""
        for place, length in self._map(directory).runs():
            for at in range(place, place + length, self._layout.cluster):
                block = self._read_disk(at, min(self._layout.cluster, place + length - at))
                for offset in range(0, len(block) - _ENTRY + 1, _ENTRY):
                    if block[offset] == _FREE_FROM_HERE:
                        return
                    yield (at - self.start + offset) // _ENTRY, block[offset : offset + _ENTRY]

    def _read_directory(self, inode: int) -> dict[str, Entry]:
        if self.stat(inode).type != "dir":
            raise self.damaged(f"entry {inode} is not a directory")
        found: dict[str, Entry] = {}
        long = _LongName()
        for number, raw in self._raw_entries(inode):
            if raw[0] == _DELETED:
                long = _LongName()
            elif raw[11] & 0x3F == _LONG:
                long.add(raw)
            else:
                name = long.finish(raw[:11]) or _short_name(raw)
                long = _LongName()
                if raw[11] & _LABEL or name in (".", "..", "") or "/" in name or "\0" in name:
                    continue
                found[name] = Entry(name, number, "dir" if raw[11] & _DIRECTORY else "file")
                if len(found) > MAX_ENTRIES:
                    raise DiskError(
                        f"a directory has more than {MAX_ENTRIES} names",
                        name="fs-too-many-names",
                        hint="spread its files over several directories",
                    )
        return found


class _LongName:
    """The pieces of a long name, which stand before their short entry, the last piece first."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._next, self._checksum = 0, -1

    def add(self, raw: bytes) -> None:
        order = raw[0] & 0x3F
        if raw[0] & 0x40:
            self._pieces, self._next, self._checksum = [], order, raw[13]
        if not order or order != self._next or raw[13] != self._checksum:
            self._pieces, self._next, self._checksum = [], 0, -1
            return
        self._pieces.insert(0, raw[1:11] + raw[14:26] + raw[28:32])
        self._next = order - 1

    def finish(self, short: bytes) -> str:
        """The name, '' where the pieces are not whole or belong to another short name."""
        checksum = 0
        for byte in short:
            checksum = ((checksum & 1) << 7) + (checksum >> 1) + byte & 0xFF
        if not self._pieces or self._next or checksum != self._checksum:
            return ""
        return b"".join(self._pieces).decode("utf-16-le", "replace").split("\0", 1)[0]


def _short_name(raw: bytes) -> str:
    name = (b"\xe5" if raw[0] == 0x05 else raw[:1]) + raw[1:8]
    base, extension = _text(name), _text(raw[8:11])
    base = base.lower() if raw[12] & _LOWER_NAME else base
    extension = extension.lower() if raw[12] & _LOWER_EXTENSION else extension
    return f"{base}.{extension}" if extension else base


def _text(raw: bytes) -> str:
    return "".join(_CODE_PAGE[byte] for byte in raw.rstrip(b" \0"))


def _unix_time(date: int, time: int) -> int:
    try:
        moment = datetime(
            1980 + (date >> 9),
            date >> 5 & 0xF,
            date & 0x1F,
            time >> 11,
            time >> 5 & 0x3F,
            min((time & 0x1F) * 2, 59),
            tzinfo=UTC,
        )
    except ValueError:
        return 0
    return int(moment.timestamp())
