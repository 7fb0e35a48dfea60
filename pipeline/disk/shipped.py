"""Which files of a root packages brought, unchanged: test keys and examples in them are everybody's already.

By the package manager's own record, and by its digest of the file where it keeps one: a file that was changed
afterwards is not the package's any more.
"""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import json
import posixpath
from collections.abc import Iterator
from functools import cached_property

from pipeline.disk.packages import STATUS, STATUS_LIMIT
from pipeline.disk.root import Root
from pipeline.disk.rpm_files import rpm_files

_INFO = "/var/lib/dpkg/info"
_APK = "/lib/apk/db/installed"
#: A package's list of files, and the largest file whose digest is made.
_LIST_LIMIT, _FILE_LIMIT = 32 << 20, 256 << 20
#: What npm, yarn and pnpm write into node_modules when they are done.
_NODE_MARKERS = (".package-lock.json", ".yarn-integrity", ".modules.yaml")

#: A digest as a record keeps it: the algorithm's name and the value. An empty value: the record has none.
Digest = tuple[str, bytes]


class Shipped:
    """Asked file by file; each record is read once, when it is needed."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._records: dict[str, dict[str, Digest]] = {}
        self._answers: dict[str, bool] = {}

    def brought(self, path: str) -> bool:
        """A package brought this file, and nobody has changed it since."""
        if path not in self._answers:
            self._answers[path] = self._brought(path)
        return self._answers[path]

    def named(self, path: str) -> bool:
        """A package's record names this file, changed or not. Cheap: the file is not read."""
        return _plain(path) in self._system or self._python(path) is not None or self._node(path)

    def _brought(self, path: str) -> bool:
        source = _source_of(path)
        if source is not None and self._root.is_file(source):
            # compiled by the package's own script, from a file that it brought
            return self.brought(source)
        for known in (self._system.get(_plain(path)), self._python(path)):
            if known is not None:
                return self._same(path, known)
        return self._node(path)

    def _same(self, path: str, known: Digest) -> bool:
        name, value = known
        if not value:
            # a record without digests proves no more than the name; what is in /etc is there to be changed
            return not path.startswith("/etc/")
        return self._hash(path, name) == value

    def _hash(self, path: str, name: str) -> bytes | None:
        found = self._root.stat(path)
        if found is None or found.type != "file" or found.size > _FILE_LIMIT:
            return None
        data = self._root.read(path, _FILE_LIMIT)
        return None if data is None else hashlib.new(name, data, usedforsecurity=False).digest()

    @cached_property
    def _system(self) -> dict[str, Digest]:
        """By dpkg, rpm and apk."""
        found: dict[str, Digest] = {}
        for name in self._root.listdir(_INFO):
            if name.endswith(".list"):
                for line in self._root.text(f"{_INFO}/{name}", _LIST_LIMIT).splitlines():
                    found.setdefault(_plain(line), ("md5", b""))
        for name in self._root.listdir(_INFO):
            if name.endswith(".md5sums"):
                for line in self._root.text(f"{_INFO}/{name}", _LIST_LIMIT).splitlines():
                    digest, _, path = line.partition("  ")
                    found[_plain("/" + path)] = ("md5", _unhex(digest))
        for path, digest in self._conffiles():
            found[_plain(path)] = ("md5", _unhex(digest))
        found |= {_plain(path): digest for path, digest in rpm_files(self._root)}
        found |= {_plain(path): digest for path, digest in self._apk()}
        return found

    def _conffiles(self) -> Iterator[tuple[str, str]]:
        """Of dpkg's status: lines of ' path md5' below Conffiles."""
        inside = False
        for line in self._root.text(STATUS, STATUS_LIMIT).splitlines():
            if line.startswith("Conffiles:"):
                inside = True
            elif inside and line.startswith(" "):
                words = line.split()
                if len(words) >= 2:
                    yield words[0], words[1]
            else:
                inside = False

    def _apk(self) -> Iterator[tuple[str, Digest]]:
        """F: a folder, R: a file in it, Z: Q1 and its SHA-1 in base64."""
        folder = path = ""
        for line in self._root.text(_APK, _LIST_LIMIT).splitlines():
            if line.startswith("F:"):
                folder = line[2:]
            elif line.startswith("R:"):
                path = f"/{folder}/{line[2:]}"
                yield path, ("sha1", b"")
            elif line.startswith("Z:Q1"):
                yield path, ("sha1", _unbase64(line[4:]))

    def _python(self, path: str) -> Digest | None:
        """By the RECORD of a distribution beside the file's package (PEP 376 and the wheel's format)."""
        folder = posixpath.dirname(path)
        while len(folder) > 1:
            if posixpath.basename(folder) in ("site-packages", "dist-packages"):
                return self._recorded(folder).get(path)
            folder = posixpath.dirname(folder)
        return None

    def _recorded(self, folder: str) -> dict[str, Digest]:
        if folder not in self._records:
            found: dict[str, Digest] = {}
            for name in self._root.listdir(folder):
                if name.endswith(".dist-info"):
                    text = self._root.text(f"{folder}/{name}/RECORD", _LIST_LIMIT)
                    for row in csv.reader(text.splitlines()):
                        algorithm, _, value = row[1].partition("=") if len(row) > 1 else ("", "", "")
                        if algorithm in ("sha256", "sha384", "sha512") and value:
                            found[posixpath.normpath(f"{folder}/{row[0]}")] = (algorithm, _unbase64(value))
            self._records[folder] = found
        return self._records[folder]

    def _node(self, path: str) -> bool:
        """A file of a package that npm, yarn or pnpm put there, and not newer than the record that they wrote last.

        npm itself holds its record for out of date as soon as something in node_modules is newer.
        """
        top, slash, inner = path.partition("/node_modules/")
        if not slash or posixpath.basename(path) in (".npmrc", ".env"):
            return False
        for marker in _NODE_MARKERS:
            record = self._root.stat(f"{top}/node_modules/{marker}")
            if record is not None and record.type == "file" and record.size:
                found = self._root.stat(path)
                return found is not None and found.mtime <= record.mtime and self._locked(top, marker, inner)
        return False

    def _locked(self, top: str, marker: str, inner: str) -> bool:
        """npm's record names the package; the other two have no list of folders."""
        if marker != _NODE_MARKERS[0]:
            return True
        key = f"{top}/node_modules"
        if key not in self._records:
            self._records[key] = dict.fromkeys(self._packages_of(f"{key}/{marker}"), ("", b""))
        folder = posixpath.dirname(f"node_modules/{inner}")
        while "/" in folder:
            if folder in self._records[key]:
                return True
            folder = posixpath.dirname(folder)
        return False

    def _packages_of(self, record: str) -> Iterator[str]:
        try:
            packages = json.loads(self._root.text(record, _LIST_LIMIT)).get("packages", {})
            yield from (str(name) for name, facts in packages.items() if facts.get("integrity"))
        except (ValueError, AttributeError, RecursionError):
            return


def _plain(path: str) -> str:
    """Without the /usr that merged systems put before it."""
    return path.removeprefix("/usr")


def _source_of(path: str) -> str | None:
    """folder/__pycache__/name.cpython-311.pyc is made of folder/name.py."""
    folder, name = posixpath.split(path)
    above, cache = posixpath.split(folder)
    return f"{above}/{name.split('.')[0]}.py" if cache == "__pycache__" and name.endswith(".pyc") else None


def _unhex(text: str) -> bytes:
    try:
        return bytes.fromhex(text.strip())
    except ValueError:
        return b""


def _unbase64(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text.strip().replace("+", "-").replace("/", "_") + "==")
    except (binascii.Error, ValueError):
        return b""
