"""Which packages a Linux root has, by dpkg's or rpm's own record."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from pipeline.errors import DiskError
from pipeline.offline.root import Root

STATUS = "/var/lib/dpkg/status"
#: dpkg's record of a large desktop has about 6 MiB.
STATUS_LIMIT = 64 << 20
#: Where rpm keeps its database: since 4.16, and where Fedora and SUSE have moved it.
RPM_FOLDERS = ("/usr/lib/sysimage/rpm", "/var/lib/rpm")
#: A server with 2,000 packages has about 120 MiB.
RPM_LIMIT = 256 << 20
#: The older formats, which need rpm's own libraries.
_RPM_OLD = {"Packages": "Berkeley DB", "Packages.db": "ndb"}
_MAX_PACKAGES = 100_000
#: rpm's header tags, and the two types that are read: a string, and 32-bit numbers.
_NAME, _VERSION, _RELEASE, _EPOCH, _ARCHITECTURE = 1000, 1001, 1002, 1003, 1022
_STRING, _NUMBER = 6, 4


@dataclass(frozen=True, slots=True)
class Package:
    """`state` is dpkg's three words, 'install ok installed' for a whole one; rpm knows no other."""

    name: str
    version: str
    architecture: str
    state: str

    @property
    def installed(self) -> bool:
        return self.state.endswith(" installed")


def packages(root: Root) -> tuple[Package, ...]:
    """dpkg's packages, else rpm's; none on a root with neither. Errors as `rpm_packages`."""
    return dpkg_packages(root) or rpm_packages(root)


def dpkg_packages(root: Root) -> tuple[Package, ...]:
    """Every package that dpkg knows, sorted by name; none on a root without dpkg."""
    return parse_status(root.text(STATUS, STATUS_LIMIT))


def parse_status(text: str) -> tuple[Package, ...]:
    found = []
    for stanza in text.split("\n\n"):
        fields = {}
        for line in stanza.splitlines():
            key, colon, value = line.partition(":")
            if colon and key and not line[0].isspace():
                fields[key] = value.strip()
        if "Package" in fields:
            found.append(
                Package(
                    fields["Package"],
                    fields.get("Version", ""),
                    fields.get("Architecture", ""),
                    fields.get("Status", ""),
                )
            )
    return _sorted(found)


def rpm_packages(root: Root) -> tuple[Package, ...]:
    """Every package that rpm knows, sorted by name; none on a root without rpm.

    Raises DiskError: rpm-database-old (Berkeley DB and ndb are named, not read), rpm-database-damaged,
    rpm-database-open (a log beside it holds changes that it does not have yet).
    """
    for folder in RPM_FOLDERS:
        names = set(root.listdir(folder))
        if "rpmdb.sqlite" in names:
            log = root.stat(f"{folder}/rpmdb.sqlite-wal")
            if log is not None and log.size:
                raise DiskError("rpm's database was not closed: its log is not empty", name="rpm-database-open")
            return parse_rpmdb(root.read(f"{folder}/rpmdb.sqlite", RPM_LIMIT) or b"")
        for name, kind in _RPM_OLD.items():
            if name in names:
                raise DiskError(
                    f"{folder}/{name} is rpm's old database ({kind}), which goldsmith cannot read",
                    name="rpm-database-old",
                    hint=f"install rpm, copy {folder} out of the disk, rpm --dbpath FOLDER -qa",
                )
    return ()


def parse_rpmdb(data: bytes) -> tuple[Package, ...]:
    """rpmdb.sqlite, read in memory. Raises DiskError (rpm-database-damaged)."""
    if len(data) < 512 or not data.startswith(b"SQLite format 3\0"):
        raise _damaged("it is no SQLite file")
    # a file that says it has a log cannot be opened in memory; that the log is empty was seen before
    whole = data[:18] + b"\1\1" + data[20:]
    try:
        with closing(sqlite3.connect(":memory:")) as base:
            base.deserialize(whole)
            base.executescript("PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON; PRAGMA query_only=ON;")
            kind = base.execute("SELECT type FROM sqlite_schema WHERE name='Packages'").fetchone()
            if kind != ("table",):
                raise _damaged("it has no table of packages")
            rows = base.execute("SELECT blob FROM Packages LIMIT ?", (_MAX_PACKAGES,))
            return _sorted([_package(bytes(blob)) for (blob,) in rows if isinstance(blob, bytes)])
    except UnicodeDecodeError:
        # sqlite3 quotes the damaged schema, and Python cannot read its quotation
        raise _damaged("its schema is no text") from None
    except sqlite3.Error as error:
        raise _damaged(str(error)) from None


def _package(blob: bytes) -> Package:
    """A header's blob: two counts, the index, the data. By rpm's docs/manual/hregions and lib/header.c."""
    fields = dict(_tags(blob))
    text = {tag: value for tag, value in fields.items() if isinstance(value, str)}
    epoch = fields.get(_EPOCH)
    version = f"{text.get(_VERSION, '')}-{text.get(_RELEASE, '')}"
    return Package(
        text.get(_NAME, ""),
        f"{epoch}:{version}" if isinstance(epoch, int) else version,
        text.get(_ARCHITECTURE, ""),
        "install ok installed",
    )


def _tags(blob: bytes) -> Iterator[tuple[int, str | int]]:
    if len(blob) < 8:
        raise _damaged("a header is cut off")
    count, size = struct.unpack_from(">II", blob)
    store = 8 + 16 * count
    if store + size > len(blob):
        raise _damaged("a header is cut off")
    for number in range(count):
        tag, kind, offset, _ = struct.unpack_from(">IIiI", blob, 8 + 16 * number)
        at = store + offset
        if tag not in (_NAME, _VERSION, _RELEASE, _EPOCH, _ARCHITECTURE) or not store <= at < store + size:
            continue
        if kind == _STRING:
            end = blob.find(b"\0", at, store + size)
            yield tag, blob[at : end if end >= 0 else at].decode("utf-8", "replace")
        elif kind == _NUMBER and at + 4 <= store + size:
            yield tag, struct.unpack_from(">I", blob, at)[0]


def _sorted(found: list[Package]) -> tuple[Package, ...]:
    return tuple(sorted(found, key=lambda package: (package.name, package.architecture, package.version)))


def _damaged(what: str) -> DiskError:
    return DiskError(f"rpm's database cannot be read: {what}", name="rpm-database-damaged")
