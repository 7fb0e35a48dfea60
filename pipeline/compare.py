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
        _files(old, new),
        Changes.between(_checks(old), _checks(new)),
        blocks,
        changed,
    )


def _packages(version: Version) -> dict[str, str]:
    rows: Sequence[Sequence[str]] = list_disk(version.disk, "vpc", what="packages")
    return {f"{name}:{architecture}": number for name, number, architecture in rows}


def _files(old: Version, new: Version) -> Changes:
    """By all that they are, content too; shown by their size, and by what else has changed where that has not."""
    before, after = _tree(old), _tree(new)
    seen = Changes.between(
        {path: entry.shown for path, entry in before.items()}, {path: entry.shown for path, entry in after.items()}
    )
    changed = {
        path: (before[path].shown, after[path].shown_beside(before[path]))
        for path in sorted(before.keys() & after.keys())
        if before[path] != after[path]
    }
    return Changes(seen.added, seen.removed, changed)


@dataclass(frozen=True)
class _Entry:
    """A path of a disk: `content` is the digest of a file's, or a link's target."""

    kind: str
    owner: str
    group: str
    mode: str
    content: str
    size: str

    @property
    def shown(self) -> str:
        return f"{self.size} bytes" if self.kind == "file" else self.kind

    def shown_beside(self, before: _Entry) -> str:
        """As the newer of two that differ."""
        if self.shown != before.shown:
            return self.shown
        if self.content != before.content:
            return f"to {self.content}" if self.kind == "link" else "other content"
        return f"{self.owner}:{self.group} {self.mode}"


def _tree(version: Version) -> dict[str, _Entry]:
    rows: Sequence[Sequence[str]] = list_disk(version.disk, "vpc", what="tree")
    return {path: _Entry(*rest) for path, *rest in rows}


def _checks(version: Version) -> dict[str, str]:
    return {str(check["id"]): str(check["status"]) for check in version.manifest.get("checks", ())}
