"""What an uploader is: it checks a version against its target, uploads it, and registers it for readers."""

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
    """How one disk goes: `base` is the published version that it is sent as a difference from."""

    file: str
    size: int
    bytes: int
    cleared: int
    base: str | None
    why: str


@dataclass(frozen=True)
class Plan:
    """What a push would do. `published` is true where the target has this very version already."""

    name: str
    version: str
    folder: str
    published: bool
    disks: tuple[DiskPlan, ...]
    index: Index


@dataclass(frozen=True)
class Sent:
    """What became of one disk: `base` is the version that it was copied from, `why` says why it was sent whole."""

    file: str
    etag: str
    base: str | None
    why: str
    written: int
    cleared: int
    resumed: int
    read_back: int


class Uploader(Protocol):
    """One kind of target. `sent` says what became of each disk, in order."""

    sent: list[Sent]

    def check(self, version: Version, disks: list[SourceDisk]) -> Plan:
        """What a push does. Raises before anything is sent: PublishError, UsageError."""

    def upload(self, version: Version, disks: list[SourceDisk], plan: Plan) -> Mapping[str, Any]:
        """Send everything; the entry for the index. Nobody reads it yet."""

    def register(self, plan: Plan, entry: Mapping[str, Any]) -> None:
        """Make it the one that readers find. Raises Conflict where another publisher was faster."""

    def close(self) -> None:
        """Let go of whatever is held on the target."""


def folder_of(version: Version) -> str:
    """The folder of a version on every target."""
    return f"{version.name}/{version.version}-{tree_of_disk(version.manifest['disk'])[:DIGITS]}"
