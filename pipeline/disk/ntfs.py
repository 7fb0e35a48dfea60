"""NTFS through The Sleuth Kit (pytsk3), whose own words for a failure reach nobody: they name its source."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any

import pytsk3

from pipeline.base.errors import DiskError
from pipeline.disk.filesystem import MAX_ENTRIES, Entry, FileSystem, Read, Recent, Stat

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
#: MFT records below this one are the file system's own ($MFT, $LogFile, $Extend, ...), but for the top directory.
_FIRST_FILE, _TOP = 16, 5
#: Files that are kept open: a new one costs a walk over all pieces of its data.
_KEPT_FILES = 32
#: Bytes of a boot sector, and the largest cluster that Windows makes.
_BOOT, _MAX_CLUSTER = 512, 2 << 20
#: Clusters of more sectors than this are written as a negative power of two, which the library does not know.
_MAX_SECTORS = 128


@dataclass(frozen=True)
class _Boot:
    """Bytes of a sector and a cluster, as a boot sector gives them, and the sector as the library can read it."""

    sector: int
    cluster: int
    shown: bytes


def _boot(raw: bytes) -> _Boot | None:
    """None where the sector is not NTFS's."""
    if len(raw) < _BOOT or raw[3:11] != b"NTFS    ":
        return None
    (sector,) = struct.unpack_from("<H", raw, 11)
    per_cluster = raw[13] if raw[13] <= _MAX_SECTORS else 1 << min(256 - raw[13], 20)
    if sector not in (256, 512, 1024, 2048, 4096) or not per_cluster or per_cluster & (per_cluster - 1):
        return None
    cluster = sector * per_cluster
    if per_cluster <= _MAX_SECTORS:
        return _Boot(sector, cluster, raw)
    # the same clusters, told as fewer and larger sectors: nothing else in NTFS counts sectors but the volume's size
    shown, larger = bytearray(raw), cluster // _MAX_SECTORS
    struct.pack_into("<HB", shown, 11, larger, _MAX_SECTORS)
    struct.pack_into("<Q", shown, 40, struct.unpack_from("<Q", raw, 40)[0] * sector // larger)
    return _Boot(sector, cluster, bytes(shown))


class _Image(pytsk3.Img_Info):  # type: ignore[misc]
    """The disk as The Sleuth Kit asks for it, with `boot` in place of the bytes at `start`."""

    def __init__(self, read: Read, size: int, start: int, boot: bytes) -> None:
        self._read, self._size, self._start, self._boot = read, size, start, boot
        super().__init__(url="", type=pytsk3.TSK_IMG_TYPE_EXTERNAL)

    def close(self) -> None:
        pass

    def read(self, offset: int, length: int) -> bytes:
        data = self._read(offset, length)
        begin, end = max(offset, self._start), min(offset + len(data), self._start + len(self._boot))
        if begin < end:
            piece = self._boot[begin - self._start : end - self._start]
            data = data[: begin - offset] + piece + data[end - offset :]
        return data

    def get_size(self) -> int:
        return self._size


class NtfsFileSystem(FileSystem):
    """Raises DiskError (fs-damaged, fs-unsupported) wherever the reader fails."""

    folds_case = True

    def __init__(self, read: Read, size: int, start: int) -> None:
        super().__init__("ntfs", start)
        boot = _boot(read(start, _BOOT))
        if boot is None:
            raise self.damaged("its boot sector contradicts itself")
        if boot.cluster > _MAX_CLUSTER:
            raise self.unsupported(f"clusters of {boot.cluster >> 10} KiB")
        self._image = _Image(read, size, start, boot.shown)
        try:
            self._fs = pytsk3.FS_Info(self._image, offset=start, type=pytsk3.TSK_FS_TYPE_NTFS)
            self._last, self._cluster = int(self._fs.info.last_inum), int(self._fs.info.block_size)
        except (OSError, AttributeError):
            raise self.damaged("its boot sector or $MFT leads nowhere") from None
        self._files: Recent[Any] = Recent(_KEPT_FILES)

    @property
    def root(self) -> int:
        return _TOP

    def _read_directory(self, inode: int) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        try:
            for file in self._fs.open_dir(inode=inode):
                entry = self._listed(file, inode)
                if entry is not None:
                    found[entry.name] = entry
                if len(found) > MAX_ENTRIES:
                    raise DiskError(
                        f"a directory has more than {MAX_ENTRIES} names",
                        name="fs-too-many-names",
                        hint="spread its files over several directories",
                    )
        except (OSError, KeyError, AttributeError):
            raise self.damaged(f"the directory in record {inode} of its $MFT cannot be read") from None
        return found

    def _listed(self, file: Any, directory: int) -> Entry | None:
        """A name as an entry; None for what was deleted, and what only NTFS itself or the library has there."""
        name = file.info.name
        if name is None or int(name.flags) & int(pytsk3.TSK_FS_NAME_FLAG_UNALLOC):
            return None
        text = name.name.decode("utf-8", "surrogateescape") if isinstance(name.name, bytes) else str(name.name)
        number = int(name.meta_addr)
        own = directory == _TOP and (number < _FIRST_FILE or (number == self._last and text == "$OrphanFiles"))
        if own or text in (".", "..", "") or "/" in text:
            return None
        kind = _TYPES.get(name.type)
        if kind is None and file.info.meta is not None:
            kind = _META_TYPES.get(file.info.meta.type)
        return Entry(text, number, kind or "other")

    def _read_stat(self, inode: int) -> Stat:
        meta = self._file(inode).info.meta
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
        file = self._file(inode)
        link = file.info.meta.link or self._read(file, 0, min(int(file.info.meta.size), 4096))
        return link.decode("utf-8", "surrogateescape") if isinstance(link, bytes) else str(link)

    def read(self, inode: int, offset: int, length: int) -> bytes:
        file = self._file(inode)
        return self._read(file, offset, max(0, min(length, int(file.info.meta.size) - offset)))

    def attribute(self, inode: int, kind: int) -> bytes | None:
        file = self._file(inode)
        try:
            for each in file:
                if int(each.info.type) == kind:
                    return bytes(file.read_random(0, int(each.info.size), each.info.type, each.info.id))
        except (OSError, AttributeError, TypeError):
            raise self.damaged(f"attribute {kind:#x} of record {inode} of its $MFT cannot be read") from None
        return None

    def _runs(self, inode: int) -> list[tuple[int, int]]:
        try:
            return [
                (self.start + int(run.addr) * self._cluster, int(run.len) * self._cluster)
                for attribute in self._file(inode)
                for run in attribute
                if not int(run.flags) & int(pytsk3.TSK_FS_ATTR_RUN_FLAG_SPARSE)
            ]
        except (OSError, AttributeError, TypeError):
            raise self.damaged(f"the data of record {inode} of its $MFT cannot be found") from None

    def _read(self, file: Any, offset: int, length: int) -> bytes:
        # gives its bytes without a second copy of them: a hive of 100 MiB is read where memory is limited
        out = io.BytesIO()
        try:
            while out.tell() < length:
                chunk = file.read_random(offset + out.tell(), min(length - out.tell(), 4 << 20))
                if not chunk:
                    break
                out.write(chunk)
        except OSError:
            raise self.damaged(f"the data of record {int(file.info.meta.addr)} of its $MFT cannot be read") from None
        return out.getvalue()

    def _file(self, inode: int) -> Any:
        """An open file whose metadata are there."""
        return self._files.get(inode, self._open)

    def _open(self, inode: int) -> Any:
        try:
            file = self._fs.open_meta(inode=inode)
        except OSError:
            raise self.damaged(f"record {inode} of its $MFT cannot be read") from None
        if file.info.meta is None:
            raise self.damaged(f"record {inode} of its $MFT has no metadata")
        return file
