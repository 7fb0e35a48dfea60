"""The index of an image on a target: which versions are published, and by which blobs or files.

    {"goldsmith": 1, "image": NAME, "newest": VERSION, "versions": [{"version", "tree", "folder", "published",
      "disks": [{"file", "size", "tree_sha256", "etag", "base", "why", "digests": FILE}], "files": [FILE, ...]}]}

`digests` is null in a folder, where it is one of `files`. A FILE is {"file", "stored", "size", "sha256"}: `stored` is
its name on the target, where it may be compressed (`.gz`); `size` and `sha256` are of the file itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from pipeline.base.files import Shape, parse_json
from pipeline.gallery.manifest import Sha256, Size
from pipeline.gallery.versions import parse
from pipeline.publish.errors import PublishError

FILE = "index.json"
#: Bytes of an index: a version has some four KiB.
LIMIT = 16 << 20
#: A name of a file or folder on a target; `_is_inside` refuses a path that leads out of it.
_NAME = r"^[A-Za-z0-9._-][A-Za-z0-9._/-]{0,199}$"
Name = Annotated[str, Field(pattern=_NAME)]


class _File(Shape):
    file: Name
    stored: Name
    size: Size
    sha256: Sha256


class _Disk(Shape):
    file: Name
    size: Size
    tree_sha256: Sha256
    etag: str | None
    base: str | None
    why: str
    digests: _File | None


class _Version(Shape):
    version: str
    tree: Sha256
    folder: Name
    published: str
    disks: Annotated[list[_Disk], Field(min_length=1, max_length=65)]
    files: Annotated[list[_File], Field(max_length=10_000)]


class IndexShape(Shape):
    goldsmith: int
    image: str
    newest: str | None
    versions: Annotated[list[_Version], Field(max_length=10_000)]


@dataclass(frozen=True)
class Index:
    """The index of an image. `etag` is the condition of the next switch; None if there is no index yet."""

    image: str
    etag: str | None = None
    versions: tuple[Mapping[str, Any], ...] = field(default_factory=tuple)

    def find(self, version: str) -> Mapping[str, Any] | None:
        return next((each for each in self.versions if each["version"] == version), None)

    @property
    def newest(self) -> Mapping[str, Any] | None:
        return max(self.versions, key=lambda each: parse(each["version"]) or (0, 0, 0), default=None)

    def with_version(self, entry: Mapping[str, Any]) -> Index:
        kept = (each for each in self.versions if each["version"] != entry["version"])
        return Index(self.image, self.etag, (*kept, entry))

    def without(self, numbers: set[str]) -> Index:
        return Index(self.image, self.etag, tuple(each for each in self.versions if each["version"] not in numbers))

    def to_bytes(self) -> bytes:
        newest = self.newest
        data = {
            "goldsmith": 1,
            "image": self.image,
            "newest": newest["version"] if newest else None,
            "versions": sorted(self.versions, key=lambda each: parse(each["version"]) or (0, 0, 0)),
        }
        return (json.dumps(data, indent=1) + "\n").encode()


def parse_index(image: str, text: bytes, etag: str | None, where: str) -> Index:
    """An index as it was read. Raises PublishError (publish-damaged)."""
    try:
        data = parse_json(text.decode(), IndexShape)
        if data["image"] != image:
            raise ValueError(f"it is of image {data['image']}")
        for each in data["versions"]:
            if parse(each["version"]) is None or not _is_inside(each):
                raise ValueError("a version in it has a name that cannot be used")
    except ValueError as error:
        raise PublishError(
            f"{where}: {error}",
            name="publish-damaged",
            hint="restore it from a copy; the versions' own folders on the target are unchanged",
        ) from None
    return Index(image, etag, tuple(data["versions"]))


def stored_files(entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The FILEs of a version: its files except the disks."""
    return [*entry["files"], *(disk["digests"] for disk in entry["disks"] if disk["digests"])]


def _is_inside(entry: Mapping[str, Any]) -> bool:
    """Whether no name of an entry leads out of its folder."""
    files = stored_files(entry)
    names = [entry["folder"], *(name for each in files for name in (each["file"], each["stored"]))]
    names += [disk["file"] for disk in entry["disks"]]
    return not any(part in ("", ".", "..") for name in names for part in str(name).split("/"))
