"""What one version of a master has that another has not: packages, files, checks, blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.checks import list_disk
from pipeline.gallery import Version, disks_of
from pipeline.offline import transfer

#: Bytes of a block, as uploads and deduplicating file systems count.
BLOCK = 64 << 10


@dataclass(frozen=True)
class Changes:
    """Of things that have a name: which came, which went, and from what to what the others changed."""

    added: dict[str, str] = field(default_factory=dict)
    removed: dict[str, str] = field(default_factory=dict)
    changed: dict[str, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    def between(cls, old: Mapping[str, str], new: Mapping[str, str]) -> Changes:
        return cls(
            {name: new[name] for name in sorted(new.keys() - old.keys())},
            {name: old[name] for name in sorted(old.keys() - new.keys())},
            {name: (old[name], new[name]) for name in sorted(old.keys() & new.keys()) if old[name] != new[name]},
        )

    def __len__(self) -> int:
        return len(self.added) + len(self.removed) + len(self.changed)


@dataclass(frozen=True)
class Differences:
    """From `old` to `new`. `blocks` are of BLOCK bytes, `changed_bytes` are counted by sectors, both over
    all disks that the two have.
    """

    old: str
    new: str
    packages: Changes
    files: Changes
    checks: Changes
    blocks: int
    changed_bytes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(old: Version, new: Version) -> Differences:
    """Read both disks, each as a stranger's. Raises DiskError where one cannot be read."""
    blocks = changed = 0
    for name in disks_of(old.manifest).keys() & disks_of(new.manifest).keys():
        with transfer.open_source(old.path / name) as before, transfer.open_source(new.path / name) as after:
            runs = transfer.blocks_of(before, after)
        blocks += len({n for start, length in runs for n in range(start // BLOCK, -(-(start + length) // BLOCK))})
        changed += sum(length for _, length in runs)
    return Differences(
        f"{old.name} {old.version}",
        f"{new.name} {new.version}",
        Changes.between(_packages(old), _packages(new)),
        Changes.between(_files(old), _files(new)),
        Changes.between(_checks(old), _checks(new)),
        blocks,
        changed,
    )


def _packages(version: Version) -> dict[str, str]:
    rows: Sequence[Sequence[str]] = list_disk(version.disk, "vpc", what="packages")
    return {f"{name}:{architecture}": number for name, number, architecture in rows}


def _files(version: Version) -> dict[str, str]:
    rows: Sequence[Sequence[str]] = list_disk(version.disk, "vpc", what="files")
    return {path: f"{size} bytes" if kind == "file" else kind for path, kind, size in rows}


def _checks(version: Version) -> dict[str, str]:
    return {str(check["id"]): str(check["status"]) for check in version.manifest.get("checks", ())}
