"""rpm's record of files: headers made here by rpm's format, in a real database on a real disk."""

from __future__ import annotations

import hashlib
import sqlite3
import struct
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.disk.rpm_files import header_files
from tests.fakes.secret_forms import pem
from tests.unit.disk.test_secret_search import findings, write

#: rpm's tags of a package's files, and the number of SHA-256 (RFC 4880, 9.4).
DIGESTS, INDEXES, NAMES, FOLDERS, ALGORITHM = 1035, 1116, 1117, 1118, 5011
SHA256 = 8


def header(files: dict[str, bytes], algorithm: int | None = SHA256) -> bytes:
    """A header as rpm keeps it in its database: two counts, the index, the store. Keys are absolute paths."""
    name = "md5" if algorithm is None else "sha256"
    folders = sorted({path.rpartition("/")[0] + "/" for path in files})
    strings = {
        DIGESTS: [hashlib.new(name, data).hexdigest() for data in files.values()],
        NAMES: [path.rpartition("/")[2] for path in files],
        FOLDERS: folders,
    }
    numbers = {INDEXES: [folders.index(path.rpartition("/")[0] + "/") for path in files]}
    if algorithm is not None:
        numbers[ALGORITHM] = [algorithm]
    store, index = b"", []
    for tag, values in sorted({**numbers, **strings}.items()):
        store += bytes(-len(store) % 4)
        index.append(struct.pack(">IIiI", tag, 4 if tag in numbers else 8, len(store), len(values)))
        for value in values:
            store += struct.pack(">I", value) if isinstance(value, int) else value.encode() + b"\0"
    return struct.pack(">II", len(index), len(store)) + b"".join(index) + store


def database(folder: Path, *headers: bytes) -> bytes:
    path = folder / "rpmdb.sqlite"
    with closing(sqlite3.connect(path)) as base:
        base.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)")
        base.executemany("INSERT INTO Packages (blob) VALUES (?)", [(each,) for each in headers])
        base.commit()
    return path.read_bytes()


def test_the_files_of_a_header_with_their_digests() -> None:
    files = {"/usr/share/a/one.pem": b"1", "/usr/share/b/two.pem": b"2", "/usr/share/a/three.pem": b"3"}
    assert header_files(header(files)) == [
        (path, ("sha256", hashlib.sha256(data).digest())) for path, data in files.items()
    ]


def test_an_old_header_has_md5() -> None:
    assert header_files(header({"/a/b": b"1"}, None)) == [("/a/b", ("md5", hashlib.md5(b"1").digest()))]


def test_a_damaged_header_has_no_files_or_a_part_of_them() -> None:
    whole = header({"/a/b": b"1", "/a/c": b"2"})
    known = set(header_files(whole))
    for end in range(len(whole)):
        assert header_files(whole[:end]) == []
    for at in range(8 + 16 * 5):
        changed = bytearray(whole)
        changed[at] ^= 0xFF
        # whatever it is, it ends and raises nothing
        assert len(header_files(bytes(changed))) <= len(known)


@pytest.mark.parametrize("changed", [False, True])
def test_a_key_that_rpm_brought_is_everybodys_until_it_is_changed(changed: bool, tmp_path: Path) -> None:
    key, other = pem(), pem()
    path = "usr/share/go/testdata/server.pem"
    record = database(tmp_path, header({f"/{path}": key}), header({"/usr/bin/x": b"x"}))
    files = {path: other if changed else key, "usr/lib/sysimage/rpm/rpmdb.sqlite": record}
    found = findings(write(tmp_path, files))["private-keys"]
    assert found == ([f"a private key in /{path}"] if changed else [])
