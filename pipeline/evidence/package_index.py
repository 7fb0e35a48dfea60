"""Which golden versions and VMs have a package: a search over bills of materials, by Debian's order of versions.

A bill of 1,000 packages has some 400 KiB. The index in the gallery's folder holds, for each version that a search
read, its packages, and which file they were read from: inode, size, times. It is a cache that only the search
believes. A bill that is not the very file is read again.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pydantic import Field

from pipeline.base import process
from pipeline.base.errors import HostError, UsageError
from pipeline.base.files import RecordDamaged, Shape, read_json, read_usable, write_json
from pipeline.base.printable import single_line
from pipeline.base.store import Store
from pipeline.evidence.page_parts import LARGEST_RECORD, SBOM
from pipeline.gallery import GOLDEN, Gallery
from pipeline.gallery.listing import file_id
from pipeline.gallery.versions import parse
from pipeline.instances.record import Instances

#: The name of the index in the gallery's folder: no image can be called so.
INDEX = ".package-index.json"
#: Of what the index holds of a bill. Raise it when that changes.
FORMAT = 1
#: Bytes of an index: 500 versions of 1,000 packages have some 20 MiB.
LIMIT = 64 << 20
#: The operators of a query, and dpkg's words for them.
OPERATORS = {"<": "lt", "<=": "le", "=": "eq", "==": "eq", "!=": "ne", ">=": "ge", ">": "gt"}
#: The type of packages in a bill (package URL) whose versions dpkg compares.
DEBIAN = "deb"
_QUERY = re.compile(r"(?P<name>[^<>=!]+?)\s*(?:(?P<operator><=|>=|==|!=|<|>|=)\s*(?P<version>\S+))?\s*")
_VERSION = re.compile(r"[0-9A-Za-z.+:~-]+", re.ASCII)


@dataclass(frozen=True)
class Query:
    """A package by its exact name, and a condition on its version; without an operator each version matches."""

    name: str
    operator: str = ""
    version: str = ""

    @classmethod
    def of(cls, text: str) -> Query:
        """From text such as `openssl<3.0.15`. Raises UsageError (package-query)."""
        found = _QUERY.fullmatch(text.strip())
        if found is None or (found["version"] and not _VERSION.fullmatch(found["version"])):
            raise UsageError(
                f"{text!r} is not a package with a version",
                name="package-query",
                hint="write NAME, or NAME with one of < <= = != >= > and a version: 'openssl<3.0.15' (in quotes)",
            )
        return cls(found["name"].strip(), found["operator"] or "", found["version"] or "")


@dataclass(frozen=True)
class Found:
    """A package of a version. `matches` is None where its versions cannot be compared. `vms` run from the version."""

    image: str
    version: str
    golden: bool
    package: str
    installed: str
    architecture: str
    matches: bool | None
    vms: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "vms": list(self.vms)}


@dataclass(frozen=True)
class Answer:
    """What a search found. `searched`: the number of versions; `without_bill`: those that nothing is known of."""

    found: tuple[Found, ...]
    searched: int
    without_bill: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        found = [each.to_json() for each in self.found]
        return {"found": found, "searched": self.searched, "without_bill": list(self.without_bill)}


def find_packages(store: Store, queries: Iterable[Query]) -> Answer:
    """Search the golden versions, and the versions that VMs run from. Raises HostError (dpkg-missing)."""
    gallery, wanted = Gallery(store.gallery), list(queries)
    subjects = _subjects(store, gallery)
    bills = _Bills(gallery)
    found: list[Found] = []
    missing: list[str] = []
    for (name, version), (golden, vms) in sorted(subjects.items()):
        rows = bills.rows(name, version)
        if rows is None:
            missing.append(f"{name} {version}")
            continue
        for query in wanted:
            for kind, installed, architecture in _named(rows, query.name):
                matches = _matches(query, kind, installed)
                if matches is not False:
                    row = Found(name, version, golden, query.name, installed, architecture, matches, tuple(vms))
                    found.append(row)
    bills.remember()
    return Answer(tuple(found), len(subjects), tuple(missing))


def _subjects(store: Store, gallery: Gallery) -> dict[tuple[str, str], tuple[bool, list[str]]]:
    """The versions to search, by image and number: whether each is golden, and its VMs."""
    subjects: dict[tuple[str, str], tuple[bool, list[str]]] = {}
    for name in gallery.names():
        link = gallery.root / name / GOLDEN
        with contextlib.suppress(OSError):
            if parse(version := str(link.readlink())):
                subjects[name, version] = (True, [])
    for record in Instances(store.instances).all():
        subjects.setdefault((record.image, record.version), (False, []))[1].append(record.name)
    return subjects


def _named(rows: str, name: str) -> Iterator[tuple[str, str, str]]:
    """(type, version, architecture) of each package of this name."""
    start = rows.find(f"\n{name}\t")
    while start >= 0:
        end = rows.find("\n", start + 1)
        _, kind, version, architecture = rows[start + 1 : end].split("\t")
        yield kind, version, architecture
        start = rows.find(f"\n{name}\t", end)


def _matches(query: Query, kind: str, installed: str) -> bool | None:
    if not query.operator:
        return True
    if kind == DEBIAN:
        return _VERSION.fullmatch(installed) is not None and _compare(installed, query.operator, query.version)
    if query.operator in ("=", "==", "!="):
        return (installed == query.version) == (query.operator != "!=")
    return None


@cache
def _compare(installed: str, operator: str, version: str) -> bool:
    """Debian's order of versions, by dpkg itself; each pair is asked once."""
    if process.find("dpkg") is None:
        raise HostError(
            "versions of Debian's packages cannot be compared: dpkg is missing",
            name="dpkg-missing",
            hint="apt install dpkg; or search without a version: --package NAME",
        )
    argv = ["dpkg", "--compare-versions", installed, OPERATORS[operator], version]
    return process.run(argv, deadline=10, ok_codes=(0, 1)).code == 0


class _Component(Shape):
    name: str
    version: str = ""
    purl: str = ""


class _Bill(Shape):
    components: list[_Component] = Field(default_factory=list)


class _Remembered(Shape):
    """The packages of a version, a line each, and the file that they were read from."""

    file: str
    rows: str


class _IndexShape(Shape):
    format: int
    versions: dict[str, _Remembered]


class _Bills:
    """The bills of materials of a gallery: what the index had, what it will have."""

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery
        self._known = _read_index(gallery.root / INDEX)
        self._seen: dict[str, Mapping[str, str]] = {}

    def rows(self, name: str, version: str) -> str | None:
        """A line for each package: name, type, version, architecture, by tabs. None without a readable bill."""
        path = self._gallery.root / name / version / SBOM
        before, key = file_id(str(path)), f"{name}/{version}"
        known: Mapping[str, str] | None = self._known.get(key)
        if known is not None and known["file"] == before:
            self._seen[key] = known
            return known["rows"]
        bill = read_usable(path, _Bill, limit=LARGEST_RECORD)
        if bill is None:
            return None
        rows = "".join(("\n", *(_line(each) for each in bill.get("components", ()))))
        if before is not None and before == file_id(str(path), settled=True):
            self._seen[key] = {"file": before, "rows": rows}
        return rows

    def remember(self) -> None:
        """Bring the index up to date, where that is allowed: it holds what was searched last."""
        if self._seen == self._known or sum(len(each["rows"]) for each in self._seen.values()) > LIMIT // 2:
            return
        # anyone who may only read the gallery reads the bills each time; so does everybody on a full disk
        with contextlib.suppress(OSError):
            write_json(self._gallery.root / INDEX, {"format": FORMAT, "versions": self._seen})


def _line(component: Mapping[str, Any]) -> str:
    purl = str(component.get("purl", ""))
    kind = purl.removeprefix("pkg:").partition("/")[0]
    qualifiers = dict(part.partition("=")[::2] for part in purl.partition("?")[2].split("&"))
    values = (component["name"], kind, component.get("version", ""), unquote(qualifiers.get("arch", "")))
    return "\t".join(single_line(value) for value in values) + "\n"


def _read_index(path: Path) -> dict[str, Any]:
    """What is remembered, by IMAGE/VERSION; nothing where the index is missing, damaged or of another format."""
    try:
        index = read_json(path, _IndexShape, limit=LIMIT)
    except RecordDamaged:
        return {}  # no warning: nothing is lost, and the next index replaces it
    versions: dict[str, Any] = index["versions"] if index is not None and index["format"] == FORMAT else {}
    return {key: each for key, each in versions.items() if _is_whole(each["rows"])}


def _is_whole(rows: str) -> bool:
    """Whether each line has its four values: an index may have been edited."""
    return rows.startswith("\n") and rows.endswith("\n") and rows.count("\t") == 3 * (rows.count("\n") - 1)
