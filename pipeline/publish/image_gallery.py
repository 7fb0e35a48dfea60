"""Versions in an Azure compute gallery: page blobs on a staging target become a version of each image definition.

A version is created out of `latest` (excludeFromLatest), so that no machine starts from it while a region or a
generation is still missing; what is golden is put into `latest` at the end, a candidate stays out. The page blobs are
retired when every region has the version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.gallery import Version
from pipeline.gallery.manifest import tree_of_disk
from pipeline.publish.blob_uploader import BlobUploader, read_index, remove_versions
from pipeline.publish.container import Container
from pipeline.publish.errors import Missing, PublishError
from pipeline.publish.gallery_resources import (
    FIXED,
    TREE,
    definition,
    definition_name,
    publishing,
    version,
)
from pipeline.publish.index import Index
from pipeline.publish.managed_disk import tags_of
from pipeline.publish.resource_manager import Resource, ResourceManager, provisioning, replication
from pipeline.publish.source import SourceDisk
from pipeline.publish.targets import ImageGallery
from pipeline.publish.uploader import DiskPlan, Plan, Sent, folder_of

#: Generations that a definition may have, in the order in which they are created.
GENERATIONS = (1, 2)


class GalleryUploader:
    """Publishes to one gallery. `candidate`: the version is not golden. `keep_days` is `keep:` of its definition."""

    def __init__(
        self,
        manager: ResourceManager,
        target: ImageGallery,
        staging: BlobUploader,
        *,
        candidate: bool,
        keep_days: int | None,
    ) -> None:
        self._manager, self._target, self._staging = manager, target, staging
        self.sent: list[Sent] = staging.sent
        self._candidate, self._keep_days = candidate, keep_days
        self._staged: Plan | None = None
        self._profile: dict[str, Any] = {}

    def close(self) -> None:
        self._staging.close()
        self._manager.close()

    def check(self, version: Version, disks: list[SourceDisk]) -> Plan:
        """Raises PublishError (publish-missing, publish-version-exists, publish-definition)."""
        name = self._target.name
        if self._manager.gallery(name) is None:
            raise Missing(
                f"there is no gallery {name} in the resource group {self._manager.place.group}",
                name="publish-missing",
                hint=f"create it: az sig create --resource-group {self._manager.place.group} --gallery-name {name}",
            )
        self._profile = publishing(self._target, candidate=self._candidate, keep_days=self._keep_days)
        found = {generation: self._find(version, generation) for generation in version.manifest["generations"]}
        index = Index(version.name)
        if all(each is not None and is_finished(each) for each in found.values()):
            excluded = any(is_candidate(each) for each in found.values() if each is not None)
            if excluded == self._candidate:
                return Plan(version.name, version.version, folder_of(version), True, (), index)
            # only `latest` is to change: nothing is sent
            return Plan(version.name, version.version, folder_of(version), False, (), index)
        for generation in found:
            self._check_definition(version, generation)
        self._staged = self._staging.check(version, disks)
        planned: tuple[DiskPlan, ...] = self._staged.disks
        return Plan(version.name, version.version, folder_of(version), False, planned, index)

    def _find(self, version: Version, generation: int) -> Resource | None:
        name = definition_name(version.name, generation)
        found = self._manager.version(self._target.name, name, version.version)
        if found is not None and tags_of(found).get(TREE) != tree_of_disk(version.manifest["disk"]):
            raise PublishError(
                f"the gallery {self._target.name} has another {name} {version.version}",
                name="publish-version-exists",
                hint="two hosts have made versions of the same name; rename one of the images",
            )
        return found

    def _check_definition(self, version: Version, generation: int) -> None:
        """Raises PublishError where a definition of this name promises something else."""
        name = definition_name(version.name, generation)
        found = self._manager.definition(self._target.name, name)
        if found is None:
            return
        wanted = definition(self._target, version.manifest, generation)["properties"]
        there = found["properties"]
        differing = [key for key in FIXED if there.get(key) not in (None, wanted[key])]
        missing = [each for each in there.get("features") or [] if _pair(each) not in _pairs(wanted)]
        if differing or missing:
            shown = ", ".join([*differing, *(f"feature {each['name']}={each['value']}" for each in missing)])
            raise PublishError(
                f"the image definition {name} differs from the master in: {shown}",
                name="publish-definition",
                hint="a definition cannot be changed: delete it with its versions, or give the image another name",
            )

    def upload(self, version: Version, disks: list[SourceDisk], plan: Plan) -> Mapping[str, Any]:
        generations = list(version.manifest["generations"])
        entry = {"definitions": [definition_name(version.name, generation) for generation in generations]}
        if self._staged is None:
            return entry
        for generation, name in zip(generations, entry["definitions"], strict=True):
            if self._manager.definition(self._target.name, name) is None:
                body = definition(self._target, version.manifest, generation)
                self._manager.create_definition(self._target.name, name, body)
        if not self._staged.published:
            staged = self._staging.upload(version, disks, self._staged)
            self._staging.register(self._staged, staged)
        self._create(version, disks, plan.folder, entry["definitions"])
        return entry

    def _create(self, found: Version, disks: list[SourceDisk], folder: str, names: list[str]) -> None:
        """Create the version of each definition, and wait until every region has it."""
        url = self._staging.container.url
        urls = [(disk.lun, f"{url}/{folder}/{disk.file}") for disk in disks]
        profile = {**self._profile, "excludeFromLatest": True}
        body = version(self._target, found.manifest, tree_of_disk(found.manifest["disk"]), urls, profile)
        for name in names:
            there = self._manager.version(self._target.name, name, found.version)
            # one that an earlier push began is waited for; one that failed is created again
            if there is None or provisioning(there) in ("Failed", "Canceled") or replication(there) == "Failed":
                self._manager.begin_version(self._target.name, name, found.version, body)
        for name in names:
            self._manager.await_version(self._target.name, name, found.version)

    def register(self, plan: Plan, entry: Mapping[str, Any]) -> None:
        """Put what is golden into `latest`, take a candidate out; then retire what is staged."""
        for name in entry["definitions"]:
            there = self._manager.version(self._target.name, name, plan.version)
            if there is not None and is_candidate(there) != self._candidate:
                body = {"properties": {"publishingProfile": self._profile}}
                self._manager.update_version(self._target.name, name, plan.version, body)
        self._retire_staged(plan)

    def _retire_staged(self, plan: Plan) -> None:
        """Remove staged page blobs: all of this image, or all but this version's, the next one's difference."""
        container: Container = self._staging.container
        index = read_index(container, plan.name)
        kept = {plan.version} if self._target.keep_staging else set()
        # the leases end first: what is leased is not deleted
        self._staging.close()
        finished = [each for each in index.versions if each["version"] not in kept and self._is_there(plan, each)]
        remove_versions(container, index, finished, "the retirement of staged blobs")

    def _is_there(self, plan: Plan, entry: Mapping[str, Any]) -> bool:
        """Whether the gallery has a staged version: it is this one, or finished in a definition."""
        if entry["version"] == plan.version:
            return True
        names = [definition_name(plan.name, generation) for generation in GENERATIONS]
        found = [self._manager.version(self._target.name, name, entry["version"]) for name in names]
        there = [each for each in found if each is not None]
        return bool(there) and all(is_finished(each) for each in there)


def _pair(feature: Mapping[str, Any]) -> tuple[str, str]:
    return str(feature["name"]), str(feature["value"])


def _pairs(properties: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [_pair(each) for each in properties.get("features", [])]


def is_finished(resource: Resource) -> bool:
    """Whether a version is created, and in every region."""
    return provisioning(resource) == "Succeeded" and replication(resource) == "Completed"


def is_candidate(resource: Resource) -> bool:
    profile = resource.get("properties", {}).get("publishingProfile") or {}
    return bool(profile.get("excludeFromLatest"))


def read_versions(manager: ResourceManager, target: ImageGallery, image: str) -> Index:
    """The finished versions of an image in a gallery: a number once, with the definitions that have it."""
    entries: dict[str, dict[str, Any]] = {}
    for generation in GENERATIONS:
        name = definition_name(image, generation)
        for each in manager.versions(target.name, name):
            number, tree = str(each["name"]), tags_of(each).get(TREE)
            if tree is None or provisioning(each) != "Succeeded":
                continue  # not made by goldsmith, or not ready
            profile = each["properties"].get("publishingProfile") or {}
            os_disk = (each["properties"].get("storageProfile") or {}).get("osDiskImage") or {}
            entry = entries.setdefault(
                number,
                {
                    "version": number,
                    "tree": tree,
                    "folder": str(each.get("id", "")),
                    "published": str(profile.get("publishedDate") or ""),
                    "disks": [],
                    "files": [],
                },
            )
            entry["disks"].append(
                {
                    "file": name,
                    "size": int(os_disk.get("sizeInGB") or 0) << 30,
                    "tree_sha256": tree,
                    "base": None,
                    "state": "candidate" if is_candidate(each) else "latest",
                    "regions": [region["name"] for region in profile.get("targetRegions") or []],
                    "end_of_life": profile.get("endOfLifeDate"),
                    "id": str(each.get("id", "")),
                }
            )
    return Index(image, None, tuple(entries.values()))
