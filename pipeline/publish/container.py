"""The door to a storage container: the only module that calls Azure's SDK for blobs.

The SDK's own retries are off: `retries.py` repeats requests, so that pauses end when goldsmith does, and faults have
names. Each call is one request.
"""

from __future__ import annotations

import base64
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.base.errors import HostError
from pipeline.publish.errors import Conflict, Missing, PublishError
from pipeline.publish.ranges import Range
from pipeline.publish.retries import Bandwidth, Retries
from pipeline.publish.targets import Target

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient, BlobProperties, ContainerClient

#: Seconds to open a connection, and to wait for each answer.
CONNECT, ANSWER = 20, 60
#: Seconds of a lease; after them the blobs of a publisher that died are free.
LEASE = 60
OCTETS = "application/octet-stream"


@dataclass(frozen=True)
class BlobFacts:
    """A server's facts about a blob. `copy` is empty if the blob was not made by a copy."""

    name: str
    size: int
    etag: str
    modified: str
    metadata: Mapping[str, str]
    leased: bool
    content_type: str | None
    md5: str | None
    copy: Mapping[str, Any]


class Container:
    """A container's blobs, by name. Methods may be called from several threads."""

    def __init__(self, target: Target, variables: Mapping[str, str], retries: Retries | None = None) -> None:
        assert target.url is not None
        self.url = target.url
        self.retries = retries or Retries()
        self.bandwidth = Bandwidth(target.rate)
        #: Bytes of bodies sent and received, with repetitions.
        self.sent = self.received = 0
        self._counting = threading.Lock()
        self._client = self._open(target, variables)

    def _open(self, target: Target, variables: Mapping[str, str]) -> ContainerClient:
        try:
            from azure.storage.blob import ContainerClient
        except ImportError:
            raise HostError(
                "azure-storage-blob is not installed",
                name="publish-needs-azure",
                hint="pip install azure-storage-blob",
            ) from None
        credential = target.credential.open(target.account, variables)
        self._signature = str(getattr(credential, "signature", ""))
        return ContainerClient.from_container_url(
            self.url,
            credential=credential,
            retry_total=0,
            connection_timeout=CONNECT,
            read_timeout=ANSWER,
            # one range of a page is one request
            max_single_get_size=8 << 20,
        )

    def close(self) -> None:
        self._client.close()

    def blob(self, name: str) -> BlobClient:
        return self._client.get_blob_client(name)

    def _where(self, name: str) -> str:
        return f"{self.url}/{name}"

    def _count(self, sent: int = 0, received: int = 0) -> None:
        with self._counting:
            self.sent += sent
            self.received += received

    # ---- whole blobs ---------------------------------------------------------------------------------------------

    def facts(self, name: str) -> BlobFacts | None:
        """The server's facts about a blob; None if it does not exist."""
        try:
            found = self.retries.call("look at a blob", self._where(name), self.blob(name).get_blob_properties)
        except Missing:
            return None
        return _facts(name, found)

    def names(self, prefix: str) -> Iterator[BlobFacts]:
        """All blobs whose names begin with `prefix`."""

        def listed() -> list[BlobFacts]:
            return [_facts(str(each.name), each) for each in self._client.list_blobs(name_starts_with=prefix)]

        yield from self.retries.call("list blobs", self._where(prefix), listed)

    def read(self, name: str, limit: int) -> tuple[bytes, str] | None:
        """Bytes and ETag of a small blob, None where there is none. Raises PublishError past `limit` bytes."""

        def download() -> tuple[bytes, str]:
            stream = self.blob(name).download_blob(max_concurrency=1)
            if stream.size > limit:
                raise PublishError(
                    f"{self._where(name)} has {stream.size} bytes, more than {limit}",
                    name="publish-damaged",
                    hint="it was not written by goldsmith; move it away",
                )
            data = stream.readall()
            self._expect(len(data), stream.size)
            return data, str(stream.properties.etag)

        try:
            data, etag = self.retries.call("read a blob", self._where(name), download)
        except Missing:
            return None
        self._count(received=len(data))
        return data, etag

    def write(self, name: str, data: bytes, *, content_type: str = OCTETS) -> None:
        """Write a whole block blob; it replaces an existing one."""
        from azure.storage.blob import ContentSettings

        def upload() -> None:
            self._count(sent=len(data))
            self.bandwidth.take(len(data), self.retries.stop)
            settings = ContentSettings(content_type=content_type)
            # the server refuses data that was changed on the way
            self.blob(name).upload_blob(data, overwrite=True, content_settings=settings, validate_content=True)

        self.retries.call("write a blob", self._where(name), upload)

    def switch(self, name: str, data: bytes, etag: str | None) -> None:
        """Write a block blob if it still has `etag` (None: if there is none). Raises Conflict (publish-conflict).

        The write may have succeeded although its answer was lost: then the blob has the new content.
        """
        from azure.core import MatchConditions
        from azure.storage.blob import ContentSettings

        settings = ContentSettings(content_type="application/json")
        known: dict[str, Any] = {"etag": etag, "match_condition": MatchConditions.IfNotModified} if etag else {}

        def upload() -> None:
            self._count(sent=len(data))
            self.blob(name).upload_blob(
                data, overwrite=etag is not None, content_settings=settings, validate_content=True, **known
            )

        try:
            self.retries.call("switch the index", self._where(name), upload)
        except PublishError as error:
            # a write whose answer was lost is refused when it is repeated; or all its answers were lost
            if (isinstance(error, Conflict) or error.name == "publish-unreachable") and self._is_switched(name, data):
                return
            raise
        if not self._holds(name, data):
            raise PublishError(
                f"{self._where(name)} was written, but reads back with different content",
                name="publish-read-back",
                hint="the server or a proxy before it lost a write that it acknowledged; push again",
            )

    def _is_switched(self, name: str, data: bytes) -> bool:
        """Whether the server has the index, as far as it answers."""
        try:
            return self._holds(name, data)
        except PublishError:
            return False

    def _holds(self, name: str, data: bytes) -> bool:
        found = self.read(name, len(data) + (1 << 20))
        return found is not None and found[0] == data

    def delete(self, name: str) -> bool:
        """Delete a blob that is not leased, with its snapshots. Returns whether it was deleted."""

        def remove() -> None:
            self.blob(name).delete_blob(delete_snapshots="include")

        try:
            self.retries.call("delete a blob", self._where(name), remove)
        except Missing:
            return True
        except Conflict:
            return False
        return True

    # ---- page blobs ----------------------------------------------------------------------------------------------

    def create(self, name: str, size: int, metadata: Mapping[str, str]) -> None:
        """Create a page blob of zeros; it replaces an existing blob. Raises Conflict if that one is leased."""
        from azure.storage.blob import ContentSettings

        def make() -> None:
            settings = ContentSettings(content_type=OCTETS)
            self.blob(name).create_page_blob(size, content_settings=settings, metadata=dict(metadata))

        self.retries.call("create a page blob", self._where(name), make)

    def snapshot(self, name: str, etag: str) -> str:
        """Make a snapshot of a blob that still has `etag`. Returns its name. Raises Conflict, PublishError."""
        from azure.core import MatchConditions

        def make() -> str:
            known: dict[str, Any] = {"etag": etag, "match_condition": MatchConditions.IfNotModified}
            return str(self.blob(name).create_snapshot(**known)["snapshot"] or "")

        made = self.retries.call("make a snapshot", self._where(name), make)
        if not made:
            raise PublishError(
                f"{self._where(name)}: the server names no snapshot", name="publish-copy-failed", hint="push again"
            )
        return made

    def delete_snapshot(self, name: str, snapshot: str) -> None:
        blob = self._client.get_blob_client(name, snapshot=snapshot)
        with suppress(Missing):
            self.retries.call("delete a snapshot", self._where(name), blob.delete_blob)

    def copy(self, source: str, snapshot: str, name: str, metadata: Mapping[str, str]) -> None:
        """Begin to copy a snapshot of a blob of this container on the server."""
        url = self._client.get_blob_client(source, snapshot=snapshot).url
        if self._signature:
            # the server needs its own right to read the source
            url = f"{url}&{self._signature}"

        def begin() -> None:
            self.blob(name).start_copy_from_url(url, metadata=dict(metadata))

        self.retries.call("copy a blob on the server", self._where(name), begin)

    def write_page(self, name: str, page: Range, data: bytes, lease: str | None) -> None:
        def upload() -> None:
            self.bandwidth.take(len(data), self.retries.stop)
            self._count(sent=len(data))
            self.blob(name).upload_page(data, offset=page.start, length=page.length, lease=lease)

        self.retries.call("write a page", self._where(name), upload)

    def clear_page(self, name: str, page: Range, lease: str) -> None:
        def clear() -> None:
            self.blob(name).clear_page(offset=page.start, length=page.length, lease=lease)

        self.retries.call("clear a page", self._where(name), clear)

    def read_range(self, name: str, page: Range) -> bytes:
        def download() -> bytes:
            data = self.blob(name).download_blob(offset=page.start, length=page.length, max_concurrency=1).readall()
            self._expect(len(data), page.length)
            return data

        data = self.retries.call("read a page", self._where(name), download)
        self._count(received=len(data))
        return data

    def ranges(self, name: str) -> list[Range]:
        """The ranges of a page blob that have data; the rest reads as zeros."""

        def listed() -> list[Range]:
            pages = self.blob(name).list_page_ranges()
            return [Range(int(each.start or 0), int(each.end or 0) + 1) for each in pages if not each.cleared]

        return self.retries.call("list pages", self._where(name), listed)

    def label(self, name: str, md5: bytes | None, metadata: Mapping[str, str], lease: str) -> None:
        """Set the metadata of a finished blob."""
        from azure.storage.blob import ContentSettings

        settings = ContentSettings(content_type=OCTETS, content_md5=bytearray(md5) if md5 else None)
        blob, where = self.blob(name), self._where(name)
        self.retries.call("set a blob's properties", where, lambda: blob.set_http_headers(settings, lease=lease))
        self.retries.call("set a blob's metadata", where, lambda: blob.set_blob_metadata(dict(metadata), lease=lease))

    @staticmethod
    def _expect(found: int, expected: int) -> None:
        """Raise an error for a body that is shorter or longer than announced: the answer was cut."""
        from azure.core.exceptions import ServiceResponseError

        if found != expected:
            raise ServiceResponseError(f"a body of {found} bytes in place of {expected}")


def _facts(name: str, found: BlobProperties) -> BlobFacts:
    from pipeline.publish.redaction import redact

    copy = found.copy
    trail = {
        "id": copy.id,
        "source": redact(copy.source) if copy.source else None,
        "status": copy.status,
        "progress": copy.progress,
        "completed": copy.completion_time,
    }
    md5 = found.content_settings.content_md5
    return BlobFacts(
        name,
        int(found.size),
        str(found.etag).strip('"'),
        str(found.last_modified),
        dict(found.metadata or {}),
        found.lease.state in ("leased", "breaking"),
        found.content_settings.content_type,
        base64.b64encode(bytes(md5)).decode() if md5 else None,
        trail if copy.id else {},
    )


class BlobLease(threading.Thread):
    """A lease on a blob that is being written, renewed until the block ends: no other publisher can write to it."""

    def __init__(self, container: Container, name: str, lease: str | None = None) -> None:
        super().__init__(daemon=True)
        from azure.storage.blob import BlobLeaseClient

        self.id = lease or str(uuid.uuid4())
        self._container, self._name = container, name
        self._client = BlobLeaseClient(container.blob(name), lease_id=self.id)
        self._ended = threading.Event()

    def __enter__(self) -> BlobLease:
        where = f"{self._container.url}/{self._name}"
        self._container.retries.call("lease a blob", where, lambda: self._client.acquire(lease_duration=LEASE))
        self.start()
        return self

    def run(self) -> None:
        from azure.core.exceptions import AzureError

        while not self._ended.wait(LEASE / 4):
            try:
                self._client.renew()
            except AzureError:
                continue  # a lease that is lost shows in the next write, which names it

    def __exit__(self, *_: object) -> None:
        from azure.core.exceptions import AzureError

        self._ended.set()
        self.join()
        with suppress(AzureError):
            self._client.release()
