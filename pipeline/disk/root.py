"""A system's root as its own programs would see it: paths across mounts, symlinks followed inside the image only."""

from __future__ import annotations

import posixpath
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from pipeline.base.errors import DiskError
from pipeline.disk.filesystem import Entry, FileSystem, Stat

#: What the kernel allows (MAXSYMLINKS), and what a path may cost.
MAX_LINKS, MAX_DEPTH = 40, 200
#: Bytes that `read` gives where no limit is named, and names that `walk` gives at most.
READ_LIMIT, WALK_LIMIT = 16 << 20, 2_000_000

Place = tuple[FileSystem, int]
#: udev's links that say the same as a key of fstab.
_LINKS = {"by-uuid": "UUID", "by-label": "LABEL", "by-partuuid": "PARTUUID", "by-partlabel": "PARTLABEL"}


def device_name(text: str) -> str:
    """The first word of a line of fstab as `mount_all` takes it: KEY=value in small letters, lv=group/volume.

    Device mapper doubles the hyphens of a name and joins group and volume by a single one.
    """
    key, equals, value = text.partition("=")
    if equals:
        return f"{key}={value.strip(chr(34)).lower()}"
    parts = text.split("/")
    if text.startswith("/dev/disk/") and len(parts) == 5 and parts[3] in _LINKS:
        return f"{_LINKS[parts[3]]}={parts[4].lower()}"
    if text.startswith("/dev/mapper/") and len(parts) == 4:
        joined = parts[3].replace("--", "/").split("-")
        return f"lv={'/'.join(each.replace('/', '-') for each in joined)}".lower() if len(joined) == 2 else ""
    return f"lv={parts[2]}/{parts[3]}".lower() if text.startswith("/dev/") and len(parts) == 4 else ""


def _options(words: Sequence[str]) -> list[str]:
    """The mount options of a line of fstab."""
    return words[3].split(",") if len(words) > 3 else []


class Root:
    """Paths are absolute; one that does not exist reads as None, never as an error."""

    def __init__(self, filesystem: FileSystem, top: int | None = None) -> None:
        """`top`: the inode of its first directory, by default what the file system is mounted with."""
        self._top: Place = (filesystem, filesystem.root if top is None else top)
        self._mounts: dict[tuple[str, ...], Place] = {}

    @property
    def start(self) -> int:
        """Where the root's file system begins, in bytes of the disk."""
        return self._top[0].start

    def mount_all(self, named: Mapping[str, FileSystem]) -> None:
        """Show the disk's other file systems, and other subvolumes, where the image's own fstab mounts them.

        `named`: as `device_name` calls them.
        """
        for words in self._fstab():
            mounted = named.get(device_name(words[0]))
            if words[1] == "/" or mounted is None:
                continue
            inode = mounted.find_subvolume(_options(words))
            if inode is not None and (mounted.start, inode) != (self.start, self._top[1]):
                self._mounts[tuple(part for part in words[1].split("/") if part)] = (mounted, inode)

    def mount_options(self, path: str) -> list[str]:
        """The options with which the image's own fstab mounts a path."""
        return next((_options(words) for words in self._fstab() if words[1] == path), [])

    def _fstab(self) -> Iterator[list[str]]:
        for line in self.text("/etc/fstab").splitlines():
            words = line.split("#", 1)[0].split()
            if len(words) >= 3 and words[1].startswith("/"):
                yield words

    def read(self, path: str, limit: int = READ_LIMIT) -> bytes | None:
        """The first `limit` bytes of a regular file, None where there is none. Raises DiskError (file-cut-short)."""
        place = self._find(path)
        if place is None or (facts := place[0].stat(place[1])).type != "file":
            return None
        data = place[0].read(place[1], 0, limit)
        if len(data) < min(limit, facts.size):
            raise DiskError(
                f"only {len(data)} of the {facts.size} bytes of {path} can be read", name="file-cut-short"
            )
        return data

    def read_whole(self, path: str, limit: int = READ_LIMIT) -> bytes | None:
        """A regular file, None where there is none. Raises DiskError: file-too-large, file-cut-short."""
        data = self.read(path, limit + 1)
        if data is not None and len(data) > limit:
            raise DiskError(f"{path} has more than {limit >> 20} MiB, which is the limit", name="file-too-large")
        return data

    def pieces(self, path: str, size: int = 4 << 20) -> Iterator[bytes]:
        """A regular file piece by piece; nothing where there is none."""
        place = self._find(path)
        if place is None or (facts := place[0].stat(place[1])).type != "file":
            return
        for at in range(0, facts.size, size):
            yield place[0].read(place[1], at, size)

    def text(self, path: str, limit: int = READ_LIMIT) -> str:
        """A file as text, '' where it does not exist. Raises DiskError as `read_whole`."""
        return (self.read_whole(path, limit) or b"").decode("utf-8", "replace")

    def exists(self, path: str, *, follow: bool = True) -> bool:
        return self._find(path, follow=follow) is not None

    def stat(self, path: str, *, follow: bool = True) -> Stat | None:
        place = self._find(path, follow=follow)
        return None if place is None else place[0].stat(place[1])

    def is_dir(self, path: str) -> bool:
        found = self.stat(path)
        return found is not None and found.type == "dir"

    def is_file(self, path: str) -> bool:
        found = self.stat(path)
        return found is not None and found.type == "file"

    def read_link(self, path: str) -> str | None:
        place = self._find(path, follow=False)
        if place is None or place[0].stat(place[1]).type != "link":
            return None
        return place[0].read_link(place[1])

    def listdir(self, path: str) -> list[str]:
        """The names in a directory, sorted; empty if it is not a directory."""
        place = self._find(path)
        if place is None or place[0].stat(place[1]).type != "dir":
            return []
        return sorted(place[0].entries(place[1]))

    def walk(self, path: str = "/", *, limit: int = WALK_LIMIT) -> Iterator[tuple[str, str]]:
        """(path, type) of everything below a directory, links not followed. Raises DiskError past `limit` names."""
        for here, _, entry in self._walk(path, limit):
            yield here, entry.type

    def compressed(self) -> Iterator[tuple[str, int]]:
        """(path, first byte on the disk) of every regular file that its file system keeps compressed."""
        if not any(fs.compresses for fs, _ in (self._top, *self._mounts.values())):
            return
        for path, fs, entry in self._walk("/", WALK_LIMIT):
            if fs.compresses and entry.type == "file" and fs.is_compressed(entry.inode):
                yield path, next((start for start, _ in fs.runs(entry.inode)), 0)

    def places(self) -> Iterator[tuple[str, list[tuple[int, int]]]]:
        """Every regular file with the (start, length) of its data, in bytes of the disk."""
        for path, fs, entry in self._walk("/", WALK_LIMIT):
            if entry.type == "file":
                yield path, fs.runs(entry.inode)

    def runs(self, path: str) -> list[tuple[int, int]]:
        """(start, length) of a file's data in order, in bytes of the disk; none where there is no such file."""
        place = self._find(path)
        return [] if place is None else place[0].runs(place[1])

    def _walk(self, path: str, limit: int) -> Iterator[tuple[str, FileSystem, Entry]]:
        place = self._find(path)
        if place is None or place[0].stat(place[1]).type != "dir":
            return
        base = "" if path == "/" else posixpath.normpath(path)
        todo: deque[tuple[str, Place]] = deque([(base, place)])
        seen: set[tuple[int, int]] = {(place[0].start, place[1])}
        count = 0
        while todo:
            above, (fs, inode) = todo.popleft()
            for name, entry in sorted(fs.entries(inode).items()):
                count += 1
                if count > limit:
                    raise DiskError(f"{path} has more than {limit} names below it", name="fs-too-many-names")
                here = f"{above}/{name}"
                yield here, fs, entry
                if entry.type != "dir" or here.count("/") > MAX_DEPTH:
                    continue
                mounted = self._mounts.get(tuple(here.split("/")[1:]))
                below = mounted or (fs, entry.inode)
                if (below[0].start, below[1]) not in seen:
                    seen.add((below[0].start, below[1]))
                    todo.append((here, below))

    def _find(self, path: str, *, follow: bool = True) -> Place | None:
        todo = deque(part for part in path.split("/") if part)
        names: list[str] = []
        places: list[Place] = [self._top]
        links = 0
        while todo:
            part = todo.popleft()
            if part == ".":
                continue
            if part == "..":
                if names:
                    names.pop()
                    places.pop()
                continue
            fs, inode = places[-1]
            if len(places) > 1 and fs.stat(inode).type != "dir":
                return None
            entry = fs.find(inode, part)
            if entry is None:
                return None
            if entry.type == "link" and (follow or todo):
                links += 1
                target = fs.read_link(entry.inode)
                if links > MAX_LINKS or len(todo) > MAX_DEPTH:
                    return None
                if target.startswith("/"):
                    names, places = [], places[:1]
                todo.extendleft(reversed([piece for piece in target.split("/") if piece]))
                continue
            names.append(part)
            mounted = self._mounts.get(tuple(names))
            places.append(mounted or (fs, entry.inode))
        return places[-1]
