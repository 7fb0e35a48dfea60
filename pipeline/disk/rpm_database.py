"""rpm's database on a disk at rest: the header of each package, from SQLite, Berkeley DB or ndb.

By rpm's lib/backend/sqlite.c, bdb_ro.c and ndb/rpmpkg.c, and Berkeley DB's dbinc/db_page.h and hash.h.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from zlib import adler32

from pipeline.base.errors import DiskError
from pipeline.disk.root import Root

#: Where rpm keeps its database: since 4.16, and where Fedora and SUSE have moved it, and rpm-ostree.
RPM_FOLDERS = ("/usr/lib/sysimage/rpm", "/var/lib/rpm", "/usr/share/rpm")
#: A server with 2,000 packages has about 120 MiB.
RPM_LIMIT = 256 << 20
_MAX_PACKAGES = 100_000
#: Bytes of one header: those of a kernel with all its modules are below 8 MiB. rpm's own limit is 256 MiB.
_MAX_HEADER = 64 << 20
#: Berkeley DB's hash: its magic number, the versions of libdb 4 and 5, pages of 512 bytes to 64 KiB.
_HASH_MAGIC, _HASH_VERSIONS, _PAGE_SIZES = 0x061561, (8, 9, 10), frozenset(1 << bits for bits in range(9, 17))
#: Types of its pages, and of the entries of a page with keys and data.
_UNSORTED, _OVERFLOW, _SORTED, _META = 2, 7, 13, 8
_LAST_TYPE = 17
_INLINE, _ELSEWHERE = 1, 3
#: Bytes before the entries of a page.
_PAGE_HEADER = 26
#: ndb: the marks of the file, a slot, the begin and the end of a header; bytes of a slot and of a block.
_NDB, _SLOT, _BEGIN, _END = b"RpmP", b"Slot", b"BlbS", b"BlbE"
_SLOT_SIZE, _BLOCK, _SLOT_PAGE, _MAX_SLOT_PAGES = 16, 16, 4096, 2048


def rpm_headers(root: Root) -> Iterator[bytes]:
    """The header of each package; none on a root without rpm.

    Raises DiskError: rpm-database-old (a Berkeley DB that is encrypted, has checksums, or is older than version 4),
    rpm-database-damaged, rpm-database-open (a log beside it holds changes that it does not have yet).
    """
    for folder in RPM_FOLDERS:
        names = set(root.listdir(folder))
        for name, read in _READERS.items():
            if name not in names:
                continue
            log = root.stat(f"{folder}/{name}-wal")
            if log is not None and log.size:
                raise DiskError(
                    "rpm's database was not closed, because its log is not empty",
                    name="rpm-database-open",
                    hint="shut the system down properly, then inspect again",
                )
            data, total = root.read(f"{folder}/{name}", RPM_LIMIT) or b"", 0
            for header in read(data):
                total += len(header)
                # two records that share their bytes would make a small file a long list
                if total > len(data):
                    raise damaged("its packages have more bytes than its file")
                yield header
            return


def read_sqlite(data: bytes) -> Iterator[bytes]:
    """The headers in rpmdb.sqlite, read in memory. Raises DiskError (rpm-database-damaged)."""
    if len(data) < 512 or not data.startswith(b"SQLite format 3\0"):
        raise damaged("it is not an SQLite file")
    # a file that says it has a log cannot be opened in memory; that the log is empty was seen before
    whole = data[:18] + b"\1\1" + data[20:]
    try:
        with closing(sqlite3.connect(":memory:")) as base:
            base.deserialize(whole)
            base.executescript("PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON; PRAGMA query_only=ON;")
            kind = base.execute("SELECT type FROM sqlite_schema WHERE name='Packages'").fetchone()
            if kind != ("table",):
                raise damaged("it has no table of packages")
            for (blob,) in base.execute("SELECT blob FROM Packages LIMIT ?", (_MAX_PACKAGES,)):
                if isinstance(blob, bytes):
                    yield blob
    except UnicodeDecodeError:
        # sqlite3 quotes the damaged schema, and Python cannot read its quotation
        raise damaged("its schema is not text") from None
    except sqlite3.Error:
        raise damaged("SQLite finds it damaged") from None


def read_berkeley(data: bytes) -> Iterator[bytes]:
    """The headers in a Berkeley DB hash. Raises DiskError: rpm-database-damaged, rpm-database-old."""
    order, size = _berkeley_shape(data)
    # pages that are not in use have another type, so that all others are read in turn
    for at in range(size, len(data) - size + 1, size):
        if data[at + 25] > _LAST_TYPE:
            raise damaged("a page of its Berkeley DB makes no sense")
        if data[at + 25] not in (_UNSORTED, _SORTED):
            continue
        items = list(_items(data, at, size, order))
        for key, value in zip(items[::2], items[1::2], strict=False):
            # the record under the number 0 counts the packages
            if key[1:] == bytes(4):
                continue
            yield _value(data, value, size, order)


def _berkeley_shape(data: bytes) -> tuple[str, int]:
    """The order of bytes for struct, and the size of a page."""
    if len(data) < 512:
        raise damaged("it is too short for a Berkeley DB")
    order = next((sign for sign in "<>" if struct.unpack_from(f"{sign}I", data, 12)[0] == _HASH_MAGIC), None)
    if order is None:
        raise damaged("it is not a hash of Berkeley DB")
    version, size = struct.unpack_from(f"{order}II", data, 16)
    encrypted, kind, flags = data[24], data[25], data[26]
    if version not in _HASH_VERSIONS or encrypted or flags & 1:
        raise _old(f"version {version}{', encrypted' * bool(encrypted)}{', with checksums' * (flags & 1)}")
    if size not in _PAGE_SIZES or kind != _META:
        raise damaged("the first page of its Berkeley DB makes no sense")
    (last,) = struct.unpack_from(f"{order}I", data, 32)
    if (last + 1) * size > len(data):
        raise damaged("its Berkeley DB is cut off")
    return order, size


def _items(data: bytes, at: int, size: int, order: str) -> Iterator[bytes]:
    """The entries of a page, each with its type before it: keys at even places, data behind them."""
    (count,) = struct.unpack_from(f"{order}H", data, at + 20)
    if _PAGE_HEADER + 2 * count > size:
        raise damaged("a page of its Berkeley DB makes no sense")
    end = size
    # they stand from the end of the page downward
    for begin in struct.unpack_from(f"{order}{count}H", data, at + _PAGE_HEADER):
        if not _PAGE_HEADER <= begin < end:
            raise damaged("a page of its Berkeley DB makes no sense")
        yield data[at + begin : at + end]
        end = begin


def _value(data: bytes, item: bytes, size: int, order: str) -> bytes:
    if item[0] == _INLINE:
        return item[1:]
    if item[0] != _ELSEWHERE or len(item) < 12:
        raise damaged("a record of its Berkeley DB makes no sense")
    page, length = struct.unpack_from(f"{order}II", item, 4)
    if length > _MAX_HEADER:
        raise damaged("a record of its Berkeley DB is too long")
    parts, left = [], length
    # each page takes something away, so that a circle ends
    while left > 0:
        at = page * size
        if at + size > len(data) or data[at + 25] != _OVERFLOW:
            raise damaged("a record of its Berkeley DB is cut off")
        (page,) = struct.unpack_from(f"{order}I", data, at + 16)
        (used,) = struct.unpack_from(f"{order}H", data, at + 22)
        if not 0 < used <= size - _PAGE_HEADER:
            raise damaged("a record of its Berkeley DB is cut off")
        parts.append(data[at + _PAGE_HEADER : at + _PAGE_HEADER + used])
        left -= used
    return b"".join(parts)[:length]


def read_ndb(data: bytes) -> Iterator[bytes]:
    """The headers in ndb's Packages.db. Raises DiskError (rpm-database-damaged)."""
    if len(data) < _SLOT_PAGE or not data.startswith(_NDB):
        raise damaged("it is not an ndb file")
    version, _, pages = struct.unpack_from("<III", data, 4)
    if version != 0 or not 0 < pages <= _MAX_SLOT_PAGES or pages * _SLOT_PAGE > len(data):
        raise damaged("the first page of its ndb makes no sense")
    # the first two slots are the file's own header
    for at in range(2 * _SLOT_SIZE, pages * _SLOT_PAGE, _SLOT_SIZE):
        mark, package, block, count = struct.unpack_from("<4sIII", data, at)
        if mark != _SLOT:
            raise damaged("a slot of its ndb makes no sense")
        if package:
            yield _ndb_blob(data, package, block * _BLOCK, (block + count) * _BLOCK)


def _ndb_blob(data: bytes, package: int, at: int, end_at: int) -> bytes:
    """The header between two places: 16 bytes before it, zeros behind it, and 12 bytes at the end."""
    tail = end_at - 12
    if at + 16 > tail or end_at > len(data):
        raise damaged("a package of its ndb is cut off")
    mark, number, _, length = struct.unpack_from("<4sIII", data, at)
    if mark != _BEGIN or number != package or at + 16 + length > tail:
        raise damaged("a package of its ndb is cut off")
    checksum, again, end = struct.unpack_from("<II4s", data, tail)
    if end != _END or again != length or adler32(data[at:tail]) != checksum:
        raise damaged("the checksum of a package in its ndb is wrong")
    return data[at + 16 : at + 16 + length]


def damaged(what: str) -> DiskError:
    return DiskError(
        f"rpm's database cannot be read: {what}",
        name="rpm-database-damaged",
        hint="run rpm --rebuilddb inside the system",
    )


def _old(what: str) -> DiskError:
    return DiskError(
        f"rpm's database is a Berkeley DB that goldsmith cannot read ({what})",
        name="rpm-database-old",
        hint="run rpm --rebuilddb inside the system, or rpm --dbpath FOLDER -qa on a copy of its folder",
    )


#: By the names of their files. Where a system has moved from one to another, the newer kind is first.
_READERS: dict[str, Callable[[bytes], Iterator[bytes]]] = {
    "rpmdb.sqlite": read_sqlite,
    "Packages.db": read_ndb,
    "Packages": read_berkeley,
}
