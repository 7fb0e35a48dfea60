"""Debian's security tracker: which CVE a version of a source package has, by the tracker's own data (JSON).

The file has some 70 MiB: {SOURCE: {CVE: {"releases": {CODENAME:
{"status": "resolved" | "open" | "undetermined", "fixed_version": VERSION, ...}}}}}. A fixed version of "0" says that
the release was never affected. It is read as a stream, and what matters of it is kept beside the gallery's other
indexes, with the identity of the file that it was read from.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import ijson
from debian_inspector.version import compare_versions

from pipeline.base.errors import NotFound, UsageError
from pipeline.base.files import RecordDamaged, Shape, read_json, write_json
from pipeline.base.printable import single_line
from pipeline.base.store import Store
from pipeline.evidence.package_index import Subject, read_subjects
from pipeline.gallery.listing import file_id

#: Where Debian publishes the data.
URL = "https://security-tracker.debian.org/tracker/data/json"
#: The tracker's data in the store, where no other file is named.
TRACKER = "security-tracker.json"
#: The name of the index in the gallery's folder: no image can be called so.
INDEX = ".security-index.json"
#: Of what the index holds. Raise it when that changes.
FORMAT = 1
#: Bytes of an index: a release has some 30,000 rows, 1.5 MiB.
LIMIT = 64 << 20
_CVE = re.compile(r"CVE-\d{4}-\d{4,}", re.ASCII)
#: How the tracker says that a release never had the fault.
_NEVER = "0"
#: What Debian's policy lets stand in a version.
_VERSION = re.compile(r"[0-9A-Za-z.+:~-]+", re.ASCII)
#: {SOURCE: {CVE: fixed version, "" where there is none, None where the tracker has not decided}}
Faults = dict[str, dict[str, str | None]]
#: By code name; None for a release that the data do not have.
Releases = Mapping[str, Faults | None]


class Judgement(StrEnum):
    """What the tracker's data say of an installed version."""

    FIXABLE = "affected, a fixed version exists"
    OPEN = "affected, no fixed version exists"
    UNKNOWN = "not known"


@dataclass(frozen=True)
class Finding:
    """A CVE of a version's source package. `fixed` is the first version without it, empty where there is none."""

    image: str
    version: str
    golden: bool
    cve: str
    source: str
    installed: str
    judgement: Judgement
    fixed: str
    vms: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "judgement": self.judgement.name.lower(), "vms": list(self.vms)}


@dataclass(frozen=True)
class Findings:
    """`not_judged` names versions that nothing is known of, each with the reason."""

    found: tuple[Finding, ...]
    searched: int
    not_judged: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        found = [each.to_json() for each in self.found]
        return {"found": found, "searched": self.searched, "not_judged": list(self.not_judged)}


@dataclass(frozen=True)
class CveCount:
    """CVEs of a version: `fixable` by an update of its packages, `open` without one yet."""

    fixable: int
    open: int


class Tracker:
    """The tracker's data of the releases that were asked for."""

    def __init__(self, releases: Releases, known: frozenset[str] = frozenset()) -> None:
        self._releases, self._known = releases, known

    def covers(self, release: str) -> bool:
        return self._releases.get(release) is not None

    def judge(self, subject: Subject, cve: str | None = None) -> Iterator[Finding]:
        """The CVEs of a version whose packages are known; or only this one."""
        assert subject.packages is not None
        faults = self._releases.get(subject.packages.release) or {}
        for source, installed in sorted(subject.packages.sources().items()):
            rows = faults.get(source, {})
            for name in rows if cve is None else {cve} & rows.keys():
                fixed = rows[name]
                judgement = _judge(installed, fixed)
                if judgement is not None:
                    at = (subject.image, subject.version, subject.golden)
                    yield Finding(*at, name, source, installed, judgement, fixed or "", subject.vms)

    def knows(self, cve: str) -> bool:
        known = (rows for faults in self._releases.values() for rows in (faults or {}).values())
        return cve in self._known or any(cve in rows for rows in known)


def _judge(installed: str, fixed: str | None) -> Judgement | None:
    """None for a version that has the fault no more."""
    if fixed is None or not _VERSION.fullmatch(installed):
        return Judgement.UNKNOWN
    if not fixed:
        return Judgement.OPEN
    return Judgement.FIXABLE if compare_versions(installed, fixed) < 0 else None


def find_cves(store: Store, cves: list[str], tracker: Path | None = None) -> Findings:
    """Judge the golden versions, and the versions that VMs run from.

    Raises UsageError (cve-name, tracker-missing, tracker-damaged), NotFound (cve-unknown).
    """
    for cve in cves:
        if not _CVE.fullmatch(cve):
            raise UsageError(f"{cve!r} is not the name of a CVE", name="cve-name", hint="write it as CVE-2024-5535")
    subjects = read_subjects(store)
    data = read_tracker(store, subjects, tracker, names=cves)
    for cve in cves:
        if not data.knows(cve):
            raise NotFound(
                f"Debian's security tracker has no {cve} in this copy of its data",
                name="cve-unknown",
                hint=f"check the number; or the copy is older than the CVE: fetch {URL} again",
            )
    found: list[Finding] = []
    not_judged = []
    for subject in subjects:
        reason = _why_not(subject, data)
        if reason:
            not_judged.append(f"{subject} ({reason})")
        else:
            found.extend(finding for cve in cves for finding in data.judge(subject, cve))
    return Findings(tuple(found), len(subjects), tuple(not_judged))


def count_cves(store: Store) -> Mapping[tuple[str, str], CveCount]:
    """For each golden version that can be judged, by image and number; nothing without the tracker's data.

    Raises UsageError (tracker-damaged).
    """
    if not (store.root / TRACKER).is_file():
        return {}
    subjects = [each for each in read_subjects(store) if each.golden]
    data = read_tracker(store, subjects)
    counts = {}
    for subject in subjects:
        if not _why_not(subject, data):
            seen = [finding.judgement for finding in data.judge(subject)]
            counts[subject.image, subject.version] = CveCount(
                seen.count(Judgement.FIXABLE), seen.count(Judgement.OPEN)
            )
    return counts


def _why_not(subject: Subject, data: Tracker) -> str:
    """Why the tracker cannot say anything of a version."""
    if subject.packages is None:
        return "no bill of materials"
    if not subject.packages.sources():
        return "no packages of Debian"
    if not subject.packages.names_sources:
        return "its bill names no source packages, as those of an older goldsmith"
    if not subject.packages.release:
        return "its release is not known"
    return "" if data.covers(subject.packages.release) else f"the data have no release {subject.packages.release}"


def read_tracker(
    store: Store, subjects: list[Subject], tracker: Path | None = None, *, names: list[str] | None = None
) -> Tracker:
    """The data of the releases of these versions. Raises UsageError (tracker-missing, tracker-damaged).

    `names`: CVEs of which is to be known whether the data have them at all, in whatever release.
    """
    path = tracker or store.root / TRACKER
    wanted = {each.packages.release for each in subjects if each.packages and each.packages.release}
    identity = file_id(str(path))
    index = _read_index(store.gallery / INDEX)
    if identity is None:
        raise UsageError(
            f"{path}: there are no data of Debian's security tracker",
            name="tracker-missing",
            hint=f"fetch {URL} to {path}, or name a copy: --tracker FILE",
        )
    if index is not None and index["file"] == identity and wanted <= index["releases"].keys():
        data = Tracker(index["releases"])
        if all(data.knows(name) for name in names or ()):
            return data
    releases, known = _read_whole(path, wanted, frozenset(names or ()))
    # anyone who may only read the gallery reads the file each time; so does everybody on a full disk
    if identity == file_id(str(path), settled=True):
        with contextlib.suppress(OSError):
            write_json(store.gallery / INDEX, {"format": FORMAT, "file": identity, "releases": releases})
    return Tracker(releases, known)


def _read_whole(
    path: Path, wanted: set[str], names: frozenset[str]
) -> tuple[dict[str, Faults | None], frozenset[str]]:
    """What the file has of these releases, and which of these names it has at all."""
    releases: dict[str, Faults | None] = dict.fromkeys(wanted)
    known: set[str] = set()
    number = 0
    try:
        with path.open("rb") as file:
            for source, faults in ijson.kvitems(file, ""):
                number += 1
                for cve, row in faults.items():
                    known.update({cve} & names)
                    for release, state in row.get("releases", {}).items():
                        if release not in wanted or not _CVE.fullmatch(cve):
                            continue
                        has = releases[release] = releases[release] or {}
                        if (fixed := _fixed_version(state)) != _NEVER:
                            has.setdefault(single_line(source), {})[cve] = fixed
    except (ijson.JSONError, UnicodeDecodeError, AttributeError, TypeError, OSError) as error:
        raise _damaged(path, str(error)) from error
    if not number:
        raise _damaged(path, "it names no package")
    return releases, frozenset(known)


def _fixed_version(state: Mapping[str, Any]) -> str | None:
    """ "0": never affected; "": affected, no fixed version yet; None: not decided."""
    status, fixed = state.get("status"), state.get("fixed_version")
    if status == "resolved" and isinstance(fixed, str) and _VERSION.fullmatch(fixed):
        return fixed
    return "" if status == "open" else None


def _damaged(path: Path, why: str) -> UsageError:
    return UsageError(
        f"{path} is not a whole copy of the security tracker's data: {single_line(why)}",
        name="tracker-damaged",
        hint=f"fetch {URL} again",
    )


class _IndexShape(Shape):
    format: int
    file: str
    releases: dict[str, dict[str, dict[str, str | None]] | None]


def _read_index(path: Path) -> dict[str, Any] | None:
    try:
        index = read_json(path, _IndexShape, limit=LIMIT)
    except RecordDamaged:
        return None  # no warning: nothing is lost, and the next index replaces it
    return index if index is not None and index["format"] == FORMAT else None
