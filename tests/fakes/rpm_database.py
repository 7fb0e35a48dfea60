"""Databases of rpm: made here by its formats, and those that Debian's rpm cannot make (tests/fixtures/rpm)."""

from __future__ import annotations

import lzma
import sqlite3
import struct
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

FIXTURES = Path(__file__).parents[1] / "fixtures" / "rpm"
NAME, VERSION, RELEASE, EPOCH, ARCHITECTURE = 1000, 1001, 1002, 1003, 1022
_TEXT, _NUMBER = 6, 4


def header(fields: Mapping[int, str | int]) -> bytes:
    """A package's header: two counts, the index, the data."""
    index, store = b"", b""
    for tag, value in fields.items():
        data = struct.pack(">I", value) if isinstance(value, int) else value.encode() + b"\0"
        index += struct.pack(">IIII", tag, _NUMBER if isinstance(value, int) else _TEXT, len(store), 1)
        store += data
    return struct.pack(">II", len(fields), len(store)) + index + store


def database(path: Path, *blobs: bytes, wal: bool = False) -> bytes:
    """The bytes of an rpmdb.sqlite with these headers, made at a path."""
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as base:
        if wal:
            base.execute("PRAGMA journal_mode=WAL")
        base.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)")
        base.executemany("INSERT INTO Packages (blob) VALUES (?)", [(blob,) for blob in blobs])
        base.commit()
    return path.read_bytes()


def sqlite_of(packages: Mapping[str, str]) -> bytes:
    """The bytes of an rpmdb.sqlite with these packages: a name and [EPOCH:]VERSION-RELEASE each."""
    blobs = []
    for name, whole in packages.items():
        epoch, _, rest = whole.rpartition(":")
        version, _, release = rest.partition("-")
        numbers: dict[int, str | int] = {EPOCH: int(epoch)} if epoch else {}
        blobs.append(header({NAME: name, VERSION: version, RELEASE: release, ARCHITECTURE: "x86_64", **numbers}))
    with tempfile.TemporaryDirectory() as folder:
        return database(Path(folder) / "rpmdb.sqlite", *blobs)


def sample(name: str) -> bytes:
    """A public sample, unpacked."""
    return lzma.decompress((FIXTURES / name).read_bytes())
