"""One master: a version of an image, its files by name, and what its manifest says of its disks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.base.disk_format import DEFAULT_OUTPUT, DiskFormat
from pipeline.base.errors import GoldsmithError, NotFound
from pipeline.base.runs import LOG_MODE
from pipeline.gallery.manifest import format_of_disk, tree_of_disk
from pipeline.gallery.versions import parse

if TYPE_CHECKING:
    from pipeline.cache.layers import Image
    from pipeline.definition import DataDisk

#: What a version's OS disk is called, but for the end of its name, which its format gives.
OS_DISK = "disk"
#: Its name in the format that masters are shipped in unless their definition says otherwise.
DISK = f"{OS_DISK}{DEFAULT_OUTPUT.suffix}"


def mode_of(name: str) -> int:
    """The mode of a version's file: of a log that of the run."""
    return LOG_MODE if name.endswith(".log") else 0o444


def disk_file(row: DiskFormat) -> str:
    """The name of a version's OS disk in a format."""
    return f"{OS_DISK}{row.suffix}"


def data_file(lun: int, row: DiskFormat = DEFAULT_OUTPUT) -> str:
    """The name of a version's data disk in a format."""
    return f"data-{lun}{row.suffix}"


def digests_file(disk: str) -> str:
    """The name of the file with the digests of a disk's blocks, by that of the disk."""
    return f"{Path(disk).stem}.digests"


def disks_of(manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What a manifest says of each disk, by the name that its file must have; the OS disk first."""
    data = {data_file(int(disk["lun"]), format_of_disk(disk)): disk for disk in manifest.get("data_disks", ())}
    return {disk_file(format_of_disk(manifest["disk"])): manifest["disk"], **data}


@dataclass(frozen=True)
class Version:
    """One master."""

    name: str
    version: str
    path: Path
    manifest: Mapping[str, Any]
    channels: tuple[str, ...]

    @property
    def number(self) -> tuple[int, int, int]:
        """What versions are ordered by."""
        return parse(self.version) or (0, 0, 0)

    @property
    def disk(self) -> Path:
        return self.path / disk_file(self.format)

    @property
    def format(self) -> DiskFormat:
        """What its OS disk was shipped in."""
        return format_of_disk(self.manifest["disk"])

    @property
    def image(self) -> Image:
        """The OS disk, with the data disks that go with it."""
        from pipeline.cache.layers import Image

        disks = disks_of(self.manifest)
        images = {
            name: Image(self.path / name, format_of_disk(disk), size=int(disk["virtual_size"]))
            for name, disk in disks.items()
        }
        os_disk = images.pop(self.disk.name)
        return replace(os_disk, data=tuple((int(disks[name]["lun"]), image) for name, image in images.items()))

    @property
    def data_disks(self) -> tuple[DataDisk, ...]:
        """The data disks, as a definition would write them."""
        from pipeline.definition import DataDisk

        return tuple(
            DataDisk(
                int(entry["lun"]), int(entry["virtual_size"]), entry["caching"], entry["filesystem"], entry["label"]
            )
            for entry in self.manifest.get("data_disks", ())
        )

    @property
    def sha256(self) -> str | None:
        """Of the whole file; None where it is too large for that to have been taken."""
        flat = self.manifest["disk"]["sha256"]
        return str(flat) if flat else None

    @property
    def digest(self) -> str:
        """What tells its disk from any other: the flat sha256, or the tree of its chunks' where there is none."""
        return self.sha256 or f"tree:{tree_of_disk(self.manifest['disk'])}"

    def summary(self) -> dict[str, Any]:
        """What `goldsmith gallery list --json` promises."""
        from pipeline.gallery.listing import facts_of, summarize

        return summarize(self.name, self.version, self.path, self.channels, facts_of(self.manifest))

    def missing(self) -> list[str]:
        """The names of its disks that are not there."""
        return [name for name in disks_of(self.manifest) if not (self.path / name).is_file()]


@contextlib.contextmanager
def reading(*versions: Version) -> Iterator[None]:
    """Read versions without a lease, which only who may write to the gallery can take.

    Raises NotFound (gallery-unknown) in place of any other error where one of them is deleted meanwhile.
    """
    try:
        yield
    except (GoldsmithError, OSError) as error:
        for version in versions:
            if not os.path.lexists(version.path):
                raise deleted_meanwhile(version.name, version.version) from error
        raise


def deleted_meanwhile(name: str, version: str) -> NotFound:
    """The error for a version that another command has deleted while this one read it."""
    return NotFound(
        f"{name} {version} was deleted while it was read",
        name="gallery-unknown",
        hint=f"goldsmith gallery list {name} shows the other versions; goldsmith gallery lease protects a version",
    )
