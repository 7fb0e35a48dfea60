"""What the site of a gallery shows: its images, their versions with ages, sizes and times, and the VMs on them.

Nothing here asks libvirt or opens a disk: a site of thousands of versions is made from records and `stat`.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.base.errors import GoldsmithError
from pipeline.base.files import Shape, read_usable
from pipeline.base.store import Store
from pipeline.evidence.page_parts import PAGE
from pipeline.evidence.security_tracker import CveCount, count_cves
from pipeline.gallery import CANDIDATE, GOLDEN, Gallery
from pipeline.gallery.listing import Row, list_versions
from pipeline.gallery.retention import withdrawn
from pipeline.gallery.verdict import Verdict, count
from pipeline.instances.record import Instances

#: The summary of the last refresh, in the store.
REFRESH = "refresh.json"


class _ImageResult(Shape):
    name: str
    outcome: str
    why: str = ""
    seconds: float = 0.0
    unpublished: str = ""


class _RefreshShape(Shape):
    began: str
    ended: str | None
    seconds: float
    images: list[_ImageResult]

    @classmethod
    def advice(cls) -> str:
        return "the next goldsmith refresh writes it again"


@dataclass(frozen=True)
class SiteVm:
    """A VM. `state`: deallocated, failed or allocated, by its record."""

    name: str
    image: str
    version: str
    state: str
    created: str


@dataclass(frozen=True)
class SiteVersion:
    """A version. Sizes in bytes; `shared` is the part of `allocated` that layers hold too. Times in seconds.

    `cves` is None where they are not known: of each version that is not golden, and without the tracker's data.
    """

    version: str
    channels: Sequence[str]
    created: str
    age_days: float
    size: int
    allocated: int
    shared: int
    ready_seconds: float | None
    build_seconds: float | None
    verdict: str
    is_good: bool
    signed: bool
    withdrawn: str
    page: Path | None
    vms: Sequence[SiteVm]
    cves: CveCount | None = None


@dataclass(frozen=True)
class SiteImage:
    """An image with its versions, oldest first. `refused`: why its newest candidate did not become a version."""

    name: str
    versions: Sequence[SiteVersion]
    refused: str
    outcome: str

    @property
    def golden(self) -> SiteVersion | None:
        return self._in(GOLDEN)

    @property
    def newest(self) -> SiteVersion | None:
        """The version that a row of the list shows: the golden one, else the candidate, else the last."""
        return self.golden or self._in(CANDIDATE) or (self.versions[-1] if self.versions else None)

    @property
    def allocated(self) -> int:
        return sum(version.allocated for version in self.versions)

    @property
    def shared(self) -> int:
        return sum(version.shared for version in self.versions)

    @property
    def vms(self) -> list[SiteVm]:
        return [vm for version in self.versions for vm in version.vms]

    def _in(self, channel: str) -> SiteVersion | None:
        return next((version for version in self.versions if channel in version.channels), None)


@dataclass(frozen=True)
class SiteData:
    """A whole gallery at `made`. `refresh`: the last one; `damaged`: a sentence for each damaged version.

    `cves_unknown`: why no version's CVEs are known, empty where nobody asked for them.
    """

    made: datetime
    images: Sequence[SiteImage]
    damaged: Sequence[str]
    refresh: Mapping[str, Any] | None = None
    vms: Sequence[SiteVm] = field(default_factory=tuple)
    cves_unknown: str = ""


def collect(store: Store, now: datetime | None = None) -> SiteData:
    """Read the gallery and the records of its VMs."""
    made = now or datetime.now(UTC)
    gallery = Gallery(store.gallery)
    names = gallery.names()
    listing = list_versions(gallery, names, lambda checks: count(checks).to_json())
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in listing.rows:
        rows[row.summary["name"]].append(row)
    vms = _vms(store)
    cves, unknown = _count_cves(store)
    refresh = read_usable(store.root / REFRESH, _RefreshShape)
    outcomes = {each["name"]: str(each["outcome"]) for each in (refresh or {}).get("images", ())}
    images = []
    for name in names:
        refused, gone = gallery.refused(name), withdrawn(gallery, name)
        versions = [_version(row, made, vms, gone, cves) for row in rows[name]]
        if versions or refused:
            why = f"{refused['gate']}: {refused['why']}" if refused else ""
            images.append(SiteImage(name, versions, why, outcomes.get(name, "")))
    return SiteData(made, images, listing.damaged, refresh, vms, unknown)


def _count_cves(store: Store) -> tuple[Mapping[tuple[str, str], CveCount], str]:
    """What is known; a copy of the tracker's data that is damaged costs the site its CVEs and nothing else."""
    try:
        return count_cves(store), ""
    except GoldsmithError as error:
        return {}, error.message


def _vms(store: Store) -> list[SiteVm]:
    return [
        SiteVm(
            record.name,
            record.image,
            record.version,
            "failed" if record.failure else "allocated" if record.allocated else "deallocated",
            record.created,
        )
        for record in Instances(store.instances).all()
    ]


def _version(
    row: Row,
    made: datetime,
    vms: Sequence[SiteVm],
    gone: Mapping[str, str],
    cves: Mapping[tuple[str, str], CveCount],
) -> SiteVersion:
    shown, verdict = row.summary, Verdict.from_json(row.verdict)
    disks: Sequence[Mapping[str, Any]] = shown["disks"]
    folder = Path(shown["path"]).parent
    page = folder / PAGE
    return SiteVersion(
        version=shown["version"],
        channels=shown["channels"],
        created=shown["created"],
        age_days=max(0.0, (made - datetime.fromisoformat(shown["created"])).total_seconds() / 86400),
        size=sum(disk["size"] or 0 for disk in disks),
        allocated=sum(disk["allocated"] or 0 for disk in disks),
        shared=sum(disk["allocated"] or 0 for disk in disks if _is_shared(disk["path"])),
        ready_seconds=row.ready_seconds,
        build_seconds=row.build_seconds,
        verdict=verdict.short,
        is_good=verdict.good,
        signed=bool(shown["signed_by"]),
        withdrawn=gone.get(shown["version"], ""),
        page=page if page.is_file() and not page.is_symlink() else None,
        vms=[vm for vm in vms if (vm.image, vm.version) == (shown["name"], shown["version"])],
        cves=cves.get((shown["name"], shown["version"])),
    )


def _is_shared(path: str) -> bool:
    """Whether the file has a second name: a layer's, which `goldsmith clean` may delete without freeing it."""
    try:
        return os.lstat(path).st_nlink > 1
    except OSError:
        return False
