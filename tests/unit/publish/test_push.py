"""Pushing to a real server: what the blob is afterwards, what went over the wire, what the index says."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random

import pytest

from pipeline.cache.digests import BLOCK
from pipeline.publish.errors import Conflict, PublishError
from pipeline.publish.page_blob import Options
from pipeline.publish.published import look
from pipeline.publish.push import push

MIB = 1 << 20
#: Bytes of a push beside the disk: index, manifest, digests.
BESIDE = 256 << 10


def pieces() -> dict[int, bytes]:
    return {
        0: random.randbytes(3 * MIB),
        9 * MIB + 4096: random.randbytes(5 * MIB),
        20 * MIB: random.randbytes(BLOCK),
    }


def whole_blob(service, container: str, entry: dict, file: str = "disk.vhd") -> bytes:
    return service.get_blob_client(container, f"{entry['folder']}/{file}").download_blob().readall()


def index_of(service, container: str) -> dict:
    return json.loads(service.get_blob_client(container, "shop/index.json").download_blob().readall())


def test_a_whole_upload(store, capture, target, service, container) -> None:
    version = capture(pieces())
    pushed = push(store, version, target, {}, options=Options())
    index = index_of(service, container)
    (entry,) = index["versions"]
    assert index["newest"] == entry["version"] == version.version
    assert whole_blob(service, container, entry) == version.disk.read_bytes()
    data = sum(map(len, pieces().values())) + 512
    assert data <= pushed.sent <= data + 2 * 4096 + BESIDE
    (disk,) = look("shop", target, {})["versions"][0]["disks"]
    assert disk["state"] == "good"
    assert not disk["blob"]["leased"]
    metadata = disk["blob"]["metadata"]
    assert metadata["microsoftazurecompute_imagetype"] == "OSDisk"
    assert metadata["microsoftazurecompute_osstate"] == "Generalized"
    assert metadata["microsoftazurecompute_ostype"] == "Linux"
    properties = service.get_blob_client(container, f"{entry['folder']}/disk.vhd").get_blob_properties()
    md5 = hashlib.md5(version.disk.read_bytes()).digest()
    assert bytes(properties.content_settings.content_md5) == md5
    assert properties.content_settings.content_type == "application/octet-stream"
    # nothing is left to resume, and a second push sends nothing
    assert list((store.root / "publish").iterdir()) == []
    again = push(store, version, target, {}, options=Options())
    assert again.plan.published
    assert again.sent == 0


def test_a_difference_costs_what_changed(store, capture, target, service, container) -> None:
    first = pieces()
    before = capture(first)
    push(store, before, target, {}, options=Options())
    changed = bytearray(first[9 * MIB + 4096])
    changed[MIB : MIB + 100] = random.randbytes(100)
    # one block changes, one becomes empty, one comes
    second = {0: first[0], 9 * MIB + 4096: bytes(changed), 15 * MIB: random.randbytes(1000)}
    version = capture(second)
    pushed = push(store, version, target, {}, options=Options(verify=True))
    entry = index_of(service, container)["versions"][-1]
    assert entry["version"] == version.version
    assert entry["disks"][0]["base"] != ""
    assert entry["disks"][0]["base"] == index_of(service, container)["versions"][0]["version"]
    assert whole_blob(service, container, entry) == version.disk.read_bytes()
    # the version that it was copied from is as it was, and nothing of the copy is left on the server
    old = index_of(service, container)["versions"][0]
    assert whole_blob(service, container, old) == before.disk.read_bytes()
    there = service.get_container_client(container).list_blobs(include=["snapshots"])
    assert [blob.name for blob in there if blob.snapshot] == []
    (sent,) = pushed.disks
    assert sent.written == 2 * BLOCK
    assert sent.cleared == BLOCK
    assert pushed.sent <= 1.2 * 3 * BLOCK + MIB
    (disk,) = look("shop", target, {})["versions"][-1]["disks"]
    assert disk["blob"]["copy"]["status"] == "success"


def test_another_size_is_sent_whole_and_says_why(store, capture, target, service, container) -> None:
    push(store, capture({0: b"a" * MIB}), target, {}, options=Options())
    version = capture({0: b"a" * MIB}, size=32 * MIB)
    (sent,) = push(store, version, target, {}, options=Options()).disks
    assert sent.base is None
    assert "of this size" in sent.why
    assert whole_blob(service, container, index_of(service, container)["versions"][-1]) == version.disk.read_bytes()


def test_bytes_changed_on_the_server_are_found(store, capture, target, service, container) -> None:
    """A base that was changed since is not used: its ETag says so."""
    first = pieces()
    push(store, capture(first), target, {}, options=Options())
    entry = index_of(service, container)["versions"][0]
    blob = service.get_blob_client(container, f"{entry['folder']}/disk.vhd")
    blob.upload_page(b"\7" * 512, offset=MIB, length=512)
    assert look("shop", target, {})["versions"][0]["disks"][0]["state"] == "changed"
    version = capture({**first, 22 * MIB: b"new"})
    (sent,) = push(store, version, target, {}, options=Options()).disks
    assert sent.base is None
    assert "changed since it was published" in sent.why
    assert whole_blob(service, container, index_of(service, container)["versions"][-1]) == version.disk.read_bytes()


def test_a_copy_that_differs_is_found_by_reading_it_whole(store, capture, target, service, container) -> None:
    """Where even the ETag in the index is that of the changed blob, `--verify` finds the changed bytes."""
    first = pieces()
    push(store, capture(first), target, {}, options=Options())
    index = index_of(service, container)
    blob = service.get_blob_client(container, f"{index['versions'][0]['folder']}/disk.vhd")
    blob.upload_page(b"\7" * 512, offset=MIB, length=512)
    blob.upload_page(b"\7" * 512, offset=7 * MIB, length=512)  # where the master has zeros
    index["versions"][0]["disks"][0]["etag"] = blob.get_blob_properties().etag.strip('"')
    service.get_blob_client(container, "shop/index.json").upload_blob(json.dumps(index), overwrite=True)
    version = capture({**first, 22 * MIB: b"new"})
    (sent,) = push(store, version, target, {}, options=Options(verify=True)).disks
    assert sent.base is None
    assert "2 blocks differ" in sent.why
    assert whole_blob(service, container, index_of(service, container)["versions"][-1]) == version.disk.read_bytes()


def test_the_same_number_of_another_master_is_refused(store, capture, target, tmp_path) -> None:
    from pipeline.base.store import Store

    push(store, capture({0: b"one"}), target, {}, options=Options())
    other = Store(tmp_path / "other").ensure()
    with pytest.raises(PublishError) as caught:
        push(other, capture({0: b"two"}, into=other), target, {}, options=Options())
    assert caught.value.name == "publish-version-exists"
    assert caught.value.exit_code == 5


def test_two_publishers(store, capture, target, service, container) -> None:
    """Both read the index; who switches it last is told, and the first one's version stays."""
    from pipeline.publish import push as module

    first, second = capture({0: b"one"}), capture({0: b"two"})
    register = module.BlobUploader.register

    def late(self, plan, entry):
        module.BlobUploader.register = register
        push(store, second, target, {}, options=Options())
        register(self, plan, entry)

    module.BlobUploader.register = late
    try:
        with pytest.raises(Conflict) as caught:
            push(store, first, target, {}, options=Options())
    finally:
        module.BlobUploader.register = register
    assert caught.value.name == "publish-conflict"
    assert second.version in caught.value.message
    assert [each["version"] for each in index_of(service, container)["versions"]] == [second.version]
    # and again: what was uploaded is used
    pushed = push(store, first, target, {}, options=Options())
    assert pushed.disks[0].resumed >= 512
    assert {each["version"] for each in index_of(service, container)["versions"]} == {first.version, second.version}


def test_a_blob_that_another_writes_is_busy(store, capture, target, service, container) -> None:
    version = capture({0: b"one"})
    push(store, version, target, {}, options=Options(), dry_run=True)
    from pipeline.publish.uploader import folder_of

    blob = service.get_blob_client(container, f"{folder_of(version)}/disk.vhd")
    blob.create_page_blob(1 << 20)
    lease = blob.acquire_lease(lease_duration=15)
    with pytest.raises(Conflict) as caught:
        push(store, version, target, {}, options=Options())
    assert caught.value.name == "publish-busy"
    lease.break_lease(0)
    push(store, version, target, {}, options=Options())


def test_a_master_that_changed_is_not_sent(store, capture, target, service, container) -> None:
    version = capture({0: random.randbytes(MIB)})
    version.disk.chmod(0o644)
    with version.disk.open("r+b") as file:
        file.seek(1000)
        file.write(b"x")
    with pytest.raises(Exception) as caught:
        push(store, version, target, {}, options=Options())
    assert caught.value.name == "master-damaged"
    assert [blob.name for blob in service.get_container_client(container).list_blobs()] == []


def test_a_limited_rate(store, capture, target) -> None:
    version = capture({0: random.randbytes(3 * MIB)})
    slow = dataclasses.replace(target, rate=2 * MIB, parallel=2)
    pushed = push(store, version, slow, {}, options=Options(parallel=2))
    assert pushed.seconds > 1.0
