"""Versions as page blobs of a container, with an index blob for each image."""

from __future__ import annotations

import gzip
import hashlib
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pipeline.base import scratch
from pipeline.base.runs import now
from pipeline.cache.digests import blocks_size
from pipeline.gallery import Version, digests_file
from pipeline.gallery.manifest import tree_of_disk
from pipeline.publish import index as indexes
from pipeline.publish.container import OCTETS, Container
from pipeline.publish.errors import Conflict, PublishError
from pipeline.publish.index import Index, parse_index, stored_files
from pipeline.publish.journal import Journal
from pipeline.publish.page_blob import Base, DiskUpload, Options
from pipeline.publish.ranges import difference, whole
from pipeline.publish.source import SourceDisk, other_files
from pipeline.publish.transfer import Meter, OnProgress, ignore_progress
from pipeline.publish.uploader import DiskPlan, Plan, Sent, folder_of

#: Files of at least this many bytes are stored compressed, where that makes them smaller.
COMPRESSED_FROM = 4 << 10
_TYPES = {".json": "application/json", ".png": "image/png", ".xml": "application/xml", ".log": "text/plain"}


class BlobUploader:
    """Publishes to one container. `journals` is a folder of this store, `temporary` one for scratch files."""

    def __init__(
        self,
        container: Container,
        journals: Path,
        temporary: Path,
        options: Options,
        on_progress: OnProgress = ignore_progress,
    ) -> None:
        self.container = container
        self.sent: list[Sent] = []
        self._journals, self._temporary, self._options = journals, temporary, options
        self._meter = Meter(on_progress)
        self._stack = ExitStack()
        self._open: list[tuple[DiskUpload, Journal]] = []
        self._bases: dict[str, tuple[Base | None, str]] = {}

    def close(self) -> None:
        for upload, journal in self._open:
            upload.close()
            journal.close()
        self._open = []
        self._stack.close()

    # ---- check ---------------------------------------------------------------------------------------------------

    def check(self, version: Version, disks: list[SourceDisk]) -> Plan:
        """The bytes that would be sent. Raises PublishError (publish-version-exists, publish-damaged)."""
        index = read_index(self.container, version.name)
        entry, tree = index.find(version.version), tree_of_disk(version.manifest["disk"])
        if entry is not None and entry["tree"] != tree:
            raise PublishError(
                f"{self.container.url} has another {version.name} {version.version}",
                name="publish-version-exists",
                hint="two hosts have made versions of the same name; rename one of the images",
            )
        if entry is not None:
            return Plan(version.name, version.version, entry["folder"], True, (), index)
        planned = []
        for disk in disks:
            base, why = self._bases[disk.file] = self._base(index, disk)
            changes = difference(base.digests, disk.digests) if base else whole(disk.path, disk.digests)
            cleared = sum(page.length for page in changes.clears)
            planned.append(
                DiskPlan(disk.file, disk.size, changes.write_bytes, cleared, base.version if base else None, why)
            )
        return Plan(version.name, version.version, folder_of(version), False, tuple(planned), index)

    def _base(self, index: Index, disk: SourceDisk) -> tuple[Base | None, str]:
        """The published disk from which this one is a difference; or why there is none."""
        entry = index.newest
        if entry is None:
            return None, "the target has no version of this image"
        number = entry["version"]
        record = next((each for each in entry["disks"] if each["file"] == disk.file), None)
        if record is None or record["size"] != disk.size or not record["digests"]:
            return None, f"{number} on the target has no disk {disk.file} of this size"
        blob = f"{entry['folder']}/{disk.file}"
        facts = self.container.facts(blob)
        if facts is None or facts.etag != record["etag"]:
            what = "is missing" if facts is None else "has been changed since it was published"
            return None, f"the disk of {number} on the target {what}"
        try:
            data = read_file(self.container, entry["folder"], record["digests"], blocks_size(disk.size))
        except PublishError as error:
            return None, f"the digests of {number} on the target cannot be used ({error.name})"
        folder = self._stack.enter_context(scratch.folder(self._temporary, "base"))
        digests = folder / digests_file(disk.file)
        with digests.open("xb") as file:
            write_sparse(file, data)
        return Base(number, blob, record["etag"], digests), ""

    # ---- upload --------------------------------------------------------------------------------------------------

    def upload(self, version: Version, disks: list[SourceDisk], plan: Plan) -> Mapping[str, Any]:
        records = []
        for disk in disks:
            base, why = self._bases[disk.file]
            blob = f"{plan.folder}/{disk.file}"
            journal = Journal(self._journals, self.container.url, blob)
            upload = DiskUpload(
                self.container, disk, blob, journal, self._options, _metadata(version, disk), self._meter
            )
            self._open.append((upload, journal))
            sent = upload.run(base, why)
            self.sent.append(sent)
            digests = disk.digests.path.read_bytes()
            records.append(
                {
                    "file": disk.file,
                    "size": disk.size,
                    "tree_sha256": disk.tree,
                    "etag": sent.etag,
                    "base": sent.base,
                    "why": sent.why,
                    "digests": self._store(plan.folder, digests_file(disk.file), digests),
                }
            )
        names = other_files(version)
        self._meter.begin("other files", sum((version.path / name).stat().st_size for name in names))
        files = []
        for name in names:
            data = (version.path / name).read_bytes()
            files.append(self._store(plan.folder, name, data))
            self._meter.add(len(data))
        return {
            "version": version.version,
            "tree": tree_of_disk(version.manifest["disk"]),
            "folder": plan.folder,
            "published": now(),
            "disks": records,
            "files": files,
        }

    def _store(self, folder: str, name: str, data: bytes) -> dict[str, Any]:
        """Write a file that is not a disk. Returns its record for the index."""
        packed = gzip.compress(data, mtime=0) if len(data) >= COMPRESSED_FROM else data
        smaller = len(packed) < len(data)
        stored = f"{name}.gz" if smaller else name
        kind = "application/gzip" if smaller else _TYPES.get(Path(name).suffix, OCTETS)
        self.container.write(f"{folder}/{stored}", packed if smaller else data, content_type=kind)
        return {"file": name, "stored": stored, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    # ---- register ------------------------------------------------------------------------------------------------

    def register(self, plan: Plan, entry: Mapping[str, Any]) -> None:
        if self._options.read_back:
            for record in stored_files(entry):
                read_file(self.container, entry["folder"], record, int(record["size"]))
        switch_index(self.container, plan.index.with_version(entry), f"{plan.name} {plan.version}")
        for _, journal in self._open:
            journal.finish()


def _metadata(version: Version, disk: SourceDisk) -> dict[str, str]:
    """The metadata that Azure's own capture writes, and the origin of the disk."""
    manifest = version.manifest
    return {
        "microsoftazurecompute_capturedvmkey": str(uuid.uuid5(uuid.NAMESPACE_OID, disk.tree)),
        "microsoftazurecompute_imagetype": "OSDisk" if disk.lun is None else "DataDisk",
        "microsoftazurecompute_osstate": "Generalized",
        "microsoftazurecompute_ostype": str(manifest.get("os", "linux")).capitalize(),
        "goldsmith_image": version.name,
        "goldsmith_version": version.version,
        "goldsmith_tree": disk.tree,
    }


def index_name(image: str) -> str:
    return f"{image}/{indexes.FILE}"


def read_index(container: Container, image: str) -> Index:
    """The index of an image; an empty one if nothing is published. Raises PublishError."""
    found = container.read(index_name(image), indexes.LIMIT)
    if found is None:
        return Index(image)
    return parse_index(image, found[0], found[1], f"{container.url}/{index_name(image)}")


def switch_index(container: Container, index: Index, what: str) -> None:
    """Write an index if it is unchanged since it was read. Raises Conflict (publish-conflict)."""
    try:
        container.switch(index_name(index.image), index.to_bytes(), index.etag)
    except Conflict as error:
        if error.name != "publish-conflict":
            raise
        newest = read_index(container, index.image).newest
        raise Conflict(
            f"another publisher has changed the index of {index.image} since it was read: its newest version is "
            f"{newest['version'] if newest else 'none'}; {what} was not published",
            name="publish-conflict",
            hint="goldsmith publish show shows the target; push again: what was uploaded is used",
        ) from None


def remove_versions(
    container: Container, index: Index, entries: Sequence[Mapping[str, Any]], what: str
) -> list[Mapping[str, Any]]:
    """Remove published versions: from the index first, then their blobs. One with a leased blob stays.

    The entries that went. Raises Conflict where another publisher has changed the index.
    """
    blobs = {each["version"]: list(container.names(f"{each['folder']}/")) for each in entries}
    going = [each for each in entries if not any(blob.leased for blob in blobs[each["version"]])]
    if going:
        switch_index(container, index.without({each["version"] for each in going}), what)
        for each in going:
            # one that is leased from now on is left for `publish clean`
            for blob in blobs[each["version"]]:
                container.delete(blob.name)
    return going


def read_file(container: Container, folder: str, record: Mapping[str, Any], limit: int) -> bytes:
    """A file of a published version, as it was before it was compressed. Raises PublishError (publish-damaged)."""
    name = f"{folder}/{record['stored']}"
    found = container.read(name, limit + (1 << 16))
    why = "is missing"
    if found is not None:
        data: bytes | None = found[0]
        if record["stored"] != record["file"]:
            data = _unpacked(found[0], limit)
        if data is not None and hashlib.sha256(data).hexdigest() == record["sha256"]:
            return data
        why = "is not what the index says"
    raise PublishError(
        f"{container.url}/{name} {why}",
        name="publish-damaged",
        hint="goldsmith publish verify shows the damage; push another version",
    )


def _unpacked(data: bytes, limit: int) -> bytes | None:
    """The content of a gzip file; None if it is damaged or has more than `limit` bytes."""
    import io
    import zlib

    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            plain = file.read(limit + 1)
    except (OSError, EOFError, zlib.error):
        return None
    return plain if len(plain) <= limit else None


def write_sparse(file: Any, data: bytes) -> None:
    """Write with holes for zeros, so that readers skip them."""
    step = 4096
    for at in range(0, len(data), step):
        piece = data[at : at + step]
        if any(piece):
            file.seek(at)
            file.write(piece)
    file.truncate(len(data))
