"""What every reader of a file system answers: directories, metadata and bytes by inode number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

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


class FileSystemFacts(Protocol):
    """What the superblock of a file system with a state says; `size` and `free` in bytes."""

    @property
    def size(self) -> int: ...
    @property
    def free(self) -> int: ...
    @property
    def needs_recovery(self) -> bool:
        """Whether a journal must be replayed before the files are current."""
        ...

    @property
    def clean(self) -> bool:
        """Whether a reader sees what the file system means, and its map of free blocks holds."""
        ...

    @property
    def faults(self) -> tuple[str, ...]:
        """Why it is not clean, and what of its superblock is wrong."""
        ...


@dataclass(frozen=True, slots=True)
class Subvolume:
    """A tree of files within a file system: its path from the top ('' is the top itself), and its first inode."""

    path: str
    inode: int


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
    #: May it keep the bytes of a file compressed?
    compresses = False

    def __init__(self, kind: str, start: int) -> None:
        self.kind = kind
        self.start = start
        self._directories: Recent[dict[str, Entry]] = Recent(_KEPT_NAMES, lambda names: len(names) + 1)
        self._stats: Recent[Stat] = Recent(_KEPT_STATS)
        #: From addresses of the volume to pieces of the disk, where the two differ.
        self.locate: Callable[[int, int], Iterable[tuple[int, int]]] | None = None

    @property
    @abstractmethod
    def root(self) -> int:
        """The inode of the top directory: of what is mounted without options."""

    def subvolumes(self) -> Sequence[Subvolume]:
        """The trees that may be mounted, what is mounted without options first."""
        return (Subvolume("", self.root),)

    def find_subvolume(self, options: Iterable[str]) -> int | None:  # noqa: ARG002  few have any
        """The inode that is mounted with these options of mount(8), None where there is none."""
        return self.root

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

    def runs(self, inode: int) -> list[tuple[int, int]]:
        """(start, length) of a file's data, in order, in bytes of the disk; none where it is in the inode itself."""
        return list(self._located(self._runs(inode)))

    def free_ranges(self) -> Iterator[tuple[int, int]]:
        """(start, length) in bytes of the disk of what the file system has no use for.

        None of a kind whose map is read elsewhere, or is not known. The caller has seen that it is clean.
        """
        return self._located(self._free())

    def is_compressed(self, inode: int) -> bool:  # noqa: ARG002  few do
        """Whether bytes of a file are compressed on the disk."""
        return False

    def _located(self, ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        for start, length in ranges:
            if self.locate is None:
                yield start, length
            else:
                yield from self.locate(start, length)

    @abstractmethod
    def _runs(self, inode: int) -> list[tuple[int, int]]:
        """`runs` in bytes of the volume's addresses."""

    def _free(self) -> Iterator[tuple[int, int]]:
        return iter(())

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
    "xfs": "xfs_repair -n",
    "btrfs": "btrfs check --readonly",
}
