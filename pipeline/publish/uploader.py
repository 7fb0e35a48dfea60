"""The protocol of an uploader: it checks a version against its target, uploads it, and registers it for readers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.gallery import Version
from pipeline.gallery.manifest import tree_of_disk
from pipeline.publish.index import Index
from pipeline.publish.source import SourceDisk

#: Hexadecimal digits of the tree digest in a version's folder: enough to tell masters of one number apart.
DIGITS = 16


@dataclass(frozen=True)
class DiskPlan:
    """How one disk is sent: `base` is the published version from which it is a difference."""

    file: str
    size: int
    bytes: int
    cleared: int
    base: str | None
    why: str


@dataclass(frozen=True)
class Plan:
    """The plan of a push. `published` is true if the target already has this version."""

    name: str
    version: str
    folder: str
    published: bool
    disks: tuple[DiskPlan, ...]
    index: Index


@dataclass(frozen=True)
class Sent:
    """The result for one disk: `base` is the version from which it was copied, `why` the reason why it was sent
    whole.
    """

    file: str
    etag: str
    base: str | None
    why: str
    written: int
    cleared: int
    resumed: int
    read_back: int


class Uploader(Protocol):
    """One kind of target. `sent` has the result for each disk, in order."""

    sent: list[Sent]

    def check(self, version: Version, disks: list[SourceDisk]) -> Plan:
        """The plan of a push. Raises PublishError or UsageError before anything is sent."""

    def upload(self, version: Version, disks: list[SourceDisk], plan: Plan) -> Mapping[str, Any]:
        """Send everything. Returns the entry for the index; readers do not see it yet."""

    def register(self, plan: Plan, entry: Mapping[str, Any]) -> None:
        """Make it visible to readers. Raises Conflict if another publisher was faster."""

    def close(self) -> None:
        """Release all leases on the target."""


def folder_of(version: Version) -> str:
    """The folder of a version on every target."""
    return f"{version.name}/{version.version}-{tree_of_disk(version.manifest['disk'])[:DIGITS]}"
