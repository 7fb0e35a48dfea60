"""What every reader of a file system answers: directories, metadata and bytes by inode number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pipeline.base.errors import DiskError

Read = Callable[[int, int], bytes]

#: A directory with more names than this is damage or an attack.
MAX_ENTRIES = 200_000
#: Names that all directories kept in memory have together, and metadata records that are kept.
_KEPT_NAMES, _KEPT_STATS = 100_000, 20_000


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a directory; `type` is file, dir, link or other."""

    name: str
    inode: int
    type: str


@dataclass(frozen=True, slots=True)
class Stat:
    """`mode` is the permission bits, `mtime` in Unix seconds."""

    inode: int
    type: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int


_Value = TypeVar("_Value")


class Recent(Generic[_Value]):
    """What was read last, by inode; `weigh` says what one value counts, and no more than `limit` in all is kept."""

    def __init__(self, limit: int, weigh: Callable[[_Value], int] = lambda _: 1) -> None:
        self._limit, self._weigh, self._weight = limit, weigh, 0
        self._kept: OrderedDict[int, _Value] = OrderedDict()

    def get(self, inode: int, make: Callable[[int], _Value]) -> _Value:
        if inode in self._kept:
            self._kept.move_to_end(inode)
            return self._kept[inode]
        value = make(inode)
        self._kept[inode] = value
        self._weight += self._weigh(value)
        # the last one stays, however large it is: it is what is asked for next
        while self._weight > self._limit and len(self._kept) > 1:
            self._weight -= self._weigh(self._kept.popitem(last=False)[1])
        return value


class FileSystem(ABC):
    """A file system that begins at byte `start` of the disk.

    Raises DiskError wherever reading fails: fs-damaged (what is on the disk contradicts itself), fs-unsupported (the
    disk is right as far as can be seen, and this reader lacks something).
    """

    #: Do names that differ in case only mean the same file?
    folds_case = False

    def __init__(self, kind: str, start: int) -> None:
        self.kind = kind
        self.start = start
        self._directories: Recent[dict[str, Entry]] = Recent(_KEPT_NAMES, lambda names: len(names) + 1)
        self._stats: Recent[Stat] = Recent(_KEPT_STATS)

    @property
    @abstractmethod
    def root(self) -> int:
        """The inode of the top directory."""

    def entries(self, inode: int) -> dict[str, Entry]:
        """The names in a directory, without . and .. and what was deleted."""
        return self._directories.get(inode, self._read_directory)

    def find(self, inode: int, name: str) -> Entry | None:
        entries = self.entries(inode)
        if name in entries or not self.folds_case:
            return entries.get(name)
        return next((entry for entry in entries.values() if entry.name.lower() == name.lower()), None)

    def stat(self, inode: int) -> Stat:
        return self._stats.get(inode, self._read_stat)

    def attribute(self, inode: int, kind: int) -> bytes | None:  # noqa: ARG002  only NTFS has any
        """The first attribute of this kind that NTFS keeps of a file, None where it has none."""
        return None

    @abstractmethod
    def read_link(self, inode: int) -> str:
        """What a symbolic link points at."""

    @abstractmethod
    def read(self, inode: int, offset: int, length: int) -> bytes:
        """Up to `length` bytes of a file from `offset` on; holes read as zeros."""

    @abstractmethod
    def runs(self, inode: int) -> list[tuple[int, int]]:
        """(start, length) of a file's data, in order, in bytes of the disk; none where it is in the inode itself."""

    @abstractmethod
    def _read_directory(self, inode: int) -> dict[str, Entry]: ...

    @abstractmethod
    def _read_stat(self, inode: int) -> Stat: ...

    def damaged(self, what: str) -> DiskError:
        return DiskError(
            f"the {self.kind} file system at byte {self.start} is damaged: {what}",
            name="fs-damaged",
            hint=f"check the file system on a copy of the disk ({_CHECKERS.get(self.kind, 'fsck')})",
        )

    def unsupported(self, feature: str) -> DiskError:
        """The error for a feature that this reader lacks."""
        return DiskError(
            f"the {self.kind} file system at byte {self.start} has {feature}, which goldsmith cannot read",
            name="fs-unsupported",
            hint="install libguestfs-tools; guestfish --ro -i -a DISK reads it",
        )


_CHECKERS = {
    **dict.fromkeys(("ext2", "ext3", "ext4"), "e2fsck -f"),
    "vfat": "fsck.vfat",
    "ntfs": "chkdsk, or ntfsfix -n",
}
