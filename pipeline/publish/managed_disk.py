"""Versions as managed disks of Azure, by direct upload: no storage account takes part.

A disk is created for an upload, opened by a signed URL, written, closed, and read back. Its tags say which version it
is, and in the end that it is published: `goldsmith_state` is `uploading` until then. What a push that died left is
deleted by the next push of the same version, which begins anew: its signed URL is nowhere written down.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from pipeline.base.runs import now
from pipeline.gallery import Version
from pipeline.gallery.manifest import tree_of_disk
from pipeline.publish.container import Container
from pipeline.publish.credentials import Credential, SignedUrl
from pipeline.publish.errors import Conflict, PublishError
from pipeline.publish.gallery_resources import IMAGE, STATE, TREE, VERSION
from pipeline.publish.index import Index
from pipeline.publish.page_blob import Options, bytes_of, read_unequal
from pipeline.publish.ranges import Range, whole
from pipeline.publish.redaction import redact
from pipeline.publish.resource_manager import Resource, ResourceManager
from pipeline.publish.retries import Retries
from pipeline.publish.source import SourceDisk
from pipeline.publish.targets import ManagedDisks, Target
from pipeline.publish.transfer import Meter, OnProgress, at_once, ignore_progress
from pipeline.publish.uploader import DiskPlan, Plan, Sent, folder_of

UPLOADING, PUBLISHED = "uploading", "published"
#: Tags: when a version was published, the disk's LUN, and which upload a disk is of.
DATE, LUN, TOKEN = "goldsmith_published", "goldsmith_lun", "goldsmith_upload"
_WHOLE = "a managed disk is always sent whole"


@dataclass
class Traffic:
    """Bytes of requests' bodies, over all disks."""

    retries: Retries
    sent: int = 0
    received: int = 0


class ManagedDiskUploader:
    """Publishes to one resource group."""

    def __init__(
        self,
        manager: ResourceManager,
        target: ManagedDisks,
        options: Options,
        rate: int | None = None,
        on_progress: OnProgress = ignore_progress,
    ) -> None:
        self.sent: list[Sent] = []
        self.wire = Traffic(manager.retries)
        self._manager, self._target, self._options, self._rate = manager, target, options, rate
        self._meter = Meter(on_progress)
        self._token = secrets.token_hex(8)

    def close(self) -> None:
        self._manager.close()

    def check(self, version: Version, disks: list[SourceDisk]) -> Plan:
        index = read_disks(self._manager, version.name)
        folder, tree = folder_of(version), tree_of_disk(version.manifest["disk"])
        entry = index.find(version.version)
        if entry is not None and entry["tree"] != tree:
            raise PublishError(
                f"{self._manager.place.group} has another {version.name} {version.version}",
                name="publish-version-exists",
                hint="two hosts have made versions of the same name; rename one of the images",
            )
        if entry is not None:
            return Plan(version.name, version.version, folder, True, (), index)
        planned = tuple(
            DiskPlan(disk.file, disk.size, whole(disk.path, disk.digests).write_bytes, 0, None, _WHOLE)
            for disk in disks
        )
        return Plan(version.name, version.version, folder, False, planned, index)

    def upload(self, version: Version, disks: list[SourceDisk], plan: Plan) -> Mapping[str, Any]:
        generation = max(version.manifest["generations"])
        names = [disk_name(plan, disk.lun) for disk in disks]
        for name, disk in zip(names, disks, strict=True):
            self._remove_leftover(name)
            self._manager.create_disk(name, self._body(version, disk, generation))
            self.sent.append(self._send(name, disk))
        return {"disks": names}

    def _remove_leftover(self, name: str) -> None:
        found = self._manager.disk(name)
        if found is None:
            return
        if tags_of(found).get(STATE) != UPLOADING:
            raise Conflict(
                f"the disk {name} exists, and goldsmith did not leave it",
                name="publish-busy",
                hint="delete or rename it",
            )
        with suppress(PublishError):
            self._manager.close_disk(name)
        self._manager.delete_disk(name)

    def _body(self, version: Version, disk: SourceDisk, generation: int) -> Resource:
        tags = {
            IMAGE: version.name,
            VERSION: version.version,
            TREE: disk.tree,
            STATE: UPLOADING,
            TOKEN: self._token,
            **({LUN: str(disk.lun)} if disk.lun is not None else {}),
        }
        properties: Resource = {"creationData": {"createOption": "Upload", "uploadSizeBytes": disk.size}}
        if disk.lun is None:
            properties["osType"] = str(version.manifest.get("os", "linux")).capitalize()
            properties["hyperVGeneration"] = f"V{generation}"
        return {
            "location": self._target.place.location,
            "sku": {"name": self._target.sku},
            "tags": tags,
            "properties": properties,
        }

    def _send(self, name: str, disk: SourceDisk) -> Sent:
        changes, read = whole(disk.path, disk.digests), 0
        with self._opened(name, "Write") as (container, blob):

            def write(page: Range) -> None:
                container.write_page(blob, page, disk.read(page), None)
                self._meter.add(page.length)

            self._meter.begin(f"upload {disk.file}", changes.write_bytes)
            at_once(changes.writes, self._options.parallel, write, container.retries)
        if self._options.read_back or self._options.verify:
            with self._opened(name, "Read") as (container, blob):
                wrong, read = read_unequal(
                    container, blob, disk.digests, changes.blocks, self._options.parallel, self._meter, "read back"
                )
            if wrong:
                raise PublishError(
                    f"the disk {name} was written, and read back it is different: {len(wrong)} blocks",
                    name="publish-read-back",
                    hint="push again: the disk is then deleted and sent anew",
                )
        return Sent(disk.file, "", None, _WHOLE, bytes_of(changes.writes), 0, 0, read)

    @contextmanager
    def _opened(self, name: str, access: str) -> Iterator[tuple[Container, str]]:
        """A managed disk as a page blob; closed in the end, which also ends an upload."""
        url, _, signature = self._manager.open_disk(name, access).partition("?")
        folder, _, blob = url.rpartition("/")
        target = Target(url=folder, credential=Credential("sas", SignedUrl(signature)), rate=self._rate)
        try:
            with closing(Container(target, {}, self._manager.retries)) as container:
                yield container, blob
                self.wire.sent += container.sent
                self.wire.received += container.received
        finally:
            self._manager.close_disk(name)

    def register(self, plan: Plan, entry: Mapping[str, Any]) -> None:
        """Tag the disks as published. Raises Conflict where another publisher has replaced one of them."""
        date = now()
        # the OS disk last: a version is published when its OS disk is
        for name in reversed(entry["disks"]):
            tags = tags_of(self._manager.disk(name) or {})
            if tags.get(TOKEN) != self._token:
                raise Conflict(
                    f"another publisher has replaced the disk {name}; {plan.name} {plan.version} was not published",
                    name="publish-conflict",
                    hint="goldsmith publish show shows the target; push again",
                )
            self._manager.tag_disk(name, {**tags, STATE: PUBLISHED, DATE: date})


def disk_name(plan: Plan, lun: int | None) -> str:
    """The name of a disk: that of the version's folder, whose slash is no letter of a resource's name."""
    return plan.folder.replace("/", "-") + (f"-lun{lun}" if lun is not None else "")


def tags_of(resource: Resource) -> dict[str, str]:
    return dict(resource.get("tags") or {})


def read_disks(manager: ResourceManager, image: str) -> Index:
    """The published versions of an image, as its disks' tags say."""
    disks = [each for each in manager.disks() if tags_of(each).get(IMAGE) == image]
    published = [each for each in disks if tags_of(each).get(STATE) == PUBLISHED]
    entries = []
    for each in published:
        tags = tags_of(each)
        if LUN in tags:
            continue
        others = [d for d in published if tags_of(d).get(VERSION) == tags[VERSION] and LUN in tags_of(d)]
        entries.append(
            {
                "version": tags[VERSION],
                "tree": tags[TREE],
                "folder": str(each["name"]),
                "published": tags.get(DATE, ""),
                "disks": [_record(disk) for disk in (each, *others)],
                "files": [],
            }
        )
    return Index(image, None, tuple(entries))


def _record(disk: Resource) -> dict[str, Any]:
    properties, tags = disk.get("properties", {}), tags_of(disk)
    return {
        "file": str(disk["name"]),
        "size": int(properties.get("diskSizeBytes") or 0) + 512,
        "tree_sha256": tags.get(TREE, ""),
        "base": None,
        "state": str(properties.get("diskState") or "unknown"),
        "id": redact(str(disk.get("id", ""))),
    }


def leftovers(manager: ResourceManager, image: str | None) -> list[Resource]:
    """Disks whose upload has not ended, of one image or of all."""
    found = (each for each in manager.disks() if tags_of(each).get(STATE) == UPLOADING)
    return [each for each in found if image in (None, tags_of(each).get(IMAGE))]
