"""One file system on a disk, through The Sleuth Kit (pytsk3): directories, metadata and bytes by inode number."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytsk3

from pipeline.errors import DiskError

Read = Callable[[int, int], bytes]

_POINTERS = (int(pytsk3.TSK_FS_ATTR_TYPE_UNIX_INDIR), int(pytsk3.TSK_FS_ATTR_TYPE_UNIX_EXTENT))
#: A directory with more names than this is damage or an attack.
MAX_ENTRIES = 200_000
_TYPES = {
    pytsk3.TSK_FS_NAME_TYPE_REG: "file",
    pytsk3.TSK_FS_NAME_TYPE_DIR: "dir",
    pytsk3.TSK_FS_NAME_TYPE_LNK: "link",
}
_META_TYPES = {
    pytsk3.TSK_FS_META_TYPE_REG: "file",
    pytsk3.TSK_FS_META_TYPE_DIR: "dir",
    pytsk3.TSK_FS_META_TYPE_LNK: "link",
}


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


class _Image(pytsk3.Img_Info):  # type: ignore[misc]
    """The disk as The Sleuth Kit asks for it."""

    def __init__(self, read: Read, size: int) -> None:
        self._read, self._size = read, size
        super().__init__(url="", type=pytsk3.TSK_IMG_TYPE_EXTERNAL)

    def close(self) -> None:
        pass

    def read(self, offset: int, length: int) -> bytes:
        return self._read(offset, length)

    def get_size(self) -> int:
        return self._size


class FileSystem:
    """Raises DiskError (fs-damaged) wherever the reader fails."""

    def __init__(self, read: Read, size: int, start: int, kind: str) -> None:
        self.kind = kind
        self.start = start
        self.folds_case = kind in ("vfat", "ntfs")
        self._directories: dict[int, dict[str, Entry]] = {}
        self._image = _Image(read, size)
        try:
            self._fs = pytsk3.FS_Info(self._image, offset=start)
        except OSError as error:
            raise _damaged(kind, start, error) from None
        self.root = int(self._fs.info.root_inum)

    def entries(self, inode: int) -> dict[str, Entry]:
        """The names in a directory, without . and .. and what was deleted."""
        if inode not in self._directories:
            self._directories[inode] = self._read_directory(inode)
        return self._directories[inode]

    def find(self, inode: int, name: str) -> Entry | None:
        entries = self.entries(inode)
        if name in entries or not self.folds_case:
            return entries.get(name)
        return next((entry for entry in entries.values() if entry.name.lower() == name.lower()), None)

    def _read_directory(self, inode: int) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        try:
            for file in self._fs.open_dir(inode=inode):
                name = file.info.name
                if name is None or int(name.flags) & int(pytsk3.TSK_FS_NAME_FLAG_UNALLOC):
                    continue
                raw = name.name
                text = raw.decode("utf-8", "surrogateescape") if isinstance(raw, bytes) else str(raw)
                if text in (".", "..") or not text or "/" in text or text.startswith("$OrphanFiles"):
                    continue
                kind = _TYPES.get(name.type)
                if kind is None and file.info.meta is not None:
                    kind = _META_TYPES.get(file.info.meta.type)
                found[text] = Entry(text, int(name.meta_addr), kind or "other")
                if len(found) > MAX_ENTRIES:
                    raise DiskError(f"a directory has more than {MAX_ENTRIES} names", name="fs-damaged")
        except (OSError, KeyError, AttributeError) as error:
            raise _damaged(self.kind, self.start, error) from None
        return found

    def stat(self, inode: int) -> Stat:
        meta = self._meta(inode)[1]
        return Stat(
            inode=inode,
            type=_META_TYPES.get(meta.type, "other"),
            mode=int(meta.mode) & 0o7777,
            uid=int(meta.uid),
            gid=int(meta.gid),
            size=int(meta.size),
            mtime=int(meta.mtime),
        )

    def read_link(self, inode: int) -> str:
        file, meta = self._meta(inode)
        link = meta.link
        if not link:
            link = self._read(file, 0, min(int(meta.size), 4096))
        return link.decode("utf-8", "surrogateescape") if isinstance(link, bytes) else str(link)

    def read(self, inode: int, offset: int, length: int) -> bytes:
        """Up to `length` bytes of a file from `offset` on."""
        file, meta = self._meta(inode)
        return self._read(file, offset, max(0, min(length, int(meta.size) - offset)))

    def attribute(self, inode: int, kind: int) -> bytes | None:
        """The first attribute of this kind that NTFS keeps of a file, None where it has none."""
        file, _ = self._meta(inode)
        try:
            for each in file:
                if int(each.info.type) == kind:
                    return bytes(file.read_random(0, int(each.info.size), each.info.type, each.info.id))
        except (OSError, AttributeError, TypeError) as error:
            raise _damaged(self.kind, self.start, error) from None
        return None

    def runs(self, inode: int) -> list[tuple[int, int]]:
        """(start, length) of a file's data, in order, in bytes of the disk; none where it is in the inode itself."""
        file, _ = self._meta(inode)
        block = int(self._fs.info.block_size)
        try:
            return [
                (self.start + int(run.addr) * block, int(run.len) * block)
                for attribute in file
                # blocks that only say where the data is
                if int(attribute.info.type) not in _POINTERS
                for run in attribute
                if not int(run.flags) & int(pytsk3.TSK_FS_ATTR_RUN_FLAG_SPARSE)
            ]
        except (OSError, AttributeError, TypeError) as error:
            raise _damaged(self.kind, self.start, error) from None

    def _read(self, file: Any, offset: int, length: int) -> bytes:
        # gives its bytes without a second copy of them: a hive of 100 MiB is read where memory is limited
        out = io.BytesIO()
        try:
            while out.tell() < length:
                chunk = file.read_random(offset + out.tell(), min(length - out.tell(), 4 << 20))
                if not chunk:
                    break
                out.write(chunk)
        except OSError as error:
            raise _damaged(self.kind, self.start, error) from None
        return out.getvalue()

    def _meta(self, inode: int) -> tuple[Any, Any]:
        try:
            file = self._fs.open_meta(inode=inode)
        except OSError as error:
            raise _damaged(self.kind, self.start, error) from None
        if file.info.meta is None:
            raise _damaged(self.kind, self.start, f"inode {inode} has no metadata")
        return file, file.info.meta


def _damaged(kind: str, start: int, error: object) -> DiskError:
    text = " ".join(str(error).split())[:200]
    return DiskError(f"the {kind} file system at byte {start} cannot be read: {text}", name="fs-damaged")
