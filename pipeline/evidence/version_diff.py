"""What one version of a master has that another has not: packages, files, checks, blocks; and all of it as a delta.

Where the digests that capture took are the same, the disks are not read: `gallery verify` holds disks to digests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pipeline.base.errors import UsageError
from pipeline.cache.digests import BLOCK, unequal_blocks
from pipeline.disk import transfer
from pipeline.disk.transfer import Made
from pipeline.gallery import Version, digests_file, disks_of
from pipeline.gallery.master import reading
from pipeline.systems.questions import list_disk


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
    """Read both disks, each as a stranger's. Raises DiskError where one cannot be read, NotFound where one is deleted
    meanwhile.
    """
    with reading(old, new):
        return _compare(old, new)


def _compare(old: Version, new: Version) -> Differences:
    blocks = changed = 0
    theirs, ours = disks_of(old.manifest), disks_of(new.manifest)
    for name in theirs.keys() & ours.keys():
        with transfer.open_source(old.path / name) as before, transfer.open_source(new.path / name) as after:
            runs = transfer.blocks_of(before, after, _suspects(old, new, name))
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


def delta(old: Version, new: Version, target: Path, *, timestamp: int, force: bool = False) -> Made:
    """Write the differencing VHD that gives `new`'s disk back from `old`'s, bit for bit.

    `timestamp` is in Unix seconds. Raises UsageError (data-disks), and what the writer raises.
    """
    if len(disks_of(old.manifest)) + len(disks_of(new.manifest)) > 2:
        raise UsageError(
            f"{new.name} has data disks, but a delta supports only one disk",
            name="data-disks",
            hint="use goldsmith vhd diff OLD NEW TARGET for each disk",
        )
    with reading(old, new):
        within = _suspects(old, new, old.disk.name)
        return transfer.difference(old.disk, new.disk, target, timestamp=timestamp, force=force, within=within)


def _suspects(old: Version, new: Version, name: str) -> list[tuple[int, int]] | None:
    """(start, end) of the pieces of a disk whose digests differ; None where only the disks themselves can say."""
    before, after = disks_of(old.manifest)[name], disks_of(new.manifest)[name]
    files = [version.path / digests_file(name) for version in (old, new)]
    if all(disk.get("digests") for disk in (before, after)) and all(path.exists() for path in files):
        return _joined(unequal_blocks(*files))
    size, theirs, ours = after.get("chunk_size"), before.get("chunks_sha256"), after.get("chunks_sha256")
    if not size or size != before.get("chunk_size") or not theirs or not ours:
        return None
    pairs = enumerate(zip_longest(theirs, ours))
    return [(number * size, (number + 1) * size) for number, (left, right) in pairs if left != right]


def _joined(blocks: Iterable[int]) -> list[tuple[int, int]]:
    """(start, end) in bytes of the runs that blocks make, which come in order."""
    runs: list[tuple[int, int]] = []
    for number in blocks:
        start = number * BLOCK
        if runs and runs[-1][1] == start:
            start = runs.pop()[0]
        runs.append((start, (number + 1) * BLOCK))
    return runs


def _packages(version: Version) -> dict[str, str]:
    rows: Sequence[Sequence[str]] = list_disk(version.disk, version.format.key, what="packages")
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
    rows: Sequence[Sequence[str]] = list_disk(version.disk, version.format.key, what="tree")
    return {path: _Entry(*rest) for path, *rest in rows}


def _checks(version: Version) -> dict[str, str]:
    return {str(check["id"]): str(check["status"]) for check in version.manifest.get("checks", ())}
