"""A disk that is not running: its table, its file systems, its Linux root; no mount, no root, no appliance."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType

from pipeline.base.errors import DiskError
from pipeline.disk import disk_formats, partitions, volumes
from pipeline.disk.ext4_files import Ext4FileSystem
from pipeline.disk.fat import FatFileSystem
from pipeline.disk.filesystem import FileSystem
from pipeline.disk.ntfs import NtfsFileSystem
from pipeline.disk.root import Root
from pipeline.disk.volumes import Volume, how_to_read
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
        """Every partition with what stands in it; a disk without a table is one volume with number 0."""
        if self.table.kind == "none":
            return (volumes.probe(self.read, 0, 0, self.size),)
        return tuple(volumes.probe(self.read, p.number, p.start, p.size) for p in self.partitions)

    def filesystem(self, volume: Volume) -> FileSystem:
        """The files of a volume. Raises DiskError: fs-unsupported, fs-damaged."""
        if not volume.readable:
            raise DiskError(
                f"partition {volume.number} holds {volume.kind or 'nothing known'}: which goldsmith cannot read",
                name="fs-unsupported",
                hint=how_to_read(volume.kind),
            )
        if volume.start not in self._filesystems:
            self._filesystems[volume.start] = self._open(volume)
        return self._filesystems[volume.start]

    def _open(self, volume: Volume) -> FileSystem:
        if volume.facts is not None:
            return Ext4FileSystem(self.read, volume.start, volume.facts)
        if volume.kind == "vfat":
            return FatFileSystem(self.read, volume.start)
        return NtfsFileSystem(self.read, self.size, volume.start)

    @cached_property
    def root(self) -> Root:
        """The Linux root. Raises DiskError (no-linux-root) where no readable file system holds one."""
        for volume in self.filesystems:
            if not volume.kind.startswith("ext"):
                continue
            candidate = Root(self.filesystem(volume))
            if candidate.exists("/etc/os-release") or candidate.exists("/etc/fstab"):
                candidate.mount_all(self._by_name(), volume.start)
                return candidate
        raise DiskError(
            f"{self.path.name} has no Linux root file system{self._unread()}",
            name="no-linux-root",
            hint="goldsmith inspect DISK --list volumes shows its file systems",
        )

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
        unread = sorted({v.kind for v in self.filesystems if v.kind and not v.readable} - {"swap"})
        return (
            f" (goldsmith cannot read {', '.join(unread)}: {'; '.join(map(how_to_read, unread))})" if unread else ""
        )

    @property
    def root_volume(self) -> Volume:
        """The volume that holds `root`."""
        start = self.root.start
        return next(volume for volume in self.filesystems if volume.start == start)

    def _by_name(self) -> dict[str, FileSystem]:
        """File systems by what fstab calls them: UUID=, LABEL=, PARTUUID=, PARTLABEL=."""
        named: dict[str, FileSystem] = {}
        by_number = {p.number: p for p in self.partitions}
        for volume in self.filesystems:
            if not volume.readable:
                continue
            partition = by_number.get(volume.number)
            keys = {
                "UUID": volume.uuid,
                "LABEL": volume.label,
                "PARTUUID": partition.uuid if partition else "",
                "PARTLABEL": partition.name if partition else "",
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
