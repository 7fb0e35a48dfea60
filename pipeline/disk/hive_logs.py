"""Transaction logs of registry hives: they are applied to a dirty hive in memory, as Windows does when it loads one.

Windows 8.1 and later append entries to NAME.LOG1 and NAME.LOG2 in turn, each with a sequence number and two hashes,
and write them into the hive up to an hour later: a hive with logs is an ordinary state, not damage. Earlier releases
write all dirty sectors with a bitmap into one log. The format: M. Suhanov, "Windows registry file format
specification".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.base.errors import DiskError
from pipeline.disk.hive_cells import HEADER, Content, Header, Patched, checksum, read_base_block, read_header

#: Endings of the logs that lie beside a hive, in the order in which Windows tries them.
SUFFIXES = (".LOG1", ".LOG2", ".LOG")
#: Bytes of a log file, and of changes that are replayed. Windows brings them home long before; the hashes of entries
#: are made at some MiB a second.
MAX_LOG, MAX_CHANGES = 64 << 20, 32 << 20
_SECTOR = 512
_ENTRY, _BITMAP = b"HvLE", b"DIRT"
_ENTRY_HEADER = 40
_OLD_KINDS, _NEW_KIND = (1, 2), 6
#: Microsoft's seed of Marvin32 for hives.
_SEED = 0x82EF4D887A4E55C5
_WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class Replayed:
    """A hive after its logs."""

    data: Content
    header: Header
    #: Entries that were written into it; 0 where it was not dirty, or no log fitted it.
    entries: int
    #: Why it is dirty still; empty where it is not.
    why_dirty: str = ""


@dataclass(frozen=True)
class _Entry:
    sequence: int
    data_size: int
    #: Place in the hive (from behind the header) and bytes to write there.
    pages: tuple[tuple[int, memoryview], ...]


def needs_logs(data: bytes) -> bool:
    """Whether a hive is to be read with its logs: it is dirty, or its header is torn."""
    try:
        return read_base_block(data).dirty
    except DiskError:
        return True


def replay(data: bytes, logs: Sequence[bytes]) -> Replayed:
    """The hive as Windows would load it. Raises DiskError: hive-damaged, also of a header that no log can restore."""
    logs = [log for log in logs if any(log[:_SECTOR])]
    try:
        header = read_base_block(data)
    except DiskError:
        header, data = _restored(data, logs)
    if not header.dirty:
        return Replayed(data, read_header(data), 0)
    if not logs:
        return Replayed(data, read_header(data), 0, "its log was not beside it")
    target = Patched(data)
    # a hive grows by its log, so that its size is verified afterwards
    entries, size, sequence = _new_entries(target, header, logs)
    if not entries:
        entries, size, sequence = _old_sectors(target, header, logs)
    if not entries:
        return Replayed(data, read_header(data), 0, "its log does not fit it")
    target.write(4, struct.pack("<II", sequence, sequence))
    target.write(40, struct.pack("<I", size))
    target.write(508, struct.pack("<I", checksum(target[:_SECTOR])))
    return Replayed(target, read_header(target), entries)


def _restored(data: bytes, logs: Sequence[bytes]) -> tuple[Header, bytes]:
    """A header that was torn is taken from the log with the latest entries. Raises DiskError (hive-damaged)."""
    if not data.startswith(b"regf") or len(data) < HEADER:
        read_base_block(data)
    heads = [log[:_SECTOR] for log in logs if _header(log) is not None]
    if not heads:
        read_base_block(data)
    latest = max(heads, key=lambda head: struct.unpack_from("<I", head, 4)[0])
    block = bytearray(latest)
    sequence = struct.unpack_from("<I", block, 4)[0]
    # it is a hive again, and dirty
    struct.pack_into("<II", block, 4, (sequence + 1) & _WORD, sequence)
    struct.pack_into("<I", block, 28, 0)
    struct.pack_into("<I", block, 508, checksum(block))
    repaired = bytes(block) + data[_SECTOR:]
    return read_base_block(repaired), repaired


def _header(log: bytes) -> Header | None:
    """The header of a log that was written to its end."""
    try:
        header = read_base_block(log)
    except DiskError:
        return None
    return header if header.kind in (*_OLD_KINDS, _NEW_KIND) and not header.dirty else None


# ---- Windows 8.1 and later -----------------------------------------------------------------------------------------


def _new_entries(target: Patched, hive: Header, logs: Sequence[bytes]) -> tuple[int, int, int]:
    """Write all entries that follow each other into the hive: their number, the size of its cells, its sequence."""
    found = sorted(
        ((header, log) for log in logs if (header := _header(log)) is not None and header.kind == _NEW_KIND),
        key=lambda each: each[0].sequences[0],
    )
    count, size, expected, changed = 0, hive.data_size, -1, 0
    for header, log in found:
        first = header.sequences[0]
        if first < hive.sequences[1] or expected not in (-1, first):
            continue
        expected = first
        for entry in _entries(log, expected):
            _grow(target, entry.data_size)
            for at, page in entry.pages:
                target.write(HEADER + at, page)
                changed += len(page)
            if changed > MAX_CHANGES:
                raise _too_large(f"its log holds more than {MAX_CHANGES >> 20} MiB of changes")
            count, size, expected = count + 1, entry.data_size, entry.sequence + 1
    return count, size, (expected - 1) & _WORD


def _entries(log: bytes, expected: int) -> Iterator[_Entry]:
    """The log's entries from `expected` on, until one is torn or does not follow."""
    at = _SECTOR
    while (entry := _entry(log, at)) is not None and entry.sequence == expected:
        yield entry
        at += struct.unpack_from("<I", log, at + 4)[0]
        expected += 1


def _entry(log: bytes, at: int) -> _Entry | None:
    if log[at : at + 4] != _ENTRY or at + _ENTRY_HEADER > len(log):
        return None
    size, _, sequence, data_size, count, hash_1, hash_2 = struct.unpack_from("<IIIIIQQ", log, at + 4)
    start, end = at + _ENTRY_HEADER + 8 * count, at + size
    if size % _SECTOR or size > MAX_CHANGES + _SECTOR * count or end > len(log) or start > end or data_size % 4096:
        return None
    if marvin32(log[at : at + 32]) != hash_2 or marvin32(log[at + _ENTRY_HEADER : end]) != hash_1:
        return None
    pages, view = [], memoryview(log)
    for place, length in struct.iter_unpack("<II", log[at + _ENTRY_HEADER : start]):
        if start + length > end or place + length > data_size:
            return None
        pages.append((place, view[start : start + length]))
        start += length
    return _Entry(sequence, data_size, tuple(pages))


def _grow(target: Patched, size: int) -> None:
    if len(target) < HEADER + size:
        if size > len(target) + MAX_CHANGES:
            raise _too_large(f"its log would make it {size} bytes long")
        target.grow(HEADER + size)


def _too_large(what: str) -> DiskError:
    return DiskError(
        f"the registry hive is dirty, and its log cannot be replayed: {what}",
        name="hive-log-too-large",
        hint="start that Windows and shut it down without fast startup",
    )


def marvin32(data: bytes) -> int:
    """Microsoft's checksum, with the seed that hives have."""
    low, high = _SEED & _WORD, _SEED >> 32
    whole = len(data) & ~3
    words = [word for (word,) in struct.iter_unpack("<I", data[:whole])]
    words += [int.from_bytes((data[whole:] + b"\x80").ljust(4, b"\0"), "little"), 0]
    for word in words:
        low = (low + word) & _WORD
        high ^= low
        low = (((low << 20) | (low >> 12)) + high) & _WORD
        high = (((high << 9) | (high >> 23)) & _WORD) ^ low
        low = (((low << 27) | (low >> 5)) + high) & _WORD
        high = ((high << 19) | (high >> 13)) & _WORD
    return high << 32 | low


# ---- before Windows 8.1 --------------------------------------------------------------------------------------------


def _old_sectors(target: Patched, hive: Header, logs: Sequence[bytes]) -> tuple[int, int, int]:
    """Write the sectors of the first log that fits into the hive; the result as `_new_entries`."""
    for log in logs:
        header = _header(log)
        if header is None or header.kind not in _OLD_KINDS or header.written != hive.written:
            continue
        places = _dirty_sectors(log, header.data_size)
        if places is None:
            continue
        _grow(target, header.data_size)
        start = _SECTOR + -(-(4 + header.data_size // 4096) // _SECTOR) * _SECTOR
        for number, place in enumerate(places):
            sector = log[start + number * _SECTOR : start + (number + 1) * _SECTOR]
            target.write(HEADER + place * _SECTOR, sector)
        return len(places), header.data_size, header.sequences[0]
    return 0, hive.data_size, hive.sequences[1]


def _dirty_sectors(log: bytes, data_size: int) -> list[int] | None:
    """The numbers of the sectors that a log holds, one bit each; None where it holds less than it says."""
    length = data_size // 4096
    if log[_SECTOR : _SECTOR + 4] != _BITMAP or len(log) < _SECTOR + 4 + length:
        return None
    bitmap = log[_SECTOR + 4 : _SECTOR + 4 + length]
    places = [8 * at + bit for at, byte in enumerate(bitmap) if byte for bit in range(8) if byte >> bit & 1]
    start = _SECTOR + -(-(4 + length) // _SECTOR) * _SECTOR
    return places if places and start + len(places) * _SECTOR <= len(log) else None
