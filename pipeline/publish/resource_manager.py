"""The door to Azure's Resource Manager: the only module that calls azure-mgmt-compute.

Long operations are begun, and their resource is asked until it is ready: a wait has a deadline, ends when goldsmith
is interrupted, and a publisher that comes later finds the same state. Resources go and come as dicts in the words of
Azure's REST interface.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.base.errors import HostError
from pipeline.publish.credentials import Opened
from pipeline.publish.errors import Missing, PublishError
from pipeline.publish.redaction import remember
from pipeline.publish.retries import Retries

if TYPE_CHECKING:
    from pipeline.publish.targets import Place

#: Seconds to open a connection, and to wait for each answer.
CONNECT, ANSWER = 20, 60
#: Seconds for a disk to be created, opened or closed.
DISK_DEADLINE = 900.0
#: Seconds for a gallery version to be created and replicated: Azure takes minutes to hours, by size and regions.
REPLICATION_DEADLINE = 6 * 3600.0
#: Seconds that a signed URL of a disk is valid: a day is what Azure's own tools ask for.
ACCESS = 86400
#: Seconds between two looks at a resource, at most; the first pause is that of repeated requests.
_LONGEST_PAUSE = 15.0
Resource = dict[str, Any]


class ResourceManager:
    """Disks and galleries of one resource group."""

    def __init__(self, place: Place, credential: Opened, retries: Retries) -> None:
        """`credential` is an azure-core TokenCredential. Raises HostError (publish-needs-azure)."""
        try:
            from azure.mgmt.compute import ComputeManagementClient
        except ImportError:
            raise HostError(
                "azure-mgmt-compute is not installed; it calls Azure's Resource Manager",
                name="publish-needs-azure",
                hint="pip install 'goldsmith[azure]'",
            ) from None
        self.place = place
        self.retries = retries
        self._client: Any = ComputeManagementClient(
            credential,
            place.subscription,
            place.endpoint,
            credential_scopes=[f"{place.endpoint}/.default"],
            retry_total=0,
            connection_timeout=CONNECT,
            read_timeout=ANSWER,
            polling_interval=retries.first,
        )

    def close(self) -> None:
        self._client.close()

    def _call(self, what: str, name: str, action: Callable[[], Any]) -> Any:
        where = f"{self.place.endpoint} ({name})"
        try:
            return self.retries.call(what, where, action)
        except PublishError as error:
            if error.name != "publish-refused":
                raise
            raise PublishError(
                error.message,
                name=error.name,
                hint=f"check the login and its rights on the resource group {self.place.group}: writing disks and "
                "gallery versions (Contributor)",
            ) from None

    def _find(self, what: str, name: str, action: Callable[[], Any]) -> Resource | None:
        try:
            found: Resource = self._call(what, name, action).as_dict()
        except Missing:
            return None
        return found

    def _finish(self, what: str, name: str, begin: Callable[[], Any], deadline: float) -> Any:
        """The result of a long operation that may be begun twice. Raises PublishError."""

        def finish() -> Any:
            poller = begin()
            poller.wait(deadline)
            if not poller.done():
                raise PublishError(
                    f"{what}: {name}: Azure has not ended it after {deadline:.0f} s",
                    name="publish-azure-late",
                    hint="push again later",
                )
            return poller.result()

        return self._call(what, name, finish)

    def await_state(
        self, what: str, look: Callable[[], Resource | None], state_of: Callable[[Resource], str], deadline: float
    ) -> Resource:
        """Ask until `state_of` the resource says Succeeded or Completed. Raises PublishError."""
        until, pause = time.monotonic() + deadline, self.retries.first
        while True:
            found = look()
            state = state_of(found) if found is not None else "missing"
            if found is not None and state in ("Succeeded", "Completed"):
                return found
            if state in ("Failed", "Canceled", "missing"):
                raise PublishError(
                    f"{what}: Azure says {state}",
                    name="publish-azure-failed",
                    hint="the resource's page in the portal says why; push again",
                )
            if time.monotonic() > until or self.retries.stop.wait(pause):
                raise PublishError(
                    f"{what}: Azure still says {state}",
                    name="publish-azure-late",
                    hint="push again later: it continues to wait for the same resource",
                )
            pause = min(pause * 2, _LONGEST_PAUSE)

    # ---- managed disks -------------------------------------------------------------------------------------------

    def disk(self, name: str) -> Resource | None:
        return self._find("look at a disk", name, lambda: self._client.disks.get(self.place.group, name))

    def disks(self) -> Iterator[Resource]:
        listed = self._call(
            "list disks", self.place.group, lambda: list(self._client.disks.list_by_resource_group(self.place.group))
        )
        yield from (each.as_dict() for each in listed)

    def create_disk(self, name: str, body: Resource) -> Resource:
        """Create a disk and wait until it is ready for its upload."""
        begin = self._client.disks.begin_create_or_update
        self._call("create a disk", name, lambda: begin(self.place.group, name, body, polling=False))
        return self.await_state(f"creating the disk {name}", lambda: self.disk(name), provisioning, DISK_DEADLINE)

    def tag_disk(self, name: str, tags: Mapping[str, str]) -> None:
        begin = self._client.disks.begin_update
        self._call("tag a disk", name, lambda: begin(self.place.group, name, {"tags": dict(tags)}, polling=False))
        self.await_state(f"tagging the disk {name}", lambda: self.disk(name), provisioning, DISK_DEADLINE)

    def open_disk(self, name: str, access: str) -> str:
        """A signed URL of a disk's page blob; `access` is Write (an upload) or Read."""
        body = {"access": access, "durationInSeconds": ACCESS}
        begin = self._client.disks.begin_grant_access
        result = self._finish("open a disk", name, lambda: begin(self.place.group, name, body), DISK_DEADLINE)
        if result is None or not result.access_sas:
            raise PublishError(
                f"opening the disk {name}: Azure gave no URL", name="publish-azure-failed", hint="push again"
            )
        return remember(str(result.access_sas))

    def close_disk(self, name: str) -> None:
        """End the access by a signed URL; after an upload the disk can then be used."""
        begin = self._client.disks.begin_revoke_access
        self._finish("close a disk", name, lambda: begin(self.place.group, name), DISK_DEADLINE)

    def delete_disk(self, name: str) -> None:
        begin = self._client.disks.begin_delete
        self._finish("delete a disk", name, lambda: begin(self.place.group, name), DISK_DEADLINE)

    # ---- galleries -----------------------------------------------------------------------------------------------

    def gallery(self, gallery: str) -> Resource | None:
        return self._find("look at a gallery", gallery, lambda: self._client.galleries.get(self.place.group, gallery))

    def definition(self, gallery: str, name: str) -> Resource | None:
        get = self._client.gallery_images.get
        return self._find("look at an image definition", name, lambda: get(self.place.group, gallery, name))

    def create_definition(self, gallery: str, name: str, body: Resource) -> None:
        begin = self._client.gallery_images.begin_create_or_update
        self._call(
            "create an image definition", name, lambda: begin(self.place.group, gallery, name, body, polling=False)
        )
        what = f"creating the image definition {name}"
        self.await_state(what, lambda: self.definition(gallery, name), provisioning, DISK_DEADLINE)

    def version(self, gallery: str, name: str, version: str) -> Resource | None:
        """A version with its replication."""
        get = self._client.gallery_image_versions.get
        return self._find(
            "look at an image version",
            f"{name} {version}",
            lambda: get(self.place.group, gallery, name, version, expand="ReplicationStatus"),
        )

    def versions(self, gallery: str, name: str) -> list[Resource]:
        """All versions of a definition; none where there is no such definition."""
        listing = self._client.gallery_image_versions.list_by_gallery_image
        try:
            found = self._call("list image versions", name, lambda: list(listing(self.place.group, gallery, name)))
        except Missing:
            return []
        return [each.as_dict() for each in found]

    def begin_version(self, gallery: str, name: str, version: str, body: Resource) -> None:
        begin = self._client.gallery_image_versions.begin_create_or_update
        self._call(
            "create an image version",
            f"{name} {version}",
            lambda: begin(self.place.group, gallery, name, version, body, polling=False),
        )

    def await_version(self, gallery: str, name: str, version: str) -> Resource:
        """Wait until a version is created, and then until every region has it."""
        what = f"creating {name} {version}"

        def look() -> Resource | None:
            return self.version(gallery, name, version)

        self.await_state(what, look, provisioning, REPLICATION_DEADLINE)
        return self.await_state(f"replicating {name} {version}", look, replication, REPLICATION_DEADLINE)

    def update_version(self, gallery: str, name: str, version: str, body: Resource) -> None:
        begin = self._client.gallery_image_versions.begin_update
        what = f"{name} {version}"
        self._call(
            "update an image version",
            what,
            lambda: begin(self.place.group, gallery, name, version, body, polling=False),
        )
        self.await_version(gallery, name, version)

    def delete_version(self, gallery: str, name: str, version: str) -> None:
        begin = self._client.gallery_image_versions.begin_delete
        what = f"{name} {version}"
        self._finish(
            "delete an image version",
            what,
            lambda: begin(self.place.group, gallery, name, version),
            REPLICATION_DEADLINE,
        )


def provisioning(resource: Resource) -> str:
    """The provisioning state of a resource: Creating, Updating, Succeeded, Failed, ..."""
    return str(resource.get("properties", {}).get("provisioningState") or "Unknown")


def replication(resource: Resource) -> str:
    """The state of a version over all its regions: Unknown, InProgress, Completed, Failed."""
    return str((resource.get("properties", {}).get("replicationStatus") or {}).get("aggregatedState") or "Unknown")
