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
FORMAT = 2
#: Bytes of an index: 500 versions of 1,000 packages have some 20 MiB.
LIMIT = 64 << 20
#: The operators of a query, and dpkg's words for them.
OPERATORS = {"<": "lt", "<=": "le", "=": "eq", "==": "eq", "!=": "ne", ">=": "ge", ">": "gt"}
#: The type of packages in a bill (package URL) whose versions dpkg compares.
DEBIAN = "deb"
#: The property of a bill's master that has the code name of its distribution (os-release, VERSION_CODENAME).
CODENAME = "goldsmith:codename"
#: Code names of the releases that bills of older versions of goldsmith name by their numbers.
_CODENAMES = {"debian-11": "bullseye", "debian-12": "bookworm", "debian-13": "trixie", "debian-14": "forky"}
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


@dataclass(frozen=True)
class Subject:
    """A golden version, or a version that VMs run from. `packages` is None where its bill cannot be read."""

    image: str
    version: str
    golden: bool
    vms: tuple[str, ...]
    packages: Packages | None

    def __str__(self) -> str:
        return f"{self.image} {self.version}"


@dataclass(frozen=True)
class Packages:
    """The packages of a bill. `release` is its distribution's code name, empty where that is not known.

    `rows`: a line for each package, with name, type, version, architecture, source package and its version, by tabs.
    """

    release: str
    rows: str

    def named(self, name: str) -> Iterator[tuple[str, str, str]]:
        """(type, version, architecture) of each package of this name."""
        start = self.rows.find(f"\n{name}\t")
        while start >= 0:
            end = self.rows.find("\n", start + 1)
            _, kind, version, architecture, _, _ = self.rows[start + 1 : end].split("\t")
            yield kind, version, architecture
            start = self.rows.find(f"\n{name}\t", end)

    @property
    def names_sources(self) -> bool:
        """Whether any package names its source: every Debian has some, and bills of an older goldsmith name none."""
        return any(cells[4] for row in self.rows.splitlines() if len(cells := row.split("\t")) > 1)

    def sources(self) -> dict[str, str]:
        """The version of each source package of Debian's packages; a package without one is its own source."""
        found = {}
        for row in self.rows.splitlines():
            cells = row.split("\t")
            if len(cells) > 1 and cells[1] == DEBIAN:
                found[cells[4] or cells[0]] = cells[5] or cells[2]
        return found


def find_packages(store: Store, queries: Iterable[Query]) -> Answer:
    """Search the golden versions, and the versions that VMs run from. Raises HostError (dpkg-missing)."""
    wanted, subjects = list(queries), read_subjects(store)
    found: list[Found] = []
    for each in subjects:
        for query in wanted if each.packages else ():
            for kind, installed, architecture in each.packages.named(query.name) if each.packages else ():
                matches = _matches(query, kind, installed)
                if matches is not False:
                    at = (each.image, each.version, each.golden)
                    found.append(Found(*at, query.name, installed, architecture, matches, each.vms))
    missing = tuple(str(each) for each in subjects if each.packages is None)
    return Answer(tuple(found), len(subjects), missing)


def read_subjects(store: Store) -> list[Subject]:
    """The golden versions, and the versions that VMs run from, by image and number."""
    gallery = Gallery(store.gallery)
    bills = _Bills(gallery)
    found = [
        Subject(name, version, golden, tuple(vms), bills.packages(name, version))
        for (name, version), (golden, vms) in sorted(_subjects(store, gallery).items())
    ]
    bills.remember()
    return found


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
    return process.run(argv, deadline=process.ANSWER, ok_codes=(0, 1)).code == 0


class _Component(Shape):
    name: str
    version: str = ""
    purl: str = ""


class _Property(Shape):
    name: str
    value: str = ""


class _Master(Shape):
    properties: list[_Property] = Field(default_factory=list)


class _Metadata(Shape):
    component: _Master | None = None


class _Bill(Shape):
    components: list[_Component] = Field(default_factory=list)
    metadata: _Metadata | None = None


class _Remembered(Shape):
    """The packages of a version, a line each, and the file that they were read from."""

    file: str
    release: str
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

    def packages(self, name: str, version: str) -> Packages | None:
        """None without a readable bill."""
        path = self._gallery.root / name / version / SBOM
        before, key = file_id(str(path)), f"{name}/{version}"
        known: Mapping[str, str] | None = self._known.get(key)
        if known is not None and known["file"] == before:
            self._seen[key] = known
            return Packages(known["release"], known["rows"])
        bill = read_usable(path, _Bill, limit=LARGEST_RECORD)
        if bill is None:
            return None
        components = bill.get("components", ())
        rows = "".join(("\n", *(_line(each) for each in components)))
        release = _release(bill)
        if before is not None and before == file_id(str(path), settled=True):
            self._seen[key] = {"file": before, "release": release, "rows": rows}
        return Packages(release, rows)

    def remember(self) -> None:
        """Bring the index up to date, where that is allowed: it holds what was searched last."""
        if self._seen == self._known or sum(len(each["rows"]) for each in self._seen.values()) > LIMIT // 2:
            return
        # anyone who may only read the gallery reads the bills each time; so does everybody on a full disk
        with contextlib.suppress(OSError):
            write_json(self._gallery.root / INDEX, {"format": FORMAT, "versions": self._seen})


def _line(component: Mapping[str, Any]) -> str:
    kind, qualifiers = _parse_purl(component)
    source, _, number = qualifiers.get("upstream", "").partition("@")
    values = (component["name"], kind, component.get("version", ""), qualifiers.get("arch", ""), source, number)
    return "\t".join(single_line(value) for value in values) + "\n"


def _parse_purl(component: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """The type of a component's package URL, and its qualifiers."""
    purl = str(component.get("purl", ""))
    pairs = (part.partition("=")[::2] for part in purl.partition("?")[2].split("&"))
    return purl.removeprefix("pkg:").partition("/")[0], {name: unquote(value) for name, value in pairs}


def _release(bill: Mapping[str, Any]) -> str:
    """The code name of the bill's distribution: as its master says, else by the number that its packages name."""
    master = (bill.get("metadata") or {}).get("component") or {}
    for each in master.get("properties", ()):
        if each["name"] == CODENAME:
            return single_line(each.get("value", ""))
    first: Mapping[str, Any] = next(iter(bill.get("components", ())), {})
    return _CODENAMES.get(_parse_purl(first)[1].get("distro", ""), "")


def _read_index(path: Path) -> dict[str, Any]:
    """What is remembered, by IMAGE/VERSION; nothing where the index is missing, damaged or of another format."""
    try:
        index = read_json(path, _IndexShape, limit=LIMIT)
    except RecordDamaged:
        return {}  # no warning: nothing is lost, and the next index replaces it
    versions: dict[str, Any] = index["versions"] if index is not None and index["format"] == FORMAT else {}
    return {key: each for key, each in versions.items() if _is_whole(each["rows"])}


def _is_whole(rows: str) -> bool:
    """Whether each line has its six values: an index may have been edited."""
    return rows.startswith("\n") and rows.endswith("\n") and rows.count("\t") == 5 * (rows.count("\n") - 1)
