"""A disk that is not running: its table, its file systems, its Linux root; no mount, no root, no appliance."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType

from pipeline.base.errors import DiskError
from pipeline.disk import disk_formats, partitions, volumes
from pipeline.disk.btrfs import BtrfsFacts
from pipeline.disk.btrfs_files import BtrfsFileSystem
from pipeline.disk.ext4 import Ext4Facts
from pipeline.disk.ext4_files import Ext4FileSystem
from pipeline.disk.fat import FatFileSystem
from pipeline.disk.filesystem import FileSystem
from pipeline.disk.ntfs import NtfsFileSystem
from pipeline.disk.root import Root
from pipeline.disk.volumes import UNIX, Volume, how_to_read, with_logical_volumes
from pipeline.disk.xfs import XfsFacts
from pipeline.disk.xfs_files import XfsFileSystem
from pipeline.vhd.extents import ExtentSource, Reader

__all__ = ["Disk", "Volume", "how_to_read", "open_disk"]


class Disk:
    """An open disk. Use as a context manager.

    `file_size` and `tail` (the last 512 bytes) are the container file's, where a VHD keeps its footer.
    """

    def __init__(
        self,
        path: Path,
        fmt: str,
        source: ExtentSource,
        *,
        file_size: int,
        tail: bytes,
        held: Mapping[Path, int] | None = None,
    ) -> None:
        self.path = path
        self.fmt = fmt
        self.file_size = file_size
        self.tail = tail
        self.size = source.size
        self.source = source
        self._reader = Reader(source, held)
        self._filesystems: dict[int, FileSystem] = {}
        self.table = partitions.read_table(self.read, self.size)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the disk; shorter only at its end."""
        return self._reader.read(offset, length)

    @property
    def partitions(self) -> tuple[partitions.Partition, ...]:
        return self.table.partitions

    @cached_property
    def filesystems(self) -> tuple[Volume, ...]:
        """Every partition with what stands in it, a disk without a table as number 0; then logical volumes."""
        if self.table.kind == "none":
            found = [volumes.probe(self.read, 0, 0, self.size)]
        else:
            found = [volumes.probe(self.read, p.number, p.start, p.size) for p in self.partitions]
        return with_logical_volumes(self.read, found)

    def read_volume(self, volume: Volume, offset: int, length: int) -> bytes:
        """Bytes of a volume, wherever its pieces are; shorter at its end."""
        length = max(0, min(length, volume.size - offset))
        return volume.reader(self.read)(volume.start + offset, length)

    def filesystem(self, volume: Volume) -> FileSystem:
        """The files of a volume. Raises DiskError: fs-unsupported, fs-damaged."""
        if not volume.readable:
            raise DiskError(
                f"{volume.title} holds {volume.kind or 'nothing known'}: which goldsmith cannot read",
                name="fs-unsupported",
                hint=how_to_read(volume.kind),
            )
        if volume.start not in self._filesystems:
            self._filesystems[volume.start] = self._open(volume)
        return self._filesystems[volume.start]

    def _open(self, volume: Volume) -> FileSystem:
        found = self._reader_of(volume)
        if volume.space is not None:
            found.locate = volume.space.locate
        return found

    def _reader_of(self, volume: Volume) -> FileSystem:
        read = volume.reader(self.read)
        match volume.facts:
            case Ext4Facts():
                return Ext4FileSystem(read, volume.start, volume.facts)
            case XfsFacts():
                return XfsFileSystem(volume.facts)
            case BtrfsFacts():
                return BtrfsFileSystem(read, volume.start, volume.facts)
        if volume.kind in UNIX:
            raise DiskError(
                f"{volume.title}: the superblock of its {volume.kind} file system is damaged, or of a version "
                "that goldsmith cannot read",
                name="fs-damaged",
                hint="check the file system on a copy of the disk",
            )
        if volume.kind == "vfat":
            return FatFileSystem(read, volume.start)
        return NtfsFileSystem(read, self.size if volume.space is None else volume.start + volume.size, volume.start)

    @cached_property
    def _linux(self) -> tuple[Root, Volume, str]:
        """The Linux root, its volume, and the path of the subvolume that it is. Errors as `root`."""
        unread: DiskError | None = None
        for volume in self.filesystems:
            if volume.kind not in UNIX:
                continue
            try:
                found = _root_in(self.filesystem(volume))
            except DiskError as error:
                # another volume may hold the root
                unread = unread or error
                continue
            if found is not None:
                found[0].mount_all(self._by_name())
                return found[0], volume, found[1]
        if unread is not None:
            raise unread
        raise DiskError(
            f"{self.path.name} has no Linux root file system{self._unread()}",
            name="no-linux-root",
            hint="goldsmith inspect DISK --list volumes shows its file systems",
        )

    @property
    def root(self) -> Root:
        """The Linux root. Raises DiskError (no-linux-root) where no readable file system holds one."""
        return self._linux[0]

    @property
    def root_subvolume(self) -> str:
        """The path of the subvolume that is the root: '' is the top, or a file system without any."""
        return self._linux[2]

    @cached_property
    def windows(self) -> Root:
        """The Windows root. Raises DiskError (no-windows-root) where no readable NTFS holds one."""
        for volume in self.filesystems:
            if volume.kind == "ntfs":
                candidate = Root(self.filesystem(volume))
                if candidate.is_dir("/Windows/System32/config"):
                    return candidate
        raise DiskError(
            f"{self.path.name} has no Windows root file system{self._unread()}",
            name="no-windows-root",
            hint="goldsmith inspect DISK --list volumes shows its file systems",
        )

    @cached_property
    def only_filesystem(self) -> Root:
        """The file system of a disk that has one volume in all, whatever is in it. Errors as `root`."""
        if len(self.filesystems) != 1 or not self.filesystems[0].readable:
            return self.root
        return Root(self.filesystem(self.filesystems[0]))

    def _unread(self) -> str:
        closed = {v.kind for v in self.filesystems if v.kind and not v.readable and not v.opened}
        unread = sorted(closed - {"swap"})
        return (
            f" (goldsmith cannot read {', '.join(unread)}: {'; '.join(map(how_to_read, unread))})" if unread else ""
        )

    @property
    def root_volume(self) -> Volume:
        """The volume that holds `root`."""
        return self._linux[1]

    def boot_path(self, name: str) -> str | None:
        """What a boot loader calls a file, as a path of the root; None where there is no such file.

        /boot may be a file system of its own, and a root that is a subvolume has a name before its paths.
        """
        within = name.removeprefix(f"/{self.root_subvolume}/") if self.root_subvolume else name
        paths = [name if within == name else f"/{within}", f"/boot{name}"]
        return next((path for path in paths if self.root.exists(path)), None)

    def _by_name(self) -> dict[str, FileSystem]:
        """File systems by what fstab calls them: UUID=, LABEL=, PARTUUID=, PARTLABEL=, lv=group/name."""
        named: dict[str, FileSystem] = {}
        by_number = {p.number: p for p in self.partitions}
        for volume in self.filesystems:
            if not volume.readable:
                continue
            # a logical volume is in a partition, and is not what it is called by
            partition = by_number.get(volume.number) if not volume.name else None
            keys = {
                "UUID": volume.uuid,
                "LABEL": volume.label,
                "PARTUUID": partition.uuid if partition else "",
                "PARTLABEL": partition.name if partition else "",
                "lv": volume.name,
            }
            for key, value in keys.items():
                if value:
                    named[f"{key}={value.lower()}"] = self.filesystem(volume)
        return named

    def close(self) -> None:
        self._filesystems.clear()
        self._reader.close()

    def __enter__(self) -> Disk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def _root_in(filesystem: FileSystem) -> tuple[Root, str] | None:
    """The root in a file system, and its subvolume's path.

    That is what is mounted without options, where it holds a root; else the subvolume whose own fstab names it; else
    the first that holds one.
    """
    found = [
        (Root(filesystem, each.inode), each)
        for each in filesystem.subvolumes()
        if (files := Root(filesystem, each.inode)).exists("/etc/os-release") or files.exists("/etc/fstab")
    ]
    if not found:
        return None
    if found[0][1].inode != filesystem.root:
        found.sort(key=lambda pair: filesystem.find_subvolume(pair[0].mount_options("/")) != pair[1].inode)
    return found[0][0], found[0][1].path


def open_disk(path: Path, fmt: str | None = None, *, allow_backing_within: Path | None = None) -> Disk:
    """Open a disk image for reading, whatever its format; what it may refer to is judged first.

    Raises DiskError as `containers.refuse_foreign_references` does, and gpt-damaged.
    """
    fmt = disk_formats.refuse_foreign_references(path, fmt, allow_backing_within=allow_backing_within)
    source = disk_formats.extents(path, fmt, allow_backing_within=allow_backing_within)
    try:
        file_size, tail = disk_formats.tail(path)
        return Disk(path, fmt, source, file_size=file_size, tail=tail)
    except BaseException:
        source.close()
        raise
